//! Putting systemd-boot on a new ESP.
//!
//! Only for installation: a loader that is there is never replaced here; see [`crate::boot_program`] for that.

use thiserror::Error;

use crate::esp::{Esp, NoSpace, SpaceError};
use crate::medium::AccessError;
use crate::paths;

/// Larger than any systemd-boot.
pub(crate) const PROGRAM_LIMIT_BYTES: u64 = 64 << 20;

/// Says that entries are used as the boot loader specification has it.
const SREL_TYPE_1: &str = "type1\n";

/// Processor architecture, as EFI names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    X64,
    /// 32-bit x86, also as the firmware of some 64-bit machines.
    Ia32,
    /// 64-bit Arm.
    Aa64,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit LoongArch.
    Loongarch64,
}

impl Architecture {
    /// The architecture for which this program was built, if EFI has it.
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X64)
        } else if cfg!(target_arch = "x86") {
            Some(Self::Ia32)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aa64)
        } else if cfg!(target_arch = "riscv64") {
            Some(Self::Riscv64)
        } else if cfg!(target_arch = "loongarch64") {
            Some(Self::Loongarch64)
        } else {
            None
        }
    }

    /// As it stands in file names: `x64`.
    pub const fn efi_name(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Ia32 => "ia32",
            Self::Aa64 => "aa64",
            Self::Riscv64 => "riscv64",
            Self::Loongarch64 => "loongarch64",
        }
    }

    /// File name of systemd-boot, on the ESP and below `/usr/lib/systemd/boot/efi`: `systemd-bootx64.efi`.
    pub fn systemd_boot(self) -> String {
        format!("systemd-boot{}.efi", self.efi_name())
    }

    /// File name of the program that firmware starts when it has no boot variable: `BOOTX64.EFI`.
    pub fn default_program(self) -> String {
        format!("BOOT{}.EFI", self.efi_name().to_uppercase())
    }
}

/// What is installed.
#[derive(Clone, Copy, Debug)]
pub struct Loader<'a> {
    /// systemd-boot.
    pub program: &'a [u8],
    /// For which machine.
    pub architecture: Architecture,
    /// How long the menu is shown; 0 hides it unless a key is held.
    pub timeout_secs: u32,
    /// Whether there are Secure Boot keys for it to enrol. It does so by itself in virtual machines only: on others, firmware
    /// may need the keys of their maker, and the user decides in the menu.
    pub enrols_keys: bool,
}

/// A set of Secure Boot keys for the loader to enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentKeys {
    /// Its name, which the menu shows. `auto` is the one that may be enrolled without being asked for.
    pub set: String,
    /// Names of variables (`PK`) and their signed contents.
    pub variables: Vec<(String, Vec<u8>)>,
}

