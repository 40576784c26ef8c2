//! Objects: files named by their fs-verity digest.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, ftruncate, openat, statat};
use rustix::io::Errno;
use thiserror::Error;

use super::temporary::Temporary;
use super::{FileError, FileSystem, NotWritable, OBJECTS, Repository, Verity, make_directory, verity};
use crate::digest::{Algorithm, Digest};
use crate::fsverity::{self, Hasher};
use crate::tar::HoleWrite;
use crate::tree::Content;

/// A writer keeps so many bytes in memory; only larger objects get a temporary file before their digest is known.
const SPILL_BYTES: usize = 1 << 20;
/// Larger objects are proven before they are read into memory; images and streams of a distribution are smaller.
const LARGE_BYTES: u64 = 64 << 20;
/// Objects of this size are sent to disk at once, where sealing does not do so anyway. Many smaller ones go faster together.
const WRITE_BACK_MIN_BYTES: u64 = 64 << 10;
/// Pieces in which files are compared.
const COMPARE_BYTES: usize = 64 << 10;

/// Why an object cannot be read or stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// It is not there.
    #[error("object {digest} is not in the repository")]
    NotFound {
        /// The object.
        digest: Digest,
    },
    /// It has no fs-verity, and the repository requires it.
    #[error("object {digest} has no fs-verity")]
    NoVerity {
        /// The object.
        digest: Digest,
    },
    /// It is not what its name says.
    #[error("object {digest} is damaged: its contents have the digest {found}")]
    Mismatch {
        /// Its name.
        digest: Digest,
        /// What it is.
        found: Digest,
    },
    /// The digest is of another kind than the repository's.
    #[error("{digest} is a {} digest, the repository has {expected}", digest.algorithm())]
    Algorithm {
        /// The digest.
        digest: Digest,
        /// The repository's algorithm.
        expected: Algorithm,
    },
    /// The contents are nowhere: the file is a stub with a size only.
    #[error("the file has a size but no contents")]
    Stub,
    /// The payload of a file is not the path of an object.
    #[error("{payload:?} is not the path of an object")]
    Payload {
        /// The path as the image has it.
        payload: String,
    },
    /// The repository requires fs-verity and its file system has lost it.
    #[error("the {file_system} file system of the repository has no fs-verity")]
    FileSystem {
        /// The file system.
        file_system: FileSystem,
        /// What the kernel said.
        source: io::Error,
    },
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// An object that is in the repository. It survives a crash after the next [`Repository::sync`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// False if it was there before.
    pub new: bool,
}

/// What is found under the name of an object that is about to be stored.
pub(super) enum Existing {
    Nothing,
    Good,
    Damaged,
}

impl Repository {
    /// Stores an object whose bytes are in memory.
    pub fn put_object(&self, data: &[u8]) -> Result<StoredObject, ObjectError> {
        self.put_object_that(data, |_| Ok(()))
    }

    /// Stores an object if `accept` likes its digest.
    fn put_object_that(
        &self,
        data: &[u8],
        accept: impl FnOnce(&Digest) -> Result<(), ObjectError>,
    ) -> Result<StoredObject, ObjectError> {
        self.check_writable()?;
        let digest = fsverity::digest(self.algorithm(), data);
        accept(&digest)?;
        let size_bytes = data.len() as u64;
        let stored = StoredObject { digest, size_bytes, new: false };
        let existing = self.existing(&digest, size_bytes, &mut &data[..])?;
        if let Existing::Good = existing {
            return Ok(stored);
        }
        let error = |source| self.file_error("write an object in", OBJECTS, source);
        let objects = self.objects_for_writing()?;
        let mut temporary = Temporary::create(objects).map_err(|errno| error(errno.into()))?;
        temporary.write_all(data).map_err(error)?;
        if self.verity() == Verity::Unverified && size_bytes >= WRITE_BACK_MIN_BYTES {
            temporary.begin_write_back();
        }
        if let Some(found) = self.seal(&mut temporary)?
            && found != digest
        {
            return Err(ObjectError::Mismatch { digest, found });
        }
        Ok(self.publish_object(&mut temporary, stored, &existing)?)
    }

