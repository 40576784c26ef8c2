//! The files that images are stored in, wherever they are: in a directory or in an archive.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

/// Files by their names, which are relative and have slashes between their parts.
pub(crate) trait Files: fmt::Debug + Send + Sync {
    /// Opens a file; whoever reads it compares its digest.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>>;

    /// Opens a file that nobody states a digest of.
    fn open_document(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>> {
        self.open(name)
    }
}

/// The files below a directory.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }
}

impl Files for Directory {
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>> {
        // A pipe in place of a file would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat(&self.0, name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
        }
        Ok(Box::new(file))
    }
}

/// Reads a whole file, failing if it is longer than `max` bytes.
pub(crate) fn read_bounded(reader: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {max} bytes")));
    }
    Ok(bytes)
}
