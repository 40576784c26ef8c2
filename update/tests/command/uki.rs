//! `osupdate uki`: UKIs are built, inspected and explained.

use std::fs;

use osupdate_efi::pe::fake::{self, pe};
use serde_json::json;

use crate::place::Place;

const DIGEST: &str = "abababababababababababababababababababababababababababababababab";

/// A place with a boot stub, a kernel and an initial ramdisk.
fn place() -> Place {
    let place = Place::new();
    let write = |name: &str, bytes: &[u8]| fs::write(place.path().join(name), bytes).unwrap();
    write("stub", &pe(&[(".text", b"code"), (".sdmagic", b"#### LoaderInfo: systemd-stub 257.9 ####")]));
    write("linux", &pe(&[(".text", b"\0Linux version 6.12.1-test (a@b) #1\0")]));
    write("initrd", b"initrd");
    fs::create_dir_all(place.path().join("root/usr/lib/systemd/boot/efi")).unwrap();
    write("root/usr/lib/os-release", b"NAME=Example\nPRETTY_NAME=\"Example OS\"\nVERSION_ID=3\n");
    fs::copy(place.path().join("stub"), place.path().join("root/usr/lib/systemd/boot/efi/linuxx64.efi.stub")).unwrap();
    place
}

fn build(place: &Place, more: &[&str]) {
    let line = format!("composefs.digest=v1-sha256-12:{DIGEST}   quiet\n");
    let arguments = ["uki", "build", "--root", "root", "--linux", "linux", "--initrd", "initrd", "--output", "os.efi"];
    place.run(&[&arguments[..], &["--cmdline", &line], more].concat()).done();
}

