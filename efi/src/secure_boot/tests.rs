//! What firmware and shim would say, with variables in a plain directory.

use tempfile::TempDir;

use super::fake::{CERTIFICATE, DIGEST, DIGEST_384, REVOKED_CERTIFICATE, enable, list, write_variable};
use super::*;
use crate::authenticode::fake::{Authority, Usage};
use crate::authenticode::{self, Certificate, Hash};
use crate::pe::fake::pe;

/// A machine with a certificate in db.
struct Machine {
    dir: TempDir,
    db: Authority,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { dir: TempDir::new().unwrap(), db: Authority::new("db") };
        enable(machine.dir.path(), &[machine.db.certificate()]);
        machine
    }

    fn set(&self, name: &str, value: &[u8]) {
        write_variable(self.dir.path(), name, value);
    }

    fn read(&self) -> SecureBoot {
        SecureBoot::read(&EfiVariables::new(self.dir.path())).unwrap()
    }

    fn check(&self, file: &[u8]) -> Result<(), Refused> {
        self.read().check(file)
    }
}

const SBAT: &[u8] =
    b"sbat,1,SBAT Version,sbat,1,https://example.com\nsystemd,1,Example,systemd,257,https://example.com\n";

fn program() -> Vec<u8> {
    pe(&[(".linux", b"kernel"), (".sbat", SBAT)])
}

fn digest_of(file: &[u8]) -> Vec<u8> {
    authenticode::digest(&Pe::parse(file).unwrap(), Hash::Sha256)
}

#[test]
fn without_secure_boot_everything_starts() {
    let empty = TempDir::new().unwrap();
    let read = SecureBoot::read(&EfiVariables::new(empty.path())).unwrap();
    assert!(!read.enabled && read.shim.is_none() && read.db.is_empty());
    read.check(&program()).unwrap();
    let machine = Machine::new();
    machine.set("SecureBoot", &[0]);
    machine.check(&program()).unwrap();
}

#[test]
fn only_what_leads_to_db_starts() {
    let machine = Machine::new();
    machine.check(&machine.db.signer().sign(&program()).unwrap()).unwrap();
    let leaf = machine.db.issue("leaf", &Usage::default());
    machine.check(&leaf.signer().sign(&program()).unwrap()).unwrap();

    assert_eq!(machine.check(&program()), Err(Refused::Unsigned));
    let other = Authority::new("other");
    let by_other = other.signer().sign(&program()).unwrap();
    let refused = machine.check(&by_other).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "it is signed by CN=other, whom Secure Boot of this machine does not trust: looked at were db"
    );
    // A second signature is enough.
    machine.check(&machine.db.signer().sign(&by_other).unwrap()).unwrap();

    let mut changed = machine.db.signer().sign(&program()).unwrap();
    let at = Pe::parse(&changed).unwrap().sections()[0].file.start;
    changed[at] ^= 1;
    assert!(matches!(machine.check(&changed), Err(Refused::Invalid { .. })));
    assert!(matches!(machine.check(b"text"), Err(Refused::Pe(_))));
}

#[test]
fn a_digest_in_db_needs_no_signature() {
    let machine = Machine::new();
    machine.set("db", &list(DIGEST, &[&digest_of(&program())]));
    machine.check(&program()).unwrap();
    assert_eq!(machine.check(&pe(&[(".linux", b"other")])), Err(Refused::Unsigned));
}

/// Firmware computes one digest, by the function of the signature.
#[test]
fn only_the_digest_that_firmware_computes_is_accepted() {
    let machine = Machine::new();
    let by_other = Authority::new("other").signer().sign(&program()).unwrap();
    for file in [program(), by_other] {
        let digest = |hash| authenticode::digest(&Pe::parse(&file).unwrap(), hash);
        machine.set("db", &list(DIGEST_384, &[&digest(Hash::Sha384)]));
        assert!(machine.check(&file).is_err());
        machine.set("db", &list(DIGEST, &[&digest(Hash::Sha256)]));
        machine.check(&file).unwrap();
        // What is revoked is meant, however it is written.
        machine.set("dbx", &list(DIGEST_384, &[&digest(Hash::Sha384)]));
        assert_eq!(machine.check(&file), Err(Refused::Revoked { list: "dbx" }));
        machine.set("dbx", &[]);
    }
}

