//! Signatures of small programs, by keys made for the purpose.

mod tools;

use super::fake::{Authority, Usage};
use super::*;
use crate::pe::fake::pe;

fn program() -> Vec<u8> {
    pe(&[(".text", b"code"), (".cmdline", b"quiet")])
}

fn check(file: &[u8], trusted: &Authority) -> Result<Signed, VerifyError> {
    verify(&Pe::parse(file).unwrap(), &trusted.certificates())
}

#[test]
fn who_signed_is_trusted_and_others_are_not() {
    let (db, other) = (Authority::new("db"), Authority::new("other"));
    let signed = db.signer().sign(&program()).unwrap();
    let found = check(&signed, &db).unwrap();
    assert_eq!((found.trusted.subject(), found.signature.signer().subject()), ("CN=db", "CN=db"));
    assert_eq!(found.signature.digest(), digest(&Pe::parse(&program()).unwrap(), Hash::Sha256));
    let err = check(&signed, &other).unwrap_err();
    assert_eq!(err.to_string(), "it is signed by CN=db, which none of the certificates is or has issued");
    assert!(matches!(check(&program(), &db), Err(VerifyError::Unsigned)));
}

#[test]
fn the_digest_is_that_of_the_file_without_what_signing_changes() {
    let db = Authority::new("db");
    let mut file = program();
    // Not a multiple of 8: signing pads, and the padding is signed.
    file.extend(b"odd");
    let signed = db.signer().sign(&file).unwrap();
    let (before, after) = (Pe::parse(&file).unwrap(), Pe::parse(&signed).unwrap());
    assert_eq!(after.certificates().start, file.len().next_multiple_of(8));
    let mut rest = signed[..after.certificates().start].to_vec();
    let entry = before.certificate_entry_offset();
    rest.drain(entry..entry + 8);
    rest.drain(before.checksum_offset()..before.checksum_offset() + 4);
    for hash in Hash::ALL {
        assert_eq!(digest(&after, hash), hash.of(&rest));
        assert_ne!(digest(&before, hash), hash.of(&rest));
    }
    let sum = u32::from_le_bytes(signed[before.checksum_offset()..][..4].try_into().unwrap());
    assert_eq!(sum, crate::pe::checksum(&signed, before.checksum_offset()));
}

#[test]
fn every_changed_byte_of_the_program_is_found() {
    let db = Authority::new("db");
    let signed = db.signer().sign(&program()).unwrap();
    let at = Pe::parse(&signed).unwrap();
    let table = at.certificates();
    let unsigned = at.checksum_offset()..at.checksum_offset() + 4;
    for offset in 0..table.start {
        let mut changed = signed.clone();
        changed[offset] ^= 0x10;
        let Ok(pe) = Pe::parse(&changed) else { continue };
        let verified = verify(&pe, &db.certificates()).is_ok();
        assert_eq!(verified, unsigned.contains(&offset), "{offset}");
    }
}

#[test]
fn damaged_signatures_are_refused_and_break_nothing() {
    let db = Authority::new("db");
    let signed = db.signer().sign(&program()).unwrap();
    let table = Pe::parse(&signed).unwrap().certificates();
    let mut refused = 0;
    for offset in table.clone() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut changed = signed.clone();
            changed[offset] ^= flip;
            let Ok(pe) = Pe::parse(&changed) else { continue };
            refused += u32::from(verify(&pe, &db.certificates()).is_err());
        }
    }
    // What is left are padding, and fields that nothing depends on: versions, the name of the file, the revision.
    assert!(refused as usize > table.len() * 3 * 9 / 10, "{refused} of {}", table.len() * 3);
    for length in 0..table.len() - 8 {
        let mut cut = signed[..table.start + length].to_vec();
        let entry = Pe::parse(&signed).unwrap().certificate_entry_offset();
        cut[entry + 4..entry + 8].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        if let Ok(pe) = Pe::parse(&cut) {
            assert!(verify(&pe, &db.certificates()).is_err(), "{length}");
        }
    }
}

#[test]
fn a_signature_of_another_program_is_worth_nothing() {
    let db = Authority::new("db");
    let signed = db.signer().sign(&program()).unwrap();
    let mut other = pe(&[(".text", b"evil"), (".cmdline", b"quiet")]);
    let at = Pe::parse(&signed).unwrap();
    other.extend(&signed[at.certificates()]);
    let entry = at.certificate_entry_offset();
    other[entry..entry + 8].copy_from_slice(&signed[entry..entry + 8]);
    let err = check(&other, &db).unwrap_err();
    assert!(matches!(err, VerifyError::Signature(SignatureError::OtherContents)), "{err:?}");
    assert!(matches!(db.signer().sign(&other), Err(SignError::Invalid(_))));
}

#[test]
fn several_signatures_stand_side_by_side() {
    let (one, two, three) = (Authority::new("one"), Authority::new("two"), Authority::new("three"));
    let signed = two.signer().sign(&one.signer().sign(&program()).unwrap()).unwrap();
    assert_eq!(check(&signed, &one).unwrap().trusted, *one.certificate());
    assert_eq!(check(&signed, &two).unwrap().trusted, *two.certificate());
    let err = check(&signed, &three).unwrap_err().to_string();
    assert!(err.starts_with("it is signed by CN=one and CN=two, "), "{err}");
    assert_eq!(signatures(&Pe::parse(&signed).unwrap()).unwrap().len(), 2);
}

#[test]
fn signing_gives_the_same_bytes_and_no_second_signature() {
    let db = Authority::new("db");
    let signed = db.signer().sign(&program()).unwrap();
    assert_eq!(signed, db.signer().sign(&program()).unwrap());
    assert_eq!(signed, db.signer().sign(&signed).unwrap());
}

