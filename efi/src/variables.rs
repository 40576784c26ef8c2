//! EFI variables with which loader and OS talk, read from efivarfs.
//!
//! A variable that is not there is `None`: other loaders set few of them, and a machine without EFI none. What firmware and
//! shim say of Secure Boot is read in [`crate::secure_boot`]. Source: the boot loader interface of systemd.

use std::fs;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::gpt::Guid;
use crate::secure_boot::SignatureListError;

/// Vendor of the loader interface's variables.
const LOADER_VENDOR: Guid = Guid::new(0x4a67b082, 0x0a4c, 0x41cf, 0xb6c7_440b29bb8c4f);

/// A file beside efivarfs that is there on every machine with EFI.
const OF_FIRMWARE: &str = "fw_platform_size";

/// Attributes that efivarfs puts before the value.
const ATTRIBUTES_LEN: usize = 4;

/// The loader's variables in a mounted efivarfs.
#[derive(Clone, Debug)]
pub struct EfiVariables {
    dir: PathBuf,
}

/// Why a variable cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VariableError {
    /// It cannot be read.
    #[error("cannot read the EFI variable {name}")]
    Read {
        /// The variable.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its value does not have the form that the interface asks for.
    #[error("the EFI variable {name} is malformed")]
    Malformed {
        /// The variable.
        name: String,
    },
    /// It is no list of signatures.
    #[error("the EFI variable {name} has no list of signatures that can be read")]
    SignatureList {
        /// The variable.
        name: String,
        /// What is wrong.
        #[source]
        source: SignatureListError,
    },
}

/// What the loader can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderFeatures(pub u64);

impl LoaderFeatures {
    /// Counts the boots of entries.
    pub const fn boot_counting(self) -> bool {
        self.has_bit(4)
    }

    /// Sorts entries by the key `sort-key`.
    pub const fn sort_key(self) -> bool {
        self.has_bit(8)
    }

    /// Knows the key `uki` in entries.
    pub const fn uki(self) -> bool {
        self.has_bit(16)
    }

    const fn has_bit(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }
}

impl Default for EfiVariables {
    /// Where Linux has them.
    fn default() -> Self {
        Self::new("/sys/firmware/efi/efivars")
    }
}

impl EfiVariables {
    /// The variables in a directory with the form of efivarfs.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Name and version of the loader: `systemd-boot 257.13`.
    pub fn loader_info(&self) -> Result<Option<String>, VariableError> {
        self.text("LoaderInfo")
    }

    /// What the loader can do.
    pub fn loader_features(&self) -> Result<Option<LoaderFeatures>, VariableError> {
        const NAME: &str = "LoaderFeatures";
        let Some(value) = self.value(NAME, &LOADER_VENDOR)? else { return Ok(None) };
        let bytes = value.try_into().map_err(|_| VariableError::Malformed { name: NAME.to_owned() })?;
        Ok(Some(LoaderFeatures(u64::from_le_bytes(bytes))))
    }

    /// Ids of the entries in the order of the menu.
    pub fn loader_entries(&self) -> Result<Option<Vec<String>>, VariableError> {
        self.texts("LoaderEntries")
    }

    /// Id of the entry that was booted.
    pub fn loader_entry_selected(&self) -> Result<Option<String>, VariableError> {
        self.text("LoaderEntrySelected")
    }

    /// Id, or pattern for ids, of the entry that is always booted, even when all its tries have failed.
    pub fn loader_entry_default(&self) -> Result<Option<String>, VariableError> {
        self.text("LoaderEntryDefault")
    }

    /// Id, or pattern for ids, of the entry that is booted next time only.
    pub fn loader_entry_one_shot(&self) -> Result<Option<String>, VariableError> {
        self.text("LoaderEntryOneShot")
    }

    /// GPT identifier of the partition from which the loader came.
    pub fn loader_device_part_uuid(&self) -> Result<Option<String>, VariableError> {
        self.text("LoaderDevicePartUUID")
    }

    /// Path, with backslashes, of the loader's program.
    pub fn loader_image_identifier(&self) -> Result<Option<String>, VariableError> {
        self.text("LoaderImageIdentifier")
    }

    /// Path, with backslashes, of the counted entry that was booted, after the loader renamed it.
    pub fn loader_boot_count_path(&self) -> Result<Option<String>, VariableError> {
        self.text("LoaderBootCountPath")
    }

    /// Whether firmware has variables and none is shown: efivarfs is not mounted, or runtime services are off.
    pub(crate) fn are_hidden(&self) -> bool {
        let has_firmware = self.dir.parent().is_some_and(|efi| efi.join(OF_FIRMWARE).exists());
        has_firmware && fs::read_dir(&self.dir).map_or(true, |mut items| items.next().is_none())
    }

