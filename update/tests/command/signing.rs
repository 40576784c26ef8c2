//! `osupdate uki sign`, `uki addon sign` and `uki verify`, with keys in files and in a token.

use std::fs;
use std::path::Path;
use std::process::Command;

use osupdate_efi::pe::fake::pe;
use serde_json::json;

use crate::docker_registry::have;
use crate::place::{Place, Run};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// Makes `NAME.key` and `NAME.crt`.
fn make_key(place: &Place, name: &str, kind: &[&str]) {
    let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-new", "-x509", "-nodes", "-days", "30", "-newkey"]).args(kind);
    openssl.args(["-subj", &subject, "-keyout", &key, "-out", &certificate]).current_dir(place.path());
    assert!(openssl.output().unwrap().status.success());
}

/// A place with the keys `db` and `other`, a UKI and an addon; `None` without openssl.
fn with_keys() -> Option<Place> {
    if !have(&["openssl"]) {
        return None;
    }
    let place = Place::new();
    for name in ["db", "other"] {
        make_key(&place, name, &["rsa:2048"]);
    }
    write(&place, "os.efi", &uki("quiet"));
    write(&place, "x.addon.efi", &pe(&[(".cmdline", b"debug")]));
    Some(place)
}

/// The smallest UKI with which nothing is wrong.
fn uki(command_line: &str) -> Vec<u8> {
    let kernel = pe(&[(".text", b"kernel")]);
    pe(&[(".linux", &kernel), (".osrel", b"ID=test\n"), (".cmdline", command_line.as_bytes())])
}

fn write(place: &Place, name: &str, contents: &[u8]) {
    fs::write(place.path().join(name), contents).unwrap();
}

fn read(place: &Place, name: &str) -> Vec<u8> {
    fs::read(place.path().join(name)).unwrap()
}

const DB: [&str; 4] = ["--key", "db.key", "--certificate", "db.crt"];

fn sign(place: &Place, arguments: &[&str]) -> Run {
    place.run(&[&["uki", "sign"], arguments].concat())
}

#[test]
fn a_signed_uki_is_accepted_by_its_certificate_only() {
    let Some(place) = with_keys() else { return };
    let unsigned = read(&place, "os.efi");
    let said = sign(&place, &[&["os.efi", "--output", "signed.efi"], &DB[..]].concat()).done();
    assert_eq!(said, "signed.efi signed by CN=db\n");
    assert_eq!(read(&place, "os.efi"), unsigned);
    let found = place.run(&["uki", "verify", "signed.efi", "--certificate", "db.crt", "--json"]).json();
    assert_eq!((&found["accepted"], &found["kind"], &found["findings"]), (&json!(true), &json!("uki"), &json!([])));
    assert_eq!(found["signatures"][0]["signer"], "CN=db");

    let other = place.run(&["uki", "verify", "signed.efi", "--certificate", "other.crt"]);
    assert_eq!(other.status, 3);
    assert!(other.stdout.contains("wrong: it is signed by CN=db, which none of the certificates is or has issued"));
    assert_eq!(place.run(&["uki", "verify", "os.efi", "--certificate", "db.crt"]).status, 3);
    // One of several is enough.
    let both = ["uki", "verify", "signed.efi", "--certificate", "other.crt", "--certificate", "db.crt"];
    assert!(place.run(&both).done().contains("accepted\n"));

    let mut changed = read(&place, "signed.efi");
    let at = changed.windows(6).position(|part| part == b"kernel").unwrap();
    changed[at] ^= 1;
    write(&place, "changed.efi", &changed);
    let found = place.run(&["uki", "verify", "changed.efi", "--certificate", "db.crt"]);
    assert!(found.status == 3 && found.stdout.contains("was changed after it was signed"), "{}", found.stdout);
    write(&place, "cut.efi", &changed[..600]);
    assert_eq!(place.run(&["uki", "verify", "cut.efi", "--certificate", "db.crt"]).status, 3);
}

#[test]
fn a_file_is_signed_in_place_once() {
    let Some(place) = with_keys() else { return };
    let arguments = [&["os.efi"], &DB[..]].concat();
    assert_eq!(sign(&place, &arguments).done(), "os.efi signed by CN=db\n");
    let once = read(&place, "os.efi");
    assert_eq!(sign(&place, &arguments).done(), "os.efi was already signed by CN=db\n");
    assert_eq!(read(&place, "os.efi"), once);
    let left = fs::read_dir(place.path()).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with(".osupdate")).count(), 0);
}

