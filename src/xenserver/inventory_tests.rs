use std::collections::BTreeMap;

use super::*;
use crate::xenserver::tables::{Class, MAX_NOTES};
use proptest::prelude::*;
use proptest::sample::Index as Choice;
use serde_json::{Value, json};

/// XAPI's answer to an empty token, as the library's data sets have it.
fn whole() -> Value {
    let file = include_str!("../../tests/data/xenserver/xapi_replies.json");
    let mut replies: Value = serde_json::from_str(file).unwrap();
    replies["event.from with an empty token"].take()
}

fn enter(inventory: &mut Inventory, answer: &Value) -> Result<Entered, RpcError> {
    inventory.enter(answer.to_string().as_bytes())
}

fn read(answer: &Value) -> Inventory {
    let mut inventory = Inventory::default();
    assert_eq!(enter(&mut inventory, answer), Ok(Entered::Complete));
    inventory
}

#[allow(clippy::needless_pass_by_value)] // json! takes it by reference.
fn answer(events: Vec<Value>, token: &str) -> Value {
    json!({ "jsonrpc": "2.0", "result": { "events": events, "token": token }, "id": 0 })
}

#[allow(clippy::needless_pass_by_value)] // json! takes it by reference.
fn event(class: &str, operation: &str, reference: &str, snapshot: Value) -> Value {
    json!({ "id": "1", "timestamp": "0.0", "class": class, "operation": operation,
        "ref": reference, "snapshot": snapshot })
}

fn vm_record(number: u8) -> Value {
    json!({ "uuid": format!("a0000000-0000-4000-8000-0000000000{number:02x}"),
        "name_label": "vm", "power_state": "Running", "is_a_template": false,
        "is_a_snapshot": false, "is_control_domain": false, "domid": 5,
        "resident_on": "h", "metrics": "m", "guest_metrics": "OpaqueRef:NULL",
        "VCPUs_at_startup": 2, "VCPUs_max": 4, "memory_static_max": 1024,
        "memory_target": 512, "other_config": {} })
}

fn vif_record(vm: &str, device: &str) -> Value {
    json!({ "uuid": "b0000000-0000-4000-8000-000000000001", "VM": vm, "device": device,
        "MAC": "AA:bb:cc:00:00:01", "network": "n", "currently_attached": true })
}

fn with(mut record: Value, field: &str, value: Value) -> Value {
    record[field] = value;
    record
}

fn names<'a>(vms: impl Iterator<Item = Vm<'a>>) -> Vec<&'a str> {
    vms.map(|vm| &*vm.record.name).collect()
}

/// All that an inventory tells.
fn told(inventory: &Inventory) -> String {
    let vms: Vec<_> = inventory.vms(true).collect();
    format!("{:#?}{:#?}", inventory.hosts().collect::<Vec<_>>(), vms)
}

