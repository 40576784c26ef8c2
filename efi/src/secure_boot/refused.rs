//! Why a program would not be started.

use thiserror::Error;

use crate::authenticode::TableError;
use crate::pe::PeError;

/// Why firmware, or shim, will not start a program.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// It is no program, or a damaged one.
    #[error("it is not a program that firmware can start")]
    Pe(#[from] PeError),
    /// Its signatures cannot be read.
    #[error("its signatures cannot be read")]
    Table(#[from] TableError),
    /// It has no signature, and its digest is in no list.
    #[error("it is not signed, and Secure Boot is on")]
    Unsigned,
    /// No signature of it is valid.
    #[error("none of its signatures is valid: {problem}")]
    Invalid {
        /// What is wrong with the last one.
        problem: String,
    },
    /// Firmware does not see who has signed.
    #[error("firmware cannot see whether one of its signatures was revoked: {problem}")]
    Unreadable {
        /// What is wrong with the signature.
        problem: String,
    },
    /// A trusted signature uses a hash function that shim does not look for.
    #[error("the signature of {signer} is not made with SHA-256, the only hash function of signatures that shim knows")]
    Hash {
        /// Subject of the signer's certificate.
        signer: String,
    },
    /// A trusted signature is made with a key of a kind that firmware need not know.
    #[error("not all keys behind the signature of {signer} are for RSA, the only kind that all firmware and shim know")]
    Key {
        /// Subject of the signer's certificate.
        signer: String,
    },
    /// Nobody who signed it is trusted.
    #[error("it is signed by {}, whom Secure Boot of this machine does not trust: looked at were {}", signers.join(" and "), lists.join(" and "))]
    NotTrusted {
        /// Subjects of the signers' certificates.
        signers: Vec<String>,
        /// Where their certificates would have to be.
        lists: Vec<&'static str>,
    },
    /// This very program was revoked.
    #[error("this program was revoked: its digest is in {list}")]
    Revoked {
        /// Where.
        list: &'static str,
    },
    /// A certificate was revoked.
    #[error("the certificate of {subject}, with which it is signed, was revoked: it is in {list}")]
    CertificateRevoked {
        /// Whose.
        subject: String,
        /// Where.
        list: &'static str,
    },
    /// It has no components.
    #[error("it has no section .sbat, and shim starts no boot loader without one")]
    NoComponents,
    /// Its components cannot be read.
    #[error("line {line} of its section .sbat does not have six fields, and shim does not start it")]
    Components {
        /// Counted from 1.
        line: usize,
    },
    /// A component of it was revoked.
    #[error("its component {component} has the generation {generation}, and shim starts {needed} and later")]
    Generation {
        /// Name of the component.
        component: String,
        /// Its generation.
        generation: u32,
        /// What it must be at least.
        needed: u32,
    },
}

impl Refused {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Pe(_) | Self::Table(_) | Self::NoComponents | Self::Components { .. } => {
                "build the program again; osupdate uki inspect shows what is in it"
            }
            Self::Unsigned => "sign it with a key that this machine trusts: osupdate uki sign",
            Self::Unreadable { .. } => "remove its signatures with sbattach --remove, and sign it again",
            Self::Hash { .. } | Self::Key { .. } => "sign it with a key for RSA and SHA-256: osupdate uki sign",
            Self::Invalid { .. } => "it was changed after it was signed, or is damaged: get it again, or sign it again",
            Self::NotTrusted { .. } => {
                "sign it with a key that this machine trusts, or enroll the signer's certificate: in db in the firmware's setup, \
                 or with mokutil --import where shim is used"
            }
            Self::Revoked { .. } | Self::Generation { .. } => "use a newer version of it",
            Self::CertificateRevoked { .. } => "use a version that is signed with another certificate",
        }
    }
}
