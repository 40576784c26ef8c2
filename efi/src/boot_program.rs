//! The programs that firmware starts from an ESP: which they are, and replacing them by newer ones.
//!
//! A machine has them at up to two places: where a boot variable points, and where firmware looks without one. They are
//! replaced one after the other, in a way that leaves each name with a whole program at every moment; see `LAYOUT.md`.

use std::io::ErrorKind;

use thiserror::Error;

use crate::esp::{Esp, NoSpace, SpaceError};
use crate::loader_install::{Architecture, PROGRAM_LIMIT_BYTES};
use crate::medium::{AccessError, EXCHANGE};

/// Begins systemd-boot's name and version; a space and four number signs end them.
const LOADER_INFO: &[u8] = b"#### LoaderInfo: ";
const LOADER_INFO_END: &[u8] = b" ####";
/// What the name and version begin with.
const SYSTEMD_BOOT: &str = "systemd-boot ";
/// Begins shim's version; a space and a dollar sign end it.
const SHIM_VERSION: &[u8] = b"UEFI SHIM\n$Version: ";
const SHIM_VERSION_END: &[u8] = b" $";
/// The first systemd-boot that knows the key `uki` in entries.
const UKI_KEY: u32 = 258;
/// Longer texts are no version.
const VERSION_MAX: usize = 128;

/// Begins and ends the names of files on their way to become a program.
const TEMPORARY: (&str, &str) = ("osupdate-", ".tmp");
/// So many of them may stay, because their clusters may be in use.
const TEMPORARIES_MAX: usize = 16;

/// Which program it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// systemd-boot, with its version: `257.13-1~deb13u1`.
    SystemdBoot(String),
    /// shim, with its version: `15.8`.
    Shim(String),
    /// Something else.
    Other,
}

impl Identity {
    /// Finds out which program it is, by the text that the program itself has for this purpose.
    pub fn of(program: &[u8]) -> Self {
        let systemd_boot = text_between(program, LOADER_INFO, LOADER_INFO_END)
            .and_then(|info| info.strip_prefix(SYSTEMD_BOOT).map(str::to_owned));
        let shim = || text_between(program, SHIM_VERSION, SHIM_VERSION_END);
        systemd_boot.map(Self::SystemdBoot).or_else(|| shim().map(Self::Shim)).unwrap_or(Self::Other)
    }

    /// Its version, if it is known.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::SystemdBoot(version) | Self::Shim(version) => Some(version),
            Self::Other => None,
        }
    }

    /// Whether it is a systemd-boot that does not know the key `uki`, and hides entries that have it.
    pub fn hides_uki_key(&self) -> bool {
        let Self::SystemdBoot(version) = self else { return false };
        let major = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u32>().ok());
        major.is_none_or(|major| major < UKI_KEY)
    }
}

fn text_between(bytes: &[u8], begin: &[u8], end: &[u8]) -> Option<String> {
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let rest = &bytes[find(bytes, begin)? + begin.len()..];
    let rest = &rest[..rest.len().min(VERSION_MAX)];
    let text = std::str::from_utf8(&rest[..find(rest, end)?]).ok()?;
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')).then(|| text.to_owned())
}

/// A program at a place from which it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootProgram {
    /// Where it is, from the root of the ESP.
    pub path: String,
    /// Which it is.
    pub identity: Identity,
    /// The program; empty if it is larger than any boot loader.
    pub contents: Vec<u8>,
}

/// Why a program was not replaced.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// What was written is not what is read back; the old program is in place.
    #[error("the new {path} on {place} reads back otherwise than it was written; the old one is in place")]
    ReadBack {
        /// The file.
        path: String,
        /// The partition.
        place: String,
    },
    /// The directory has too many files from runs that were interrupted.
    #[error("{directory} on {place} has too many files {}*{}", TEMPORARY.0, TEMPORARY.1)]
    Temporaries {
        /// The directory.
        directory: String,
        /// The partition.
        place: String,
    },
    /// There is not enough room.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// An operation on the partition failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl ReplaceError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ReadBack { .. } => Some(
                "the medium does not keep what is written: save what is on it, and replace it or make the file system anew",
            ),
            Self::Temporaries { .. } => Some(
                "check the partition with fsck.fat -n; if it finds no clusters that are shared, these files can be removed by hand",
            ),
            Self::Access(err) if err.action == EXCHANGE && err.source.kind() == ErrorKind::InvalidInput => {
                Some("this kernel cannot exchange two files on FAT: boot Linux 6.0 or later")
            }
            Self::NoSpace(_) | Self::Access(_) => None,
        }
    }
}

impl From<SpaceError> for ReplaceError {
    fn from(err: SpaceError) -> Self {
        match err {
            SpaceError::NoSpace(err) => Self::NoSpace(err),
            SpaceError::Access(err) => Self::Access(err),
        }
    }
}

