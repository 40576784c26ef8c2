//! UKIs, and whether they are for the image that they are in.

use osupdate_core::boot::{UkiFile, find_ukis};
use osupdate_core::erofs::{self, Format};
use osupdate_core::kernel_args::{ArgFormat, ComposefsArg, composefs_args};
use osupdate_core::tree::{Content, LeafKind, Tree};
use osupdate_core::{Algorithm, fsverity};
use osupdate_efi::pe::Pe;
use osupdate_efi::uki::Uki;

use super::files::{self, ReadError};
use super::{Findings, Image, Lint, Severity};

pub(super) static UKI_DAMAGED: Lint = Lint {
    name: "uki-damaged",
    severity: Severity::Error,
    reason: "no firmware starts it, and an image with it is not deployed",
    fix: "make it again: osupdate image seal",
};
pub(super) static UKI_UNSEALED: Lint = Lint {
    name: "uki-unsealed",
    severity: Severity::Error,
    reason: "a UKI whose command line names no image would boot any, and an image with it is not deployed",
    fix: "seal the image, without this UKI: osupdate image seal",
};
pub(super) static UKI_DIGEST: Lint = Lint {
    name: "uki-digest",
    severity: Severity::Error,
    reason: "the kernel would check this image against the digest of another one, so an image with it is not deployed",
    fix: "seal last, and add nothing to a sealed image; in a Containerfile, seal the stage that the last one begins with, and \
          build with one time for all files (buildah build --timestamp)",
};
pub(super) static UKI_SEVERAL: Lint = Lint {
    name: "uki-several",
    severity: Severity::Error,
    reason: "an image boots with one UKI, and which one must not be left to chance",
    fix: "remove the others",
};
pub(super) static UKI_STUB: Lint = Lint {
    name: "uki-stub",
    severity: Severity::Warning,
    reason: "whoever can write to the ESP has such a boot stub start a program of his as root, although the UKI is signed: it starts any \
             initramfs that a boot entry has for it together with its own",
    fix: "seal the image with a boot stub that refuses, such as that of systemd 257 to 260: osupdate image seal --stub FILE",
};

/// Larger than any UKI, in bytes: they are on an ESP.
const UKI_MAX_BYTES: u64 = 1 << 30;

/// Looks at all UKIs of an image; `booted` is what is booted of it, if that can be made.
pub(super) fn check(image: &Image<'_>, booted: Option<&Tree>, findings: &mut Findings) -> Result<(), ReadError> {
    let mut sealed = Vec::new();
    for file in find_ukis(image.tree) {
        let path = file.path.as_bytes();
        let bytes = files::read(image.files, path, &file.content, UKI_MAX_BYTES)?;
        let Contents { lines, weak_stub } = match contents(&bytes) {
            Ok(contents) => contents,
            Err(problem) => {
                findings.add(&UKI_DAMAGED, path, problem);
                continue;
            }
        };
        let named: Result<Vec<_>, _> = lines.iter().map(|line| composefs_args(line)).collect();
        let named = match named {
            Ok(named) => named,
            Err(error) => {
                findings.add(&UKI_DAMAGED, path, error.to_string());
                continue;
            }
        };
        if named.iter().all(Vec::is_empty) {
            // A UKI of the distribution beside the kernel is left alone.
            if !file.is_in_boot_form() {
                findings.add(&UKI_UNSEALED, path, "its command line names no image");
            }
            continue;
        }
        if named.iter().any(Vec::is_empty) {
            findings.add(&UKI_UNSEALED, path, "the command line of one of its profiles names no image");
        }
        compare(&file, &named.concat(), booted, findings);
        if let Some(stub) = weak_stub {
            findings.add(&UKI_STUB, path, format!("its boot stub is {stub}"));
        }
        sealed.push(file.path);
    }
    if let [first, _, ..] = &sealed[..] {
        findings.add(&UKI_SEVERAL, first.as_bytes(), format!("there are {} that name images", sealed.len()));
    }
    Ok(())
}

/// What matters of a UKI.
struct Contents {
    /// The command lines of its profiles.
    lines: Vec<String>,
    /// Its boot stub, if that takes any initramfs.
    weak_stub: Option<String>,
}

fn contents(uki: &[u8]) -> Result<Contents, String> {
    let pe = Pe::parse(uki).map_err(|error| error.to_string())?;
    let uki = Uki::parse(&pe).map_err(|error| error.to_string())?;
    let lines = uki.profiles().iter().map(|profile| profile.command_line().unwrap_or_default().to_owned()).collect();
    let weak_stub = uki.stub_for_any_initramfs().map(str::to_owned);
    Ok(Contents { lines, weak_stub })
}

fn compare(file: &UkiFile, named: &[ComposefsArg], booted: Option<&Tree>, findings: &mut Findings) {
    let Some(booted) = booted else { return };
    for arg in named {
        // Files are named by digests of one kind, which may be the other one.
        if algorithm(booted).is_some_and(|algorithm| algorithm != arg.digest.algorithm()) {
            tracing::debug!("/{} has a digest of {}, which is not compared", file.path, arg.digest.algorithm());
            continue;
        }
        let format = match arg.format {
            ArgFormat::V2 => Format::V2,
            _ => Format::V1,
        };
        let Ok(erofs) = erofs::write(booted, format) else { return };
        let digest = fsverity::digest(arg.digest.algorithm(), &erofs);
        if digest != arg.digest {
            let detail = format!("it is for {}, and the image is {}", arg.digest.short(12), digest.short(12));
            return findings.add(&UKI_DIGEST, file.path.as_bytes(), detail);
        }
    }
}

fn algorithm(tree: &Tree) -> Option<Algorithm> {
    tree.leaves.iter().find_map(|leaf| match &leaf.kind {
        LeafKind::Regular(Content::External { digest: Some(digest), .. }) => Some(digest.algorithm()),
        _ => None,
    })
}
