//! The scan itself.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::assemble::{FoundDirectory, FoundLeaf, Node, assemble};
use super::contents::PIECE_BYTES;
use super::entry::{Identity, device, file_type, metadata};
use super::queue::{DirectoryJob, FileJob, Job, Queue};
use super::xattrs::{self, Opened};
use super::{Contents, DEPTH_MAX, Mounts, ScanError, ScanOptions};
use crate::digest::Digest;
use crate::observer::{Event, Observer};
use crate::tree::{Content, INLINE_MAX, Leaf, LeafKind, Tree};

/// Longest path that is handed to the kernel at once; `PATH_MAX` is 4096.
const KERNEL_PATH_MAX: usize = 4000;
/// Progress is reported after so many bytes.
const REPORT_BYTES: u64 = 8 << 20;
/// Room for the names of a directory in one call.
const LIST_BYTES: usize = 32 << 10;
/// Name of the one piece of work in events.
const EVENT_ID: &str = "scan";

/// What one directory leads to. The numbers of new jobs count from the first of this directory.
#[derive(Default)]
struct Found {
    entries: Vec<(Vec<u8>, Node)>,
    directories: Vec<(Vec<u8>, usize, Identity)>,
    files: Vec<(Vec<u8>, Identity)>,
}

pub(super) struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// Of the scanned directory, for messages.
    path: &'a Path,
    root_device: u64,
    options: &'a ScanOptions,
    contents: &'a dyn Contents,
    observer: &'a dyn Observer,
    queue: Queue,
    directories: Mutex<Vec<(usize, FoundDirectory)>>,
    digests: Mutex<Vec<(usize, Digest)>>,
    /// Files with several names of which one was met, by device and inode.
    linked: Mutex<HashSet<(u64, u64)>>,
    done_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        root: BorrowedFd<'a>,
        path: &'a Path,
        options: &'a ScanOptions,
        contents: &'a dyn Contents,
        observer: &'a dyn Observer,
    ) -> Result<Self, ScanError> {
        let stat = fstat(root).map_err(|errno| ScanError::file("examine", path.to_owned(), errno))?;
        let queue = Queue::default();
        queue.add([(Vec::new(), 0, Identity::of(&stat))].into_iter(), [].into_iter());
        Ok(Self {
            root,
            path,
            root_device: stat.st_dev,
            options,
            contents,
            observer,
            queue,
            directories: Mutex::default(),
            digests: Mutex::default(),
            linked: Mutex::default(),
            done_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn run(self, threads: NonZeroUsize) -> Result<Tree, ScanError> {
        let what = format!("files in {}", self.path.display());
        self.observer.event(Event::Started { id: EVENT_ID, what: &what, total_bytes: None });
        thread::scope(|scope| {
            for _ in 1..threads.get() {
                scope.spawn(|| self.work());
            }
            self.work();
        });
        let Self { queue, directories, digests, observer, .. } = self;
        queue.into_result()?;
        observer.event(Event::Finished { id: EVENT_ID });
        let directories = directories.into_inner().unwrap_or_else(PoisonError::into_inner);
        let digests = digests.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(assemble(directories, digests))
    }

    fn work(&self) {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Some(job) = self.queue.next() {
            let result = match job {
                Job::Directory(job) => self.directory(&job, &mut buffer),
                Job::File(job) => self.large_file(&job),
            };
            self.queue.done(result);
        }
    }

    /// For messages.
    fn full_path(&self, path: &[u8]) -> PathBuf {
        match path {
            [] => self.path.to_owned(),
            path => self.path.join(OsStr::from_bytes(path)),
        }
    }

    /// An error of a call on a file that was there a moment ago.
    fn error(&self, action: &'static str, path: &[u8], errno: Errno) -> ScanError {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE | Errno::NODATA => {
                self.changed(path)
            }
            errno => ScanError::file(action, self.full_path(path), errno),
        }
    }

    fn changed(&self, path: &[u8]) -> ScanError {
        ScanError::Changed { path: self.full_path(path) }
    }

    /// Opens a path below the scanned directory, in steps if it is too long for one.
    fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut dir: Option<OwnedFd> = None;
        let mut rest = if path.is_empty() { b"." } else { path };
        while rest.len() > KERNEL_PATH_MAX {
            let slash = rest[..KERNEL_PATH_MAX].iter().rposition(|&byte| byte == b'/').ok_or(Errno::NAMETOOLONG)?;
            let at = dir.as_ref().map_or(self.root, AsFd::as_fd);
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = Some(openat(at, &rest[..slash], step, Mode::empty())?);
            rest = &rest[slash + 1..];
        }
        let at = dir.as_ref().map_or(self.root, AsFd::as_fd);
        openat(at, rest, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    fn directory(&self, job: &DirectoryJob, buffer: &mut [u8]) -> Result<(), ScanError> {
        if job.depth > DEPTH_MAX {
            return Err(ScanError::Depth { path: self.full_path(&job.path) });
        }
        let error = |action| move |errno| self.error(action, &job.path, errno);
        let fd = self.open(&job.path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(error("open"))?;
        let stat = fstat(&fd).map_err(error("examine"))?;
        // A component of the path may have been replaced by a link to elsewhere: then this is another directory.
        if Identity::of(&stat) != job.identity {
            return Err(self.changed(&job.path));
        }
        let xattrs = xattrs::read(Opened::Readable(fd.as_fd()), self.options.xattrs)
            .map_err(error("read the extended attributes of"))?;

        let mut found = Found::default();
        if self.options.mounts == Mounts::Enter || stat.st_dev == self.root_device {
            for (name, kind) in list(fd.as_fd()).map_err(error("list"))? {
                self.entry(fd.as_fd(), job, &name, kind, &mut found, buffer)?;
            }
            let after = fstat(&fd).map_err(error("examine"))?;
            if Identity::of(&after) != job.identity {
                return Err(self.changed(&job.path));
            }
        }

        let Found { mut entries, directories, files } = found;
        let (first_directory, first_file) = self.queue.add(directories.into_iter(), files.into_iter());
        for (_, node) in &mut entries {
            match node {
                Node::Directory(number) => *number += first_directory,
                Node::Leaf(FoundLeaf { large: Some(number), .. }) => *number += first_file,
                _ => {}
            }
        }
        let stat = metadata(&stat, xattrs, self.options);
        lock(&self.directories).push((job.number, FoundDirectory { stat, entries }));
        Ok(())
    }

    fn entry(
        &self,
        dir: BorrowedFd<'_>,
        job: &DirectoryJob,
        name: &[u8],
        listed: FileType,
        found: &mut Found,
        buffer: &mut [u8],
    ) -> Result<(), ScanError> {
        let path = || match &job.path[..] {
            [] => name.to_vec(),
            parent => [parent, name].join(&b'/'),
        };
        let error = |action| move |errno| self.error(action, &path(), errno);
        let kind = match listed {
            FileType::RegularFile | FileType::Symlink => listed,
            // Also where the file system does not list types.
            _ => {
                let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(error("examine"))?;
                if file_type(&stat) == FileType::Directory {
                    found.directories.push((path(), job.depth + 1, Identity::of(&stat)));
                    found.entries.push((name.to_vec(), Node::Directory(found.directories.len() - 1)));
                    return Ok(());
                }
                file_type(&stat)
            }
        };
        if matches!(kind, FileType::BlockDevice | FileType::CharacterDevice) && !self.options.devices {
            return Ok(());
        }

        // What is not a regular file must not be opened: that could wait for ever, or set a device in motion.
        let regular = kind == FileType::RegularFile;
        let flags = if regular { OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::PATH };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty()).map_err(error("open"))?;
        let stat = fstat(&fd).map_err(error("examine"))?;
        if file_type(&stat) != kind {
            return Err(self.changed(&path()));
        }
        let identity = Identity::of(&stat);
        // Overlay file systems link all their whiteouts together; in images each is a file of its own.
        let whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        let linked = (self.options.hard_links && stat.st_nlink > 1 && !whiteout).then(|| identity.file());
        if let Some(file) = linked
            && !lock(&self.linked).insert(file)
        {
            found.entries.push((name.to_vec(), Node::Linked(file)));
            return Ok(());
        }

        let opened = if regular { Opened::Readable(fd.as_fd()) } else { Opened::Place(fd.as_fd()) };
        let xattrs = xattrs::read(opened, self.options.xattrs).map_err(error("read the extended attributes of"))?;
        let mut large = None;
        let kind = match kind {
            FileType::RegularFile if identity.size > PIECE_BYTES as u64 => {
                found.files.push((path(), identity));
                large = Some(found.files.len() - 1);
                // Replaced when the digest is known.
                LeafKind::Regular(Content::External { size: identity.size, payload: None, digest: None })
            }
            FileType::RegularFile => LeafKind::Regular(self.small_file(&File::from(fd), &identity, &path, buffer)?),
            FileType::Symlink => {
                let target = readlinkat(&fd, c"", Vec::new()).map_err(error("read"))?;
                LeafKind::Symlink(target.into_bytes().into())
            }
            FileType::CharacterDevice => LeafKind::CharDevice(device(&stat)),
            FileType::BlockDevice => LeafKind::BlockDevice(device(&stat)),
            FileType::Fifo => LeafKind::Fifo,
            _ => LeafKind::Socket,
        };
        let leaf = Leaf::new(metadata(&stat, xattrs, self.options), kind);
        found.entries.push((name.to_vec(), Node::Leaf(FoundLeaf { leaf, large, linked })));
        Ok(())
    }

    /// Takes the contents of a file of at most [`PIECE_BYTES`].
    fn small_file(
        &self,
        mut file: &File,
        identity: &Identity,
        path: &dyn Fn() -> Vec<u8>,
        buffer: &mut [u8],
    ) -> Result<Content, ScanError> {
        // Not larger than the buffer, as the caller has seen.
        let contents = &mut buffer[..identity.size as usize];
        match file.read_exact(contents) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(self.changed(&path())),
            Err(error) => return Err(ScanError::file("read", self.full_path(&path()), error)),
        }
        self.check_unchanged(file, identity, path)?;
        self.report(identity.size);
        if identity.size <= INLINE_MAX {
            return Ok(Content::Inline((&*contents).into()));
        }
        match self.contents.take_bytes(contents) {
            Ok(digest) => Ok(Content::object(digest, identity.size)),
            Err(source) => Err(ScanError::Contents { path: self.full_path(&path()), source }),
        }
    }

    fn large_file(&self, job: &FileJob) -> Result<(), ScanError> {
        let path = || job.path.clone();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open(&job.path, flags).map_err(|errno| self.error("open", &job.path, errno))?;
        let file = File::from(file);
        self.check_unchanged(&file, &job.identity, &path)?;
        let (digest, size) = self
            .contents
            .take_file(&file)
            .map_err(|source| ScanError::Contents { path: self.full_path(&job.path), source })?;
        if size != job.identity.size {
            return Err(self.changed(&job.path));
        }
        self.check_unchanged(&file, &job.identity, &path)?;
        self.report(size);
        lock(&self.digests).push((job.number, digest));
        Ok(())
    }

    fn check_unchanged(&self, file: &File, identity: &Identity, path: &dyn Fn() -> Vec<u8>) -> Result<(), ScanError> {
        let now = fstat(file).map_err(|errno| self.error("examine", &path(), errno))?;
        if Identity::of(&now) == *identity { Ok(()) } else { Err(self.changed(&path())) }
    }

    fn report(&self, bytes: u64) {
        let before = self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = before + bytes;
        if before / REPORT_BYTES != now / REPORT_BYTES {
            self.observer.event(Event::Progress { id: EVENT_ID, done_bytes: now });
        }
    }
}

/// Names and types of what is in a directory, without `.` and `..`, in byte order.
fn list(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut buffer = [MaybeUninit::uninit(); LIST_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(names)
}
