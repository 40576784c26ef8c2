//! A directory like efivarfs, with the variables of Secure Boot, for tests.

use std::fs;
use std::path::Path;

use zerocopy::IntoBytes as _;

use super::signature_list::{HEADER_LEN, OWNER_LEN};
use super::{GLOBAL, IMAGE_SECURITY, SHIM_LOCK};
use crate::authenticode::Certificate;
use crate::gpt::Guid;

/// Type of a list with a certificate.
pub const CERTIFICATE: Guid = Guid::new(0xa5c059a1, 0x94e4, 0x4aa7, 0x87b5_ab155c2bf072);
/// Type of a list with SHA-256 digests.
pub const DIGEST: Guid = Guid::new(0xc1c41626, 0x504c, 0x4092, 0xaca9_41f936934328);
/// Type of a list with SHA-384 digests.
pub const DIGEST_384: Guid = Guid::new(0xff3e5307, 0x9fd0, 0x48c9, 0x85f1_8ad56c701e01);
/// Type of a list with SHA-256 digests of certificates that are revoked, each with a time of 16 bytes.
pub const REVOKED_CERTIFICATE: Guid = Guid::new(0x3bd2a492, 0x96c0, 0x4079, 0xb420_fcf98ef103ed);

/// A list for each certificate or digest, as the contents of a variable.
///
/// # Panics
/// When one is too long for a list.
#[must_use]
pub fn list(kind: Guid, signatures: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for signature in signatures {
        let signature_len = OWNER_LEN + signature.len();
        bytes.extend(kind.as_bytes());
        for number in [HEADER_LEN + signature_len, 0, signature_len] {
            bytes.extend(u32::try_from(number).expect("a short list").to_le_bytes());
        }
        bytes.extend([0; OWNER_LEN]);
        bytes.extend(*signature);
    }
    bytes
}

/// Writes a variable as efivarfs shows it: `SecureBoot`, `db`, `MokListRT`, ...
///
/// # Panics
/// When it cannot be written.
pub fn write_variable(efivarfs: &Path, name: &str, value: &[u8]) {
    let vendor = match name {
        "db" | "dbx" => IMAGE_SECURITY,
        "SecureBoot" | "SetupMode" | "PK" | "KEK" => GLOBAL,
        _ => SHIM_LOCK,
    };
    let bytes = [&[6, 0, 0, 0], value].concat();
    fs::write(efivarfs.join(format!("{name}-{vendor}")), bytes).expect("a variable");
}

/// Turns Secure Boot on, with these certificates in db.
///
/// # Panics
/// When it cannot be written.
pub fn enable(efivarfs: &Path, db: &[&Certificate]) {
    write_variable(efivarfs, "SecureBoot", &[1]);
    write_variable(efivarfs, "SetupMode", &[0]);
    let db: Vec<_> = db.iter().map(|certificate| certificate.der()).collect();
    write_variable(efivarfs, "db", &list(CERTIFICATE, &db));
}

/// Makes a signed variable of its contents, with a signature that is none.
pub fn signed_variable(contents: &[u8]) -> Vec<u8> {
    let signature = b"not a signature";
    let length = u32::try_from(24 + signature.len()).expect("a short signature").to_le_bytes();
    [&[0; 16][..], &length, &[0x00, 0x02, 0xf1, 0x0e], &[0; 16], signature, contents].concat()
}