#[test]
fn the_pool_of_the_data_sets_is_told() {
    let mut answer = whole();
    let network = "OpaqueRef:596707d4-9a0f-500f-ad75-2baa11ed8c4e";
    let events = answer["result"]["events"].as_array_mut().unwrap();
    events.push(event("network", "add", network, json!({ "bridge": "xenbr0" })));
    let mut inventory = read(&answer);
    assert_eq!(inventory.take_notes(), Vec::<String>::new());
    assert_eq!(inventory.token(), answer["result"]["token"].as_str().unwrap());

    let master = inventory.hosts().find(|host| host.is_master).unwrap();
    let reference = "OpaqueRef:6b9e8ea1-53e2-5fb7-bbf3-825e79c25091";
    assert_eq!(master.reference.to_string(), reference);
    assert_eq!(master.record.uuid.to_string(), "0f7c3c8e-5b0e-4c56-9f64-2f5d7c1f6a11");
    assert_eq!(&*master.record.name, "xcp1");
    assert_eq!(master.record.address.as_deref(), Some("127.0.0.1"));
    assert_eq!(master.live, Some(true));
    assert_eq!(master.record.cpu_count, Some(8));
    assert_eq!(master.record.xapi_build.as_deref(), Some("1.249.41"));
    assert_eq!(master.record.product_brand.as_deref(), Some("XCP-ng"));
    assert_eq!(master.record.product_version.as_deref(), Some("8.2.1"));
    assert_eq!(inventory.hosts().count(), 1);

    // By UUID; no template, no snapshot.
    let vms = ["vm-G", "vm-H", "vm A <&> \"ü\"", "vm-B", "vm-C", "vm-D"];
    let all = [&vms[..], &["Control domain on host: xcp1", "vm-E", "vm-F"]].concat();
    assert_eq!(names(inventory.vms(true)), all);
    assert_eq!(names(inventory.vms(false)), [&vms[..], &["vm-E", "vm-F"]].concat());

    let vm = |name| inventory.vms(true).find(|vm| &*vm.record.name == name).unwrap();
    let a = vm(vms[2]);
    assert_eq!(a.power_state(), PowerState::Running);
    assert_eq!((a.record.domid, a.host), (Some(1), Some(master.record.uuid)));
    assert_eq!((a.vcpus, a.record.vcpus_max, a.guest_is_live), (Some(4), Some(4), true));
    assert_eq!(a.memory_actual, Some(8_589_934_592));
    assert_eq!(a.record.memory_static_max, Some(8_589_934_592));
    assert_eq!(a.record.memory_target, Some(8_589_934_592));
    assert_eq!(inventory.vm(a.record.uuid).unwrap().reference, a.reference);
    let nics: Vec<_> = a.nics().iter().map(|nic| (nic.name(1), nic.mac.clone())).collect();
    assert_eq!(
        nics,
        [
            ("vif1.0".to_owned(), Some("aa:bb:cc:00:00:00".to_owned())),
            ("vif1.2".to_owned(), Some("aa:bb:cc:00:00:02".to_owned()))
        ]
    );
    assert!(a.nics().iter().all(|nic| nic.bridge == Some("xenbr0") && nic.attached));
    let disks = a.disks();
    let devices: Vec<_> = disks.iter().map(|disk| (disk.device, disk.kind)).collect();
    assert_eq!(
        devices,
        [
            (Some("xvda"), DiskKind::Disk),
            (Some("xvdb"), DiskKind::Disk),
            (Some("xvdd"), DiskKind::Cd),
            (Some("xvde"), DiskKind::Disk)
        ]
    );
    assert_eq!(disks[0].virtual_size, Some(21_474_836_480));
    assert_eq!(disks[0].physical_utilisation, Some(7_516_196_864));

    // Two of four vCPUs are online, one NIC is unplugged.
    assert_eq!((vm("vm-B").vcpus, vm("vm-B").record.vcpus_max), (Some(2), Some(4)));
    assert_eq!(vm("vm-B").nics().iter().map(|nic| nic.attached).collect::<Vec<_>>(), [true, false]);
    let d = vm("vm-D");
    assert_eq!((d.power_state(), d.record.domid, d.host), (PowerState::Halted, None, None));
    assert_eq!((d.vcpus, d.memory_actual), (Some(1), None));
    assert!(!vm("vm-G").guest_is_live);
    assert!(vm("vm-G").disks().iter().any(|disk| disk.empty && disk.device.is_none()));
}

#[test]
fn an_answer_without_events_changes_nothing() {
    let mut inventory = read(&whole());
    let before = told(&inventory);
    let file = include_str!("../../tests/data/xenserver/xapi_replies.json");
    let replies: Value = serde_json::from_str(file).unwrap();
    let entered = enter(&mut inventory, &replies["event.from, nothing new"]);
    assert_eq!(entered, Ok(Entered::Complete));
    assert_eq!(told(&inventory), before);
}

