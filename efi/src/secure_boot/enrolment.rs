//! What will be accepted once a set of keys is enrolled, from the signed variables that are written then.
//!
//! A signed variable is a time, a signature (`WIN_CERTIFICATE_UEFI_GUID`), and the contents. Whether the signature is good
//! does not matter here: in setup mode nobody looks at it. Source: UEFI specification, 8.2.2, `EFI_VARIABLE_AUTHENTICATION_2`.

use thiserror::Error;

use super::{Database, SecureBoot, SignatureListError};

/// Before the signature: `EFI_TIME`.
const TIME_LEN: usize = 16;
/// Begins the signature: its length with this, its revision and its kind, and then the form of what follows.
const HEADER_LEN: usize = 24;
/// Revision and kind of the only one that signs variables.
const KIND: [u8; 4] = [0x00, 0x02, 0xf1, 0x0e];

/// Why the contents of a signed variable are not known.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignedVariableError {
    /// It does not begin like one.
    #[error("it is not a signed variable, as sign-efi-sig-list makes them")]
    NotSigned,
    /// Its contents make no sense.
    #[error("the list of signatures in it is damaged")]
    List(#[from] SignatureListError),
}

fn database(variable: &[u8]) -> Result<Database, SignedVariableError> {
    let signature = variable.get(TIME_LEN..).ok_or(SignedVariableError::NotSigned)?;
    let (length, rest) = signature.split_first_chunk::<4>().ok_or(SignedVariableError::NotSigned)?;
    let length = u32::from_le_bytes(*length) as usize;
    if !rest.starts_with(&KIND) || length < HEADER_LEN {
        return Err(SignedVariableError::NotSigned);
    }
    Ok(Database::parse(signature.get(length..).ok_or(SignedVariableError::NotSigned)?)?)
}

impl SecureBoot {
    /// The state in which firmware is once these signed variables are enrolled, and nothing else.
    pub fn after_enrolment(db: &[u8], dbx: Option<&[u8]>) -> Result<Self, SignedVariableError> {
        let dbx = dbx.map(database).transpose()?.unwrap_or_default();
        Ok(Self { enabled: true, db: database(db)?, dbx, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{CERTIFICATE, list, signed_variable};
    use super::*;
    use crate::authenticode::fake::Authority;
    use crate::pe::fake::pe;
    use crate::secure_boot::Refused;

    #[test]
    fn enrolled_keys_decide() {
        let (ours, theirs) = (Authority::new("Ours"), Authority::new("Theirs"));
        let variable = |authority: &Authority| signed_variable(&list(CERTIFICATE, &[authority.certificate().der()]));
        let state = SecureBoot::after_enrolment(&variable(&ours), Some(&variable(&theirs))).unwrap();
        let program = pe(&[(".text", b"code")]);
        assert_eq!(state.check(&ours.signer().sign(&program).unwrap()), Ok(()));
        assert!(matches!(
            state.check(&theirs.signer().sign(&program).unwrap()),
            Err(Refused::CertificateRevoked { .. })
        ));
        assert_eq!(state.check(&program), Err(Refused::Unsigned));
    }

    #[test]
    fn other_files_are_no_signed_variables_wherever_they_are_cut() {
        let whole = signed_variable(&[]);
        assert!(database(&whole).is_ok());
        for length in 0..whole.len() {
            assert_eq!(database(&whole[..length]).unwrap_err(), SignedVariableError::NotSigned, "{length}");
        }
        assert_eq!(database(&[0xff; 200]).unwrap_err(), SignedVariableError::NotSigned);
        assert!(matches!(database(&signed_variable(b"no list")), Err(SignedVariableError::List(_))));
    }
}
