//! What we sign, other tools accept, and the other way round; on real programs where they are installed.

#![allow(clippy::print_stdout, reason = "tests say what they skip")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::authenticode::{
    Certificate, Certificates, Hash, SignatureError, Signer, VerifyError, digest, signatures, verify,
};
use crate::pe::Pe;
use crate::pe::fake::pe;
use crate::secure_boot::fake::{CERTIFICATE, list};
use crate::secure_boot::{Database, Refused, SecureBoot, Shim};

/// Programs of Debian, from packages that `tests/install-deps` installs.
const REAL: [&str; 2] =
    ["/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"];
/// shim as Microsoft has signed it, of Debian's shim-signed.
const SHIM: &str = "/usr/lib/shim/shimx64.efi.signed";

/// Whether programs are installed; says so if not. With `OSUPDATE_REQUIRE_TOOLS` in the environment a missing one is a failure.
fn have(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |tool: &&&str| std::env::split_paths(&path).any(|directory| directory.join(tool).exists());
    let missing: Vec<_> = tools.iter().filter(|tool| !found(tool)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_none(), "{missing:?} are not installed");
    println!("skipped: {missing:?} are not installed");
    false
}

struct Place(TempDir);

impl Place {
    /// A directory with `NAME.key` and `NAME.crt` for each name.
    fn new(names: &[&str]) -> Self {
        let place = Self(TempDir::new().unwrap());
        for name in names {
            let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
            let make = ["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"];
            let output = ["-subj", &subject, "-keyout", &key, "-out", &certificate];
            place.run("openssl", &[&make[..], &output].concat()).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(tool).args(arguments).current_dir(self.0.path()).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    fn signer(&self, name: &str) -> Signer {
        let read = |suffix: &str| fs::read(self.path(&format!("{name}.{suffix}"))).unwrap();
        Signer::from_pem(&read("key"), &read("crt")).unwrap()
    }

    /// A machine with one certificate in db, and perhaps one in dbx.
    fn machine(&self, db: &str, dbx: Option<&str>) -> SecureBoot {
        let list = |file: &str| {
            let certificates = Certificates::read(&fs::read(self.path(file)).unwrap()).unwrap();
            let certificates: Vec<_> = certificates.iter().map(Certificate::der).collect();
            Database::parse(&list(CERTIFICATE, &certificates)).unwrap()
        };
        SecureBoot { enabled: true, db: list(db), dbx: dbx.map(list).unwrap_or_default(), ..SecureBoot::default() }
    }

    fn certificates(&self, name: &str) -> Certificates {
        Certificates::read(&fs::read(self.path(&format!("{name}.crt"))).unwrap()).unwrap()
    }
}

fn programs() -> Vec<Vec<u8>> {
    let mut odd = pe(&[(".text", b"code"), (".data", b"data")]);
    odd.extend(b"not a multiple of 8");
    let mut programs = vec![pe(&[(".text", b"code")]), odd];
    for path in REAL {
        match fs::read(path) {
            Ok(program) => programs.push(program),
            Err(err) if std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_some() => panic!("{path}: {err}"),
            Err(err) => println!("without {path}: {err}"),
        }
    }
    programs
}

#[test]
fn sbverify_and_osslsigncode_accept_what_we_sign() {
    if !have(&["openssl", "sbverify", "osslsigncode"]) {
        return;
    }
    let place = Place::new(&["db", "second", "other"]);
    for program in programs() {
        let once = place.signer("db").sign(&program).unwrap();
        let twice = place.signer("second").sign(&once).unwrap();
        fs::write(place.path("once.efi"), &once).unwrap();
        fs::write(place.path("twice.efi"), &twice).unwrap();
        for (certificate, file) in [("db.crt", "once.efi"), ("db.crt", "twice.efi"), ("second.crt", "twice.efi")] {
            place.run("sbverify", &["--cert", certificate, file]).unwrap();
        }
        place.run("sbverify", &["--cert", "other.crt", "twice.efi"]).unwrap_err();
        let said = place.run("osslsigncode", &["verify", "-CAfile", "db.crt", "-in", "once.efi"]).unwrap();
        assert!(said.contains("Succeeded"), "{said}");
        // The checksum, too.
        assert!(!said.to_lowercase().contains("mismatch"), "{said}");
    }
}

#[test]
fn we_accept_what_sbsign_and_osslsigncode_sign() {
    if !have(&["openssl", "sbsign", "osslsigncode"]) {
        return;
    }
    let place = Place::new(&["db", "other"]);
    for program in programs() {
        fs::write(place.path("in.efi"), &program).unwrap();
        place.run("sbsign", &["--key", "db.key", "--cert", "db.crt", "--output", "sbsign.efi", "in.efi"]).unwrap();
        for hash in ["sha256", "sha384", "sha512"] {
            let out = format!("{hash}.efi");
            // It replaces no file.
            if place.path(&out).exists() {
                fs::remove_file(place.path(&out)).unwrap();
            }
            let keys = ["sign", "-key", "db.key", "-certs", "db.crt", "-h", hash, "-in", "in.efi", "-out", &out];
            place.run("osslsigncode", &keys).unwrap();
        }
        for (file, hash) in [
            ("sbsign.efi", Hash::Sha256),
            ("sha256.efi", Hash::Sha256),
            ("sha384.efi", Hash::Sha384),
            ("sha512.efi", Hash::Sha512),
        ] {
            let signed = fs::read(place.path(file)).unwrap();
            let pe = Pe::parse(&signed).unwrap();
            let found = verify(&pe, &place.certificates("db")).unwrap_or_else(|err| panic!("{file}: {err}"));
            assert_eq!((found.signature.hash(), found.signature.digest()), (hash, &digest(&pe, hash)[..]));
            assert!(matches!(verify(&pe, &place.certificates("other")), Err(VerifyError::NotTrusted { .. })));
            // And ours stands beside theirs.
            let both = place.signer("other").sign(&signed).unwrap();
            verify(&Pe::parse(&both).unwrap(), &place.certificates("other")).unwrap();
        }
        // The bytes are those of sbsign, except for the date in its signature.
        let (ours, theirs) = (place.signer("db").sign(&program).unwrap(), fs::read(place.path("sbsign.efi")).unwrap());
        let table = Pe::parse(&ours).unwrap().certificates();
        assert_eq!(table.start, Pe::parse(&theirs).unwrap().certificates().start);
        assert_eq!(
            digest(&Pe::parse(&ours).unwrap(), Hash::Sha256),
            digest(&Pe::parse(&theirs).unwrap(), Hash::Sha256)
        );
    }
}

#[test]
fn digests_and_lists_are_those_of_efitools() {
    if !have(&["openssl", "cert-to-efi-sig-list", "hash-to-efi-sig-list"]) {
        return;
    }
    let place = Place::new(&["db"]);
    place.run("cert-to-efi-sig-list", &["db.crt", "db.esl"]).unwrap();
    let list = Database::parse(&fs::read(place.path("db.esl")).unwrap()).unwrap();
    assert_eq!(list.to_certificates(), place.certificates("db"));
    for program in programs() {
        // Tools pad what is no multiple of 8 before they hash it, and firmware does not.
        if !program.len().is_multiple_of(8) {
            continue;
        }
        fs::write(place.path("in.efi"), &program).unwrap();
        place.run("hash-to-efi-sig-list", &["in.efi", "hash.esl"]).unwrap();
        let list = fs::read(place.path("hash.esl")).unwrap();
        assert!(list.ends_with(&digest(&Pe::parse(&program).unwrap(), Hash::Sha256)));
        assert_eq!(Database::parse(&list).unwrap().digests_len(), 1);
    }
}

#[test]
fn a_signature_with_an_elliptic_curve_is_verified() {
    if !have(&["openssl", "osslsigncode"]) {
        return;
    }
    let place = Place::new(&[]);
    let make = "req -new -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=ec -keyout ec.key -out ec.crt";
    place.run("openssl", &make.split(' ').collect::<Vec<_>>()).unwrap();
    fs::write(place.path("in.efi"), pe(&[(".text", b"code")])).unwrap();
    let sign = "sign -key ec.key -certs ec.crt -h sha256 -in in.efi -out out.efi";
    place.run("osslsigncode", &sign.split(' ').collect::<Vec<_>>()).unwrap();
    let signed = fs::read(place.path("out.efi")).unwrap();
    verify(&Pe::parse(&signed).unwrap(), &place.certificates("ec")).unwrap();
    // Not all firmware knows it.
    let refused = place.machine("ec.crt", None).check(&signed).unwrap_err();
    assert_eq!(refused, Refused::Key { signer: "CN=ec".to_owned() });
    let key = fs::read(place.path("ec.key")).unwrap();
    assert!(Signer::from_pem(&key, &fs::read(place.path("ec.crt")).unwrap()).is_err());
}

#[test]
fn shim_looks_for_sha256_only() {
    if !have(&["openssl", "osslsigncode"]) {
        return;
    }
    let place = Place::new(&["db"]);
    fs::write(place.path("in.efi"), pe(&[(".text", b"code")])).unwrap();
    let sign = "sign -key db.key -certs db.crt -h sha384 -in in.efi -out out.efi";
    place.run("osslsigncode", &sign.split(' ').collect::<Vec<_>>()).unwrap();
    let signed = fs::read(place.path("out.efi")).unwrap();
    let mut machine = place.machine("db.crt", None);
    machine.check(&signed).unwrap();
    machine.shim = Some(Shim::default());
    assert_eq!(machine.check(&signed), Err(Refused::Hash { signer: "CN=db".to_owned() }));
    machine.check(&place.signer("db").sign(&pe(&[(".text", b"code")])).unwrap()).unwrap();
}

/// Firmware still follows SHA-1 and short keys: what they lead to is not accepted here, but it may be revoked.
#[test]
fn old_algorithms_revoke_and_do_not_accept() {
    if !have(&["openssl", "sbsign"]) {
        return;
    }
    let place = Place::new(&["db", "root"]);
    let run = |line: &str| place.run("openssl", &line.split(' ').collect::<Vec<_>>()).unwrap();
    run("req -new -newkey rsa:2048 -nodes -subj /CN=old -keyout old.key -out old.csr");
    run("x509 -req -sha1 -in old.csr -CA root.crt -CAkey root.key -CAcreateserial -days 30 -out old.crt");
    run("req -new -x509 -newkey rsa:1024 -nodes -days 30 -subj /CN=short -keyout short.key -out short.crt");
    fs::write(place.path("plain.efi"), pe(&[(".text", b"code")])).unwrap();
    let accepted = place.signer("db").sign(&pe(&[(".text", b"code")])).unwrap();
    fs::write(place.path("accepted.efi"), accepted).unwrap();
    for (name, revoked, subject) in [("old", "root.crt", "CN=root"), ("short", "short.crt", "CN=short")] {
        let sign = |program: &str| {
            let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
            place.run("sbsign", &["--key", &key, "--cert", &certificate, "--output", "out.efi", program]).unwrap();
            fs::read(place.path("out.efi")).unwrap()
        };
        assert!(place.machine(revoked, None).check(&sign("plain.efi")).is_err(), "{name}");
        let twice = sign("accepted.efi");
        place.machine("db.crt", None).check(&twice).unwrap();
        let refused = place.machine("db.crt", Some(revoked)).check(&twice).unwrap_err();
        assert_eq!(refused, Refused::CertificateRevoked { subject: subject.to_owned(), list: "dbx" }, "{name}");
    }
}

#[test]
#[ignore = "needs Debian's shim-signed, which tests/install-deps does not install because it would bring GRUB"]
fn the_signature_of_microsoft_on_shim_is_understood() {
    let mut shim = fs::read(SHIM).unwrap_or_else(|err| panic!("{SHIM}: {err}"));
    let found = signatures(&Pe::parse(&shim).unwrap()).unwrap();
    let signature = found.first().unwrap().as_ref().unwrap_or_else(|err| panic!("{err}"));
    assert!(signature.signer().subject().contains("Microsoft Windows UEFI Driver Publisher"), "{signature:?}");
    // It carries the certificate of its issuer, which is what db has.
    let issuer = signature.issuers().next().unwrap();
    assert!(issuer.subject().contains("Microsoft Corporation UEFI CA 2011"), "{issuer:?}");
    assert!(signature.leads_to(issuer));
    let at = Pe::parse(&shim).unwrap().sections()[0].file.start;
    shim[at] ^= 1;
    let found = signatures(&Pe::parse(&shim).unwrap()).unwrap();
    assert!(matches!(found[0], Err(SignatureError::OtherContents)));
}