/// Why the loader was not installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstallLoaderError {
    /// There is another file.
    #[error("{place} has another {path} already")]
    AlreadyThere {
        /// The file.
        path: String,
        /// The partition.
        place: String,
    },
    /// What was written is not what is read back.
    #[error("{path} on {place} reads back otherwise than it was written")]
    ReadBack {
        /// The file.
        path: String,
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

impl From<SpaceError> for InstallLoaderError {
    fn from(err: SpaceError) -> Self {
        match err {
            SpaceError::NoSpace(err) => Self::NoSpace(err),
            SpaceError::Access(err) => Self::Access(err),
        }
    }
}

impl Esp {
    /// Installs systemd-boot where firmware finds it without a boot variable, with its configuration.
    ///
    /// Files that are there with the right contents are left; a program with other contents is an error, another
    /// `loader.conf` or `entries.srel` is somebody's choice and stays. The program that firmware starts comes last. On
    /// return everything survives a crash.
    pub fn install_loader(&self, loader: &Loader<'_>) -> Result<(), InstallLoaderError> {
        let Loader { program, architecture, timeout_secs, enrols_keys } = *loader;
        let size_bytes = program.len() as u64;
        self.check_space(&[size_bytes, size_bytes, 1, 1])?;
        // The specification wants entries.srel only together with a directory that is new.
        let entries_are_new = self.medium.list("loader")?.iter().all(|item| !item.name.eq_ignore_ascii_case("entries"));
        for directory in [paths::ENTRIES, paths::TYPE_2, "EFI/systemd", "EFI/BOOT"] {
            self.medium.make_dirs(directory)?;
        }
        if entries_are_new {
            self.write_if_absent(paths::ENTRIES_SREL, SREL_TYPE_1.as_bytes())?;
        }
        let mut configuration = format!("timeout {timeout_secs}\n");
        if enrols_keys {
            configuration.push_str("secure-boot-enroll if-safe\n");
        }
        self.write_if_absent(paths::LOADER_CONF, configuration.as_bytes())?;
        for path in [
            format!("EFI/systemd/{}", architecture.systemd_boot()),
            format!("EFI/BOOT/{}", architecture.default_program()),
        ] {
            self.put_program(&path, program)?;
        }
        Ok(())
    }

    /// Puts a set of keys where systemd-boot finds it. Files that are there must have the same contents. Durable on return.
    pub fn install_enrolment_keys(&self, keys: &EnrolmentKeys) -> Result<(), InstallLoaderError> {
        let sizes_bytes: Vec<u64> = keys.variables.iter().map(|(_, contents)| contents.len() as u64).collect();
        self.check_space(&sizes_bytes)?;
        let directory = format!("{}/{}", paths::ENROLMENT_KEYS, keys.set);
        self.medium.make_dirs(&directory)?;
        for (variable, contents) in &keys.variables {
            self.put_program(&format!("{directory}/{variable}.auth"), contents)?;
        }
        Ok(())
    }

    fn put_program(&self, path: &str, program: &[u8]) -> Result<(), InstallLoaderError> {
        let (path, place) = (path.to_owned(), self.place().to_owned());
        if self.write_if_absent(&path, program)? {
            self.medium.barrier()?;
            let read = self.medium.read(&path, PROGRAM_LIMIT_BYTES)?;
            return if read.as_deref() == Some(program) {
                Ok(())
            } else {
                Err(InstallLoaderError::ReadBack { path, place })
            };
        }
        let read = self.medium.read(&path, PROGRAM_LIMIT_BYTES)?;
        if read.as_deref() == Some(program) { Ok(()) } else { Err(InstallLoaderError::AlreadyThere { path, place }) }
    }

    /// Writes a file if there is none; `false` if there is one.
    fn write_if_absent(&self, path: &str, contents: &[u8]) -> Result<bool, AccessError> {
        match self.medium.write_new(path, &mut &contents[..]) {
            Ok(_) => Ok(true),
            Err(err) if err.source.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(err) => Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const LOADER: Loader<'_> =
        Loader { program: b"MZ loader", architecture: Architecture::X64, timeout_secs: 3, enrols_keys: false };

    fn esp() -> (TempDir, Esp) {
        let dir = TempDir::new().unwrap();
        let esp = Esp::new(fs::File::open(dir.path()).unwrap().into(), "the test ESP");
        (dir, esp)
    }

    #[test]
    fn everything_is_where_firmware_and_loader_look() {
        let (dir, esp) = esp();
        esp.install_loader(&LOADER).unwrap();
        let read = |path: &str| fs::read(dir.path().join(path)).unwrap();
        assert_eq!(read("EFI/systemd/systemd-bootx64.efi"), b"MZ loader");
        assert_eq!(read("EFI/BOOT/BOOTX64.EFI"), b"MZ loader");
        assert_eq!(read("loader/loader.conf"), b"timeout 3\n");
        assert_eq!(read("loader/entries.srel"), b"type1\n");
        assert!(dir.path().join("loader/entries").is_dir() && dir.path().join("EFI/Linux").is_dir());
        // A second run finds all that it wants.
        esp.install_loader(&LOADER).unwrap();
    }

    #[test]
    fn keys_are_where_the_loader_looks_and_it_is_told_when_to_enrol_them() {
        let (dir, esp) = esp();
        let variables = ["db", "KEK", "PK"].map(|name| (name.to_owned(), format!("signed {name}").into_bytes()));
        let keys = EnrolmentKeys { set: "auto".to_owned(), variables: variables.to_vec() };
        esp.install_enrolment_keys(&keys).unwrap();
        esp.install_enrolment_keys(&keys).unwrap();
        esp.install_loader(&Loader { enrols_keys: true, ..LOADER }).unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read("loader/keys/auto/KEK.auth"), "signed KEK");
        assert_eq!(read("loader/loader.conf"), "timeout 3\nsecure-boot-enroll if-safe\n");
        let other = EnrolmentKeys { variables: vec![("PK".to_owned(), b"another".to_vec())], ..keys };
        let err = esp.install_enrolment_keys(&other).unwrap_err();
        assert!(matches!(err, InstallLoaderError::AlreadyThere { .. }), "{err}");
    }

    #[test]
    fn what_others_put_there_stays() {
        let (dir, esp) = esp();
        fs::create_dir_all(dir.path().join("loader/entries")).unwrap();
        fs::write(dir.path().join("loader/loader.conf"), "timeout 9\n").unwrap();
        fs::create_dir_all(dir.path().join("EFI/BOOT")).unwrap();
        fs::write(dir.path().join("EFI/BOOT/BOOTX64.EFI"), "another loader").unwrap();
        let err = esp.install_loader(&LOADER).unwrap_err();
        assert_eq!(err.to_string(), "the test ESP has another EFI/BOOT/BOOTX64.EFI already");
        assert_eq!(fs::read(dir.path().join("EFI/BOOT/BOOTX64.EFI")).unwrap(), b"another loader");
        assert_eq!(fs::read(dir.path().join("loader/loader.conf")).unwrap(), b"timeout 9\n");
        assert!(!dir.path().join("loader/entries.srel").exists());
    }

    #[test]
    fn names_are_those_of_firmware() {
        assert_eq!(Architecture::Aa64.default_program(), "BOOTAA64.EFI");
        assert_eq!(Architecture::X64.systemd_boot(), "systemd-bootx64.efi");
    }
}
