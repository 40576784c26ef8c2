//! Finds the image that the kernel command line names, and makes sure that it is that image before it is used.
//!
//! The kernel measures the file, and then all of it is read once: fs-verity checks blocks when they are read, so
//! damage would otherwise show at some later time, as an I/O error somewhere in the tree. Nothing is opened again
//! afterwards; the mount uses the descriptor that was checked.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use osupdate_core::Digest;
use osupdate_core::fsverity::digest_reader;
use osupdate_core::kernel_args::ComposefsArg;
use osupdate_core::mount::{self, MountOptions, Upper};
use osupdate_core::repository::{ImageError, ObjectError, Repository, Verity};
use osupdate_record::paths;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::mounts::Layers;
use crate::physical_root::PhysicalRoot;

/// Size of the blocks that fs-verity checks.
const BLOCK_BYTES: u64 = 4096;
/// Damaged blocks are counted up to here.
const DAMAGED_MAX: usize = 8;

/// A verified image and its repository. Keeps the repository's shared lock.
#[derive(Debug)]
pub(crate) struct Image {
    repository: Repository,
    digest: Digest,
    file: File,
    verity: Verity,
}

impl Image {
    /// Finds the first of the images that is in the repository. One that is there but not good is an error, not a
    /// reason to try the next.
    pub(crate) fn find(physical: &PhysicalRoot, arguments: &[ComposefsArg]) -> Result<Self> {
        let repository = Repository::open_at(physical.directory(), Path::new(paths::REPOSITORY))
            .with_context(|| format!("cannot open the repository on the physical root {:?}", physical.path()))?;
        for argument in arguments {
            if repository.verity() == Verity::Unverified && !argument.optional {
                bail!(
                    "the repository {:?} has no fs-verity, but the kernel argument requires it: {argument}",
                    physical.path().join(paths::REPOSITORY)
                );
            }
            // The alternatives may be digests of the same image by different algorithms.
            if argument.digest.algorithm() != repository.algorithm() {
                continue;
            }
            if let Some(file) = open_verified(&repository, &argument.digest)
                .with_context(|| format!("the image {} is refused", argument.digest))?
            {
                let verity = repository.verity();
                return Ok(Self { repository, digest: argument.digest, file, verity });
            }
        }
        let names: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        bail!(
            "the repository {:?} has no image that the kernel command line names: {}",
            physical.path().join(paths::REPOSITORY),
            names.join(" ")
        )
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What is known about it, for people.
    pub(crate) fn trust(&self) -> &'static str {
        match self.verity {
            Verity::Required => "verified by fs-verity",
            Verity::Unverified => "NOT verified: its repository has no fs-verity",
        }
    }

    /// Mounts it, detached; read-only without an upper layer.
    pub(crate) fn mount(&self, layers: Option<Layers>) -> Result<OwnedFd> {
        let objects = self.repository.objects_dir().context("cannot open the repository's objects")?;
        let options = MountOptions {
            source: format!("composefs:{}", self.digest),
            verity: self.verity,
            read_only: layers.is_none(),
            upper: layers.map(|layers| Upper { upper: layers.upper, work: layers.work }),
            id_map: None,
        };
        mount::compose(self.file.as_fd(), &[objects.as_fd()], &options)
            .with_context(|| format!("cannot mount the image {}", self.digest))
    }
}

