//! The answers in tests/data/xenserver: exports of XAPI's own RRD library for an invented host, and
//! what each counter really was. README.md there tells more.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// Each release, and the phase of its readings.
pub(crate) const SETS: [&str; 4] =
    ["xapi-1.249_8.2_drift", "xapi-24.19_drift", "xapi-26.17_steady", "xapi-26.17_boundary"];

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", "xenserver"].iter().collect()
}

fn bytes(path: &str) -> Vec<u8> {
    let read = fs::read(folder().join(path)).unwrap();
    if !read.starts_with(&[0x1f, 0x8b]) {
        return read;
    }
    let mut inflated = Vec::new();
    flate2::read::GzDecoder::new(read.as_slice()).read_to_end(&mut inflated).unwrap();
    inflated
}

/// An answer, by its set and name, a poll's as well, for example `xapi-1.249_8.2_drift/last60`.
pub(crate) fn answer(path: &str) -> Vec<u8> {
    let (set, name) = path.split_once('/').unwrap();
    let part = if name.starts_with("every") { "polls/" } else { "" };
    bytes(&format!("{set}/{part}{name}.xml.gz"))
}

/// Another file of text.
pub(crate) fn text(path: &str) -> String {
    String::from_utf8(bytes(path)).unwrap()
}

/// The paths of all answers of a set.
pub(crate) fn names(set: &str) -> Vec<String> {
    let mut all = Vec::new();
    for part in [set.to_owned(), format!("{set}/polls")] {
        for entry in fs::read_dir(folder().join(&part)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            all.extend(name.strip_suffix(".xml.gz").map(|name| format!("{part}/{name}")));
        }
    }
    all
}
