//! All kernel command lines that the partition can boot with.

use std::io;

use super::Esp;
use crate::medium::AccessError;
use crate::paths;
use crate::uki::{self, UkiError};

/// Directories within [`paths::TYPE_2`] that are looked into: addons are in one beside their UKI.
const DEPTH: usize = 3;

/// Kernel command lines and where they come from.
#[derive(Debug, Default)]
pub struct CommandLines {
    /// Name of the entry or path of the file, and the line.
    pub lines: Vec<(String, String)>,
    /// Files that have the names of UKIs and are none; nothing can start them.
    pub unusable: Vec<String>,
}

impl Esp {
    /// The command lines of all Type #1 entries, and those embedded in UKIs and addons: all `.efi` files below
    /// `EFI/Linux` and in `loader/addons`, and what entries name, with the addons beside it.
    ///
    /// # Errors
    /// When an entry or directory cannot be read, or a file, also for being damaged: it may be the one that is needed.
    pub fn command_lines(&self) -> Result<CommandLines, AccessError> {
        let mut found = CommandLines::default();
        let listing = self.entries()?;
        if let Some(unreadable) = listing.unreadable.into_iter().next() {
            return Err(unreadable.error);
        }
        let mut programs = Vec::new();
        self.find_programs(paths::TYPE_2, DEPTH, &mut programs)?;
        self.find_programs(paths::ADDONS, 1, &mut programs)?;
        for named in listing.entries {
            let file_name = named.name.file_name().to_owned();
            for path in [&named.entry.efi, &named.entry.uki].into_iter().flatten() {
                // Firmware takes both.
                let path = path.replace('\\', "/").trim_start_matches('/').to_owned();
                self.find_programs(&format!("{path}{}", paths::OWN_ADDONS), 1, &mut programs)?;
                programs.push(path);
            }
            found.lines.push((file_name, named.entry.command_line()));
        }
        programs.sort();
        programs.dedup();
        for path in programs {
            let Some(file) = self.medium.open_uncached(&path)? else { continue };
            match uki::command_lines(file) {
                Ok(lines) => found.lines.extend(lines.into_iter().map(|line| (path.clone(), line))),
                Err(UkiError::NotPe) => found.unusable.push(path),
                Err(UkiError::Read(source)) => return Err(self.medium.error("read", &path, source)),
                Err(error) => {
                    let source = io::Error::new(io::ErrorKind::InvalidData, error);
                    return Err(self.medium.error("read", &path, source));
                }
            }
        }
        Ok(found)
    }

    fn find_programs(&self, directory: &str, depth: usize, found: &mut Vec<String>) -> Result<(), AccessError> {
        for item in self.medium.list(directory)? {
            let path = format!("{directory}/{}", item.name);
            if item.is_dir && depth > 1 {
                self.find_programs(&path, depth - 1, found)?;
            } else if !item.is_dir && item.name.to_ascii_lowercase().ends_with(".efi") {
                found.push(path);
            }
        }
        Ok(())
    }
}
