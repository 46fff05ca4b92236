//! Text from outside (names of VMs, libvirt's messages, URIs) as it may be shown in a message or a
//! line of a log: nothing in it steers a terminal, breaks a line or hides other text, and no URI tells
//! its password. The Python command line's `printable` does the same, with the same escapes.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::ops::Range;

/// Longer names are cut: they are only ever shown.
pub(crate) const MAX_SHOWN: usize = 1024;

/// A text up to so many bytes.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Shows a text with escapes in place of what is not printable, `\n`, `\x1b`, `\u202e`, and `***` in
/// place of a URI's password.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in without_passwords(self.0).chars() {
            match c {
                _ if is_printable(c) => f.write_char(c)?,
                '\t' => f.write_str("\\t")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                ..='\u{ff}' => write!(f, "\\x{:02x}", u32::from(c))?,
                ..='\u{ffff}' => write!(f, "\\u{:04x}", u32::from(c))?,
                _ => write!(f, "\\U{:08x}", u32::from(c))?,
            }
        }
        Ok(())
    }
}

/// Shows a URI of libvirt's as a message names it, and nothing of its password, whatever that holds.
pub(crate) struct Uri<'a>(pub(crate) &'a str);

impl fmt::Display for Uri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, password(self.0)) {
            ("", _) => f.write_str("libvirt's default URI"),
            (uri, Some(password)) => {
                let (before, after) = (&uri[..password.start], &uri[password.end..]);
                write!(f, "{}***{}", Printable(before), Printable(after))
            }
            (uri, None) => Printable(uri).fmt(f),
        }
    }
}

/// What a library says of a URI that it was given, without the password.
pub(crate) fn without_password(said: &str, uri: &str) -> String {
    let Some(password) = password(uri) else { return said.to_owned() };
    let (secret, end) = (&uri[password.clone()], &uri[password.end..=password.end]);
    said.replace(&format!("{secret}{end}"), &format!("***{end}"))
}

/// Where a text that is one URI, even a wrong one, may have a password: up to its last `@`, as a
/// password may hold anything, from the first colon of what stands before that.
fn password(uri: &str) -> Option<Range<usize>> {
    let end = uri.rfind('@')?;
    let scheme =
        uri[..end].find("//").filter(|&end| uri[..end].find(':').is_none_or(|at| at + 1 == end));
    let begin = scheme.map_or(0, |end| end + 2);
    let login = uri.get(begin..end)?;
    let plain = login.find(':').map(|colon| colon + 1);
    let encoded = login.to_ascii_lowercase().find("%3a").map(|colon| colon + 3);
    let password = plain.into_iter().chain(encoded).min()?;
    // Without a user, host and path come first: what has a colon then is a parameter.
    let is_path = begin > 0 && login.find('/').is_some_and(|slash| slash < password);
    (!is_path && begin + password < end).then_some(begin + password..end)
}

/// The text with `//user:***@` for each `//user:password@`. Where the password ends is not always
/// clear, as it may hold anything: rather too much of a URI is left out than too little.
fn without_passwords(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find("//") {
        let (before, after) = rest.split_at(begin + 2);
        shown += before;
        let end = after.find(|c: char| c.is_whitespace() || c == '"');
        let (uri, others) = after.split_at(end.unwrap_or(after.len()));
        // A user's name may have an @ of its own.
        let user = uri.split([':', '/']).next().unwrap_or_default();
        let with_password = uri.get(user.len()..).filter(|uri| uri.starts_with(':'));
        let host = with_password.and_then(|password| Some(user.len() + password.rfind('@')?));
        match host {
            Some(host) => {
                shown += user;
                shown += ":***";
                rest = after.get(host..).unwrap_or(others);
            }
            None => rest = after,
        }
    }
    if shown.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(shown + rest) }
}

/// Whether it is no control, format, private or unassigned character, nor a space but for `' '`.
/// The standard library knows, and tells only by what it escapes.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    // After another character: an accent that stands alone would be escaped as well.
    let pair: String = ['a', c].iter().collect();
    pair.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_uri_tells_its_password() {
        for (text, shown) in [
            ("qemu+tcp://u:secret@host/system", "qemu+tcp://u:***@host/system"),
            ("to 'qemu+tcp://u:s@c/r:et@[::1/system': no", "to 'qemu+tcp://u:***@[::1/system': no"),
            ("esx://:s@h//x:y@z a://b:c@d", "esx://:***@z a://b:***@d"),
            ("qemu+ssh://root@host:22/system?x=1", "qemu+ssh://root@host:22/system?x=1"),
            ("qemu+unix:///system?socket=/a:b@c", "qemu+unix:///system?socket=/a:b@c"),
            ("web//1 // a:b", "web//1 // a:b"),
            ("é//ü:ß@ö", "é//ü:***@ö"),
            ("qemu+tcp://us'er:x's3cret@host/system", "qemu+tcp://us'er:***@host/system"),
            ("qemu+tcp://me@corp:s3cret@host/system", "qemu+tcp://me@corp:***@host/system"),
            ("qemu+ssh://me@host:22/system", "qemu+ssh://me@host:22/system"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }

    #[test]
    fn a_uri_that_is_known_to_be_one_tells_nothing_of_its_password() {
        for (uri, shown) in [
            ("", "libvirt's default URI"),
            ("qemu:///system", "qemu:///system"),
            ("qemu+tcp://u:s3 cr\"et@host/system", "qemu+tcp://u:***@host/system"),
            ("qemu+tcp://u:s3\tcr@e/t@host/system", "qemu+tcp://u:***@host/system"),
            ("qemu+tcp://u%3As3cret@host/system", "qemu+tcp://u%3A***@host/system"),
            ("qemu+tcp:/u:s3cret@host/system", "qemu+tcp:***@host/system"),
            ("u:s3cret@host", "u:***@host"),
            ("u:s//3cret@host", "u:***@host"),
            ("qemu+tcp://me@corp:s3cret@host", "qemu+tcp://me@corp:***@host"),
            ("qemu+ssh://root@host:22/system?x=1", "qemu+ssh://root@host:22/system?x=1"),
            ("qemu+unix:///system?socket=/a:b@c", "qemu+unix:///system?socket=/a:b@c"),
            ("qemu+tcp://u:@host\n", r"qemu+tcp://u:***@host\n"),
        ] {
            assert_eq!(Uri(uri).to_string(), shown);
            let said = without_password(&format!("cannot parse '{uri}' at all"), uri);
            assert!(!said.contains("3cr") && said.ends_with(" at all"), "{said}");
        }
    }

    #[test]
    fn what_is_not_printable_is_escaped_as_python_does() {
        for (text, shown) in [
            ("web-1 ünï-☃ 名", "web-1 ünï-☃ 名"),
            (r#"C:\x 'a' "b""#, r#"C:\x 'a' "b""#),
            ("e\u{301}", "e\u{301}"),
            ("a\t\r\nb", r"a\t\r\nb"),
            ("\x1b[2J\0\x7f\u{9b}\u{a0}", r"\x1b[2J\x00\x7f\x9b\xa0"),
            ("\u{202e}\u{200b}\u{2028}\u{feff}\u{e000}", r"\u202e\u200b\u2028\ufeff\ue000"),
            ("\u{e0001}", r"\U000e0001"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }
}