#[test]
fn what_changes_is_told_and_nothing_else() {
    let mut inventory = read(&answer(
        vec![
            event("vif", "add", "i", vif_record("v1", "0")),
            event("vm", "add", "v1", vm_record(1)),
            event("vm", "mod", "v1", vm_record(1)),
            event("vm", "add", "v2", vm_record(2)),
        ],
        "1",
    ));
    let halted = with(vm_record(2), "power_state", json!("Halted"));
    let moved = vif_record("v2", "7");
    let gone = json!(null);
    let events = vec![event("VM", "mod", "v2", halted), event("VIF", "mod", "i", moved)];
    assert_eq!(enter(&mut inventory, &answer(events, "2")), Ok(Entered::Complete));
    assert_eq!(inventory.token(), "2");
    let [one, two] = inventory.vms(false).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!([one.power_state(), two.power_state()], [PowerState::Running, PowerState::Halted]);
    assert_eq!([one.nics().len(), two.nics().len()], [0, 1]);

    let events = vec![event("vm", "del", "v1", gone.clone()), event("vif", "del", "x", gone)];
    assert_eq!(enter(&mut inventory, &answer(events, "3")), Ok(Entered::Complete));
    assert_eq!(inventory.vms(false).count(), 1);
    // Gone before its record could be read: what was known is old.
    let events = vec![event("vm", "mod", "v2", json!(null))];
    assert_eq!(enter(&mut inventory, &answer(events, "4")), Ok(Entered::Complete));
    assert_eq!(inventory.vms(false).count(), 0);
    assert_eq!(inventory.take_notes(), Vec::<String>::new());
}

#[test]
fn another_number_of_objects_means_to_begin_anew() {
    let counted = |mut answer: Value, count: i64| {
        answer["result"]["valid_ref_counts"] = json!({ "vm": count, "session": 5 });
        answer
    };
    let one = vec![event("vm", "add", "v1", vm_record(1))];
    let mut inventory = read(&counted(answer(one.clone(), "1"), 1));
    let lost = counted(answer(vec![], "2"), 2);
    assert_eq!(enter(&mut inventory, &lost), Ok(Entered::Incomplete));
    assert_eq!(inventory.token(), "");
    assert_eq!(inventory.vms(false).count(), 1, "what is known stays until then");

    // XAPI counts one that it cannot read: no reason to ask for all of them again and again.
    assert_eq!(enter(&mut inventory, &counted(answer(one, "3"), 2)), Ok(Entered::Complete));
    assert_eq!(inventory.take_notes(), ["XAPI counts 2 objects VM, and lists 1"]);
    let same = counted(answer(vec![], "4"), 2);
    assert_eq!(enter(&mut inventory, &same), Ok(Entered::Complete));
    let fewer = counted(answer(vec![], "5"), 1);
    assert_eq!(enter(&mut inventory, &fewer), Ok(Entered::Complete));
    assert_eq!(enter(&mut inventory, &same), Ok(Entered::Incomplete));
    let whole = counted(answer(vec![], "6"), 0);
    assert_eq!(enter(&mut inventory, &whole), Ok(Entered::Complete));
    assert_eq!(inventory.vms(false).count(), 0, "all were asked for, and there are none");
}

#[test]
fn an_error_changes_nothing_but_a_token_that_is_not_known_any_more() {
    let mut inventory = read(&whole());
    let (before, token) = (told(&inventory), inventory.token().to_owned());
    let body = whole().to_string();
    let halted = answer(vec![event("vm", "del", "OpaqueRef:x", json!(null))], "");
    for wrong in ["<html>", "{\"result\":5}", &body[..body.len() / 2], &halted.to_string()] {
        assert!(inventory.enter(wrong.as_bytes()).is_err());
        assert_eq!((told(&inventory), inventory.token()), (before.clone(), &*token));
    }
    for code in ["EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE"] {
        inventory.token = token.clone();
        let error =
            json!({ "jsonrpc": "2.0", "error": { "code": 1, "message": code, "data": [] } });
        assert!(enter(&mut inventory, &error).is_err());
        assert_eq!((told(&inventory), inventory.token()), (before.clone(), ""));
    }
}

