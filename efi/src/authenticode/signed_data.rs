//! PKCS#7 signed data, as Authenticode uses it.
//!
//! Read by hand and not through types that write what they have read: a signature covers bytes as they stand in the file,
//! and who wrote them may have ordered sets otherwise. Source: RFC 2315.

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Encode as _, Reader as _, SliceReader, Tag, Tagged as _};
use spki::AlgorithmIdentifierRef;

use super::Hash;
use super::asn1::{CONTEXT_0, algorithm, element};
use super::certificate::Certificate;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Signed data that was read.
pub(super) struct SignedData<'a> {
    /// What kind of thing is signed.
    pub(super) content_type: ObjectIdentifier,
    /// The contents of the element that is signed, without its tag and length: these are what the digest covers.
    pub(super) content: &'a [u8],
    /// Certificates in DER.
    pub(super) certificates: Vec<&'a [u8]>,
    /// Who signed.
    pub(super) signers: Vec<SignerInfo<'a>>,
}

/// One signature.
pub(super) struct SignerInfo<'a> {
    /// Issuer of the signer's certificate.
    pub(super) issuer: &'a [u8],
    /// Serial number of the signer's certificate.
    pub(super) serial: &'a [u8],
    /// With which function the content is hashed.
    pub(super) digest_algorithm: ObjectIdentifier,
    /// Contents of the attributes that are signed in place of the content.
    attributes: Option<&'a [u8]>,
    /// With which algorithm.
    pub(super) signature_algorithm: ObjectIdentifier,
    /// The signature itself.
    pub(super) signature: &'a [u8],
}

impl<'a> SignedData<'a> {
    /// Reads the element at the beginning of `bytes`; what follows is padding.
    pub(super) fn read(bytes: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(bytes)?;
        AnyRef::decode(&mut reader)?.sequence(|info| {
            let _oid: ObjectIdentifier = info.decode().and_then(|oid: ObjectIdentifier| {
                if oid == SIGNED_DATA { Ok(oid) } else { Err(der::ErrorKind::OidUnknown { oid }.into()) }
            })?;
            AnyRef::from_der(tagged(info, CONTEXT_0)?.value())?.sequence(Self::read_fields)
        })
    }

    fn read_fields(fields: &mut SliceReader<'a>) -> der::Result<Self> {
        let _version: u8 = fields.decode()?;
        let _digest_algorithms = fields.tlv_bytes()?;
        let (content_type, content) = fields.decode::<AnyRef<'a>>()?.sequence(|info| {
            let oid = info.decode()?;
            Ok((oid, AnyRef::from_der(tagged(info, CONTEXT_0)?.value())?.value()))
        })?;
        let mut certificates = Vec::new();
        let mut signers = Vec::new();
        while !fields.is_finished() {
            let field: AnyRef<'a> = fields.decode()?;
            let mut items = SliceReader::new(field.value())?;
            match field.tag() {
                CONTEXT_0 => {
                    while !items.is_finished() {
                        certificates.push(items.tlv_bytes()?);
                    }
                }
                Tag::Set => {
                    while !items.is_finished() {
                        signers.push(items.decode::<AnyRef<'a>>()?.sequence(SignerInfo::read)?);
                    }
                }
                // Lists of revoked certificates, which nobody looks at.
                _ => {}
            }
        }
        Ok(Self { content_type, content, certificates, signers })
    }
}

