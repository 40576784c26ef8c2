//! [`Esps`]: the partitions from which firmware may start a boot loader, and what those loaders make of entries for UKIs.

use std::path::PathBuf;

use osupdate_efi::boot_program::{BootProgram, Identity, places};
use osupdate_efi::entry::UkiKey;
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::locate::{DeviceNumber, Devices, Partition};
use osupdate_efi::mounted::{Access, MountError, mount};
use osupdate_efi::variables::{EfiVariables, LoaderFeatures, VariableError};
use osupdate_efi::{AccessError, Esp};

use crate::boot::BootError;

/// The ESPs of a machine.
#[derive(Debug)]
pub(crate) struct Esps {
    /// That of the loader first.
    pub(crate) usable: Vec<Esp>,
    /// Those that cannot be mounted.
    pub(crate) unusable: Vec<UnusableEsp>,
    /// What the loader can that runs, if it is none of the programs on `usable`.
    elsewhere: Option<LoaderFeatures>,
}

/// Which of the loaders that may read an entry know the key `uki`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UkiSupport {
    /// None does.
    None,
    /// Some hide entries with it, and some do not count the boots of entries with `efi`.
    Mixed,
    /// All do.
    All,
}

impl UkiSupport {
    /// The key by which entries must name UKIs: every loader must show them.
    pub(crate) fn key(self) -> UkiKey {
        if self == Self::All { UkiKey::Uki } else { UkiKey::Efi }
    }
}

/// An ESP that cannot be mounted: on a further disk and not formatted, or damaged.
#[derive(Debug)]
pub struct UnusableEsp {
    /// Its device.
    pub device: PathBuf,
    /// Why.
    pub error: MountError,
}

impl Esps {
    /// Mounts them where nobody else sees them: that of the loader, and those on all disks of the root.
    pub(crate) fn open(devices: &Devices, root: Option<DeviceNumber>, access: Access) -> Result<Self, BootError> {
        let (mut usable, mut unusable) = (Vec::new(), Vec::new());
        for Partition { device, .. } in devices.esps(root)? {
            match mount(&device, access) {
                Ok(mounted) => usable.push(Esp::new(mounted, format!("the ESP ({})", device.display()))),
                Err(error) => unusable.push(UnusableEsp { device, error }),
            }
        }
        let elsewhere = elsewhere(&devices.variables, !usable.is_empty());
        Ok(Self { usable, unusable, elsewhere })
    }

    /// Takes mounted ones.
    #[cfg(test)]
    pub(crate) fn new(usable: Vec<Esp>, elsewhere: Option<LoaderFeatures>) -> Self {
        Self { usable, unusable: Vec::new(), elsewhere }
    }

    /// Which loaders know the key `uki`.
    pub(crate) fn uki_support(&self) -> Result<UkiSupport, AccessError> {
        let mut found = Vec::new();
        for (number, esp) in self.usable.iter().enumerate() {
            match programs(esp) {
                Ok(programs) => found.extend(programs),
                Err(err) if number == 0 => return Err(err),
                // The machine was started without it, and a broken further disk must not keep it from being updated.
                Err(err) => tracing::warn!("{err}: {}, ignoring the boot loader there", err.source),
            }
        }
        Ok(self.uki_support_with(found.iter().map(|program| &program.identity)))
    }

    /// The same if the loaders are these.
    ///
    /// A loader that does not know `uki` hides entries with it, one that knows it does not count the boots of entries with `efi`.
    /// The program that will read an entry is the one on the ESP, which may be newer than the one that runs.
    pub(crate) fn uki_support_with<'a>(&self, loaders: impl Iterator<Item = &'a Identity>) -> UkiSupport {
        uki_support(loaders, self.elsewhere)
    }
}

/// The same for these loaders and one elsewhere.
pub(crate) fn uki_support<'a>(
    loaders: impl Iterator<Item = &'a Identity>,
    elsewhere: Option<LoaderFeatures>,
) -> UkiSupport {
    let of_programs = loaders
        .filter(|identity| matches!(identity, Identity::SystemdBoot(_)))
        .map(|identity| !identity.hides_uki_key());
    let known: Vec<bool> = of_programs.chain(elsewhere.map(LoaderFeatures::uki)).collect();
    match known.iter().filter(|knows| **knows).count() {
        0 => UkiSupport::None,
        count if count == known.len() => UkiSupport::All,
        _ => UkiSupport::Mixed,
    }
}