#[test]
fn a_uki_is_built_from_a_tree_and_explained() {
    let place = place();
    build(&place, &[]);
    let first = fs::read(place.path().join("os.efi")).unwrap();
    build(&place, &[]);
    assert_eq!(fs::read(place.path().join("os.efi")).unwrap(), first, "the same again");
    let report = place.run(&["uki", "inspect", "os.efi", "--json"]).json();
    assert_eq!(report["kind"], "uki");
    assert_eq!(report["stub"], "systemd-stub 257.9");
    assert_eq!(report["machine"], "x64");
    assert_eq!(report["problems"], json!([]));
    assert_eq!(report["notes"], json!([]));
    let [profile] = &report["profiles"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(profile["os"], "Example OS");
    assert_eq!(profile["uname"], "6.12.1-test");
    assert_eq!(profile["command_line"], format!("composefs.digest=v1-sha256-12:{DIGEST} quiet"));
    let image = json!({
        "argument": format!("composefs.digest=v1-sha256-12:{DIGEST}"),
        "image_digest": DIGEST, "algorithm": "sha256", "format": "v1", "optional": false,
    });
    assert_eq!(profile["composefs"], json!([image]));
    let text = place.run(&["uki", "inspect", "os.efi"]).done();
    for part in [
        "kind      UKI for x64\n",
        "os        Example OS, version 3\n",
        "kernel    6.12.1-test\n",
        DIGEST,
        "\n.initrd ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(place.run(&["uki", "inspect", "os.efi", "--section", ".initrd"]).done(), "initrd");
    let message = place.run(&["uki", "inspect", "os.efi", "--section", ".dtb"]).failed(1);
    assert!(
        message.starts_with("error: os.efi has no section .dtb\n  hint: it has .text, .sdmagic, .osrel, .cmdline"),
        "{message}"
    );
}

#[test]
fn profiles_have_command_lines_and_pcr_values_of_their_own() {
    let place = place();
    let line = format!("composefs.digest=v1-sha256-12:{DIGEST} rescue");
    let profile = ["uki", "build", "--stub", "stub", "--profile", "ID=rescue\nTITLE=Rescue", "--cmdline", &line];
    place.run(&[&profile[..], &["--output", "rescue.efi"]].concat()).done();
    assert_eq!(place.run(&["uki", "inspect", "rescue.efi", "--json"]).json()["kind"], "profile");
    build(&place, &["--join-profile", "rescue.efi"]);
    let arguments = ["uki", "inspect", "os.efi", "--pcrs", "--pcr-banks", "sha256,sha1", "--phases", "enter-initrd,"];
    let report = place.run(&[&arguments[..], &["--json"]].concat()).json();
    let profiles = report["profiles"].as_array().unwrap();
    assert_eq!((&profiles[0]["id"], &profiles[1]["id"]), (&json!("main"), &json!("rescue")));
    assert_eq!(profiles[1]["command_line"], line);
    assert_eq!(profiles[1]["os"], "Example OS");
    let banks: Vec<_> = profiles[0]["pcr11"].as_array().unwrap().iter().map(|value| &value["bank"]).collect();
    assert_eq!(banks, ["sha1", "sha256"]);
    assert_ne!(profiles[0]["pcr11"], profiles[1]["pcr11"]);
    let text = place.run(&arguments).done();
    assert!(text.contains("\nprofile   1: rescue, Rescue\n"), "{text}");
    let value = profiles[1]["pcr11"][1]["value"].as_str().unwrap();
    assert!(text.contains("  PCR 11 after enter-initrd\n    11:sha1="), "{text}");
    assert!(text.contains(&format!("    11:sha256={value}\n")), "{text}");
}

#[test]
fn an_addon_is_built() {
    let place = place();
    let addon = ["uki", "addon", "build", "--stub", "stub", "--cmdline", "console=ttyS0", "--output", "a.addon.efi"];
    let printed = place.run(&addon).done();
    assert!(printed.ends_with("  a.addon.efi\n") && printed.len() == 64 + 14, "{printed}");
    let report = place.run(&["uki", "inspect", "a.addon.efi", "--json"]).json();
    assert_eq!((&report["kind"], &report["problems"]), (&json!("addon"), &json!([])));
    let nothing = ["uki", "addon", "build", "--stub", "stub", "--output", "b.addon.efi"];
    assert!(place.run(&nothing).failed(1).contains("there is nothing in it"));
    assert!(!place.path().join("b.addon.efi").exists());
}

#[test]
fn stub_that_starts_any_initramfs_is_told_when_building_and_inspecting() {
    let place = place();
    fs::write(place.path().join("weak"), pe(&[(".sdmagic", b"#### LoaderInfo: systemd-stub 262-1 ####")])).unwrap();
    let arguments = ["--linux", "linux", "--initrd", "initrd", "--cmdline", "quiet", "--output", "os.efi"];
    let with_stub = |stub| place.run(&[&["uki", "build", "--root", "root", "--stub", stub], &arguments[..]].concat());
    let strong = with_stub("stub");
    assert_eq!((strong.status, strong.stderr.as_str()), (0, ""));
    let weak = with_stub("weak");
    assert!(weak.status == 0 && weak.stderr.contains("its boot stub, systemd-stub 262-1, "), "{}", weak.stderr);
    let inspected = place.run(&["uki", "inspect", "os.efi"]);
    assert!(inspected.status == 0 && inspected.stdout.contains("(foreign-initramfs)"), "{}", inspected.stdout);
}

#[test]
fn what_is_wrong_with_a_uki_is_found() {
    let place = place();
    let file = pe(&[(".linux", b"\x7fELF"), (".cmdline", b"composefs=?abc")]);
    fs::write(place.path().join("bad.efi"), file).unwrap();
    let run = place.run(&["uki", "inspect", "bad.efi", "--json"]);
    assert_eq!(run.status, 3, "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let names = |key: &str| -> Vec<String> {
        report[key].as_array().unwrap().iter().map(|finding| finding["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("problems"), ["kernel-argument", "kernel", "no-os-release"]);
    assert_eq!(names("notes"), ["no-uname", "no-sbat"]);
    let run = place.run(&["uki", "inspect", "stub"]);
    assert_eq!(run.status, 3);
    assert!(run.stdout.contains("problem: it is neither a UKI nor an addon"), "{}", run.stdout);
}

#[test]
fn malformed_files_are_refused_by_what_is_wrong_with_them() {
    let place = place();
    let mut file = pe(&[(".linux", b"kernel"), (".cmdline", b"quiet")]);
    let address = u32::from_le_bytes(*file[fake::SECTION_TABLE + 12..].first_chunk().unwrap());
    fake::put(&mut file, fake::SECTION_TABLE + 40 + 12, address as usize);
    fs::write(place.path().join("bad.efi"), file).unwrap();
    let message = place.run(&["uki", "inspect", "bad.efi"]).failed(1);
    let cause = "  caused by: section .linux and section .cmdline overlap in memory\n";
    assert_eq!(message, format!("error: cannot use bad.efi\n{cause}"));
    let message = place.run(&["uki", "inspect", "initrd"]).failed(1);
    assert_eq!(message, "error: cannot use initrd\n  caused by: it is not a PE file\n");
}

#[test]
fn what_is_missing_is_named_with_the_next_step() {
    let place = place();
    let message = place.run(&["uki", "build", "--output", "os.efi", "--cmdline", "quiet"]).failed(1);
    assert!(message.contains("a UKI has a kernel") && message.contains("hint: give one with --linux"), "{message}");
    let message = place.run(&["uki", "build", "--linux", "linux", "--root", ".", "--output", "os.efi"]).failed(1);
    assert!(message.contains("there is no ./etc/os-release\n  hint: say with --root"), "{message}");
    let arguments =
        ["uki", "build", "--linux", "linux", "--root", "empty", "--os-release", "ID=x", "--output", "os.efi"];
    let message = place.run(&arguments).failed(1);
    assert!(
        message.contains("boot stub empty/usr/lib/systemd/boot/efi/linuxx64.efi.stub\n  hint: install"),
        "{message}"
    );
    for (option, value, part) in [
        ("--phases", "enter-initrd:sleep", "\"sleep\" is no phase of the boot"),
        ("--pcr-banks", "sha256,md5", "\"md5\" is no PCR bank"),
        ("--section", "name", "a name, a colon, and text"),
    ] {
        let message = place.run(&["uki", "build", "--linux", "linux", "--output", "x", option, value]).failed(2);
        assert!(message.contains(part), "{message}");
    }
}