    /// Begins an object of unknown size.
    pub fn new_object(&self) -> Result<ObjectWriter<'_>, ObjectError> {
        self.check_writable()?;
        Ok(ObjectWriter { repository: self, state: State::Memory(Vec::new()) })
    }

    /// Opens an object for reading. With [`Verity::Required`] it is measured, and the kernel checks what is read;
    /// otherwise nothing is checked.
    pub fn open_object(&self, digest: &Digest) -> Result<OwnedFd, ObjectError> {
        if digest.algorithm() != self.algorithm() {
            return Err(ObjectError::Algorithm { digest: *digest, expected: self.algorithm() });
        }
        let Some(file) = self.open_named(digest)? else { return Err(ObjectError::NotFound { digest: *digest }) };
        if self.verity() == Verity::Required {
            match self.measure_object(file.as_fd(), digest)? {
                Some(found) if found == *digest => {}
                Some(found) => return Err(ObjectError::Mismatch { digest: *digest, found }),
                None => return Err(ObjectError::NoVerity { digest: *digest }),
            }
        }
        Ok(file)
    }

    /// Reads a whole object into memory. Its contents are checked in any case: by the kernel or here.
    pub fn read_object(&self, digest: &Digest) -> Result<Vec<u8>, ObjectError> {
        let read_error = |error| self.object_error("read", digest, error);
        let prove = |found: Digest| match found == *digest {
            true => Ok(()),
            false => Err(ObjectError::Mismatch { digest: *digest, found }),
        };
        let unverified = self.verity() == Verity::Unverified;
        let mut file = File::from(self.open_object(digest)?);
        // What is not the object may be of any size.
        if unverified && file.metadata().map_err(read_error)?.len() > LARGE_BYTES {
            prove(fsverity::digest_reader(self.algorithm(), &file).map_err(read_error)?)?;
            file.rewind().map_err(read_error)?;
        }
        let mut data = Vec::new();
        file.read_to_end(&mut data).map_err(read_error)?;
        if unverified {
            prove(fsverity::digest(self.algorithm(), &data))?;
        }
        Ok(data)
    }

    /// Tells whether an object is there. With [`Verity::Required`] one that is not what its name says is not; nor is one
    /// that is distrusted.
    pub fn has_object(&self, digest: &Digest) -> Result<bool, ObjectError> {
        match self.open_object(digest) {
            Ok(_) if self.is_distrusted(digest) => Ok(false),
            Ok(_) => Ok(true),
            Err(ObjectError::NotFound { .. } | ObjectError::NoVerity { .. } | ObjectError::Mismatch { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Size of an object in bytes; `None` if it is not there. Nothing else about it is checked.
    pub fn object_size(&self, digest: &Digest) -> Result<Option<u64>, FileError> {
        let path = digest.object_path();
        match self.objects().and_then(|objects| statat(objects, path, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                Err(self.object_error("examine", digest, Errno::LOOP))
            }
            Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.object_error("examine", digest, errno)),
        }
    }

    /// Opens the contents of a file of an image.
    pub fn open_content<'a>(&self, content: &'a Content) -> Result<Box<dyn Read + Send + 'a>, ObjectError> {
        let digest = match content {
            Content::Inline(bytes) => return Ok(Box::new(Cursor::new(&bytes[..]))),
            Content::External { digest: Some(digest), .. } => *digest,
            Content::External { digest: None, payload: Some(payload), .. } => {
                let payload = String::from_utf8_lossy(payload);
                Digest::from_object_path(&payload)
                    .map_err(|_| ObjectError::Payload { payload: payload.into_owned() })?
            }
            Content::External { digest: None, payload: None, .. } => return Err(ObjectError::Stub),
        };
        Ok(Box::new(File::from(self.open_object(&digest)?)))
    }

    /// The file with the name of an object, whatever is in it.
    pub(super) fn open_named(&self, digest: &Digest) -> Result<Option<OwnedFd>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match self.objects().and_then(|objects| openat(objects, digest.object_path(), flags, Mode::empty())) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.object_error("open", digest, errno)),
        }
    }

    pub(super) fn measure_object(&self, file: BorrowedFd<'_>, digest: &Digest) -> Result<Option<Digest>, FileError> {
        verity::measure(file).map_err(|error| self.object_error("measure", digest, error))
    }

    pub(super) fn object_error(
        &self,
        action: &'static str,
        digest: &Digest,
        source: impl Into<io::Error>,
    ) -> FileError {
        self.file_error(action, format!("{OBJECTS}/{}", digest.object_path()), source)
    }

    /// Compares what has the name with the candidate: by its seal, or byte by byte where nothing is sealed. A crash may
    /// have left an unsealed file with a name but without its data.
    pub(super) fn existing(
        &self,
        digest: &Digest,
        size_bytes: u64,
        candidate: &mut impl Read,
    ) -> Result<Existing, FileError> {
        let Some(file) = self.open_named(digest)? else { return Ok(Existing::Nothing) };
        let good = match self.verity() {
            _ if self.is_distrusted(digest) => false,
            Verity::Required => self.measure_object(file.as_fd(), digest)? == Some(*digest),
            Verity::Unverified => same_contents(&file.into(), size_bytes, candidate)
                .map_err(|error| self.object_error("read", digest, error))?,
        };
        Ok(if good { Existing::Good } else { Existing::Damaged })
    }

    /// Compares what has the name with the name, where there is no good candidate to compare it with.
    pub(super) fn check_existing(&self, digest: &Digest) -> Result<Existing, FileError> {
        let Some(file) = self.open_named(digest)? else { return Ok(Existing::Nothing) };
        let good = match self.verity() {
            _ if self.is_distrusted(digest) => false,
            Verity::Required => self.measure_object(file.as_fd(), digest)? == Some(*digest),
            Verity::Unverified => {
                let found = fsverity::digest_reader(self.algorithm(), File::from(file));
                found.map_err(|error| self.object_error("read", digest, error))? == *digest
            }
        };
        Ok(if good { Existing::Good } else { Existing::Damaged })
    }

    /// Whether an object is there and what its name says; reads all of it where the kernel does not vouch for it.
    pub(crate) fn is_sound(&self, digest: &Digest) -> Result<bool, FileError> {
        Ok(matches!(self.check_existing(digest)?, Existing::Good))
    }

    /// With [`Verity::Required`], seals the file and returns the kernel's digest.
    pub(super) fn seal(&self, temporary: &mut Temporary<'_>) -> Result<Option<Digest>, ObjectError> {
        if self.verity() == Verity::Unverified {
            return Ok(None);
        }
        let error = |source| self.file_error("seal an object in", OBJECTS, source);
        temporary.make_read_only().map_err(|errno| error(errno.into()))?;
        let file = temporary.file().as_fd();
        verity::enable(file, self.algorithm()).map_err(|source| {
            if verity::is_unsupported(&source) {
                ObjectError::FileSystem { file_system: FileSystem::of(file), source }
            } else {
                error(source).into()
            }
        })?;
        let measured = verity::measure(file).map_err(error)?;
        match measured {
            Some(digest) => Ok(Some(digest)),
            None => Err(error(Errno::NODATA.into()).into()),
        }
    }

    /// Gives a sealed file its name, unless a good object has it. A damaged one is replaced.
    pub(super) fn publish_object(
        &self,
        temporary: &mut Temporary<'_>,
        stored: StoredObject,
        existing: &Existing,
    ) -> Result<StoredObject, FileError> {
        let digest = &stored.digest;
        let error = |errno: Errno| self.object_error("name", digest, errno);
        let path = digest.object_path();
        let new = match existing {
            Existing::Good => false,
            // If the name is taken now, another process has just stored the same bytes.
            Existing::Nothing => match temporary.link(&path) {
                Err(Errno::NOENT) => {
                    make_directory(self.objects_for_writing()?, &path[..2]).map_err(error)?;
                    temporary.link(&path)
                }
                result => result,
            }
            .map_err(error)?,
            Existing::Damaged => {
                tracing::warn!("object {digest} is damaged, replacing it");
                temporary.replace(&path).map_err(error)?;
                true
            }
        };
        if new {
            self.trust(digest);
        }
        Ok(StoredObject { new, ..stored })
    }
}

