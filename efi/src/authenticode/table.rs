//! The certificate table: the signatures at the end of a PE file.

use thiserror::Error;

use super::SIGNATURES_MAX;
use crate::pe::Pe;

/// Length, revision and type before each signature.
const HEADER_LEN: usize = 8;
/// Signatures begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
/// The only revision.
const REVISION: u16 = 0x0200;
/// Type of a PKCS#7 signature.
const PKCS_SIGNED_DATA: u16 = 0x0002;
/// Type of a signature whose type is told by a GUID.
const EFI_GUID: u16 = 0x0EF1;
/// The GUID of PKCS#7: 4aafd29d-68df-49ee-8aa9-347d375665a7.
const CERT_TYPE_PKCS7: [u8; 16] =
    [0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7];

/// Why the certificate table cannot be read. Firmware refuses such a program.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableError {
    /// A length in it does not fit.
    #[error("an entry of the certificate table, at byte {offset} of the file, is empty or longer than the table")]
    Length {
        /// Where.
        offset: usize,
    },
    /// There are too many of them.
    #[error("there are more than {SIGNATURES_MAX} signatures")]
    TooMany,
}

/// The PKCS#7 signatures in the table, as they are, in their order. Other kinds are left out.
pub(super) fn entries<'data>(pe: &Pe<'data>) -> Result<Vec<&'data [u8]>, TableError> {
    let table = pe.certificates();
    let bytes = pe.bytes();
    let mut found = Vec::new();
    let mut offset = table.start;
    while offset < table.end {
        let error = || TableError::Length { offset };
        let header = bytes.get(offset..offset + HEADER_LEN).ok_or_else(error)?;
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        // Firmware wants the last one padded, too.
        let padded = length.checked_next_multiple_of(ALIGNMENT).filter(|padded| *padded <= table.end - offset);
        let padded = padded.filter(|_| length > HEADER_LEN).ok_or_else(error)?;
        let contents = &bytes[offset + HEADER_LEN..offset + length];
        let kind = u16::from_le_bytes([header[6], header[7]]);
        match kind {
            PKCS_SIGNED_DATA => found.push(contents),
            EFI_GUID => found.extend(contents.strip_prefix(&CERT_TYPE_PKCS7)),
            _ => {}
        }
        if found.len() > SIGNATURES_MAX {
            return Err(TableError::TooMany);
        }
        offset += padded;
    }
    Ok(found)
}

/// An entry for a signature, padded; `None` if it is too large for a table.
pub(super) fn entry(signature: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(HEADER_LEN + signature.len()).ok()?;
    let mut entry = Vec::new();
    entry.extend(length.to_le_bytes());
    entry.extend(REVISION.to_le_bytes());
    entry.extend(PKCS_SIGNED_DATA.to_le_bytes());
    entry.extend(signature);
    entry.resize(entry.len().next_multiple_of(ALIGNMENT), 0);
    Some(entry)
}
