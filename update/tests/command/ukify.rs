//! The same UKIs from ukify of systemd 257, and the same PCR values from its systemd-measure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use osupdate_efi::pe::{Pe, fake};
use serde_json::Value;

use crate::docker_registry::have;
use crate::place::{Place, Run};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where ukify, systemd-measure and boot stubs of systemd 257 are; they are fetched if they are not there.
static SYSTEMD_257: LazyLock<PathBuf> = LazyLock::new(|| {
    let cache = std::env::var_os("OSUPDATE_CACHE").map_or_else(|| Path::new(TOP).join(".cache"), PathBuf::from);
    let directory = cache.join("systemd-257");
    let script = Path::new(TOP).join("tests/systemd-257");
    assert!(Command::new(script).arg(&directory).status().unwrap().success(), "systemd 257 cannot be had");
    directory
});

fn have_systemd() -> bool {
    have(&["apt-get", "dpkg-deb", "python3", "openssl"]) && SYSTEMD_257.exists()
}

fn ukify(place: &Place, arguments: &[&str]) {
    let mut command = Command::new(SYSTEMD_257.join("bin/ukify"));
    Run::of(command.args(arguments).current_dir(place.path())).done();
}

fn systemd_measure(place: &Place, arguments: &[&str]) -> Value {
    let mut command = Command::new(SYSTEMD_257.join("bin/systemd-measure"));
    let run = Run::of(command.args(arguments).arg("--json=short").current_dir(place.path()));
    serde_json::from_str(&run.done()).unwrap()
}