#[test]
fn issuers_are_trusted_as_firmware_trusts_them() {
    let authority = |path_length| Usage { authority: true, path_length, ..Usage::default() };
    let root = Authority::new("root");
    let between = root.issue("between", &authority(Some(0)));
    let leaf = between.issue("leaf", &Usage::default());
    let deep = between.issue("between 2", &authority(None)).issue("deep", &Usage::default());
    let below_leaf = leaf.issue("below", &Usage::default());

    let alone = leaf.signer().sign(&program()).unwrap();
    assert!(check(&alone, &leaf).is_ok() && check(&alone, &between).is_ok());
    // The certificate between is needed, and is in neither place.
    assert!(check(&alone, &root).is_err());
    let whole = leaf.signer_with_issuers().sign(&program()).unwrap();
    assert_eq!(check(&whole, &root).unwrap().signature.issuers().count(), 1);

    // Not everybody may issue, nor at any length.
    let by_leaf = below_leaf.signer_with_issuers().sign(&program()).unwrap();
    assert_eq!(check(&by_leaf, &below_leaf).unwrap().signature.issuers().count(), 0);
    assert!(check(&by_leaf, &leaf).is_err() && check(&by_leaf, &root).is_err());
    let too_deep = deep.signer_with_issuers().sign(&program()).unwrap();
    assert!(check(&too_deep, &between).is_err() && check(&too_deep, &root).is_err());
}

/// As OpenSSL judges paths, which firmware and shim use.
#[test]
fn certificates_between_must_be_authorities_and_understood() {
    let root = Authority::new("root");
    let signed =
        |issuer: &Authority, usage: &Usage| issuer.issue("leaf", usage).signer_with_issuers().sign(&program()).unwrap();
    let plain = Usage::default();
    let by_usage = root.issue("by usage", &Usage { by_key_usage: true, ..plain.clone() });
    let file = signed(&by_usage, &plain);
    // Trusted itself it may be, because it is the end of the path then.
    assert!(check(&file, &by_usage).is_ok());
    assert!(check(&file, &root).is_err());

    let authority = Usage { authority: true, unknown_critical: true, ..plain.clone() };
    let strange = root.issue("strange", &authority);
    let file = signed(&strange, &plain);
    assert!(check(&file, &strange).is_err() && check(&file, &root).is_err());
    let file = signed(&root, &Usage { unknown_critical: true, ..plain.clone() });
    assert!(check(&file, &root).is_err());
    let known = root.issue("known", &Usage { authority: true, ..plain.clone() });
    assert!(check(&signed(&known, &plain), &root).is_ok());
    let capitals = Usage { issuer_in_capitals: true, ..plain };
    assert!(check(&signed(&root, &capitals), &root).is_ok());
}

#[test]
fn firmware_must_see_the_hash_function() {
    let db = Authority::new("db");
    let signed = db.signer().sign(&program()).unwrap();
    let at = Pe::parse(&signed).unwrap().certificates().start + 8 + 32;
    assert!(signed[at..].starts_with(Hash::Sha256.oid().as_bytes()));
    let mut changed = signed.clone();
    // SHA-384, which nothing but firmware looks at here.
    changed[at + 8] = 2;
    let error = check(&changed, &db).unwrap_err();
    assert!(matches!(error, VerifyError::Signature(SignatureError::Form)), "{error:?}");
}

#[test]
fn an_empty_entry_makes_the_table_worth_nothing() {
    let db = Authority::new("db");
    let mut signed = db.signer().sign(&program()).unwrap();
    let at = Pe::parse(&signed).unwrap();
    let (size, entry, offset) = (at.certificates().len() + 8, at.certificate_entry_offset(), signed.len());
    signed[entry + 4..entry + 8].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    signed.extend([8, 0, 0, 0, 0, 2, 2, 0]);
    let error = check(&signed, &db).unwrap_err();
    assert!(matches!(error, VerifyError::Table(TableError::Length { offset: at }) if at == offset), "{error:?}");
}

#[test]
fn a_name_is_not_enough_to_have_issued() {
    let (root, impostor) = (Authority::new("root"), Authority::new("root"));
    let signed = impostor.issue("leaf", &Usage::default()).signer().sign(&program()).unwrap();
    assert!(check(&signed, &impostor).is_ok());
    assert!(check(&signed, &root).is_err());
}

#[test]
fn key_and_certificate_must_belong_together() {
    struct Other(Authority);
    impl SigningKey for Other {
        fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(self.0.certificate().der()[..256].to_vec())
        }
    }
    let db = Authority::new("db");
    let signer = Signer::new(Box::new(Other(Authority::new("other"))), db.certificates()).unwrap();
    let err = signer.sign(&program()).unwrap_err();
    assert_eq!(err.to_string(), "the private key is not that of the certificate of CN=db");
}

#[test]
fn files_without_key_or_certificate_are_told_apart() {
    let error = |key: &[u8], certificate: &[u8]| match Signer::from_pem(key, certificate) {
        Ok(_) => panic!("a signer"),
        Err(err) => err,
    };
    assert!(matches!(error(b"", b""), SignError::Key(KeyError::None)));
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(matches!(error(encrypted, b""), SignError::Key(KeyError::Encrypted)));
    let ec = b"-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n";
    assert!(matches!(error(ec, b""), SignError::Key(KeyError::NotRsa)));
    assert!(matches!(error(b"\x30\x03abc", b""), SignError::Key(KeyError::Rejected(_))));
    assert!(matches!(Certificates::read(b"text"), Err(CertificateError::None)));
    assert!(matches!(Certificates::read(b"\x30\x03abc"), Err(CertificateError::Der(_))));
    let db = Authority::new("db");
    assert_eq!(Certificates::read(db.certificate().der()).unwrap(), db.certificates());
}