/// The file with another entry in its certificate table.
fn with_entry(mut file: Vec<u8>, entry: &[u8]) -> Vec<u8> {
    let pe = Pe::parse(&file).unwrap();
    let (size, at) = (pe.certificates().len() + entry.len(), pe.certificate_entry_offset());
    file[at + 4..at + 8].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    file.extend(entry);
    file
}

#[test]
fn firmware_refuses_signatures_whose_signer_it_cannot_see() {
    let machine = Machine::new();
    let signed = machine.db.signer().sign(&program()).unwrap();
    let at = Pe::parse(&signed).unwrap().certificates();
    let mut damaged = signed[at].to_vec();
    // Behind the hash function, which is found.
    damaged[8 + 60..].fill(0xff);
    let file = with_entry(signed.clone(), &damaged);
    assert!(matches!(machine.check(&file), Err(Refused::Unreadable { .. })));
    // Without it firmware takes no notice.
    damaged[8 + 32..].fill(0xff);
    machine.check(&with_entry(signed, &damaged)).unwrap();
    // And shim takes it as one signature less.
    machine.set("MokListRT", &[]);
    machine.check(&file).unwrap();
}

/// It is not the signature that was revoked, but who made it.
#[test]
fn signatures_of_other_programs_are_looked_at_for_revoked_signers() {
    let machine = Machine::new();
    let leaf = machine.db.issue("leaf", &Usage::default());
    let other = leaf.signer().sign(&pe(&[(".linux", b"other")])).unwrap();
    let table = other[Pe::parse(&other).unwrap().certificates()].to_vec();
    let file = with_entry(machine.db.signer().sign(&program()).unwrap(), &table);
    machine.check(&file).unwrap();
    let revoked = [leaf.certificate().tbs_digest(Hash::Sha256), vec![0; 16]].concat();
    machine.set("dbx", &list(REVOKED_CERTIFICATE, &[&revoked]));
    let refused = Refused::CertificateRevoked { subject: "CN=leaf".to_owned(), list: "dbx" };
    assert_eq!(machine.check(&file), Err(refused));
}

#[test]
fn what_is_revoked_does_not_start() {
    let machine = Machine::new();
    let leaf = machine.db.issue("leaf", &Usage::default());
    let signed = leaf.signer().sign(&program()).unwrap();
    machine.check(&signed).unwrap();
    let revoked_certificate =
        |subject: &str| Err(Refused::CertificateRevoked { subject: subject.to_owned(), list: "dbx" });

    machine.set("dbx", &list(DIGEST, &[&[1; 32][..], &digest_of(&signed)]));
    assert_eq!(machine.check(&signed), Err(Refused::Revoked { list: "dbx" }));
    machine.set("dbx", &list(CERTIFICATE, &[leaf.certificate().der()]));
    assert_eq!(machine.check(&signed), revoked_certificate("CN=leaf"));
    machine.set("dbx", &list(CERTIFICATE, &[machine.db.certificate().der()]));
    assert_eq!(machine.check(&signed), revoked_certificate("CN=db"));
    let tbs = |certificate: &Certificate| [certificate.tbs_digest(Hash::Sha256), vec![0; 16]].concat();
    machine.set("dbx", &list(REVOKED_CERTIFICATE, &[&tbs(leaf.certificate())]));
    assert_eq!(machine.check(&signed), revoked_certificate("CN=leaf"));
    // The trusted certificate itself.
    machine.set("dbx", &list(REVOKED_CERTIFICATE, &[&tbs(machine.db.certificate())]));
    assert!(matches!(machine.check(&signed), Err(Refused::NotTrusted { .. })));
    // One revoked signature is too much, whoever else signed.
    machine.set("dbx", &list(CERTIFICATE, &[leaf.certificate().der()]));
    let twice = machine.db.signer().sign(&signed).unwrap();
    assert_eq!(machine.check(&twice), revoked_certificate("CN=leaf"));
    // Except for shim, which firmware has started.
    machine.set("MokListRT", &[]);
    machine.check(&twice).unwrap();
    assert_eq!(machine.check(&signed), revoked_certificate("CN=leaf"));
    assert_eq!(machine.read().check_by_firmware(&twice), revoked_certificate("CN=leaf"));

    machine.set("dbx", &list(CERTIFICATE, &[Authority::new("another").certificate().der()]));
    machine.check(&signed).unwrap();
}