/// The places from which programs are started, in the order in which they are replaced: where a boot variable of ours or of
/// bootctl points, what shim starts, and at last where firmware looks by itself.
pub fn places(architecture: Architecture) -> [String; 3] {
    let name = architecture.efi_name();
    [
        format!("EFI/systemd/{}", architecture.systemd_boot()),
        format!("EFI/BOOT/grub{name}.efi"),
        format!("EFI/BOOT/{}", architecture.default_program()),
    ]
}

impl Esp {
    /// The programs at the [`places`] from which they are started.
    pub fn boot_programs(&self, architecture: Architecture) -> Result<Vec<BootProgram>, AccessError> {
        let mut found = Vec::new();
        for path in places(architecture) {
            if let Some(contents) = self.read_program(&path)? {
                found.push(BootProgram { identity: Identity::of(&contents), contents, path });
            }
        }
        Ok(found)
    }

    /// Reads a program, `None` if there is none. Of one that is larger than any boot loader, as a UKI may be, nothing is read.
    fn read_program(&self, path: &str) -> Result<Option<Vec<u8>>, AccessError> {
        match self.medium.read(path, PROGRAM_LIMIT_BYTES) {
            Err(err) if err.source.kind() == ErrorKind::FileTooLarge => Ok(Some(Vec::new())),
            result => result,
        }
    }

    /// Replaces a program by another one, which is verified before and after. At every moment the name has the old program
    /// or the new one, whole. On return the new one survives a crash.
    pub fn replace_program(&self, path: &str, program: &[u8]) -> Result<(), ReplaceError> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let read_back = || ReplaceError::ReadBack { path: path.to_owned(), place: self.place().to_owned() };
        let kept = self.remove_temporaries(directory)?;
        self.check_space(&[program.len() as u64])?;
        let temporary = self.free_name(directory)?;
        let temporary_path = format!("{directory}/{temporary}");
        let is_new = |path: &str| Ok::<_, AccessError>(self.read_program(path)?.as_deref() == Some(program));

        self.medium.write_new(&temporary_path, &mut &program[..])?;
        self.medium.barrier()?;
        if !is_new(&temporary_path)? {
            self.medium.remove_file(&temporary_path)?;
            return Err(read_back());
        }
        self.medium.exchange(directory, &temporary, name)?;
        self.medium.barrier()?;
        if !is_new(path)? {
            self.medium.exchange(directory, &temporary, name)?;
            self.medium.barrier()?;
            return Err(read_back());
        }
        if kept > 0 {
            // The old program may share its clusters with one of those.
            self.remove_temporaries(directory)?;
        } else {
            self.medium.remove_file(&temporary_path)?;
            self.medium.barrier()?;
        }
        Ok(())
    }

    /// Removes what interrupted replacements left. What has the contents of another file there may share its clusters, after
    /// a power cut in the exchange: removing it would free those of the other. Returns how many stay for that reason.
    fn remove_temporaries(&self, directory: &str) -> Result<usize, AccessError> {
        let read = |name: &str| self.read_program(&format!("{directory}/{name}"));
        let names: Vec<_> =
            self.medium.list(directory)?.into_iter().filter(|item| !item.is_dir).map(|item| item.name).collect();
        let (mut removed, mut kept) = (false, 0);
        for name in names.iter().filter(|name| is_temporary(name)) {
            let contents = read(name)?;
            let mut shared = false;
            for other in names.iter().filter(|other| *other != name) {
                shared |= contents.as_ref().is_some_and(|contents| !contents.is_empty()) && read(other)? == contents;
            }
            if shared {
                tracing::warn!("{directory}/{name} on {} may be a part of a program there, keeping it", self.place());
                kept += 1;
                continue;
            }
            removed |= self.medium.remove_file(&format!("{directory}/{name}"))?;
        }
        if removed {
            self.medium.barrier()?;
        }
        Ok(kept)
    }

    fn free_name(&self, directory: &str) -> Result<String, ReplaceError> {
        let names: Vec<_> = self.medium.list(directory)?.into_iter().map(|item| item.name.to_lowercase()).collect();
        let candidates = (0..TEMPORARIES_MAX).map(|number| format!("{}{number}{}", TEMPORARY.0, TEMPORARY.1));
        candidates.into_iter().find(|name| !names.contains(name)).ok_or_else(|| ReplaceError::Temporaries {
            directory: directory.to_owned(),
            place: self.place().to_owned(),
        })
    }
}