#[test]
fn addons_and_ukis_are_told_apart() {
    let Some(place) = with_keys() else { return };
    place.run(&[&["uki", "addon", "sign", "x.addon.efi"], &DB[..]].concat()).done();
    let found = place.run(&["uki", "verify", "x.addon.efi", "--certificate", "db.crt", "--json"]).json();
    assert_eq!(found["kind"], "addon");
    let message = place.run(&[&["uki", "addon", "sign", "os.efi"], &DB[..]].concat()).failed(1);
    assert_eq!(
        message,
        "error: os.efi is a UKI, not an addon: it has a kernel\n  hint: sign it with: osupdate uki sign\n"
    );
}

/// It is refused when it is deployed, too.
#[test]
fn a_uki_that_can_be_booted_without_its_image_is_found() {
    let place = Place::new();
    let digest = "ab".repeat(32);
    let kernel = pe(&[(".text", b"kernel")]);
    let line = format!("composefs.digest=v1-sha256-12:{digest}");
    let optional = format!("composefs.digest=?v1-sha256-12:{digest}");
    let build = |first: &str, second: &str| {
        let base = [(".linux", &kernel[..]), (".osrel", b"ID=test\n"), (".profile", b"ID=main")];
        let rest = [(".cmdline", first.as_bytes()), (".profile", b"ID=rescue"), (".cmdline", second.as_bytes())];
        write(&place, "os.efi", &pe(&[&base[..], &rest].concat()));
        place.run(&["uki", "verify", "os.efi", "--certificate", "db.crt", "--json"])
    };
    write(&place, "db.crt", osupdate_efi::authenticode::fake::Authority::new("db").certificate().der());
    let has = |run: Run, list: &str, part: &str| {
        // Not signed, which is a finding.
        assert_eq!(run.status, 3);
        let found: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        let lines: Vec<_> = found[list].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
        lines.iter().any(|line| line.contains(part))
    };
    assert!(has(build(&line, "rescue"), "findings", "profile 1: it names no image"));
    assert!(has(build("", &line), "findings", "profile 0: it names no image"));
    assert!(!has(build(&line, &line), "findings", "names no image"));
    assert!(!has(build("quiet", "rescue"), "findings", "names no image"));
    assert!(has(build("", &line), "notes", "it has no section .cmdline"));
    assert!(has(build(&line, &optional), "notes", "profile 1: the image may be used without fs-verity"));
}

