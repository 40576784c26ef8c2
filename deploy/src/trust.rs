//! Whether an image may become the machine's, by who signed it: the requirement that a deployment's origin carries.
//!
//! Verifying signatures is not done here; what was verified is given. Whoever follows an origin finds the requirement in its
//! record and enforces it; only the user can waive it, for a reference that he names. The words are in TRUST.md of the command.

use osupdate_record::{Needed, Requirement, Signature};
use thiserror::Error;

use crate::timestamp;

/// An image that may become the machine's.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// Its signatures, verified.
    pub signatures: Vec<Signature>,
    /// What its successors must be signed with.
    pub requirement: Requirement,
}

/// What the user says about images without a signature, where he names the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// They are refused.
    Refused,
    /// They are accepted, now and later from the same origin.
    Allowed,
}

/// Why an image without a signature is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnsignedError {
    /// The user names an image that nobody is known to have made.
    #[error("an OS image must be signed, and this one was accepted without a signature")]
    NotAllowed,
    /// The machine follows an origin whose images were signed.
    #[error(
        "an image from here must be signed since {since}, and this one was accepted without a signature: it was taken \
         away, the image is somebody else's, or the policy no longer asks for it"
    )]
    Required {
        /// When that was decided.
        since: String,
    },
}

/// What is required of the successors of an image that the user names, or why it is refused itself.
///
/// `signatures` are those that were verified. `stored` is what the machine's current origin requires; it goes on if it is the same.
pub fn of_named_image(
    signatures: &[Signature],
    stored: Option<&Requirement>,
    unsigned: Unsigned,
) -> Result<Requirement, UnsignedError> {
    match unsigned {
        _ if !signatures.is_empty() => Ok(requirement(Needed::Required, signatures, stored)),
        Unsigned::Allowed => Ok(requirement(Needed::Waived, signatures, stored)),
        Unsigned::Refused => Err(UnsignedError::NotAllowed),
    }
}

/// What is required of images from an origin that nothing was verified of: a waiver for another reference does not count there.
pub fn of_other_origin() -> Requirement {
    requirement(Needed::Required, &[], None)
}

/// What is required of the successors of an image from the origin that is followed, or why it is refused itself.
///
/// Once an image from there was signed, all later ones must be. `None` stays what it is: images without a signature are
/// accepted because the machine was installed before there was a requirement.
pub fn of_followed_origin(
    signatures: &[Signature],
    stored: Option<&Requirement>,
) -> Result<Option<Requirement>, UnsignedError> {
    match stored {
        _ if !signatures.is_empty() => Ok(Some(requirement(Needed::Required, signatures, stored))),
        Some(stored) if stored.refuses_unsigned() => Err(UnsignedError::Required { since: stored.since.clone() }),
        _ => Ok(stored.cloned()),
    }
}

/// The requirement from now on. One that says the same as the stored one keeps its words and its time.
fn requirement(needed: Needed, signatures: &[Signature], stored: Option<&Requirement>) -> Requirement {
    let keys = signatures.iter().map(|signature| signature.key.clone()).collect();
    match stored {
        Some(stored) if stored.refuses_unsigned() == (needed != Needed::Waived) => {
            Requirement { keys, ..stored.clone() }
        }
        _ => Requirement { signature: needed, keys, since: timestamp::now(), ..Requirement::default() },
    }
}

/// Whether an image is signed, but with none of the keys of the images before it.
pub fn has_other_keys(signatures: &[Signature], stored: &Requirement) -> bool {
    let is_known = |signature: &Signature| stored.keys.contains(&signature.key);
    !signatures.is_empty() && !stored.keys.is_empty() && !signatures.iter().any(is_known)
}

/// The signatures of a deployment's image, as they are recorded: one that was there before keeps its time.
pub(crate) fn recorded(before: &[Signature], verified: &[Signature]) -> Vec<Signature> {
    let known = |signature: &Signature| before.iter().find(|before| before.is_same(signature)).cloned();
    verified.iter().map(|signature| known(signature).unwrap_or_else(|| signature.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(key: &str, verified: &str) -> Signature {
        Signature { key: key.to_owned(), verified: verified.to_owned(), ..Signature::default() }
    }

    fn stored(signature: Needed) -> Option<Requirement> {
        Some(Requirement { signature, since: "then".to_owned(), ..Requirement::default() })
    }

    #[test]
    fn image_that_the_user_names_is_signed_or_allowed_by_him() {
        let signed = [signed("k", "now")];
        let named = |signatures: &[Signature], stored: &Option<Requirement>, unsigned| {
            of_named_image(signatures, stored.as_ref(), unsigned).map(|requirement| requirement.signature)
        };
        for stored in [None, stored(Needed::Waived), stored(Needed::Required), stored(Needed::Unknown("x".to_owned()))]
        {
            assert_eq!(named(&[], &stored, Unsigned::Refused), Err(UnsignedError::NotAllowed), "{stored:?}");
            assert_eq!(named(&[], &stored, Unsigned::Allowed), Ok(Needed::Waived), "{stored:?}");
        }
        for unsigned in [Unsigned::Refused, Unsigned::Allowed] {
            assert_eq!(named(&signed, &stored(Needed::Waived), unsigned), Ok(Needed::Required), "permission, no wish");
        }
        let kept = of_named_image(&signed, stored(Needed::Required).as_ref(), Unsigned::Refused).unwrap();
        assert_eq!(kept.since, "then");
    }

    #[test]
    fn origin_that_required_a_signature_goes_on_to() {
        let signed = [signed("k", "now")];
        let followed =
            |signatures: &[Signature], stored: Option<Requirement>| of_followed_origin(signatures, stored.as_ref());
        for needed in [Needed::Required, Needed::Unknown("by-two-keys".to_owned())] {
            let err = followed(&[], stored(needed.clone())).unwrap_err();
            assert!(matches!(&err, UnsignedError::Required { since } if since == "then"), "{err}");
            let kept = followed(&signed, stored(needed.clone())).unwrap().unwrap();
            assert_eq!((kept.signature, kept.since.as_str()), (needed, "then"), "a newer program's word stays");
            assert_eq!(kept.keys, ["k"]);
        }
        assert_eq!(followed(&[], stored(Needed::Waived)).unwrap(), stored(Needed::Waived));
        assert_eq!(followed(&[], None).unwrap(), None);
        for before in [None, stored(Needed::Waived)] {
            let now = followed(&signed, before).unwrap().unwrap();
            assert!(now.refuses_unsigned() && now.since != "then", "what was signed once must stay signed: {now:?}");
        }
    }

    #[test]
    fn change_of_keys_is_noticed_unless_one_of_them_stays() {
        let before = of_named_image(&[signed("a", ""), signed("b", "")], None, Unsigned::Refused).unwrap();
        assert!(has_other_keys(&[signed("c", "")], &before));
        assert!(!has_other_keys(&[signed("c", ""), signed("b", "")], &before));
        assert!(!has_other_keys(&[], &before), "that is another matter");
        assert!(!has_other_keys(&[signed("c", "")], &stored(Needed::Waived).unwrap()), "there was none");
    }

    #[test]
    fn signature_keeps_the_time_at_which_it_was_verified_first() {
        let before = [signed("a", "then")];
        let now = [signed("b", "now"), signed("a", "now")];
        assert_eq!(recorded(&before, &now), [signed("b", "now"), signed("a", "then")]);
        assert_eq!(recorded(&before, &[]), []);
    }
}