/// The programs on an ESP that firmware may start.
pub(crate) fn programs(esp: &Esp) -> Result<Vec<BootProgram>, AccessError> {
    Architecture::native().map_or_else(|| Ok(Vec::new()), |architecture| esp.boot_programs(architecture))
}

/// What the loader can that runs, unless it is a program at one of the places that are looked at, if any are.
fn elsewhere(variables: &EfiVariables, looked_at: bool) -> Option<LoaderFeatures> {
    fn known<T>(result: Result<Option<T>, VariableError>) -> Option<T> {
        result.unwrap_or_else(|err| {
            tracing::debug!("{err}, ignoring");
            None
        })
    }
    let program = known(variables.loader_image_identifier()).map(|path| path.replace('\\', "/"));
    let is_at =
        |path: &String| program.as_ref().is_some_and(|at| at.trim_start_matches('/').eq_ignore_ascii_case(path));
    if looked_at && Architecture::native().is_some_and(|architecture| places(architecture).iter().any(is_at)) {
        return None;
    }
    known(variables.loader_features())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: LoaderFeatures = LoaderFeatures(0x1ff);
    const NEW: LoaderFeatures = LoaderFeatures(0x1_ffff);

    #[test]
    fn key_is_one_that_every_loader_knows() {
        let support = |elsewhere, loaders: &[&str]| {
            let identity = |text: &&str| Identity::of(format!("MZ #### LoaderInfo: {text} ####").as_bytes());
            let identities: Vec<_> = loaders.iter().map(identity).collect();
            uki_support(identities.iter(), elsewhere)
        };
        let (boot_257, boot_262) = ("systemd-boot 257.13-1~deb13u1", "systemd-boot 262.1");
        assert_eq!(support(None, &[boot_262, "GRUB 2.12"]), UkiSupport::All);
        assert_eq!(support(NEW.into(), &[]), UkiSupport::All);
        let mixed = UkiSupport::Mixed;
        assert_eq!(support(None, &[boot_262, boot_257]), mixed, "firmware may start the other one next time");
        assert_eq!(support(OLD.into(), &[boot_262]), mixed, "as may the one elsewhere");
        assert_eq!(support(NEW.into(), &["systemd-boot next"]), mixed, "who knows");
        for loaders in [&[boot_257][..], &["GRUB 2.12"], &[]] {
            assert_eq!(support(None, loaders), UkiSupport::None);
        }
        let keys = [UkiSupport::None, mixed, UkiSupport::All].map(UkiSupport::key);
        assert_eq!(keys, [UkiKey::Efi, UkiKey::Efi, UkiKey::Uki]);
    }

    #[test]
    fn loader_that_runs_counts_only_if_it_is_none_of_the_programs() {
        let dir = tempfile::tempdir().unwrap();
        let vendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        let write = |name: &str, value: &[u8]| {
            std::fs::write(dir.path().join(format!("{name}-{vendor}")), [&[6, 0, 0, 0], value].concat()).unwrap();
        };
        let variables = EfiVariables::new(dir.path());
        assert_eq!(elsewhere(&variables, true), None);
        write("LoaderFeatures", &OLD.0.to_le_bytes());
        assert_eq!(elsewhere(&variables, true), Some(OLD), "it does not say where it is");
        let at = |path: &str| {
            let utf16: Vec<u8> = path.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            write("LoaderImageIdentifier", &utf16);
            elsewhere(&variables, true)
        };
        let name = Architecture::native().unwrap().systemd_boot().to_uppercase();
        assert_eq!(at(&format!("\\EFI\\SYSTEMD\\{name}")), None, "it may have been replaced since");
        assert_eq!(elsewhere(&variables, false), Some(OLD), "there is nothing else to go by");
        assert_eq!(at("\\EFI\\debian\\systemd-bootx64.efi"), Some(OLD));
    }
}
