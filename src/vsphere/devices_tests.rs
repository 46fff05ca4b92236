use super::*;
use crate::vsphere::fixtures::{object, page_of, raw};
use crate::vsphere::objects::{Page, page};
use proptest::prelude::*;

const EX: &str = "RetrievePropertiesEx";

fn read<T: Object>(properties: &[(&str, &str, &str)]) -> T {
    let body = page_of(&object("VirtualMachine", "vm-1", properties));
    let Page { mut objects, .. } = page::<T>(body.as_bytes(), EX).unwrap();
    assert_eq!(objects.len(), 1);
    objects.pop().unwrap()
}

/// A device as a vCenter writes it.
fn device(kind: &str, key: i32, inside: &str) -> String {
    format!(
        "<VirtualDevice xsi:type=\"{kind}\"><key>{key}</key><deviceInfo><label>Label {key}</label>\
         <summary>s</summary></deviceInfo>{inside}</VirtualDevice>"
    )
}

fn devices(devices: &[String], extra: &str) -> Devices {
    read(&[
        ("config.hardware.device", "ArrayOfVirtualDevice", &devices.concat()),
        ("config.extraConfig", "ArrayOfOptionValue", extra),
        ("config.guestId", "xsd:string", "ubuntu64Guest"),
    ])
}

#[test]
fn the_devices_of_vcsim_are_understood() {
    let page = page::<Devices>(raw!("RetrievePropertiesEx_devices"), EX).unwrap();
    assert_eq!(page.objects.len(), 3);
    let expected = Devices {
        moref: "vm-27".into(),
        nics: vec![Nic {
            key: 4000,
            mac: Some("00:0c:29:33:34:38".into()),
            card: "e1000".into(),
            interface_id: None,
            network: Some(Network::PortGroup("dvportgroup-13".into())),
        }],
        disks: vec![Disk {
            key: 255_511_522,
            name: Some("scsi0:0".into()),
            capacity: Some(1 << 20),
            file: Some("[LocalDS_0] DC0_C0_RP0_VM0/disk1.vmdk".into()),
            uuid: None,
            is_raw: false,
        }],
        guest_id: None,
    };
    assert_eq!(page.objects[0], expected);
}

#[test]
fn a_disk_is_named_by_where_it_is_plugged_in() {
    let controller = |kind: &str, key: i32, bus: u32, more: &str| {
        device(kind, key, &format!("<busNumber>{bus}</busNumber>{more}"))
    };
    let disk = |key: i32, controller: i32, unit: u32| {
        let at =
            format!("<controllerKey>{controller}</controllerKey><unitNumber>{unit}</unitNumber>");
        device("VirtualDisk", key, &at)
    };
    let scsi = "<sharedBus>noSharing</sharedBus><scsiCtlrUnitNumber>7</scsiCtlrUnitNumber>";
    let found = devices(
        &[
            // A disk may come before its controller.
            disk(2000, 1000, 0),
            controller("ParaVirtualSCSIController", 1000, 0, scsi),
            controller("VirtualLsiLogicSASController", 1001, 1, scsi),
            controller("VirtualAHCIController", 15000, 0, ""),
            controller("VirtualNVMEController", 31000, 2, "<sharedBus>noSharing</sharedBus>"),
            controller("VirtualIDEController", 201, 1, ""),
            controller("VirtualPCIController", 100, 0, ""),
            disk(2016, 1001, 15),
            disk(16000, 15000, 29),
            disk(32000, 31000, 1),
            disk(3002, 201, 0),
            disk(1, 100, 0),
            disk(2, 9999, 0),
            device("VirtualDisk", 3, "<controllerKey>1000</controllerKey>"),
            device(
                "VirtualCdrom",
                3000,
                "<controllerKey>201</controllerKey><unitNumber>1</unitNumber>",
            ),
        ],
        "",
    );
    let names: Vec<_> = found.disks.iter().map(|disk| (disk.key, disk.name.as_deref())).collect();
    let expected = [
        (2000, Some("scsi0:0")),
        (2016, Some("scsi1:15")),
        (16000, Some("sata0:29")),
        (32000, Some("nvme2:1")),
        (3002, Some("ide1:0")),
        (1, None),
        (2, None),
        (3, None),
    ];
    assert_eq!(names, expected);
    assert!(found.nics.is_empty());
    assert_eq!(found.guest_id.as_deref(), Some("ubuntu64Guest"));
}

#[test]
fn a_disk_tells_what_it_is_stored_in() {
    let flat = device(
        "VirtualDisk",
        2000,
        "<backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\">\
         <fileName>[ds] a/a-000001.vmdk</fileName><diskMode>independent_persistent</diskMode>\
         <thinProvisioned>false</thinProvisioned><uuid>6000C29f-1</uuid>\
         <parent><fileName>[ds] a/a.vmdk</fileName><uuid>x</uuid></parent></backing>\
         <capacityInKB>1</capacityInKB><capacityInBytes>1536</capacityInBytes>",
    );
    let raw = device(
        "VirtualDisk",
        2001,
        "<backing xsi:type=\"VirtualDiskRawDiskMappingVer1BackingInfo\">\
         <fileName>[ds] a/rdm.vmdk</fileName><lunUuid>02</lunUuid></backing>\
         <capacityInKB>4</capacityInKB>",
    );
    let found = devices(&[flat, raw], "").disks;
    let expected = Disk {
        key: 2000,
        name: None,
        capacity: Some(1536),
        file: Some("[ds] a/a-000001.vmdk".into()),
        uuid: Some("6000C29f-1".into()),
        is_raw: false,
    };
    assert_eq!(found[0], expected);
    assert_eq!((found[1].is_raw, found[1].capacity), (true, Some(4096)));
}

