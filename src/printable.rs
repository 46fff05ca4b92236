//! Text from outside (names of VMs, libvirt's messages, URIs) as it may be shown in a message or a
//! line of a log: nothing in it steers a terminal, breaks a line or hides other text. The Python
//! command line's `printable` does the same, with the same escapes.

use std::fmt::{self, Write};

/// Shows a text with escapes in place of what is not printable: `\n`, `\x1b`, `\u202e`.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
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
