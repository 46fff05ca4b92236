//! What OpenStack Nova's driver for vSphere writes into the notes of a VM: a line for each thing
//! (`_get_instance_metadata` in nova/virt/vmwareapi/vmops.py).
//!
//! Pure: text in, metadata out.

use crate::records::{Flavor, NovaMetadata, ServerDescription};

/// What the notes of an instance of Nova's say; `None` for a VM that is not Nova's.
pub(super) fn server(annotation: &str, guest_id: Option<&str>) -> Option<ServerDescription> {
    let line = |name: &str| annotation.lines().find_map(|line| line.strip_prefix(name));
    // Any of these alone may be somebody's own words.
    let (display_name, project) = (line("name:")?, line("projectid:")?);
    let mut missing = Vec::new();
    let mut unless = |value: Option<String>, what: &str| {
        if value.is_none() {
            missing.push(what.to_owned());
        }
        value
    };
    let user_id = unless(line("userid:").and_then(told), "the owner's user id");
    let project_id = unless(told(project), "the owner's project id");
    let flavor_name = unless(line("flavor:name:").and_then(told), "the flavor's name");
    let mut size = |name: &str| match line(&format!("flavor:{name}:")) {
        None => Some(0),
        Some(size) => {
            let number = size.trim().parse().ok();
            if number.is_none() {
                missing.push(format!("a number as the flavor's {name}"));
            }
            number
        }
    };
    let flavor = Flavor {
        id: None,
        name: flavor_name,
        vcpus: size("vcpus"),
        ram: size("memory_mb"),
        disk: size("root_gb"),
        ephemeral: size("ephemeral_gb"),
        swap: size("swap"),
        extra_specs: None,
    };
    Some(ServerDescription {
        // What Nova says that its driver runs, and all that vSphere has.
        os_type: Some("hvm".to_owned()),
        architecture: guest_id.and_then(architecture).map(str::to_owned),
        nova: NovaMetadata {
            name: told(display_name),
            user_id,
            project_id,
            flavor,
            image_id: line("imageid:").and_then(told),
            image_meta: None,
        },
        missing,
    })
}

/// A value: Nova writes `None` for what it does not know.
fn told(value: &str) -> Option<String> {
    let value = value.trim();
    (!value.is_empty() && value != "None").then(|| value.to_owned())
}

/// As far as the id of a guest tells it; `otherGuest`, which Nova takes where the image says nothing,
/// does not.
fn architecture(guest_id: &str) -> Option<&'static str> {
    let guest_id = guest_id.to_ascii_lowercase();
    match (guest_id.contains("64"), guest_id.starts_with("arm")) {
        (true, true) => Some("aarch64"),
        (true, false) => Some("x86_64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOTES: &str = "name:web: 1\nuserid:u\nusername:None\nprojectid:p\nprojectname:None\n\
        flavor:name:m1.small\nflavor:memory_mb:512\nflavor:vcpus:2\nflavor:ephemeral_gb:3\n\
        flavor:root_gb:10\nflavor:swap:64\nimageid:70a599e0-31e7-49b7-b260-868f441e862b\n\
        package:31.0.0\n";

    #[test]
    fn an_instance_of_nova() {
        let found = server(NOTES, Some("ubuntu64Guest")).unwrap();
        assert_eq!(found.missing, [""; 0]);
        assert_eq!(found.os_type.as_deref(), Some("hvm"));
        assert_eq!(found.architecture.as_deref(), Some("x86_64"));
        let NovaMetadata { name, user_id, project_id, flavor, image_id, image_meta } = found.nova;
        assert_eq!(name.as_deref(), Some("web: 1"));
        assert_eq!((user_id.as_deref(), project_id.as_deref()), (Some("u"), Some("p")));
        assert_eq!(image_id.as_deref(), Some("70a599e0-31e7-49b7-b260-868f441e862b"));
        assert_eq!(image_meta, None);
        let expected = Flavor {
            id: None,
            name: Some("m1.small".to_owned()),
            vcpus: Some(2),
            ram: Some(512),
            disk: Some(10),
            ephemeral: Some(3),
            swap: Some(64),
            extra_specs: None,
        };
        assert_eq!(flavor, expected);
    }

    #[test]
    fn a_vm_that_is_not_novas() {
        for notes in ["", "name:x", "projectid:p", "the web server\nsee name: x, projectid:p"] {
            assert_eq!(server(notes, None), None, "{notes}");
        }
    }

    #[test]
    fn an_incomplete_instance_has_what_is_there_and_says_what_is_not() {
        let notes = NOTES
            .replace("userid:u\n", "")
            .replace("m1.small", "None")
            .replace("vcpus:2", "vcpus:two")
            .replace("flavor:swap:64\n", "")
            .replace("70a599e0-31e7-49b7-b260-868f441e862b", "None");
        let found = server(&notes.replace('\n', "\r\n"), None).unwrap();
        let missing =
            ["the owner's user id", "the flavor's name", "a number as the flavor's vcpus"];
        assert_eq!(found.missing, missing);
        let Flavor { name, vcpus, ram, swap, .. } = found.nova.flavor;
        assert_eq!((name, vcpus, ram, swap), (None, None, Some(512), Some(0)));
        assert_eq!((found.nova.image_id, found.architecture), (None, None));
        let empty = server("name:\nprojectid:\n", None).unwrap();
        assert_eq!((empty.nova.name, empty.nova.project_id), (None, None));
    }

    #[test]
    fn a_guest_tells_its_architecture_or_not() {
        for (guest, expected) in [
            ("windows2019srv_64Guest", Some("x86_64")),
            ("otherGuest64", Some("x86_64")),
            ("arm-ubuntu-64", Some("aarch64")),
            ("otherGuest", None),
        ] {
            assert_eq!(architecture(guest), expected, "{guest}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(notes in "(name:|projectid:|flavor:(vcpus|swap):|\\PC|\n){0,20}") {
            let _ = server(&notes, Some(&notes));
        }
    }
}