/// Opens an image and checks all of it. `None`: it is not there.
fn open_verified(repository: &Repository, digest: &Digest) -> Result<Option<File>> {
    let file = match repository.open_image(digest) {
        Ok(file) => File::from(file),
        Err(ImageError::NotFound { .. } | ImageError::Object(ObjectError::NotFound { .. })) => return Ok(None),
        Err(ImageError::Object(ObjectError::Mismatch { digest, found })) => {
            bail!("expected the fs-verity digest {digest}, measured {found}")
        }
        Err(ImageError::Object(ObjectError::NoVerity { digest })) => {
            let found = contents_digest(repository, &digest)?;
            bail!(
                "expected the fs-verity digest {digest}, measured none: the file has no fs-verity (what it contains now has the digest {found})"
            )
        }
        Err(err) => return Err(err).context(format!("expected the fs-verity digest {digest}, it cannot be measured")),
    };
    match repository.verity() {
        Verity::Required => {
            let size = file.metadata()?.len();
            let damaged = damaged_blocks(|buffer, offset| file.read_at(buffer, offset), size)?;
            if let Some(first) = damaged.first() {
                let number = match damaged.len() {
                    DAMAGED_MAX.. => format!("{DAMAGED_MAX} or more"),
                    number => number.to_string(),
                };
                bail!(
                    "expected the fs-verity digest {digest}, measured the same, but the data on the disk does not match \
                     it: {number} of {} blocks cannot be verified, the first at byte {first}",
                    size.div_ceil(BLOCK_BYTES)
                );
            }
        }
        // Nobody will notice later changes, but damage that is there already is found.
        Verity::Unverified => {
            let found = digest_reader(digest.algorithm(), &file).context("cannot read it")?;
            if found != *digest {
                bail!("expected the fs-verity digest {digest}, measured {found}");
            }
        }
    }
    Ok(Some(file))
}

/// The digest of what is in the file of an object that the kernel does not verify.
fn contents_digest(repository: &Repository, digest: &Digest) -> Result<Digest> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let objects = repository.objects_dir().context("cannot open the repository's objects")?;
    let file = openat(objects, digest.object_path(), flags, Mode::empty()).context("cannot open the image's object")?;
    digest_reader(digest.algorithm(), File::from(file)).context("cannot read the image's object")
}

/// Reads a whole file and gives the offsets of blocks that the kernel refuses to hand out, at most [`DAMAGED_MAX`].
fn damaged_blocks(read_at: impl Fn(&mut [u8], u64) -> std::io::Result<usize>, size: u64) -> Result<Vec<u64>> {
    let mut buffer = vec![0; 1 << 20];
    let (mut offset, mut damaged) = (0, Vec::new());
    while offset < size && damaged.len() < DAMAGED_MAX {
        // A read that meets a damaged block ends before it; only one that begins with it fails.
        match read_at(&mut buffer, offset) {
            Ok(0) => bail!("the file ends at byte {offset}, its size is {size}"),
            Ok(read) => offset += read as u64,
            Err(err) if err.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                offset -= offset % BLOCK_BYTES;
                damaged.push(offset);
                offset += BLOCK_BYTES;
            }
            Err(err) => return Err(err).with_context(|| format!("cannot read it at byte {offset}")),
        }
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A file whose blocks at the given offsets do not verify.
    fn reader(size: u64, damaged: &[u64]) -> impl Fn(&mut [u8], u64) -> io::Result<usize> {
        move |buffer, offset| {
            let end = size.min(offset + buffer.len() as u64);
            match damaged.iter().find(|block| **block + BLOCK_BYTES > offset && **block < end) {
                Some(block) if *block <= offset => Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error())),
                Some(block) => Ok((block - offset) as usize),
                None => Ok((end - offset) as usize),
            }
        }
    }

    #[test]
    fn damaged_blocks_are_found_wherever_they_are() {
        let size = (3 << 20) + 100;
        let last = size / BLOCK_BYTES * BLOCK_BYTES;
        for damaged in [vec![], vec![0], vec![last], vec![4096, 8192, 1 << 20, last]] {
            assert_eq!(damaged_blocks(reader(size, &damaged), size).unwrap(), damaged);
        }
        let many: Vec<_> = (0..100).map(|block| block * BLOCK_BYTES).collect();
        assert_eq!(damaged_blocks(reader(size, &many), size).unwrap(), many[..DAMAGED_MAX]);
    }

    #[test]
    fn other_trouble_is_not_taken_for_damage() {
        let message = format!("{:#}", damaged_blocks(|_, _| Ok(0), 10).unwrap_err());
        assert_eq!(message, "the file ends at byte 0, its size is 10");
        let denied = |_: &mut [u8], _| Err(io::Error::from_raw_os_error(Errno::ACCESS.raw_os_error()));
        assert!(format!("{:#}", damaged_blocks(denied, 10).unwrap_err()).contains("cannot read it at byte 0"));
    }
}