/// A place with files for every section, and keys.
fn place() -> Place {
    let place = Place::new();
    let write = |name: &str, bytes: &[u8]| fs::write(place.path().join(name), bytes).unwrap();
    // Sizes at and beside those that sections are padded to.
    let sbat =
        b"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\nlinux,1,Linux,linux,6,x\n\0";
    write("linux", &fake::pe(&[(".text", &[0x90; 70_000]), (".sbat", sbat)]));
    write("initrd-1", &vec![1; 100_001]);
    write("initrd-2", &[2; 4096]);
    write("microcode", &[3; 512]);
    write("splash.bmp", &[4; 777]);
    write("board.dtb", &[5; 1]);
    write("one.dtb", &[6; 4097]);
    write("two.dtb", &[7; 4095]);
    write("os-release", b"ID=example\nNAME=\"Example OS\"\nVERSION_ID=1\n");
    write("cmdline", b"  composefs=x quiet\n");
    fs::create_dir_all(place.path().join("hwids.d/more")).unwrap();
    let ids = r#"["1ca7d27e-2e0b-5bc2-9ba1-1f4e5d3a9e3d", "01234567-89ab-cdef-0123-456789abcdef"]"#;
    write("hwids.d/b.json", format!(r#"{{"name": "Maker B", "compatible": "maker,b", "hwids": {ids}}}"#).as_bytes());
    let id = r#"["ffffffff-0000-0000-0000-000000000000"]"#;
    write(
        "hwids.d/more/a.json",
        format!(r#"{{"name": "Maker A", "compatible": "maker,a", "hwids": {id}}}"#).as_bytes(),
    );
    for (key, bits) in [("one", "2048"), ("two", "3072")] {
        let private = place.path().join(format!("{key}.key"));
        let run = Command::new("openssl").args(["genrsa", "-out"]).arg(&private).arg(bits).output().unwrap();
        assert!(run.status.success());
        let public = Command::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&private).output().unwrap();
        fs::write(place.path().join(format!("{key}.pub")), public.stdout).unwrap();
    }
    place
}

fn stub(kind: &str) -> String {
    SYSTEMD_257.join(format!("usr/lib/systemd/boot/efi/{kind}x64.efi.stub")).display().to_string()
}

/// Builds the same with both; the sections must be the same, in the same places.
#[track_caller]
fn compare(place: &Place, ours: &[&str], arguments: &[&str]) {
    place.run(&[&["uki"], ours, arguments, &["--output", "ours.efi"]].concat()).done();
    ukify(place, &[&["build"], arguments, &["--output", "theirs.efi"]].concat());
    let [ours, theirs] = ["ours.efi", "theirs.efi"].map(|file| fs::read(place.path().join(file)).unwrap());
    let (parsed, by_ukify) = (Pe::parse(&ours).unwrap(), Pe::parse(&theirs).unwrap());
    let names = |pe: &Pe<'_>| pe.sections().iter().map(|section| section.name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&parsed), names(&by_ukify));
    for (section, theirs) in parsed.sections().iter().zip(by_ukify.sections()) {
        let name = section.name;
        if name == ".pcrsig" {
            compare_signatures(section.data, theirs.data);
        } else {
            assert!(section.data == theirs.data, "{name}: {:?}\n{:?}", text(section.data), text(theirs.data));
        }
        let places = |section: &osupdate_efi::pe::Section<'_>| {
            (section.address, section.memory_bytes, section.file.clone(), section.characteristics)
        };
        assert_eq!(places(section), places(theirs), "{name}");
    }
    assert_eq!(parsed.image_bytes(), by_ukify.image_bytes());
    assert_eq!(parsed.is_nx_compatible(), by_ukify.is_nx_compatible());
}

/// The same bytes but for the signatures in other banks than that of SHA-256: systemd 257 signs those with the hash of the bank, which
/// it itself cannot verify (systemd issue 40245).
#[track_caller]
fn compare_signatures(ours: &[u8], theirs: &[u8]) {
    let without = |json: &[u8]| {
        let mut banks: Value = serde_json::from_slice(json).unwrap();
        for (_, entries) in banks.as_object_mut().unwrap().iter_mut().filter(|(bank, _)| *bank != "sha256") {
            for entry in entries.as_array_mut().unwrap() {
                assert!(entry.as_object_mut().unwrap().remove("sig").is_some());
            }
        }
        banks
    };
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(without(ours), without(theirs));
    let (bank, others) = (b"{\"sha256\": [", b"\"sha");
    if ours.starts_with(bank) && !ours[bank.len()..].windows(others.len()).any(|window| window == others) {
        assert!(ours == theirs, "{}\n{}", text(ours), text(theirs));
    }
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(&data[..data.len().min(2000)]).into_owned()
}

#[test]
fn sections_are_those_of_ukify() {
    if !have_systemd() {
        return;
    }
    let place = place();
    let stub = stub("linux");
    let usual = ["--stub", &stub, "--linux", "linux", "--initrd", "initrd-1", "--os-release", "@os-release"];
    let named = ["--uname", "6.12.1", "--cmdline", "composefs=x  quiet "];
    compare(&place, &["build"], &[&usual[..], &named].concat());
    let everything = [
        "--initrd",
        "initrd-2",
        "--microcode",
        "microcode",
        "--splash",
        "splash.bmp",
        "--devicetree",
        "board.dtb",
        "--devicetree-auto",
        "one.dtb",
        "--devicetree-auto",
        "two.dtb",
        "--hwids",
        "hwids.d",
        "--cmdline",
        "@cmdline",
        "--uname",
        "6.12.1",
        "--sbat",
        "sbat,1,SBAT Version,sbat,1,x\nexample,1,Example,example,1,x\n",
        "--section",
        ".more:of it",
    ];
    compare(&place, &["build"], &[&usual[..], &everything].concat());
}

#[test]
fn profiles_and_signed_pcr_values_are_those_of_ukify() {
    if !have_systemd() {
        return;
    }
    let place = place();
    let (stub, addon) = (stub("linux"), stub("addon"));
    compare(&place, &["addon", "build"], &["--stub", &addon, "--cmdline", "debug"]);
    let profile = ["--stub", &addon, "--profile", "ID=rescue\nTITLE=Rescue\n", "--cmdline", "rescue"];
    compare(&place, &["build"], &profile);
    fs::rename(place.path().join("theirs.efi"), place.path().join("rescue.efi")).unwrap();
    let usual = [
        "--stub",
        &stub,
        "--linux",
        "linux",
        "--initrd",
        "initrd-1",
        "--os-release",
        "@os-release",
        "--uname",
        "6.12.1",
        "--cmdline",
        "quiet",
        "--pcr-private-key",
        "one.key",
    ];
    compare(&place, &["build"], &usual);
    compare(&place, &["build"], &[&usual[..], &["--pcr-banks", "sha256"]].concat());
    let joined = ["--join-profile", "rescue.efi", "--profile", "ID=usual\n", "--pcr-public-key", "one.pub"];
    compare(&place, &["build"], &[&usual[..], &joined].concat());
    let two_keys = [
        "--pcr-public-key",
        "one.pub",
        "--phases",
        "enter-initrd",
        "--pcr-private-key",
        "two.key",
        "--pcr-public-key",
        "two.pub",
        "--phases",
        "enter-initrd:leave-initrd,enter-initrd",
        "--pcr-banks",
        "sha256,sha1",
        "--devicetree-auto",
        "one.dtb",
        "--devicetree-auto",
        "two.dtb",
    ];
    compare(&place, &["build"], &[&usual[..], &two_keys].concat());
}

#[test]
fn predicted_pcr_values_are_those_of_systemd_measure() {
    if !have_systemd() {
        return;
    }
    let place = place();
    let stub = stub("linux");
    let arguments = [
        "--stub",
        &stub,
        "--linux",
        "linux",
        "--initrd",
        "initrd-1",
        "--os-release",
        "@os-release",
        "--uname",
        "6.12.1",
        "--cmdline",
        "quiet",
        "--microcode",
        "microcode",
        "--splash",
        "splash.bmp",
        "--devicetree",
        "board.dtb",
        "--devicetree-auto",
        "one.dtb",
        "--hwids",
        "hwids.d",
        "--pcrpkey",
        "one.pub",
    ];
    place.run(&[&["uki", "build"], &arguments[..], &["--output", "os.efi"]].concat()).done();
    let mut measured = vec!["calculate".to_owned()];
    let pe = fs::read(place.path().join("os.efi")).unwrap();
    for section in Pe::parse(&pe).unwrap().sections() {
        let name = section.name.trim_start_matches('.');
        if osupdate_efi::uki::SECTIONS.contains(&section.name) {
            let data = &section.data[..section.data.len().min(section.memory_bytes as usize)];
            fs::write(place.path().join(name), data).unwrap();
            measured.push(format!("--{name}={name}"));
        }
    }
    for phases in [None, Some("enter-initrd:leave-initrd:sysinit:ready:shutdown:final"), Some(":")] {
        let mut theirs = measured.clone();
        theirs.extend(phases.map(|phases| format!("--phase={phases}")));
        let theirs = systemd_measure(&place, &theirs.iter().map(String::as_str).collect::<Vec<_>>());
        let mut ours = vec!["uki", "inspect", "os.efi", "--pcrs", "--json"];
        ours.extend(phases.iter().flat_map(|phases| ["--phases", phases]));
        let report = place.run(&ours).json();
        let values = report["profiles"][0]["pcr11"].as_array().unwrap();
        let entries: usize = theirs.as_object().unwrap().values().map(|bank| bank.as_array().unwrap().len()).sum();
        assert_eq!(values.len(), entries);
        for (bank, entries) in theirs.as_object().unwrap() {
            let ours: Vec<_> = values.iter().filter(|value| value["bank"] == **bank).collect();
            for (entry, value) in entries.as_array().unwrap().iter().zip(ours) {
                assert_eq!(value["value"], entry["hash"], "{bank} {}", value["phase"]);
                assert_eq!(value["phase"].as_str().unwrap(), entry["phase"].as_str().unwrap_or_default());
            }
        }
    }
}
