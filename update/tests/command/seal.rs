//! `image seal`: a UKI that names the image it is in, made of an image, of a tag, and in a build.

use std::fs;
use std::process::Command;

use osupdate_core::oci::Platform;
use osupdate_efi::pe::Pe;
use osupdate_efi::uki::Uki;
use serde_json::Value;

use crate::docker_registry::{DockerRegistry, have, have_registry, make_certificate};
use crate::layout::Layout;
use crate::place::{Place, Run};
use crate::rootfs;

/// A directory `root`, and the image `oci:base:1` that a container tool would make of it, in two layers.
fn place() -> Place {
    let place = Place::with_repository();
    let root = place.path().join("root");
    rootfs::make(&root);
    let tar = |paths: &[&str]| {
        // Whole seconds, as container tools have them.
        let mut command = Command::new("tar");
        command.args(["--create", "--format=gnu", "--sort=name", "--numeric-owner", "--no-recursion", "--directory"]);
        let find = Run::of(Command::new("find").args(paths).arg("-depth").current_dir(&root)).done();
        let output = command.arg(&root).args(find.lines()).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let mut layout = Layout::create(&place.path().join("base"));
    let image = layout.image_of(&Platform::host().architecture, &[tar(&["."]), tar(&["usr/share"])]);
    layout.tag("1", &image);
    place
}

fn ready() -> bool {
    have(&["tar", "gzip", "find"])
}

fn seal(place: &Place, words: &[&str]) -> Value {
    place.run(&[&["image", "seal"], words, &["--json"]].concat()).json()
}

fn text<'a>(report: &'a Value, field: &str) -> &'a str {
    report[field].as_str().unwrap_or_else(|| panic!("{field}: {report}"))
}

/// The manifest of the only image of a layout, or the one with a tag.
fn manifest(place: &Place, layout: &str) -> Value {
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(place.path().join(layout).join(path)).unwrap()).unwrap()
    };
    let digest = read("index.json")["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    read(&format!("blobs/{digest}"))
}

#[test]
fn a_directory_an_image_and_a_stored_image_have_one_boot_digest() {
    if !ready() {
        return;
    }
    let place = place();
    let digest = |words: &[&str]| place.run(&[&["image", "digest", "--bootable", "--hex"], words].concat()).done();
    let of_files = digest(&["--rootfs", "root"]);
    assert_eq!(digest(&["--source", "oci:base:1"]), of_files);
    let pulled = place.run(&["image", "pull", "oci:base:1", "--tag", "base", "--bootable", "--json"]).json();
    assert_eq!(text(&pulled, "boot_image_digest"), of_files.trim());
    assert_eq!(digest(&["base"]), of_files);
    // Fractions of seconds make the difference; without --rootfs they count.
    assert_ne!(digest(&["./root"]), of_files);
    let argument = place.run(&["image", "digest", "--rootfs", "root", "--kernel-argument"]).done();
    assert_eq!(argument, format!("composefs.digest=v1-sha512-12:{of_files}"));
}

#[test]
fn a_sealed_image_boots_what_its_uki_names() {
    if !ready() {
        return;
    }
    let place = place();
    let sealed = seal(&place, &["oci:base:1", "oci:sealed:1", "--karg", "console=ttyS0"]);
    let digest = text(&sealed, "boot_image_digest");
    assert_eq!(text(&sealed, "command_line"), format!("composefs.digest=v1-sha512-12:{digest} rw console=ttyS0"));
    assert_eq!(text(&sealed, "uki"), "/boot/EFI/Linux/test-1.efi");
    let pulled = place.run(&["image", "pull", "oci:sealed:1", "--tag", "sealed", "--bootable", "--json"]).json();
    assert_eq!(pulled["manifest_digest"], sealed["manifest_digest"]);
    assert_eq!(text(&pulled, "boot_image_digest"), digest);
    assert!(place.run(&["image", "lint", "sealed"]).done().starts_with("nothing is wrong"));

    // The layers of the base are those of the base.
    let (base, now) = (manifest(&place, "base"), manifest(&place, "sealed"));
    let layers = |manifest: &Value| manifest["layers"].as_array().unwrap().clone();
    assert_eq!(layers(&now)[..2], layers(&base)[..]);
    assert_eq!(layers(&now).len(), 3);
    assert_eq!(text(&now["annotations"], "composefs.merged.bootable.erofs.v1.fsverity-sha512-12"), digest);
    // The same again is the same.
    assert_eq!(
        seal(&place, &["oci:base:1", "oci:again:1", "--karg", "console=ttyS0"])["manifest_digest"],
        sealed["manifest_digest"]
    );

    // In a build, the same UKI is made of the files.
    let written = seal(&place, &["--rootfs", "root", "--output", "out/", "--karg", "console=ttyS0"]);
    assert_eq!((text(&written, "uki"), text(&written, "boot_image_digest")), ("out/test-1.efi", digest));
    let uki = fs::read(place.path().join("out/test-1.efi")).unwrap();
    let dump =
        place.run(&["image", "dump", "sealed", "--no-transform", "--objects", "/boot/EFI/Linux/test-1.efi"]).done();
    let object = dump.trim().rsplit(' ').next().unwrap();
    assert!(fs::read(place.path().join("repo/objects").join(object)).unwrap() == uki);
    let uki = Uki::parse(&Pe::parse(&uki).unwrap()).unwrap();
    assert_eq!(uki.profiles().len(), 1);
    seal(&place, &["--rootfs", "root", "--output", "out/other.efi"]);
    assert!(place.path().join("out/other.efi").exists());
}

