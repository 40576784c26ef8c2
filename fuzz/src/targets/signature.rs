//! Signatures of programs, and lists of what firmware accepts: what is valid stays what it says, and nothing goes on for ever.

use osupdate_efi::authenticode::{digest, signatures};
use osupdate_efi::pe::{Pe, fake};
use osupdate_efi::secure_boot::Database;

/// Of the entry of the certificate table, in what [`fake::pe`] makes.
const CERTIFICATE_ENTRY: usize = fake::OPTIONAL_HEADER + 112 + 32;
/// Length, revision and type before a signature.
const HEADER_LEN: usize = 8;
/// Type and sizes of a list, and an owner with one byte.
const SIGNATURE_LEN_MIN: usize = 17;

/// What is signed.
pub(crate) fn program() -> Vec<u8> {
    fake::pe(&[(".text", b"code"), (".cmdline", b"quiet")])
}

/// The PKCS#7 structure in a program with one signature.
pub(crate) fn signature(signed: &[u8]) -> Vec<u8> {
    let table = Pe::parse(signed).expect("a program").certificates();
    signed[table][HEADER_LEN..].to_vec()
}

/// Takes the PKCS#7 structure of a signature of [`program`].
pub(crate) fn run(input: &[u8]) {
    let mut file = program();
    let start = file.len();
    fake::put(&mut file, CERTIFICATE_ENTRY, start);
    file.extend(u32::try_from(HEADER_LEN + input.len()).expect("a short input").to_le_bytes());
    // Revision 2.0, PKCS#7.
    file.extend([0, 2, 2, 0]);
    file.extend(input);
    file.resize(file.len().next_multiple_of(8), 0);
    let table_len = file.len() - start;
    fake::put(&mut file, CERTIFICATE_ENTRY + 4, table_len);
    let pe = Pe::parse(&file).expect("a program with a certificate table");
    if input.is_empty() {
        assert!(signatures(&pe).is_err());
        return;
    }
    let found = signatures(&pe).expect("one entry");
    assert_eq!(found.len(), 1);
    if let Ok(signature) = &found[0] {
        assert_eq!(signature.digest(), digest(&pe, signature.hash()));
        assert!(signature.issuers().all(|issuer| signature.leads_to(issuer)));
        // What is critical in the signer's own may be unknown; then nobody may be said to have issued it.
        assert!(signature.leads_to(signature.signer()) || signature.issuers().next().is_none());
    }
}

/// Takes the contents of a variable such as db.
pub(crate) fn list(input: &[u8]) {
    let Ok(database) = Database::parse(input) else { return };
    let found = database.certificates().len() + database.digests_len() + database.unknown_len();
    assert!(found <= input.len() / SIGNATURE_LEN_MIN);
}
