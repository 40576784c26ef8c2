//! Unified kernel images and addons, as osupdate makes and signs them.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::images::{Images, target};
use crate::secure_boot::{Keys, Role};
use crate::tool;

/// Version 1's kernel and initramfs with this command line, not signed. Expected values of PCR 11 are signed with the key
/// for policies.
pub fn build(images: &Images, command_line: &str) -> Result<Vec<u8>> {
    let key = images.secure_boot_keys().key(Role::Policy);
    build_with(images, command_line, ["--pcr-private-key".as_ref(), key.as_ref()])
}

/// The same with no signed value of PCR 11, and with the files of this archive in its initramfs.
pub fn build_without_policy(images: &Images, command_line: &str, archive: &Path) -> Result<Vec<u8>> {
    build_with(images, command_line, ["--initrd".as_ref(), archive.as_ref()])
}

fn build_with(images: &Images, command_line: &str, option: [&OsStr; 2]) -> Result<Vec<u8>> {
    let os_release = format!("@{}", images.os_release().display());
    make(&[
        "build".as_ref(),
        "--stub".as_ref(),
        images.stub().as_ref(),
        "--linux".as_ref(),
        images.kernel().as_ref(),
        "--initrd".as_ref(),
        images.initrd().as_ref(),
        "--initrd".as_ref(),
        images.tpm_initrd().as_ref(),
        "--os-release".as_ref(),
        os_release.as_ref(),
        "--cmdline".as_ref(),
        command_line.as_ref(),
        option[0],
        option[1],
    ])
}

/// An addon with this command line, not signed.
pub fn build_addon(images: &Images, command_line: &str) -> Result<Vec<u8>> {
    let stub = images.addon_stub();
    let options: [&OsStr; 6] = [
        "addon".as_ref(),
        "build".as_ref(),
        "--stub".as_ref(),
        stub.as_ref(),
        "--cmdline".as_ref(),
        command_line.as_ref(),
    ];
    make(&options)
}

/// The same program, signed.
pub fn sign(program: &[u8], keys: &Keys, role: Role) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let input = directory.path().join("program.efi");
    fs::write(&input, program)?;
    let (key, certificate) = (keys.key(role), keys.certificate(role));
    make(&[
        "sign".as_ref(),
        input.as_ref(),
        "--key".as_ref(),
        key.as_ref(),
        "--certificate".as_ref(),
        certificate.as_ref(),
    ])
}

/// The SHA-256 digest of a signed program by which firmware revokes it.
pub fn digest(program: &[u8]) -> Result<[u8; 32]> {
    let directory = tempfile::tempdir()?;
    let input = directory.path().join("program.efi");
    fs::write(&input, program)?;
    let report = tool::run(osupdate().arg("--json").arg("verify").arg(&input))?;
    let report: Value = serde_json::from_str(&report)?;
    let digest = report["signatures"][0]["authenticode_digest"].as_str().context("the program has no signature")?;
    let bytes: Result<Vec<u8>, _> =
        (0..digest.len() / 2).map(|at| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16)).collect();
    bytes?.try_into().ok().context("the digest is not one of SHA-256")
}

fn osupdate() -> Command {
    let mut command = Command::new(target().join("release/osupdate"));
    command.arg("uki");
    command
}

/// Runs a command that writes a program.
fn make(arguments: &[&OsStr]) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let output = directory.path().join("output.efi");
    tool::run(osupdate().args(arguments).arg("--output").arg(&output))?;
    read(&output)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