#[test]
fn a_stored_image_and_one_in_a_registry_are_sealed_alike() {
    if !ready() || !have_registry() {
        return;
    }
    let place = place();
    let digest = text(&seal(&place, &["oci:base:1", "oci:sealed:1"]), "boot_image_digest").to_owned();
    place.run(&["image", "pull", "oci:base:1", "--tag", "base"]).done();
    let registry = DockerRegistry::start();
    registry.push(&format!("oci:{}/base:1", place.path().display()), "base:1", &[]);
    let (base, sealed) =
        (format!("docker://{}/base:1", registry.address), format!("docker://{}/os:1", registry.address));
    assert_eq!(text(&seal(&place, &["base", "oci:stored:1"]), "boot_image_digest"), digest);
    assert_eq!(text(&seal(&place, &[&base, &sealed, "--plain-http"]), "boot_image_digest"), digest);
    for (reference, tag) in [("oci:stored:1", "a"), (&sealed, "b")] {
        let pull = ["image", "pull", reference, "--tag", tag, "--bootable", "--plain-http", "--json"];
        assert_eq!(text(&place.run(&pull).json(), "boot_image_digest"), digest);
    }
}

#[test]
fn a_key_signs_the_uki() {
    if !ready() || !have(&["openssl"]) {
        return;
    }
    let place = place();
    make_certificate(place.path());
    let signed = seal(
        &place,
        &["--rootfs", "root", "--output", "signed.efi", "--key", "key.pem", "--certificate", "certificate.pem"],
    );
    assert_eq!(signed["signed"], true);
    let verify = |file: &str| place.run_bare(&["uki", "verify", file, "--certificate", "certificate.pem"]).status;
    assert_eq!(verify("signed.efi"), 0);
    assert_eq!(seal(&place, &["--rootfs", "root", "--output", "plain.efi"])["signed"], false);
    assert_eq!(verify("plain.efi"), 3);
    place.run(&["image", "seal", "--rootfs", "root", "--output", "x.efi", "--key", "key.pem"]).failed(2);
    // Values of PCR 11 are signed, too: for the TPM.
    let policy = ["--pcr-private-key", "key.pem", "--phases", "enter-initrd", "--pcr-banks", "sha256"];
    seal(&place, &[&["--rootfs", "root", "--output", "policy.efi"][..], &policy].concat());
    let sections = |file: &str| place.run_bare(&["uki", "inspect", file]).stdout;
    assert!(!sections("plain.efi").contains(".pcrsig"), "{}", sections("plain.efi"));
    assert!(sections("policy.efi").contains(".pcrsig"), "{}", sections("policy.efi"));
    assert!(sections("policy.efi").contains(".pcrpkey"), "{}", sections("policy.efi"));
}

#[test]
fn nothing_is_made_of_what_would_not_boot() {
    if !ready() {
        return;
    }
    let place = place();
    let refused = |words: &[&str], why: &str| {
        let error = place.run(&[&["image", "seal"], words].concat()).failed(1);
        assert!(error.contains(why), "{error}");
    };
    refused(&["oci:base:1", "oci:out:1", "--karg", "composefs=00"], "selects the image, which is not for the user");
    refused(&["oci:base:1", "oci:out:1", "--name", "os+3.efi"], "cannot be the name of a UKI");
    refused(&["oci:base:1", "dir:out"], "images are not written to dir:out");
    refused(&["--rootfs", "nowhere", "--output", "x.efi"], "nowhere is not a directory");
    // One with a UKI already would have two.
    seal(&place, &["oci:base:1", "oci:sealed:1"]);
    refused(&["oci:sealed:1", "oci:out:1", "--name", "other.efi"], "has a UKI already, /boot/EFI/Linux/test-1.efi");
    seal(&place, &["oci:sealed:1", "oci:resealed:1"]);
    // What is added to a sealed image is noticed.
    let layers =
        [Layout::layers(&place.path().join("sealed")), vec![crate::layout::tar(&[("etc/later", b"x")])]].concat();
    let mut layout = Layout::create(&place.path().join("changed"));
    let image = layout.image_of(&Platform::host().architecture, &layers);
    layout.tag("1", &image);
    let found = place.run(&["image", "lint", "oci:changed:1"]);
    assert!(
        found.status == 3 && found.stdout.contains("error: uki-digest\n  /boot/EFI/Linux/test-1.efi: it is for "),
        "{}",
        found.stdout
    );
    let root = place.path().join("root");
    fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    refused(&["--rootfs", "root", "--output", "x.efi"], "machine-id-set: /etc/machine-id: has an identity");
    seal(&place, &["--rootfs", "root", "--output", "x.efi", "--allow", "machine-id-set"]);
    fs::remove_file(root.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")).unwrap();
    refused(&["--rootfs", "root", "--output", "y.efi", "--allow", "machine-id-set"], "no boot stub for UKIs");
    fs::write(root.join("usr/lib/modules/6.1/vmlinuz"), "no program").unwrap();
    refused(
        &["--rootfs", "root", "--output", "y.efi", "--allow", "machine-id-set", "--stub", "x.efi"],
        "cannot build the UKI",
    );
    assert!(!place.path().join("out").exists() && !place.path().join("y.efi").exists());
    place.run(&["image", "seal", "oci:base:1"]).failed(2);
    place.run(&["image", "seal", "--rootfs", "root"]).failed(2);
}