#[test]
fn a_bad_record_costs_itself_and_leaves_a_note() {
    let good = || event("vm", "add", "v0", vm_record(0));
    for (bad, note) in [
        (
            vec![event("vm", "add", "v1", json!({ "name_label": "x" }))],
            "VM v1 is left out: its uuid is missing or wrong",
        ),
        (vec![event("vm", "add", "v1", json!([7]))], "VM v1 is left out: its record is none"),
        (
            vec![event("vif", "add", "i", vif_record("OpaqueRef:NULL", "0"))],
            "VIF i is left out: it belongs to no VM",
        ),
        (
            vec![event("vif", "add", "i", vif_record("v0", "eth0"))],
            "VIF i is left out: its device number is missing or wrong",
        ),
        (
            vec![event("vif", "add", "i", vif_record("v9", "0"))],
            "VM v9 has NICs or disks, but is not there itself",
        ),
        (vec![json!(5)], "an event without a class or a reference is left out"),
        (
            vec![event("vm", "add", &"x".repeat(300), vm_record(1))],
            "an event without a class or a reference is left out",
        ),
        (
            vec![event("host", "add", "\u{1b}[2J", json!({}))],
            "host \\x1b[2J is left out: its uuid is missing or wrong",
        ),
        (
            vec![event("vbd", "add", "b", json!({ "type": "Disk" }))],
            "VBD b is left out: it belongs to no VM",
        ),
    ] {
        for events in [[bad.clone(), vec![good()]].concat(), [vec![good()], bad].concat()] {
            let mut inventory = read(&answer(events, "1"));
            assert_eq!(inventory.vms(true).count(), 1, "{note}");
            assert_eq!(inventory.vms(true).map(|vm| vm.nics().len()).sum::<usize>(), 0);
            assert_eq!(inventory.take_notes(), [note]);
            assert_eq!(inventory.take_notes(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_wrong_field_is_unknown() {
    let mut record = vm_record(1);
    record["power_state"] = json!("Crashed");
    record["domid"] = json!(-1);
    record["VCPUs_at_startup"] = json!("two");
    record["memory_target"] = json!({});
    record["name_label"] = json!("ü".repeat(2000));
    let mut inventory = read(&answer(vec![event("vm", "add", "v1", record)], "1"));
    assert_eq!(
        inventory.take_notes(),
        [
            "VM v1 has missing or wrong fields: power_state, name_label, VCPUs_at_startup, memory_target"
        ]
    );
    let vm = inventory.vms(false).next().unwrap();
    assert_eq!((vm.power_state().as_libvirt(), vm.record.domid, vm.vcpus), (0, None, None));
    assert_eq!((vm.record.memory_target, vm.record.memory_static_max), (None, Some(1024)));
    assert_eq!(&*vm.record.name, "ü".repeat(512));
}

#[test]
fn of_two_with_one_name_one_is_told() {
    let halted = with(vm_record(1), "domid", json!(-1));
    let attached = vif_record("v2", "1");
    let detached = with(attached.clone(), "currently_attached", json!(false));
    let mut inventory = read(&answer(
        vec![
            event("vm", "add", "v1", halted),
            event("vm", "add", "v2", vm_record(1)),
            event("vif", "add", "i1", detached),
            event("vif", "add", "i2", attached),
        ],
        "1",
    ));
    let [vm] = inventory.vms(false).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(vm.reference.to_string(), "v2");
    assert_eq!(vm.nics().iter().map(|nic| nic.attached).collect::<Vec<_>>(), [true]);
    assert_eq!(
        inventory.take_notes(),
        [
            "VM a0000000-0000-4000-8000-000000000001 is there twice; one of them is told",
            "VM v2 has two NICs or disks of one name; one of them is told"
        ]
    );
}

#[test]
fn an_instance_of_novas_is_found_by_its_uuid_there() {
    let nova = "d0000000-0000-4000-8000-000000000001";
    let of = |record, uuid: &str| with(record, "other_config", json!({ "nova_uuid": uuid }));
    let halted = |number| with(vm_record(number), "domid", json!(-1));
    let mut inventory = read(&answer(
        vec![
            // A copy has the same.
            event("vm", "add", "v1", of(halted(1), nova)),
            event("vm", "add", "v2", of(vm_record(2), nova)),
            event("vm", "add", "v3", of(vm_record(3), "")),
            event("vm", "add", "v4", of(vm_record(4), "none")),
            event("vm", "add", "v5", vm_record(5)),
            // A VM's own UUID goes first.
            event("vm", "add", "v6", of(vm_record(6), "a0000000-0000-4000-8000-000000000005")),
            event("vm", "add", "v7", with(of(vm_record(7), nova), "is_a_snapshot", json!(true))),
        ],
        "1",
    ));
    let meant = |inventory: &Inventory, uuid: &str| {
        inventory.meant(uuid.parse().unwrap()).map(|vm| vm.reference.to_string())
    };
    assert_eq!(meant(&inventory, nova).as_deref(), Some("v2"));
    assert_eq!(meant(&inventory, "00000000-0000-0000-0000-000000000000"), None);
    assert_eq!(meant(&inventory, "d0000000-0000-4000-8000-000000000002"), None);
    assert_eq!(meant(&inventory, "a0000000-0000-4000-8000-000000000005").as_deref(), Some("v5"));
    assert!(inventory.vm(nova.parse().unwrap()).is_none());

    let events = vec![
        event("vm", "mod", "v1", of(vm_record(1), nova)),
        event("vm", "mod", "v2", of(halted(2), nova)),
    ];
    enter(&mut inventory, &answer(events, "2")).unwrap();
    assert_eq!(meant(&inventory, nova).as_deref(), Some("v1"));
    enter(&mut inventory, &answer(vec![event("vm", "del", "v1", Value::Null)], "3")).unwrap();
    assert_eq!(meant(&inventory, nova).as_deref(), Some("v2"), "shut off");
    enter(&mut inventory, &answer(vec![event("vm", "mod", "v2", vm_record(2))], "4")).unwrap();
    assert_eq!(meant(&inventory, nova), None);
}

#[test]
fn notes_are_bounded() {
    let bad = (0..1000).map(|n| event("vm", "add", &format!("v{n}"), json!({}))).collect();
    let notes = read(&answer(bad, "1")).take_notes();
    assert_eq!((notes.len(), &*notes[MAX_NOTES]), (33, "more objects are left out or wrong: 968"));
}

#[test]
fn objects_are_bounded() {
    let networks = |begin: usize| {
        let add = |n| event("network", "add", &format!("n{n}"), json!({ "bridge": "xenbr0" }));
        answer((begin..begin + MAX_OBJECTS).map(add).collect(), "1")
    };
    let mut inventory = read(&networks(0));
    assert_eq!(enter(&mut inventory, &networks(1)), Ok(Entered::Incomplete));
    assert_eq!(inventory.token(), "");
    assert_eq!(enter(&mut inventory, &networks(0)), Ok(Entered::Complete));
}

#[test]
fn what_its_metrics_say_of_a_vm_that_does_not_run_is_old() {
    let metrics = json!({ "VCPUs_number": 1, "memory_actual": 7, "live": true });
    for (domid, vcpus, memory, is_live) in [(3, 1, Some(7), true), (-1, 2, None, false)] {
        let record = with(vm_record(1), "guest_metrics", json!("g"));
        let events = vec![
            event("vm", "add", "v1", with(record, "domid", json!(domid))),
            event("vm_metrics", "add", "m", metrics.clone()),
            event("vm_guest_metrics", "add", "g", metrics.clone()),
        ];
        let inventory = read(&answer(events, "1"));
        let vm = inventory.vms(false).next().unwrap();
        assert_eq!((vm.vcpus, vm.memory_actual), (Some(vcpus), memory));
        assert_eq!(vm.guest_is_live, is_live);
    }
}

#[test]
fn odd_floats_and_dates_lose_no_record() {
    let record = with(vm_record(1), "snapshot_time", json!("1627478400."));
    let record = with(record, "HVM_shadow_multiplier", json!("BARE"));
    let record = with(record, "other_config", json!({ "nova_uuid": "n", "a\"b": "\\" }));
    let body = answer(vec![event("vm", "add", "v1", record)], "1").to_string();
    for float in ["Infinity", "-Infinity", "NaN", "inf", "1.", "\"+Infinity\""] {
        let mut inventory = Inventory::default();
        let entered = inventory.enter(body.replace("\"BARE\"", float).as_bytes());
        assert_eq!(entered, Ok(Entered::Complete), "{float}");
        let vm = inventory.vms(false).next().unwrap();
        assert_eq!(vm.record.nova_uuid.as_deref(), Some("n"));
    }
}

/// An object's record in each of its states; some are of no use.
fn record_of(class: Class, number: u8, state: u8) -> Value {
    let vm = format!("v{}", state % 3);
    match class {
        Class::Pool => json!({ "master": format!("h{}", state % 2) }),
        Class::Host => json!({ "uuid": format!("c0000000-0000-4000-8000-00000000000{number}"),
            "name_label": format!("{state}"), "metrics": format!("hm{}", state % 2) }),
        Class::HostMetrics | Class::GuestMetrics => json!({ "live": state % 2 == 0 }),
        Class::Vm => {
            // Two may have one UUID.
            let mut record = vm_record(number / 2 + state % 2);
            record["resident_on"] = json!(format!("h{}", state % 2));
            record["metrics"] = json!(format!("vm{}", state % 2));
            record["domid"] = json!(i64::from(state) - 2);
            record["is_a_template"] = json!(state == 3);
            if state == 4 {
                record["uuid"] = json!("none");
            }
            record
        }
        Class::VmMetrics => json!({ "VCPUs_number": state, "memory_actual": state }),
        Class::Vif => vif_record(&vm, &format!("{}", (number + state) % 2)),
        Class::Vbd => json!({ "VM": vm, "VDI": format!("vd{}", state % 2), "type": "Disk",
            "device": if state == 0 { "" } else { "xvda" }, "userdevice": state,
            "empty": state == 1, "currently_attached": state == 2 }),
        Class::Vdi => json!({ "virtual_size": state, "physical_utilisation": number }),
        Class::Network => json!({ "bridge": format!("xenbr{state}") }),
    }
}

fn reference_of(class: Class, number: u8) -> String {
    let prefix = match class {
        Class::Pool => "p",
        Class::Host => "h",
        Class::HostMetrics => "hm",
        Class::Vm => "v",
        Class::VmMetrics => "vm",
        Class::GuestMetrics => "g",
        Class::Vif => "i",
        Class::Vbd => "b",
        Class::Vdi => "vd",
        Class::Network => "n",
    };
    format!("{prefix}{number}")
}

type Pool = BTreeMap<(usize, u8), u8>;

/// What XAPI answers to whoever knows `before`, in an order that `order` decides on.
fn events_between(before: &Pool, now: &Pool, order: &[Choice]) -> Value {
    let mut events = Vec::new();
    for (&(class, number), &state) in now {
        let class = Class::ALL[class];
        let known = before.get(&(class as usize, number));
        if known == Some(&state) {
            continue;
        }
        let (name, reference) = (class.name().to_lowercase(), reference_of(class, number));
        let operation = if known.is_some() { "mod" } else { "add" };
        events.push(event(&name, operation, &reference, record_of(class, number, state)));
        if known.is_none() && state % 2 == 0 {
            // Some releases tell a new object twice.
            events.push(event(&name, "mod", &reference, record_of(class, number, state)));
        }
    }
    for &(class, number) in before.keys().filter(|key| !now.contains_key(key)) {
        let class = Class::ALL[class];
        events.push(event(class.name(), "del", &reference_of(class, number), Value::Null));
    }
    for (at, choice) in order.iter().enumerate().take(events.len()) {
        let other = choice.index(events.len());
        events.swap(at, other);
    }
    let mut counts = serde_json::Map::new();
    for &(class, _) in now.keys() {
        let name = Class::ALL[class].name().to_lowercase();
        let count = now.keys().filter(|(other, _)| *other == class).count();
        counts.insert(name, json!(count));
    }
    let mut answer = answer(events, "t");
    answer["result"]["valid_ref_counts"] = counts.into();
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn events_in_any_order_come_to_what_all_objects_come_to(
        steps in proptest::collection::vec(
            (
                proptest::collection::vec((0..10_usize, 0..5_u8, 0..6_u8), 1..25),
                proptest::collection::vec(any::<Choice>(), 25),
            ),
            1..6,
        ),
        order in proptest::collection::vec(any::<Choice>(), 40),
    ) {
        let mut inventory = Inventory::default();
        let (mut before, mut now) = (Pool::new(), Pool::new());
        for (changes, order) in &steps {
            for &(class, number, state) in changes {
                if state == 5 {
                    now.remove(&(class, number));
                } else {
                    now.insert((class, number), state);
                }
            }
            let events = events_between(&before, &now, order);
            prop_assert_eq!(enter(&mut inventory, &events), Ok(Entered::Complete));
            before = now.clone();

            let fresh = read(&events_between(&Pool::new(), &now, order));
            prop_assert_eq!(told(&inventory), told(&fresh));
        }
        let fresh = read(&events_between(&Pool::new(), &now, &order));
        prop_assert_eq!(told(&inventory), told(&fresh));
    }

    #[test]
    fn no_answer_makes_it_panic(
        damage in proptest::collection::vec((any::<Choice>(), any::<u8>()), 1..40),
        cut in any::<Choice>(),
    ) {
        let mut body = whole().to_string().into_bytes();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        for bytes in [&body[..], &body[..cut.index(body.len())]] {
            let mut inventory = Inventory::default();
            let _ = inventory.enter(bytes);
            let _ = (told(&inventory), inventory.take_notes());
        }
    }

    #[test]
    fn no_value_makes_it_panic(
        at in any::<Choice>(),
        value in "[0-9]{1,25}|-1|null|\\[\\]|\\{\\}|\"OpaqueRef:NULL\"|\"x{0,3}\"|true|NaN",
    ) {
        // Each field of the answer in turn gets a value that may be of a wrong type.
        let body = whole().to_string();
        let fields: Vec<_> = body.match_indices("\":").map(|(at, _)| at + 2).collect();
        let begin = fields[at.index(fields.len())];
        let end = begin + body[begin..].find([',', '}']).unwrap();
        let body = [&body[..begin], &value, &body[end..]].concat();
        let mut inventory = Inventory::default();
        let _ = inventory.enter(body.as_bytes());
        let _ = (told(&inventory), inventory.take_notes());
    }
}

#[test]
fn over_an_answer_without_a_host_nothing_is_forgotten() {
    let mut inventory = Inventory::default();
    assert_eq!(enter(&mut inventory, &whole()), Ok(Entered::Complete));
    let before = told(&inventory);
    inventory.begin_anew();
    let mut nothing = whole();
    nothing["result"]["events"] = json!([]);
    assert!(enter(&mut inventory, &nothing).is_err());
    assert_eq!(told(&inventory), before);
    assert_eq!(inventory.token(), "");
}
