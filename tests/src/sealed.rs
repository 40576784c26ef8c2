//! A sealed system: what its firmware starts is signed, and names the one image that may run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::disk;
use crate::lab::{Lab, flatten};
use crate::secure_boot::Role;
use crate::uki;

/// A raw disk with a sealed system, to be attacked.
#[derive(Debug)]
pub struct Sealed {
    /// The disk.
    pub disk: PathBuf,
    /// Digest of the image, in hex.
    pub id: String,
    /// Where the UKI is on the ESP.
    pub uki: String,
    /// Its kernel command line.
    pub command_line: String,
    /// Where the boot entry is on the ESP.
    entry: String,
}

impl Sealed {
    /// Version 1 as it was installed, with a UKI in place of kernel and initramfs, signed with the key for programs.
    /// `directory` is a place for the disk.
    pub fn make(lab: &Lab, directory: &Path) -> Result<Self> {
        let keys = lab.images().secure_boot_keys();
        let disk = directory.join("sealed.raw");
        flatten(&lab.installed_copy(directory)?, &disk)?;
        let names = disk::esp_names(&disk, "/loader/entries")?;
        let name = names.into_iter().find(|name| name.starts_with("osupdate-")).context("no entry was installed")?;
        let entry_path = format!("loader/entries/{name}");
        let entry = String::from_utf8(disk::read_esp(&disk, &entry_path)?)?;
        let command_line = entry.lines().find_map(|line| line.strip_prefix("options ")).context("no options")?;
        let id = command_line.split(['=', ':', ' ']).find(|word| word.len() == 128).context("no digest")?;
        let sealed = Self {
            uki: format!("EFI/osupdate/{id}.efi"),
            id: id.to_owned(),
            command_line: command_line.to_owned(),
            disk,
            entry: entry_path,
        };
        let program = uki::sign(&uki::build(lab.images(), command_line)?, keys, Role::Db)?;
        disk::write_esp(&sealed.disk, &sealed.uki, &program)?;
        let other = entry.lines().filter(|line| !["linux", "initrd", "options"].contains(&first_word(line)));
        let mut entry: Vec<&str> = other.collect();
        let efi = format!("efi /{}", sealed.uki);
        entry.push(&efi);
        disk::write_esp(&sealed.disk, &sealed.entry, format!("{}\n", entry.join("\n")).as_bytes())?;
        Ok(sealed)
    }

    /// Adds a line to the boot entry.
    pub fn edit_entry(&self, line: &str) -> Result<()> {
        let mut entry = String::from_utf8(disk::read_esp(&self.disk, &self.entry)?)?;
        entry.push_str(line);
        entry.push('\n');
        disk::write_esp(&self.disk, &self.entry, entry.as_bytes())
    }

    /// The UKI as it is on the ESP.
    pub fn program(&self) -> Result<Vec<u8>> {
        disk::read_esp(&self.disk, &self.uki)
    }
}

fn first_word(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}