/// Writes an object piece by piece. Nothing is stored unless [`ObjectWriter::finish`] is called.
///
/// Uses at most 1 MiB of memory, whatever the size of the object.
#[derive(Debug)]
pub struct ObjectWriter<'a> {
    repository: &'a Repository,
    state: State<'a>,
}

enum State<'a> {
    /// Small so far.
    Memory(Vec<u8>),
    /// In a file. Hashed here only if the kernel will not do it.
    File { temporary: Temporary<'a>, hasher: Option<Hasher>, size_bytes: u64 },
}

impl std::fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(bytes) => f.debug_tuple("Memory").field(&bytes.len()).finish(),
            Self::File { size_bytes, .. } => f.debug_tuple("File").field(size_bytes).finish(),
        }
    }
}

impl ObjectWriter<'_> {
    /// Stores the object under its digest.
    pub fn finish(self) -> Result<StoredObject, ObjectError> {
        self.finish_that(|_| Ok(()))
    }

    /// Stores the object if it has this digest.
    ///
    /// # Errors
    /// [`ObjectError::Mismatch`] if it has another one; nothing is stored then.
    pub fn finish_as(self, digest: &Digest) -> Result<StoredObject, ObjectError> {
        let digest = *digest;
        self.finish_that(|found| match *found == digest {
            true => Ok(()),
            false => Err(ObjectError::Mismatch { digest, found: *found }),
        })
    }

    fn finish_that(self, accept: impl FnOnce(&Digest) -> Result<(), ObjectError>) -> Result<StoredObject, ObjectError> {
        let repository = self.repository;
        let (mut temporary, hasher, size_bytes) = match self.state {
            State::Memory(bytes) => return repository.put_object_that(&bytes, accept),
            State::File { temporary, hasher, size_bytes } => (temporary, hasher, size_bytes),
        };
        let error = |source: io::Error| repository.file_error("write an object in", OBJECTS, source);
        let length = fstat(temporary.file()).map_err(|errno| error(errno.into()))?.st_size;
        if u64::try_from(length) != Ok(size_bytes) {
            return Err(error(io::ErrorKind::UnexpectedEof.into()).into());
        }
        let sealed = repository.seal(&mut temporary)?;
        let Some(digest) = sealed.or(hasher.map(Hasher::finish)) else {
            // A writer without a hasher belongs to a repository whose seal gives the digest.
            return Err(error(Errno::NODATA.into()).into());
        };
        accept(&digest)?;
        temporary.file().rewind().map_err(error)?;
        let existing = repository.existing(&digest, size_bytes, &mut temporary.file())?;
        let stored = StoredObject { digest, size_bytes, new: false };
        Ok(repository.publish_object(&mut temporary, stored, &existing)?)
    }
}

