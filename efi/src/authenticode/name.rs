//! Names in certificates, in the form in which they are compared.
//!
//! OpenSSL, which firmware and shim use, takes names as equal that differ in how their texts are encoded, in the case of ASCII letters, and
//! in blanks. Source: RFC 5280, 7.1, as far as OpenSSL does it.

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode as _, Reader as _, Tag, Tagged as _};

/// The form in which a name, a whole element, is compared. What is no name is compared as it is.
pub(super) fn canonical(name: &[u8]) -> Vec<u8> {
    parsed(name).unwrap_or_else(|_| name.to_vec())
}

fn parsed(name: &[u8]) -> der::Result<Vec<u8>> {
    let mut whole = Vec::new();
    AnyRef::from_der(name)?.sequence(|sets| {
        while !sets.is_finished() {
            let set: AnyRef<'_> = sets.decode()?;
            set.tag().assert_eq(Tag::Set)?;
            let mut members = der::SliceReader::new(set.value())?;
            let mut texts = Vec::new();
            while !members.is_finished() {
                texts.push(members.decode::<AnyRef<'_>>()?.sequence(|member| {
                    let kind: ObjectIdentifier = member.decode()?;
                    let value: AnyRef<'_> = member.decode()?;
                    Ok([&with_length(kind.as_bytes())[..], &with_length(&text(value))].concat())
                })?);
            }
            // The order of a set says nothing.
            texts.sort();
            whole.extend(with_length(&texts.concat()));
        }
        Ok(())
    })?;
    Ok(whole)
}

/// So that the parts of different names never make the same whole.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_le_bytes()[..], bytes].concat()
}

fn text(value: AnyRef<'_>) -> Vec<u8> {
    let bytes = value.value();
    let text: String = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Tag::TeletexString => bytes.iter().copied().map(char::from).collect(),
        Tag::BmpString => {
            let units = bytes.chunks(2).map(|unit| unit.iter().fold(0, |all, byte| all << 8 | u16::from(*byte)));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        tag => return [&[u8::from(tag)], bytes].concat(),
    };
    // Only ASCII: letters and blanks of other scripts stay.
    let words: Vec<_> = text.split(|c: char| c.is_ascii_whitespace() || c == '\u{b}').collect();
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ").to_ascii_lowercase().into_bytes()
}

#[cfg(test)]
mod tests {
    use der::Encode as _;

    use super::super::asn1::element;
    use super::*;

    fn name(kind: &str, tag: Tag, value: &[u8]) -> Vec<u8> {
        let kind = ObjectIdentifier::new(kind).unwrap().to_der().unwrap();
        let member = element(Tag::Sequence, &[&kind, &element(tag, &[value]).unwrap()]).unwrap();
        element(Tag::Sequence, &[&element(Tag::Set, &[&member]).unwrap()]).unwrap()
    }

    #[test]
    fn encoding_case_and_blanks_do_not_matter() {
        let same = |tag, value: &[u8]| canonical(&name("2.5.4.3", tag, value)) == canonical(&common());
        fn common() -> Vec<u8> {
            name("2.5.4.3", Tag::Utf8String, b"Example CA")
        }
        assert!(same(Tag::PrintableString, b"Example CA"));
        assert!(same(Tag::Ia5String, b"  eXample \t ca "));
        assert!(same(Tag::BmpString, b"\0E\0x\0a\0m\0p\0l\0e\0 \0C\0A"));
        assert!(!same(Tag::Utf8String, b"ExampleCA"));
        assert!(!same(Tag::Utf8String, b"Example CB"));
        assert!(!same(Tag::OctetString, b"Example CA"));
        let organization = name("2.5.4.10", Tag::Utf8String, b"Example CA");
        assert_ne!(canonical(&organization), canonical(&common()));
        assert_eq!(canonical(b"no name"), b"no name");
        let umlaut = |tag, value: &[u8]| canonical(&name("2.5.4.3", tag, value));
        assert_eq!(umlaut(Tag::TeletexString, b"\xc4"), umlaut(Tag::Utf8String, "\u{c4}".as_bytes()));
        assert_ne!(umlaut(Tag::Utf8String, "\u{e4}".as_bytes()), umlaut(Tag::Utf8String, "\u{c4}".as_bytes()));
    }
}
