//! OCI layouts for tests: those of the vectors, and ones made on the spot.

use std::fs;
use std::path::{Path, PathBuf};

use osupdate_core::oci::{Layout, Platform};
use osupdate_core::repository::{Repository, Verity};
use osupdate_core::tar::{EntryKind, FormatError, Input, Reader};
use osupdate_core::tree::Content;
use osupdate_core::{Algorithm, Digest, fsverity};
use tempfile::TempDir;

/// A vector, unpacked.
pub(crate) struct Fixture(TempDir);

impl Fixture {
    /// Unpacks an archive of `vectors/oci`.
    pub(crate) fn unpack(name: &str) -> Self {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/oci").join(name);
        let dir = tempfile::tempdir().unwrap();
        unpack(&fs::read(archive).unwrap(), dir.path());
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The only image of a layout.
    pub(crate) fn layout(&self, name: &str) -> Layout {
        let platform = Platform { architecture: "amd64".into(), os: "linux".into() };
        Layout::open(&self.path(name), None, &platform).unwrap()
    }
}

/// A new repository without fs-verity, which not every file system has.
pub(crate) fn repository(algorithm: Algorithm) -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path(), algorithm, Verity::Unverified).unwrap();
    let repository = Repository::open(dir.path()).unwrap();
    (dir, repository)
}

/// An archive in memory; contents are kept in order.
struct Memory<'a>(&'a [u8], Vec<&'a [u8]>);

impl Input for Memory<'_> {
    type Error = FormatError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FormatError> {
        let n = buffer.len().min(self.0.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }

    fn contents(&mut self, size: u64) -> Result<Option<Content>, FormatError> {
        let (body, rest) = self.0.split_at(usize::try_from(size).unwrap());
        self.0 = rest;
        self.1.push(body);
        Ok(Some(Content::object(digest(body), size)))
    }
}

fn digest(body: &[u8]) -> Digest {
    fsverity::digest(Algorithm::Sha512, body)
}

fn unpack(archive: &[u8], dir: &Path) {
    let mut reader = Reader::new(Memory(archive, Vec::new()));
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = dir.join(str::from_utf8(&entry.path).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match entry.kind {
            EntryKind::Directory => fs::create_dir_all(path).unwrap(),
            EntryKind::Regular(Content::Inline(bytes)) => fs::write(path, bytes).unwrap(),
            EntryKind::Regular(_) => fs::write(path, reader.input().1.last().unwrap()).unwrap(),
            EntryKind::Symlink(target) => {
                std::os::unix::fs::symlink(str::from_utf8(&target).unwrap(), path).unwrap();
            }
            kind => panic!("{kind:?} in a vector"),
        }
    }
}