#[test]
fn a_nic_tells_its_port() {
    let nic = |kind: &str, key: i32, inside: &str| {
        device(kind, key, &format!("{inside}<macAddress>00:50:56:00:00:0{}</macAddress>", key % 10))
    };
    let option = |key: &str, value: &str| {
        format!(
            "<OptionValue><key>{key}</key><value xsi:type=\"xsd:string\">{value}</value></OptionValue>"
        )
    };
    let found = devices(
        &[
            nic(
                "VirtualVmxnet3",
                4000,
                "<backing xsi:type=\"VirtualEthernetCardNetworkBackingInfo\">\
                 <deviceName>VM Network</deviceName><network type=\"Network\">network-7</network>\
                 </backing><connectable><connected>true</connected></connectable>",
            ),
            nic(
                "VirtualVmxnet3Vrdma",
                4001,
                "<externalId>port-e</externalId><backing \
                 xsi:type=\"VirtualEthernetCardOpaqueNetworkBackingInfo\">\
                 <opaqueNetworkId>br-int</opaqueNetworkId>\
                 <opaqueNetworkType>opaque</opaqueNetworkType></backing>",
            ),
            nic("VirtualSriovEthernetCard", 4003, ""),
            nic("VirtualPCNet32", 7, ""),
            nic("SomeNewCard", 4004, ""),
            device("VirtualE1000", 4005, ""),
        ],
        &[
            option("nvp.vm-uuid", "u"),
            option("nvp.iface-id.0", "port-0"),
            option("nvp.iface-id.1", "port-1"),
            option("nvp.iface-id.2", "port-2"),
            option("nvp.iface-id.3", "free"),
            option("nvp.iface-id.4", "port-4"),
            option("nvp.iface-id.x", "no"),
        ]
        .concat(),
    )
    .nics;
    let shown: Vec<_> = found
        .iter()
        .map(|nic| {
            let network = nic.network.as_ref().map(Network::name);
            (nic.key, &*nic.card, nic.interface_id.as_deref(), network)
        })
        .collect();
    let expected = [
        (4000, "vmxnet3", Some("port-0"), Some("VM Network")),
        (4001, "vmxnet3vrdma", Some("port-e"), Some("br-int")),
        (4003, "sriov", None, None),
        (7, "pcnet32", None, None),
        (4004, "somenewcard", Some("port-4"), None),
    ];
    assert_eq!(shown, expected);
    assert_eq!(found[0].mac.as_deref(), Some("00:50:56:00:00:00"));
}

#[test]
fn a_disk_takes_what_all_of_its_files_take() {
    let file = |key: i32, size: &str, more: &str| {
        format!(
            "<VirtualMachineFileLayoutExFileInfo><key>{key}</key><name>[ds] f</name>\
             <type>diskExtent</type><size>{size}</size>{more}</VirtualMachineFileLayoutExFileInfo>"
        )
    };
    let disk = |key: i32, chain: &[&[i32]]| {
        let mut text = format!("<VirtualMachineFileLayoutExDiskLayout><key>{key}</key>");
        for link in chain {
            text += "<chain>";
            text.extend(link.iter().map(|key| format!("<fileKey>{key}</fileKey>")));
            text += "</chain>";
        }
        text + "</VirtualMachineFileLayoutExDiskLayout>"
    };
    let files = [
        file(0, "500", ""),
        file(1, "1000000000000", ""),
        file(2, "30", ""),
        file(3, "40", "<accessible>false</accessible>"),
        file(4, "-1", ""),
    ];
    let disks = [
        disk(2000, &[&[0, 1]]),
        // Each file once.
        disk(2001, &[&[0], &[0, 2]]),
        disk(2002, &[&[0, 3]]),
        disk(2003, &[&[4]]),
        disk(2004, &[&[5]]),
        disk(2005, &[]),
    ];
    let found: Sizes = read(&[
        ("layoutEx.disk", "ArrayOfVirtualMachineFileLayoutExDiskLayout", &disks.concat()),
        ("layoutEx.file", "ArrayOfVirtualMachineFileLayoutExFileInfo", &files.concat()),
    ]);
    let expected =
        [DiskSize { key: 2000, size: 1_000_000_000_500 }, DiskSize { key: 2001, size: 530 }];
    assert_eq!(found.disks, expected);
}

proptest! {
    #[test]
    fn no_device_makes_it_panic(
        inside in "(<(VirtualDevice|OptionValue)( xsi:type='Virtual(Disk|IDEController)')?>|</(VirtualDevice|\
                   OptionValue)>|<(key|busNumber|unitNumber|controllerKey|macAddress|value)>-?[0-9a]{0,12}\
                   </(key|busNumber|unitNumber|controllerKey|macAddress|value)>){0,12}",
        number in "-?[0-9]{1,22}",
    ) {
        let property = [
            ("config.hardware.device", "x", inside.as_str()), ("config.extraConfig", "x", &inside),
            ("layoutEx.disk", "x", &inside), ("layoutEx.file", "x", &inside),
        ];
        let body = page_of(&object("VirtualMachine", "vm-1", &property));
        let _ = (page::<Devices>(body.as_bytes(), EX), page::<Sizes>(body.as_bytes(), EX));
        let numbers = ["key", "busNumber", "unitNumber", "capacityInKB", "controllerKey"];
        let numbers = numbers.map(|name| format!("<{name}>{number}</{name}>")).concat();
        let found = devices(&[
            format!("<a xsi:type=\"VirtualDisk\">{numbers}</a>"),
            format!("<a xsi:type=\"VirtualIDEController\">{numbers}</a>"),
            format!("<a>{numbers}<macAddress/></a>"),
        ], "");
        prop_assert!(found.disks.len() <= 1);
    }
}
