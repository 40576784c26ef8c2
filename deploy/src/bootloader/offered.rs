//! [`Offered`]: a boot loader program in an image.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use osupdate_efi::boot_program::Identity;
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::pe::Pe;
use osupdate_efi::secure_boot::SecureBoot;

use super::BootloaderError;
use crate::loader;

/// Where images have shim, from their root.
pub(super) const SHIM_DIRECTORY: &str = "usr/lib/shim";

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    SystemdBoot,
    Shim,
}

/// A program in the image that firmware can start.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) contents: Vec<u8>,
}

impl Offered {
    /// Finds the form that this machine will start, the signed one first; if it would start none, the first that there is.
    pub(super) fn find(
        root: &Path,
        kind: Kind,
        architecture: Architecture,
        secure_boot: &SecureBoot,
    ) -> Result<Option<Self>, BootloaderError> {
        let (directory, name) = match kind {
            Kind::SystemdBoot => (loader::DIRECTORY, architecture.systemd_boot()),
            Kind::Shim => (SHIM_DIRECTORY, format!("shim{}.efi", architecture.efi_name())),
        };
        let mut found: Option<Self> = None;
        for name in [format!("{name}.signed"), name] {
            let path = root.join(directory).join(name);
            let contents = match fs::read(&path) {
                Ok(contents) => contents,
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(BootloaderError::Read { path, source }),
            };
            let offered = Self::new(path, contents, kind, architecture)?;
            let starts = match kind {
                Kind::SystemdBoot => secure_boot.check_boot_loader(&offered.contents).is_ok(),
                Kind::Shim => secure_boot.check_by_firmware(&offered.contents).is_ok(),
            };
            if starts {
                return Ok(Some(offered));
            }
            found = found.or(Some(offered));
        }
        Ok(found)
    }

    /// Takes a file if it is what it must be.
    fn new(path: PathBuf, contents: Vec<u8>, kind: Kind, architecture: Architecture) -> Result<Self, BootloaderError> {
        let machine = match Pe::parse(&contents) {
            Ok(pe) => pe.machine(),
            Err(source) => return Err(BootloaderError::Damaged { path, source }),
        };
        let identity = Identity::of(&contents);
        let is_kind = matches!(
            (kind, &identity),
            (Kind::SystemdBoot, Identity::SystemdBoot(_)) | (Kind::Shim, Identity::Shim(_))
        );
        if !is_kind || machine.efi_name() != Some(architecture.efi_name()) {
            let expected = match kind {
                Kind::SystemdBoot => "systemd-boot",
                Kind::Shim => "shim",
            };
            return Err(BootloaderError::OtherProgram { path, expected, architecture });
        }
        Ok(Self { path, identity, contents })
    }
}
