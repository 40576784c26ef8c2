//! The little that is needed of DER, with lengths and tags by the crate `der`.

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Encode as _, Tag, TagNumber};

/// `[0]`, around other elements.
pub(super) const CONTEXT_0: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber::N0 };
/// `[2]`, around other elements.
pub(super) const CONTEXT_2: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber::N2 };
/// `[3]`, around other elements.
pub(super) const CONTEXT_3: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber::N3 };

/// An element with the parts in it.
pub(super) fn element(tag: Tag, parts: &[&[u8]]) -> der::Result<Vec<u8>> {
    AnyRef::new(tag, &parts.concat())?.to_der()
}

/// An `AlgorithmIdentifier` with the parameters NULL, which hash functions and RSA have.
pub(super) fn algorithm(oid: ObjectIdentifier) -> der::Result<Vec<u8>> {
    element(Tag::Sequence, &[&oid.to_der()?, &AnyRef::NULL.to_der()?])
}
