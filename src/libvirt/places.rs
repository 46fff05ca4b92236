//! Where in a bulk reading each NIC and disk is: the typed parameters that are names. Pure.

/// Places like `net.0` or `block.3`, by their groups (`net`, `block`) and the devices there.
#[derive(Debug, Default)]
pub(super) struct Places(Box<[Place]>);

#[derive(Debug)]
struct Place {
    place: String,
    device: String,
}

impl Place {
    fn key(&self) -> (&str, &str) {
        (self.place.split('.').next().unwrap_or_default(), &self.device)
    }
}

impl Places {
    /// Where a device is; the first place of several.
    pub(super) fn of(&self, group: &str, device: &str) -> Option<&str> {
        let first = self.0.partition_point(|place| place.key() < (group, device));
        let found = self.0.get(first).filter(|place| place.key() == (group, device))?;
        Some(&found.place)
    }

    /// The devices of a group.
    pub(super) fn devices<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a str> {
        let first = self.0.partition_point(|place| place.key().0 < group);
        let group = self.0.iter().skip(first).take_while(move |place| place.key().0 == group);
        group.map(|place| place.device.as_str())
    }
}

/// From parameters like `block.3.name` and their values, in libvirt's order.
impl FromIterator<(String, String)> for Places {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(names: T) -> Self {
        let place = |(name, device): (String, String)| {
            let place = name.strip_suffix(".name")?.to_owned();
            Some(Place { place, device })
        };
        let mut places: Vec<_> = names.into_iter().filter_map(place).collect();
        places.sort_by(|a, b| a.key().cmp(&b.key()));
        Self(places.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_device_is_where_it_is_named_first(
            names in prop::collection::vec(("(net|block)(\\.[0-9])?(\\.x)?\\.name", "[ab]{0,2}"), 0..20),
        ) {
            let places: Places = names.iter().cloned().collect();
            for group in ["net", "block", "other"] {
                let prefix = format!("{group}.");
                let named = |(name, _): &&(String, String)| name.starts_with(&prefix);
                let mut devices: Vec<_> =
                    names.iter().filter(named).map(|(_, device)| device.as_str()).collect();
                devices.sort_unstable();
                prop_assert!(places.devices(group).eq(devices.iter().copied()));
                for device in devices.into_iter().chain(["c"]) {
                    let first = names.iter().filter(named).find(|(_, found)| found == device);
                    let first = first.and_then(|(name, _)| name.strip_suffix(".name"));
                    prop_assert_eq!(places.of(group, device), first);
                }
            }
        }
    }
}
