//! Answers for tests: those of vcsim in tests/data/vsphere, and some as a vCenter writes them.

/// An answer of vcsim.
macro_rules! raw {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/data/vsphere/raw/", $name, ".xml")).as_slice()
    };
}
pub(super) use raw;

/// An answer as a vCenter writes it.
pub(super) fn enveloped(inside: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope \
         xmlns:soapenc=\"http://schemas.xmlsoap.org/soap/encoding/\" \
         xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n<soapenv:Body>\n{inside}\n\
         </soapenv:Body>\n</soapenv:Envelope>"
    )
}

/// A page of properties: `objects` elements, and what comes after them.
pub(super) fn page_of(inside: &str) -> String {
    enveloped(&format!(
        "<RetrievePropertiesExResponse xmlns=\"urn:vim25\"><returnval>{inside}</returnval>\
         </RetrievePropertiesExResponse>"
    ))
}

/// An object with these properties, each with the type of its value.
pub(super) fn object(kind: &str, moref: &str, properties: &[(&str, &str, &str)]) -> String {
    let property = |(path, kind, value): &(&str, &str, &str)| {
        format!("<propSet><name>{path}</name><val xsi:type=\"{kind}\">{value}</val></propSet>")
    };
    let properties = properties.iter().map(property).collect::<Vec<_>>().concat();
    format!("<objects><obj type=\"{kind}\">{moref}</obj>{properties}</objects>")
}
