//! What an Authenticode signature signs: the digest of the program.

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Encode as _, Reader as _, Tag, TagNumber};
use spki::AlgorithmIdentifierRef;

use super::Hash;
use super::asn1::{CONTEXT_0, CONTEXT_2, algorithm, element};

/// Says that content is what this module writes.
pub(super) const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");

/// Says that the digest is one of a PE file.
const PE_IMAGE_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.15");

/// The name of the file, which is what everybody writes there.
const OBSOLETE: &str = "<<<Obsolete>>>";

/// The element `SpcIndirectDataContent`.
pub(super) fn write(hash: Hash, digest: &[u8]) -> der::Result<Vec<u8>> {
    let name: Vec<u8> = OBSOLETE.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let name = element(Tag::ContextSpecific { constructed: false, number: TagNumber::N0 }, &[&name])?;
    let file = element(CONTEXT_0, &[&element(CONTEXT_2, &[&name])?])?;
    let flags = BitStringRef::new(0, &[])?.to_der()?;
    let data = element(Tag::Sequence, &[&PE_IMAGE_DATA.to_der()?, &element(Tag::Sequence, &[&flags, &file])?])?;
    let digest = element(Tag::Sequence, &[&algorithm(hash.oid())?, &OctetStringRef::new(digest)?.to_der()?])?;
    element(Tag::Sequence, &[&data, &digest])
}

/// The digest in the contents of a `SpcIndirectDataContent`; `None` for the hash function if it is unknown.
pub(super) fn read(contents: &[u8]) -> der::Result<(Option<Hash>, &[u8])> {
    let mut reader = der::SliceReader::new(contents)?;
    let _data = reader.tlv_bytes()?;
    let digest = AnyRef::from_der(reader.tlv_bytes()?)?;
    let read = digest.sequence(|digest| {
        let algorithm: AlgorithmIdentifierRef<'_> = digest.decode()?;
        Ok((Hash::from_oid(algorithm.oid), digest.decode::<OctetStringRef<'_>>()?.as_bytes()))
    })?;
    reader.finish(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let element = write(Hash::Sha384, &[7; 48]).unwrap();
        let contents = AnyRef::from_der(&element).unwrap().value();
        assert_eq!(read(contents).unwrap(), (Some(Hash::Sha384), &[7; 48][..]));
        for length in 0..contents.len() {
            assert!(read(&contents[..length]).is_err(), "{length}");
        }
    }
}