impl ObjectWriter<'_> {
    /// Goes on in a file if so many more bytes are too many for memory; false if they are not.
    fn spill(&mut self, more_bytes: u64) -> io::Result<bool> {
        let State::Memory(bytes) = &mut self.state else { return Ok(true) };
        if (bytes.len() as u64).saturating_add(more_bytes) <= SPILL_BYTES as u64 {
            return Ok(false);
        }
        let objects = self.repository.objects_for_writing().map_err(|error| error.source)?;
        let mut temporary = Temporary::create(objects)?;
        temporary.write_all(bytes)?;
        let mut hasher = match self.repository.verity() {
            Verity::Required => None,
            Verity::Unverified => Some(Hasher::new(self.repository.algorithm())),
        };
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
        let size_bytes = bytes.len() as u64;
        self.state = State::File { temporary, hasher, size_bytes };
        Ok(true)
    }
}

impl HoleWrite for ObjectWriter<'_> {
    /// Appends zeros that take no room on the disk.
    fn hole(&mut self, bytes: u64) -> io::Result<()> {
        self.spill(bytes)?;
        let (file, hasher, size_bytes) = match &mut self.state {
            State::Memory(memory) => return memory.hole(bytes),
            State::File { temporary, hasher, size_bytes } => (temporary.file(), hasher, size_bytes),
        };
        *size_bytes += bytes;
        ftruncate(file, *size_bytes)?;
        let mut file = file;
        file.seek(SeekFrom::Start(*size_bytes))?;
        match hasher {
            Some(hasher) => hasher.hole(bytes),
            None => Ok(()),
        }
    }
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.spill(buf.len() as u64)?;
        if let State::Memory(bytes) = &mut self.state {
            bytes.extend_from_slice(buf);
            return Ok(buf.len());
        }
        let State::File { temporary, hasher, size_bytes } = &mut self.state else { return Ok(0) };
        let written = temporary.write(buf)?;
        if let Some(hasher) = hasher {
            hasher.update(&buf[..written]);
        }
        *size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The names of the directories below `objects/`: two lower-case hex digits.
pub(super) fn is_prefix(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn same_contents(file: &File, size_bytes: u64, other: &mut impl Read) -> io::Result<bool> {
    if file.metadata()?.len() != size_bytes {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    loop {
        ours.clear();
        theirs.clear();
        file.take(COMPARE_BYTES as u64).read_to_end(&mut ours)?;
        other.by_ref().take(COMPARE_BYTES as u64).read_to_end(&mut theirs)?;
        if ours != theirs {
            return Ok(false);
        }
        if ours.is_empty() {
            return Ok(true);
        }
    }
}