#[test]
fn shim_adds_the_owner_s_list_and_its_own_revocations() {
    let machine = Machine::new();
    let owner = Authority::new("owner");
    let signed = owner.signer().sign(&program()).unwrap();
    assert!(machine.check(&signed).is_err());
    machine.set("MokListRT", &list(CERTIFICATE, &[owner.certificate().der()]));
    machine.check(&signed).unwrap();
    machine.check(&machine.db.signer().sign(&program()).unwrap()).unwrap();

    machine.set("MokListXRT", &list(DIGEST, &[&digest_of(&signed)]));
    assert_eq!(machine.check(&signed), Err(Refused::Revoked { list: "shim's list of revocations" }));
    machine.set("MokListXRT", &[]);
    machine.set("MokIgnoreDB", &[1]);
    assert!(machine.check(&machine.db.signer().sign(&program()).unwrap()).is_err());

    machine.set("SbatLevelRT", b"sbat,1,2030010100\nsystemd,2\n");
    let old = Refused::Generation { component: "systemd".to_owned(), generation: 1, needed: 2 };
    assert_eq!(machine.check(&signed), Err(old));
    let without = owner.signer().sign(&pe(&[(".linux", b"kernel")])).unwrap();
    machine.check(&without).unwrap();
    assert_eq!(machine.read().check_boot_loader(&without), Err(Refused::NoComponents));
    machine.set("MokSBStateRT", &[1]);
    machine.check(&program()).unwrap();
    assert_eq!(machine.read().enforced().check(&pe(&[(".linux", b"kernel")])), Err(Refused::Unsigned));
}

#[test]
fn a_long_list_of_shim_goes_on_in_numbered_variables() {
    let machine = Machine::new();
    let (one, two, three) = (Authority::new("one"), Authority::new("two"), Authority::new("three"));
    let in_list = |authority: &Authority| list(CERTIFICATE, &[authority.certificate().der()]);
    machine.set("MokListRT", &in_list(&one));
    machine.set("MokListRT1", &in_list(&two));
    machine.set("MokListRT3", &in_list(&three));
    machine.check(&two.signer().sign(&program()).unwrap()).unwrap();
    // There is no number 2, so what comes after is something else.
    assert!(machine.check(&three.signer().sign(&program()).unwrap()).is_err());
}

#[test]
fn keys_for_kernel_modules_start_nothing_with_shim() {
    let machine = Machine::new();
    let usage = Usage { extended: Some("1.3.6.1.4.1.2312.16.1.2"), ..Usage::default() };
    let modules = Authority::new("root").issue("modules", &usage);
    machine.set("MokListRT", &list(CERTIFICATE, &[modules.certificate().der()]));
    assert!(matches!(machine.check(&modules.signer().sign(&program()).unwrap()), Err(Refused::NotTrusted { .. })));
}

#[test]
fn a_list_that_makes_no_sense_is_an_error() {
    let machine = Machine::new();
    machine.set("dbx", b"nonsense");
    let err = SecureBoot::read(&EfiVariables::new(machine.dir.path())).unwrap_err();
    assert_eq!(err.to_string(), "the EFI variable dbx has no list of signatures that can be read");
}
