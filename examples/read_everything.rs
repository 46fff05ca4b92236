//! Prints every reading of every instance: `cargo run --no-default-features --example
//! read_everything -- qemu:///system`.

#![allow(clippy::print_stdout)]

use std::env;

use virtmeter::{Error, Inspector, InstanceId, Libvirt};

fn main() -> Result<(), Error> {
    let uri = env::args().nth(1).unwrap_or_else(|| "test:///default".to_owned());
    let inspector = Inspector::new(Libvirt::new(&uri, true));
    for instance in inspector.instances()? {
        println!("{instance:?}");
        let id = InstanceId { uuid: instance.id, name: Some(instance.name) };
        // A failed reading is the answer for this instance alone.
        println!("  {:?}", inspector.instance(&id));
        println!("  {:?}", inspector.vnics(&id));
        println!("  {:?}", inspector.disks(&id));
        println!("  {:?}", inspector.disk_info(&id));
    }
    inspector.close();
    Ok(())
}
