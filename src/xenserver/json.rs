//! XAPI's JSON, read for the few fields that are wanted: nothing else of an answer is copied, and a
//! field of a wrong type is no field.
//!
//! Pure: text in, values out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The fields of an object, each as it stands in the text. Of two of one name the last counts.
pub(super) type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

pub(super) fn object(json: &str) -> Option<Object<'_>> {
    // What is something else would be copied, escaped, into the message of an error.
    if !json.trim_start().starts_with('{') {
        return None;
    }
    // Names with escapes cannot be borrowed; XAPI's own have none.
    if let Ok(plain) = serde_json::from_str::<BTreeMap<&str, &RawValue>>(json) {
        return Some(plain.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect());
    }
    let escaped: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
    Some(escaped.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect())
}

pub(super) fn array(value: &RawValue) -> Option<Vec<&RawValue>> {
    if !value.get().starts_with('[') {
        return None;
    }
    serde_json::from_str(value.get()).ok()
}

pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let plain = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if plain.contains('\\') {
        return serde_json::from_str(value.get()).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(plain))
}

/// A whole number: `4`, `"4"` as in XML-RPC and in maps of strings, or `4.0`.
pub(super) fn integer(value: &RawValue) -> Option<i64> {
    let text = text(value).unwrap_or(Cow::Borrowed(value.get()));
    let text = text.trim();
    let whole = text.trim_end_matches('0').strip_suffix('.');
    whole.unwrap_or(text).parse().ok()
}

pub(super) fn flag(value: &RawValue) -> Option<bool> {
    text(value).unwrap_or(Cow::Borrowed(value.get())).parse().ok()
}

/// The text with quotes around each bare word that JSON does not know. OCaml writes floats as
/// `Infinity`, `-inf`, `nan` or `1.`; a record must not be lost over one of them.
pub(super) fn with_bare_words_quoted(text: Cow<'_, str>) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut mended = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' {
            at = end_of_string(bytes, at);
        } else if is_of_a_word(byte) {
            let begin = at;
            while bytes.get(at).copied().is_some_and(is_of_a_word) {
                at += 1;
            }
            let word = &text[begin..at];
            if !is_json(word) {
                mended += &text[copied..begin];
                mended.extend(["\"", word, "\""]);
                copied = at;
            }
        } else {
            at += 1;
        }
    }
    if copied == 0 {
        return text;
    }
    mended += &text[copied..];
    Cow::Owned(mended)
}

/// Behind the quote that ends the string which begins here.
fn end_of_string(bytes: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

fn is_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_')
}

fn is_json(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let is_digit = |c: char| c.is_ascii_digit();
    matches!(word, "true" | "false" | "null")
        || digits.starts_with(is_digit)
            && digits.ends_with(is_digit)
            && digits.chars().all(|c| is_digit(c) || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn bare_words_are_quoted_and_nothing_else_changes() {
        for (said, mended) in [
            ("{\"a\":Infinity}", "{\"a\":\"Infinity\"}"),
            ("[-Infinity, +Infinity,NaN]", "[\"-Infinity\", \"+Infinity\",\"NaN\"]"),
            ("[inf,-inf,nan,-nan,1.]", "[\"inf\",\"-inf\",\"nan\",\"-nan\",\"1.\"]"),
            ("[\"NaN\",\"\\\"NaN\",NaN]", "[\"NaN\",\"\\\"NaN\",\"NaN\"]"),
        ] {
            assert_eq!(with_bare_words_quoted(Cow::Borrowed(said)), mended);
        }
        for said in ["[true,false,null,-1,1.5e-7,0]", "\"ü NaN\\\\\"", "\"cut \\", "ü", ""] {
            let same = with_bare_words_quoted(Cow::Borrowed(said));
            assert!(matches!(same, Cow::Borrowed(text) if text == said), "{same}");
        }
    }

    #[test]
    fn a_value_of_another_type_is_none() {
        for (json, number) in [
            ("4", Some(4)),
            ("\"4\"", Some(4)),
            ("-1", Some(-1)),
            ("4.0", Some(4)),
            ("40.00", Some(40)),
            ("100", Some(100)),
            ("4.5", None),
            ("true", None),
            ("\"\"", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(integer(raw(json)), number, "{json}");
        }
        assert_eq!(
            [flag(raw("true")), flag(raw("\"false\"")), flag(raw("1"))],
            [Some(true), Some(false), None]
        );
        assert_eq!(text(raw("\"a\\\"\\u00fc\"")).as_deref(), Some("a\"ü"));
        assert_eq!(text(raw("\"\\ud800\"")), None);
        assert_eq!(text(raw("7")), None);
        let names = object("{\"a\\\"b\":1,\"c\":2,\"c\":3}").unwrap();
        assert_eq!(
            names.iter().map(|(name, value)| (&**name, value.get())).collect::<Vec<_>>(),
            [("a\"b", "1"), ("c", "3")]
        );
    }

    proptest! {
        #[test]
        fn any_json_is_left_as_it_is(text in "\\PC*", number in any::<f64>(), whole in any::<i64>()) {
            let number = if number.is_finite() { number } else { 0.5 };
            let json = serde_json::json!({ text.clone(): [text, true, null, number, whole] }).to_string();
            prop_assert_eq!(with_bare_words_quoted(Cow::Borrowed(&json)), &*json);
        }

        #[test]
        fn any_text_is_read_without_a_panic(said in "(\\PC|[\"\\\\{}:,NaN0-9.+-])*") {
            let mended = with_bare_words_quoted(Cow::Borrowed(&said));
            let _ = object(&mended);
            if let Ok(value) = serde_json::from_str::<&RawValue>(&mended) {
                let _ = (array(value), text(value), integer(value), flag(value));
            }
        }
    }
}
