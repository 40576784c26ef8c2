//! The serials of summaries that were seen, so that an older one is not taken for new.
//!
//! ```text
//! published-<SHA-256 of the tree>   "<serial> <tree>\n"
//! ```
//!
//! In the directory of the repository. A tree is an address, and behind it the key that has signed the summary if one was
//! demanded: nobody else's summary counts then. Written when an image was pulled: what is only looked at is not remembered.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::{FileError, Repository};
use crate::durable::write_file;
use crate::oci::ContentDigest;

/// Permissions of the files.
const FILE_MODE: u32 = 0o644;
/// Most bytes that are read: the number is at the beginning.
const READ_MAX_BYTES: u64 = 32;

/// The serial of a summary that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSerial {
    /// The number.
    pub serial: u64,
    /// Where it is remembered; without this file, it is not.
    pub file: PathBuf,
}

fn name(tree: &str) -> String {
    format!("published-{}", ContentDigest::sha256(tree.as_bytes()).hex())
}

impl Repository {
    /// The highest serial of the tree from which an image was pulled into the repository.
    ///
    /// # Errors
    /// When the repository cannot be read. What is no number counts as none.
    pub fn seen_serial(&self, tree: &str) -> Result<Option<SeenSerial>, FileError> {
        let name = name(tree);
        let failed = |action, source: io::Error| self.file_error(action, &name, source);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(&self.dir, &name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("open", errno.into())),
        };
        let mut text = Vec::new();
        file.take(READ_MAX_BYTES).read_to_end(&mut text).map_err(|error| failed("read", error))?;
        let serial = String::from_utf8_lossy(&text).split(' ').next().and_then(|number| number.parse().ok());
        if serial.is_none() {
            tracing::warn!("{name} in the repository has no number, ignoring");
        }
        Ok(serial.map(|serial| SeenSerial { serial, file: self.path().join(&name) }))
    }

    /// Remembers that a summary with this serial was seen, unless one with a higher serial was. Durable on return.
    ///
    /// # Errors
    /// When the repository cannot be written to.
    pub fn remember_serial(&self, tree: &str, serial: u64) -> Result<(), FileError> {
        if self.seen_serial(tree)?.is_some_and(|seen| seen.serial >= serial) {
            return Ok(());
        }
        let name = name(tree);
        write_file(self.dir.as_fd(), &name, FILE_MODE, format!("{serial} {tree}\n").as_bytes())
            .map_err(|error| self.file_error("write", &name, error))
    }
}