    /// The value of a variable, without its attributes.
    pub(crate) fn value(&self, name: &str, vendor: &Guid) -> Result<Option<Vec<u8>>, VariableError> {
        let name = || name.to_owned();
        match fs::read(self.dir.join(format!("{}-{vendor}", name()))) {
            Ok(bytes) if bytes.len() >= ATTRIBUTES_LEN => Ok(Some(bytes[ATTRIBUTES_LEN..].to_vec())),
            Ok(_) => Err(VariableError::Malformed { name: name() }),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(VariableError::Read { name: name(), source }),
        }
    }

    /// Strings, each with a NUL after it; the last NUL may be missing.
    fn texts(&self, name: &str) -> Result<Option<Vec<String>>, VariableError> {
        let malformed = || VariableError::Malformed { name: name.to_owned() };
        let Some(value) = self.value(name, &LOADER_VENDOR)? else { return Ok(None) };
        let (units, rest) = value.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(malformed());
        }
        let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        let units = units.strip_suffix(&[0]).unwrap_or(&units);
        units
            .split(|unit| *unit == 0)
            .map(|text| String::from_utf16(text).map_err(|_| malformed()))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// One string; what follows its NUL is left out.
    fn text(&self, name: &str) -> Result<Option<String>, VariableError> {
        Ok(self.texts(name)?.and_then(|texts| texts.into_iter().next()))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn variables(values: &[(&str, &[u8])]) -> (TempDir, EfiVariables) {
        let dir = TempDir::new().unwrap();
        for (name, value) in values {
            fs::write(dir.path().join(format!("{name}-{LOADER_VENDOR}")), value).unwrap();
        }
        let variables = EfiVariables::new(dir.path());
        (dir, variables)
    }

    fn utf16(text: &str) -> Vec<u8> {
        [6, 0, 0, 0].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
    }

    #[test]
    fn texts_end_at_their_nul() {
        let (_dir, variables) = variables(&[
            ("LoaderInfo", &utf16("systemd-boot 257.13\0")),
            ("LoaderEntrySelected", &utf16("ö.conf")),
            ("LoaderEntries", &utf16("a.conf\0b.conf\0auto-reboot\0")),
            ("LoaderDevicePartUUID", &utf16("ABCD\0rest\0")),
        ]);
        assert_eq!(variables.loader_info().unwrap().as_deref(), Some("systemd-boot 257.13"));
        assert_eq!(variables.loader_entry_selected().unwrap().as_deref(), Some("ö.conf"));
        assert_eq!(variables.loader_entries().unwrap().unwrap(), ["a.conf", "b.conf", "auto-reboot"]);
        assert_eq!(variables.loader_device_part_uuid().unwrap().as_deref(), Some("ABCD"));
    }

    #[test]
    fn variables_that_are_not_shown_are_told_from_none() {
        let dir = TempDir::new().unwrap();
        let variables = EfiVariables::new(dir.path().join("efivars"));
        assert!(!variables.are_hidden());
        fs::write(dir.path().join(OF_FIRMWARE), "64\n").unwrap();
        assert!(variables.are_hidden());
        fs::create_dir(dir.path().join("efivars")).unwrap();
        assert!(variables.are_hidden());
        fs::write(dir.path().join("efivars/x"), "").unwrap();
        assert!(!variables.are_hidden());
    }

    #[test]
    fn features_are_bits() {
        let (_dir, variables) = variables(&[("LoaderFeatures", &[6, 0, 0, 0, 0x10, 1, 0, 0, 0, 0, 0, 0])]);
        let features = variables.loader_features().unwrap().unwrap();
        assert!(features.boot_counting() && features.sort_key() && !features.uki());
    }

    #[test]
    fn absent_is_none_and_nonsense_is_an_error() {
        let (_dir, variables) = variables(&[
            ("LoaderInfo", &[6, 0]),
            ("LoaderFeatures", &[6, 0, 0, 0, 1]),
            ("LoaderEntryDefault", &[6, 0, 0, 0, 0x61]),
            ("LoaderEntrySelected", &[6, 0, 0, 0, 0x00, 0xd8, 0, 0]),
        ]);
        assert_eq!(variables.loader_boot_count_path().unwrap(), None);
        assert_eq!(EfiVariables::new("/nowhere").loader_entry_one_shot().unwrap(), None);
        assert!(matches!(variables.loader_info(), Err(VariableError::Malformed { .. })));
        assert!(matches!(variables.loader_features(), Err(VariableError::Malformed { .. })));
        assert!(matches!(variables.loader_entry_default(), Err(VariableError::Malformed { .. })));
        assert!(matches!(variables.loader_entry_selected(), Err(VariableError::Malformed { .. })));
    }
}