#[test]
fn mistakes_are_told_with_the_next_step() {
    let Some(place) = with_keys() else { return };
    make_key(&place, "ec", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let encrypt = "pkey -in db.key -aes256 -passout pass:x -out secret.key";
    let openssl = Command::new("openssl").args(encrypt.split(' ')).current_dir(place.path()).output();
    assert!(openssl.unwrap().status.success());
    let failed =
        |key: &str, certificate: &str| sign(&place, &["os.efi", "--key", key, "--certificate", certificate]).failed(1);
    for (key, certificate, part) in [
        ("db.key", "other.crt", "the private key is not that of the certificate of CN=other"),
        ("db.crt", "db.crt", "there is no private key in it"),
        ("db.key", "db.key", "there is no certificate in it"),
        ("secret.key", "db.crt", "the private key is encrypted\n  hint: decrypt it (openssl pkey"),
        ("ec.key", "ec.crt", "the private key is not"),
        ("none.key", "db.crt", "cannot use the key none.key"),
        ("pkcs11:slot-id=1", "db.crt", "the attribute slot-id is not supported"),
        ("pkcs11:?module-path=/none.so", "db.crt", "cannot load the PKCS#11 module /none.so"),
    ] {
        let message = failed(key, certificate);
        assert!(message.contains(part), "{key} {certificate}: {message}");
    }
    write(&place, "text.efi", b"text");
    let message = sign(&place, &[&["text.efi"], &DB[..]].concat()).failed(1);
    assert!(message.contains("it is not a PE file"), "{message}");
    assert_eq!(read(&place, "os.efi"), uki("quiet"));
}

#[test]
fn the_digest_in_a_uki_is_compared_with_an_image() {
    let Some(place) = with_keys().filter(|_| have(&["tar", "gzip"])) else { return };
    for name in ["usr/lib/modules/6.1", "boot", "etc", "sysroot"] {
        fs::create_dir_all(place.path().join("rootfs").join(name)).unwrap();
    }
    fs::write(place.path().join("rootfs/usr/lib/modules/6.1/vmlinuz"), "a kernel").unwrap();
    fs::write(place.path().join("rootfs/usr/lib/modules/6.1/initramfs.img"), "an initramfs").unwrap();
    let argument = place.run(&["image", "digest", "./rootfs", "--kernel-argument"]).done();
    let cmdline = format!("quiet {}", argument.trim());
    write(&place, "os.efi", &uki(&cmdline));
    let verify = || place.run(&["uki", "verify", "os.efi", "--image", "./rootfs"]);
    assert!(verify().done().contains(argument.trim()));

    fs::write(place.path().join("rootfs/etc/file"), "new").unwrap();
    let found = verify();
    assert_eq!(found.status, 3, "{}", found.stderr);
    assert!(found.stdout.contains("wrong: it is made for another image: it names "), "{}", found.stdout);
    write(&place, "os.efi", &uki("quiet"));
    assert!(verify().stdout.contains("wrong: it names no image"));

    // An image from elsewhere, and one in the repository.
    let argument = place.run(&["image", "digest", "--source", "oci:image", "--kernel-argument"]).done();
    write(&place, "os.efi", &uki(argument.trim()));
    drop(place.run(&["uki", "verify", "os.efi", "--image", "oci:image"]).done());
    drop(place.run(&["repo", "init", "--unverified"]).done());
    drop(place.run(&["image", "pull", "oci:image", "--tag", "os"]).done());
    drop(place.run(&["uki", "verify", "os.efi", "--image", "os", "--repo", "repo"]).done());
}

#[test]
fn a_key_in_a_token_signs() {
    let Some(place) = with_keys() else { return };
    if !have(&["softhsm2-util", SOFTHSM]) {
        return;
    }
    fs::create_dir(place.path().join("tokens")).unwrap();
    let configuration = place.path().join("softhsm2.conf");
    write(&place, "softhsm2.conf", format!("directories.tokendir = {}/tokens\n", place.path().display()).as_bytes());
    write(&place, "pin", b"1234\n");
    let softhsm = |arguments: &str| {
        let mut command = Command::new("softhsm2-util");
        command.args(arguments.split(' ')).current_dir(place.path()).env("SOFTHSM2_CONF", &configuration);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    softhsm("--init-token --free --label release --pin 1234 --so-pin 1234");
    softhsm("--import db.key --token release --label db --id 01 --pin 1234");
    softhsm("--import other.key --token release --label other --id 02 --pin 1234");

    let environment: [(&str, &Path); 1] = [("SOFTHSM2_CONF", &configuration)];
    let sign = |key: &str| {
        let uri = format!("pkcs11:{key}&module-path={SOFTHSM}");
        place.run_with(
            &["uki", "sign", "os.efi", "--output", "token.efi", "--key", &uri, "--certificate", "db.crt"],
            &environment,
        )
    };
    for key in ["token=release;object=db?pin-source=file:pin", "id=%01?pin-value=1234"] {
        sign(key).done();
        place.run(&["uki", "verify", "token.efi", "--certificate", "db.crt"]).done();
    }
    // Without a module, p11-kit knows where the token is.
    let key = ["--key", "pkcs11:token=release;object=db?pin-source=file:pin", "--certificate", "db.crt"];
    let arguments = [&["uki", "sign", "os.efi", "--output", "token.efi"], &key[..]].concat();
    drop(place.run_with(&arguments, &environment).done());
    // The token pads and signs as the file does.
    drop(place.run(&[&["uki", "sign", "os.efi", "--output", "file.efi"], &DB[..]].concat()).done());
    assert_eq!(read(&place, "token.efi"), read(&place, "file.efi"));
    // It signs expected values of PCR 11 as the file does, too.
    let mut openssl = Command::new("openssl");
    openssl.args(["rsa", "-in", "db.key", "-pubout", "-out", "db.pub"]).current_dir(place.path());
    assert!(openssl.output().unwrap().status.success());
    let program = pe(&[(".text", b"program")]);
    write(&place, "program", &program);
    let build = |output: &str, key: &str, public: &str| {
        let files = ["uki", "build", "--stub", "program", "--linux", "program", "--os-release", "ID=x", "--uname", "6"];
        let keys = ["--pcr-private-key", key, "--pcr-public-key", public, "--output", output];
        place.run_with(&[&files[..], &keys].concat(), &environment)
    };
    let in_token = format!("pkcs11:token=release;object=db?pin-value=1234&module-path={SOFTHSM}");
    let other = in_token.replace("object=db", "object=other");
    drop(build("file.efi", "db.key", "db.pub").done());
    drop(build("token.efi", &in_token, "db.pub").done());
    assert_eq!(read(&place, "token.efi"), read(&place, "file.efi"));
    let message = build("other.efi", &other, "db.pub").failed(1);
    assert!(message.contains("the public key is not the one that belongs to the private key"), "{message}");
    for (key, part) in [
        ("token=release;object=none?pin-value=1234", "the token release has no private key that fits the URI"),
        ("token=release?pin-value=1234", "the token release has 2 private keys that fit the URI"),
        ("token=nowhere?pin-value=1234", "no token fits the URI; there are: release"),
        ("token=release;object=db?pin-value=9999", "cannot log in to the token release"),
        ("token=release;object=other?pin-value=1234", "the private key is not that of the certificate of CN=db"),
    ] {
        let message = sign(key).failed(1);
        assert!(message.contains(part), "{key}: {message}");
        assert!(!message.contains("pin-value"), "{message}");
    }
}