impl<'a> SignerInfo<'a> {
    fn read(fields: &mut SliceReader<'a>) -> der::Result<Self> {
        let _version: u8 = fields.decode()?;
        let (issuer, serial) = fields.decode::<AnyRef<'a>>()?.sequence(|id| Ok((id.tlv_bytes()?, id.tlv_bytes()?)))?;
        let digest_algorithm = fields.decode::<AlgorithmIdentifierRef<'a>>()?.oid;
        let attributes = if fields.peek_tag()? == CONTEXT_0 { Some(tagged(fields, CONTEXT_0)?.value()) } else { None };
        let signature_algorithm = fields.decode::<AlgorithmIdentifierRef<'a>>()?.oid;
        let signature = fields.decode::<OctetStringRef<'a>>()?.as_bytes();
        // Attributes that are not signed: dates, which firmware does not look at.
        while !fields.is_finished() {
            fields.tlv_bytes()?;
        }
        Ok(Self { issuer, serial, digest_algorithm, attributes, signature_algorithm, signature })
    }

    /// The bytes that the signature covers; `None` if they do not say that the content is this one.
    pub(super) fn message(&self, content: &[u8], hash: Hash) -> der::Result<Option<Vec<u8>>> {
        let Some(attributes) = self.attributes else { return Ok(Some(content.to_vec())) };
        let mut reader = SliceReader::new(attributes)?;
        let mut matches = false;
        while !reader.is_finished() {
            reader.decode::<AnyRef<'_>>()?.sequence(|attribute| {
                let oid: ObjectIdentifier = attribute.decode()?;
                let values = AnyRef::decode(attribute)?;
                if oid == MESSAGE_DIGEST {
                    matches = OctetStringRef::from_der(values.value())?.as_bytes() == hash.of(content);
                }
                Ok(())
            })?;
        }
        // They stand in the file under another tag.
        if matches { Ok(Some(element(Tag::Set, &[attributes])?)) } else { Ok(None) }
    }
}

/// The next element, which must have this tag.
fn tagged<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<AnyRef<'a>> {
    let element: AnyRef<'a> = reader.decode()?;
    element.tag().assert_eq(tag)?;
    Ok(element)
}

/// Makes signed data for an RSA key; `sign` gets the bytes to be signed. Nothing of it depends on time or chance.
///
/// `content` is a whole element. Firmware finds the hash function at a fixed place, which it has if the structure begins as
/// here and has 256 bytes or more.
pub(super) fn write<E: From<der::Error>>(
    content_type: ObjectIdentifier,
    content: &[u8],
    hash: Hash,
    signer: &Certificate,
    certificates: &[&Certificate],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let digest = hash.of(AnyRef::from_der(content)?.value());
    let mut attributes = [
        attribute(CONTENT_TYPE, &content_type.to_der()?)?,
        attribute(MESSAGE_DIGEST, &OctetStringRef::new(&digest)?.to_der()?)?,
    ];
    attributes.sort();
    let attributes = attributes.concat();
    let signature = sign(&element(Tag::Set, &[&attributes])?)?;
    let version = 1_u8.to_der()?;
    let signer_info = element(
        Tag::Sequence,
        &[
            &version,
            &element(Tag::Sequence, &[signer.issuer(), signer.serial()])?,
            &algorithm(hash.oid())?,
            &element(CONTEXT_0, &[&attributes])?,
            &algorithm(RSA_ENCRYPTION)?,
            &OctetStringRef::new(&signature)?.to_der()?,
        ],
    )?;
    let certificates: Vec<_> = certificates.iter().map(|certificate| certificate.der()).collect();
    let signed_data = element(
        Tag::Sequence,
        &[
            &version,
            &element(Tag::Set, &[&algorithm(hash.oid())?])?,
            &element(Tag::Sequence, &[&content_type.to_der()?, &element(CONTEXT_0, &[content])?])?,
            &element(CONTEXT_0, &certificates)?,
            &element(Tag::Set, &[&signer_info])?,
        ],
    )?;
    Ok(element(Tag::Sequence, &[&SIGNED_DATA.to_der()?, &element(CONTEXT_0, &[&signed_data])?])?)
}

fn attribute(oid: ObjectIdentifier, value: &[u8]) -> der::Result<Vec<u8>> {
    element(Tag::Sequence, &[&oid.to_der()?, &element(Tag::Set, &[value])?])
}
