use super::*;
use crate::vsphere::fixtures::{object, page_of, raw};
use crate::vsphere::soap::SoapError;
use proptest::prelude::*;

const EX: &str = "RetrievePropertiesEx";

fn read(inside: &str) -> Page<Swept> {
    page(page_of(inside).as_bytes(), EX).unwrap()
}

fn only_vm(inside: &str) -> Vm {
    let mut objects = read(inside).objects;
    assert_eq!(objects.len(), 1);
    match objects.pop() {
        Some(Swept::Vm(vm)) => *vm,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_vms_of_vcsim_are_understood() {
    let Page { objects, token, missing } =
        page::<Swept>(raw!("RetrievePropertiesEx_light"), EX).unwrap();
    assert_eq!((objects.len(), token, missing), (3, None, Missing::default()));
    let expected = Vm {
        moref: "vm-27".into(),
        name: Some("DC0_C0_RP0_VM0".into()),
        instance_uuid: Some(uuid::uuid!("bfff331f-7f07-572d-951e-edd3701dc061")),
        is_template: Some(false),
        change_version: None,
        vcpus: Some(1),
        memory_mib: Some(32),
        power_state: Some(PowerState::On),
        host: Some("host-23".into()),
        connection_state: Some(ConnectionState::Connected),
        boot_time: None,
    };
    assert_eq!(objects[0], Swept::Vm(Box::new(expected)));
}

#[test]
fn a_page_of_a_vcenter_is_understood() {
    let vm = object(
        "VirtualMachine",
        "vm-1042",
        &[
            ("config.changeVersion", "xsd:string", "2026-11-26T00:36:58.146208Z"),
            ("config.hardware.memoryMB", "xsd:int", "4096"),
            ("config.hardware.numCPU", "xsd:int", "4"),
            ("config.instanceUuid", "xsd:string", "5029f7a1-2b3c-4d5e-8f60-718293a4b5c6"),
            ("config.template", "xsd:boolean", "false"),
            ("name", "xsd:string", "web%2f1 100%25 %5c %252f %zz %"),
            ("runtime.bootTime", "xsd:dateTime", "2027-01-15T07:59:40.25Z"),
            ("runtime.connectionState", "VirtualMachineConnectionState", "connected"),
            ("runtime.powerState", "VirtualMachinePowerState", "suspended"),
        ],
    );
    let host_of = "<propSet><name>runtime.host</name><val type=\"HostSystem\" \
                   xsi:type=\"ManagedObjectReference\">host-9</val></propSet></objects>";
    let vm = vm.replace("</objects>", host_of);
    let host = object(
        "HostSystem",
        "host-9",
        &[
            ("name", "xsd:string", "esx1.example.org"),
            ("runtime.connectionState", "HostSystemConnectionState", "notResponding"),
            ("summary.config.product.fullName", "xsd:string", "VMware ESXi 7.0.3 build-21930508"),
            ("summary.hardware.numCpuThreads", "xsd:short", "64"),
            ("summary.hardware.uuid", "xsd:string", "4c4c4544-0044-4c10-8051-b8c04f4d3232"),
        ],
    );
    let other = object("Folder", "group-v3", &[("name", "xsd:string", "vm")]);
    let token = "<token>0</token>";
    let Page { objects, token, .. } = read(&[token, &vm, &host, &other].concat());
    assert_eq!(token.as_deref(), Some("0"));
    let expected_vm = Vm {
        moref: "vm-1042".into(),
        name: Some("web/1 100% \\ %2f %zz %".into()),
        instance_uuid: Some(uuid::uuid!("5029f7a1-2b3c-4d5e-8f60-718293a4b5c6")),
        is_template: Some(false),
        change_version: Some("2026-11-26T00:36:58.146208Z".into()),
        vcpus: Some(4),
        memory_mib: Some(4096),
        power_state: Some(PowerState::Suspended),
        host: Some("host-9".into()),
        connection_state: Some(ConnectionState::Connected),
        boot_time: Some(1_800_000_000 - 20),
    };
    let expected_host = Host {
        moref: "host-9".into(),
        name: Some("esx1.example.org".into()),
        uuid: Some(uuid::uuid!("4c4c4544-0044-4c10-8051-b8c04f4d3232")),
        threads: Some(64),
        connection_state: Some(ConnectionState::NotResponding),
        product: Some("VMware ESXi 7.0.3 build-21930508".into()),
    };
    let expected = [Swept::Vm(Box::new(expected_vm)), Swept::Host(Box::new(expected_host))];
    assert_eq!(objects, expected);
}

#[test]
fn all_that_is_asked_is_read() {
    // Each path by itself makes something known.
    let value = |path: &str| match path {
        "config.instanceUuid" | "summary.hardware.uuid" => "5029f7a1-2b3c-4d5e-8f60-718293a4b5c6",
        "config.template" => "true",
        "runtime.powerState" => "poweredOff",
        "runtime.connectionState" => "orphaned",
        "runtime.bootTime" => "2027-01-15T07:59:40Z",
        _ => "7",
    };
    for (kind, paths) in [("VirtualMachine", &Vm::PATHS[..]), ("HostSystem", &Host::PATHS)] {
        let unknown = read(&object(kind, "o-1", &[])).objects;
        for path in paths {
            let known = read(&object(kind, "o-1", &[(path, "xsd:string", value(path))])).objects;
            assert_ne!(known, unknown, "{path}");
        }
    }
}

#[test]
fn a_vm_that_is_being_cloned_is_not_lost() {
    let vm = only_vm(&object("VirtualMachine", "vm-2", &[("name", "xsd:string", "new")]));
    assert_eq!((&*vm.moref, vm.name.as_deref()), ("vm-2", Some("new")));
    assert_eq!((vm.instance_uuid, vm.host, vm.power_state, vm.vcpus), (None, None, None, None));
}

#[test]
fn what_is_wrong_is_unknown_alone() {
    let long = "ü".repeat(printable::MAX_SHOWN);
    let vm = only_vm(&object(
        "VirtualMachine",
        "vm-2",
        &[
            ("name", "xsd:string", &long),
            ("config.instanceUuid", "xsd:string", "1234"),
            ("config.template", "xsd:boolean", "yes"),
            ("config.hardware.numCPU", "xsd:int", "-1"),
            ("config.hardware.memoryMB", "xsd:int", "99999999999999999999"),
            ("runtime.powerState", "VirtualMachinePowerState", "dreaming"),
            ("runtime.bootTime", "xsd:dateTime", "yesterday"),
            ("config.changeVersion", "xsd:string", &long),
            ("runtime.connectionState", "xsd:string", " inaccessible\n"),
        ],
    ));
    assert_eq!(vm.name.unwrap().len(), printable::MAX_SHOWN);
    assert_eq!(
        (vm.instance_uuid, vm.is_template, vm.vcpus, vm.memory_mib),
        (None, None, None, None)
    );
    assert_eq!((vm.power_state, vm.boot_time, vm.change_version), (None, None, None));
    assert_eq!(vm.connection_state, Some(ConnectionState::Unusable));
    // No object without a reference can be asked about again.
    assert_eq!(read(&object("VirtualMachine", "", &[])).objects, []);
}

#[test]
fn what_is_not_told_is_counted_by_why() {
    let missing = |path: &str, kind: &str| {
        format!(
            "<missingSet><path>{path}</path><fault><fault xsi:type=\"{kind}\">\
             <object type=\"VirtualMachine\">vm-1</object><privilegeId>System.Read</privilegeId>\
             </fault><localizedMessage/></fault></missingSet></objects>"
        )
    };
    let mut vm = object("VirtualMachine", "vm-1", &[("name", "xsd:string", "a")]);
    for (path, kind) in [
        ("config.template", "NoPermission"),
        ("config.hardware.numCPU", "SecurityError"),
        ("runtime.host", "NotAuthenticated"),
        ("runtime.bootTime", "SystemError"),
    ] {
        vm = vm.replace("</objects>", &missing(path, kind));
    }
    let Page { objects, missing, .. } = read(&vm);
    assert_eq!(objects.len(), 1);
    assert_eq!(missing, Missing { no_permission: 2, not_authenticated: 1 });
}

#[test]
fn no_objects_are_no_error() {
    let nothing = "<RetrievePropertiesExResponse xmlns=\"urn:vim25\"/>";
    let nothing = crate::vsphere::fixtures::enveloped(nothing);
    for body in [nothing, page_of("")] {
        let page = page::<Swept>(body.as_bytes(), EX).unwrap();
        assert!(page.objects.is_empty() && page.token.is_none());
    }
    let continued = page_of("").replace(EX, "ContinueRetrievePropertiesEx");
    assert!(page::<Swept>(continued.as_bytes(), "ContinueRetrievePropertiesEx").is_ok());
    let wrong = page::<Swept>(continued.as_bytes(), EX).err();
    assert_eq!(wrong, Some(SoapError::Unexpected("it answers another one")));
}

proptest! {
    #[test]
    fn a_name_is_decoded_once(name in "[a-z/%\\\\25fc ]{0,20}") {
        let encoded = name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5C");
        prop_assert_eq!(&*decoded(&encoded), name);
    }

    #[test]
    fn no_page_makes_it_panic(
        inside in "(<(objects|obj|propSet|name|val|missingSet|fault|path|token)( type='VirtualMachine')?>\
                   |</(objects|obj|propSet|name|val|missingSet|fault)>|name|config.template|[a-z%ü]{0,3}){0,16}",
        value in "\\PC{0,12}",
    ) {
        let _ = page::<Swept>(page_of(&inside).as_bytes(), EX);
        let value = value.replace(['<', '&'], "%2");
        let properties: Vec<_> = Vm::PATHS.iter().map(|path| (*path, "x", value.as_str())).collect();
        prop_assert_eq!(read(&object("VirtualMachine", "vm-1", &properties)).objects.len(), 1);
    }
}