fn is_temporary(name: &str) -> bool {
    let name = name.to_lowercase();
    name.strip_prefix(TEMPORARY.0)
        .and_then(|rest| rest.strip_suffix(TEMPORARY.1))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::loader_install::Loader;
    use crate::medium::power::Tear;

    const OLD: &[u8] = b"MZ old #### LoaderInfo: systemd-boot 257.13-1~deb13u1 #### code";
    const NEW: &[u8] = b"MZ new #### LoaderInfo: systemd-boot 258.1 ####, with more code";

    fn esp(dir: &TempDir) -> Esp {
        Esp::new(fs::File::open(dir.path()).unwrap().into(), "the test ESP")
    }

    fn installed() -> TempDir {
        let dir = TempDir::new().unwrap();
        let loader = Loader { program: OLD, architecture: Architecture::X64, timeout_secs: 3, enrols_keys: false };
        esp(&dir).install_loader(&loader).unwrap();
        dir
    }

    #[test]
    fn programs_say_who_they_are() {
        assert_eq!(Identity::of(OLD), Identity::SystemdBoot("257.13-1~deb13u1".to_owned()));
        assert_eq!(Identity::of(b"MZ UEFI SHIM\n$Version: 15.8 $\n$BuildMachine"), Identity::Shim("15.8".to_owned()));
        for other in [
            &b"MZ"[..],
            b"#### LoaderInfo: systemd-boot ",
            b"#### LoaderInfo: systemd-boot 257\x07 ####",
            b"#### LoaderInfo: another 1 ####",
        ] {
            assert_eq!(Identity::of(other), Identity::Other);
        }
        let endless = [b"#### LoaderInfo: systemd-boot ", &[b'1'; 1000][..], b" ####"].concat();
        assert_eq!(Identity::of(&endless), Identity::Other);
    }

    #[test]
    fn what_is_installed_is_found_in_the_order_of_replacement() {
        let dir = installed();
        fs::write(dir.path().join("EFI/BOOT/grubx64.efi"), b"MZ grub").unwrap();
        let found = esp(&dir).boot_programs(Architecture::X64).unwrap();
        let paths: Vec<_> = found.iter().map(|program| (program.path.as_str(), program.identity.version())).collect();
        let version = Some("257.13-1~deb13u1");
        assert_eq!(
            paths,
            [
                ("EFI/systemd/systemd-bootx64.efi", version),
                ("EFI/BOOT/grubx64.efi", None),
                ("EFI/BOOT/BOOTX64.EFI", version)
            ]
        );
    }

    /// Replaces all, as far as it is not done. Stops at the first error, as the caller does.
    fn update(esp: &Esp) -> Result<(), ReplaceError> {
        for program in esp.boot_programs(Architecture::X64)? {
            if program.contents != NEW {
                esp.replace_program(&program.path, NEW)?;
            }
        }
        Ok(())
    }

    #[test]
    fn every_place_has_a_whole_program_after_every_cut() {
        let paths = ["EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"];
        let (mut cuts, mut shared_cuts) = (0, 0);
        for tear in Tear::ALL {
            for operations in 0.. {
                assert!(operations < 100, "the update never completes");
                let dir = installed();
                let cut = esp(&dir);
                cut.medium.power.cut_after(operations, tear);
                let first = update(&cut);
                let was_cut = cut.medium.power.is_off();
                assert_eq!(first.is_err(), was_cut);
                let read = |path: &str| fs::read(dir.path().join(path)).unwrap();
                assert!(paths.iter().all(|path| [OLD, NEW].contains(&&read(path)[..])), "{operations} {tear:?}");
                // The second is not touched before the first is done.
                assert!(read(paths[1]) == OLD || read(paths[0]) == NEW, "{operations} {tear:?}");
                // Contents with two names share clusters: neither name may be removed.
                let shared: Vec<_> = paths
                    .iter()
                    .map(|path| (dir.path().join(path), fs::metadata(dir.path().join(path)).unwrap()))
                    .filter(|(_, metadata)| metadata.nlink() > 1)
                    .map(|(path, metadata)| (path.parent().unwrap().to_owned(), metadata.ino()))
                    .collect();
                if !was_cut {
                    break;
                }
                cuts += 1;
                update(&esp(&dir)).unwrap();
                assert!(paths.iter().all(|path| read(path) == NEW), "{operations} {tear:?}");
                for (directory, inode) in shared {
                    let items = fs::read_dir(directory).unwrap().map(|item| item.unwrap().metadata().unwrap());
                    assert_eq!(items.filter(|item| item.ino() == inode).count(), 2, "{operations} {tear:?}");
                    shared_cuts += 1;
                }
            }
        }
        assert!(cuts > 40 && shared_cuts == 4, "{cuts} {shared_cuts}");
    }

    #[test]
    fn nothing_is_left_behind_and_leftovers_go() {
        let dir = installed();
        let boot = dir.path().join("EFI/BOOT");
        fs::write(boot.join("osupdate-0.tmp"), "half").unwrap();
        fs::write(boot.join("osupdate-x.tmp"), "not ours").unwrap();
        update(&esp(&dir)).unwrap();
        let mut names: Vec<_> = fs::read_dir(boot).unwrap().map(|item| item.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["BOOTX64.EFI", "osupdate-x.tmp"]);
    }
}
