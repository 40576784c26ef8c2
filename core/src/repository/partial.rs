//! Blobs that come from far away: what has arrived of them, kept until what is made of them has a name.
//!
//! ```text
//! .blob-<digest>   the first bytes of a blob, as many as have arrived
//! ```
//!
//! Whoever writes such a file holds its lock (`flock`), so that two never write to one. Nothing in it is trusted: who reads
//! it goes on to the end of the blob and verifies the digest of the whole. Writers of the repository hold its lock, so that a
//! collection, which removes these files, never meets one in use.
//!
//! They are there to save transfers, and the first to go when room is short: even those in use can be given up.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, fdatasync, flock, fstat, fsync, openat, statat, unlinkat};
use rustix::io::Errno;

use super::{FileError, Repository, names};

/// Begins the names of the files.
pub(super) const PREFIX: &str = ".blob-";
/// Nobody but their writers has anything to do with them.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
/// What has arrived is on disk after so long at the latest: a power cut costs what came since.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// Files that have not changed for so long are of images that nobody goes on with.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How often a file may vanish between opening and locking it.
const ATTEMPTS: usize = 8;

/// A file in use; `None` after it was given up. Then it is empty, and its lock is free.
type Contents = Mutex<Option<File>>;

/// The files in use by this process.
#[derive(Debug, Default)]
pub(super) struct PartialBlobs(Mutex<Vec<Weak<Contents>>>);

/// What has arrived of a blob. The file stays when this is dropped.
#[derive(Debug)]
pub(crate) struct PartialBlob<'a> {
    repository: &'a Repository,
    name: String,
    contents: Arc<Contents>,
    len_bytes: u64,
    synced: Instant,
    /// The name is on disk, too.
    name_synced: bool,
}

impl Repository {
    /// Opens what has arrived of a blob, or an empty file; more than `size_bytes` cannot be of it and are thrown away.
    /// `None`: somebody else is fetching the same blob.
    pub(crate) fn partial_blob(&self, digest: &str, size_bytes: u64) -> Result<Option<PartialBlob<'_>>, FileError> {
        let name = format!("{PREFIX}{digest}");
        let error = |action, source: io::Error| self.file_error(action, &name, source);
        for _ in 0..ATTEMPTS {
            let Some(file) = self.lock_partial(&name, OFlags::CREATE)? else { return Ok(None) };
            let stat = fstat(&file).map_err(|errno| error("examine", errno.into()))?;
            if stat.st_nlink == 0 {
                // Its writer was done with it between our opening and locking it.
                continue;
            }
            let mut len_bytes = u64::try_from(stat.st_size).unwrap_or(0);
            if len_bytes > size_bytes {
                file.set_len(0).map_err(|source| error("empty", source))?;
                len_bytes = 0;
            }
            let (synced, name_synced) = (Instant::now(), false);
            let contents = Arc::new(Mutex::new(Some(file)));
            let mut in_use = lock(&self.partial_blobs.0);
            in_use.retain(|contents| contents.strong_count() > 0);
            in_use.push(Arc::downgrade(&contents));
            return Ok(Some(PartialBlob { repository: self, name, contents, len_bytes, synced, name_synced }));
        }
        Ok(None)
    }

    /// How many bytes of a blob have arrived in earlier attempts.
    pub(crate) fn partial_blob_bytes(&self, digest: &str) -> Result<u64, FileError> {
        let name = format!("{PREFIX}{digest}");
        match statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(u64::try_from(stat.st_size).unwrap_or(0)),
            Err(Errno::NOENT) => Ok(0),
            Err(errno) => Err(self.file_error("examine", &name, errno)),
        }
    }

    /// Removes what has arrived of a blob that is not needed any more, unless somebody is fetching it. Failures are logged
    /// only.
    pub(crate) fn remove_partial_blob(&self, digest: &str) {
        let name = format!("{PREFIX}{digest}");
        let removed = self.lock_partial(&name, OFlags::empty()).and_then(|file| match file {
            Some(file) => self.unlink_partial(&name, &file),
            None => Ok(()),
        });
        if let Err(error) = removed
            && error.source.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{error}: {}, ignoring", error.source);
        }
    }

    /// Removes what interrupted pulls left a week ago or longer. Failures are logged only: the next pull tries again.
    pub(crate) fn remove_abandoned_blobs(&self) {
        self.remove_blobs_unchanged_for(ABANDONED_AFTER);
    }

    /// Makes room: removes what has arrived of all blobs, also of those that are being fetched by this process. Their readers
    /// fetch what they have not read yet, and go on without keeping anything. Failures are logged only.
    pub(super) fn give_up_partial_blobs(&self) {
        let in_use: Vec<_> = lock(&self.partial_blobs.0).iter().filter_map(Weak::upgrade).collect();
        for contents in in_use {
            if let Some(file) = lock(&contents).take()
                && let Err(error) = file.set_len(0)
            {
                tracing::warn!("cannot empty what has arrived of a blob: {error}, ignoring");
            }
        }
        self.remove_blobs_unchanged_for(Duration::ZERO);
    }

    fn remove_blobs_unchanged_for(&self, least: Duration) {
        let listed = match names(self.dir.as_fd(), ".") {
            Ok(listed) => listed.unwrap_or_default(),
            Err(error) => {
                tracing::warn!("cannot look for remains of interrupted pulls: {error}, ignoring");
                return;
            }
        };
        for name in listed.into_iter().filter_map(|name| String::from_utf8(name).ok()) {
            if name.starts_with(PREFIX)
                && let Err(error) = self.remove_if_unchanged(&name, least)
            {
                tracing::warn!("{error}: {}, ignoring", error.source);
            }
        }
    }

    fn remove_if_unchanged(&self, name: &str, least: Duration) -> Result<(), FileError> {
        let file = match self.lock_partial(name, OFlags::empty()) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(()),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        let modified = modified.map_err(|source| self.file_error("examine", name, source))?;
        // A time in the future is no reason to remove anything.
        let age = SystemTime::now().duration_since(modified).unwrap_or_default();
        if age < least {
            return Ok(());
        }
        tracing::info!("removing {name}, which a pull left {} days ago", age.as_secs() / 86400);
        self.unlink_partial(name, &file)
    }

    /// Removes a file that we have locked. It stays if the name is another file's by now: the one that we opened may have been
    /// removed before we got its lock.
    fn unlink_partial(&self, name: &str, file: &File) -> Result<(), FileError> {
        let error = |action, errno: Errno| self.file_error(action, name, errno);
        let ours = fstat(file).map_err(|errno| error("examine", errno))?;
        match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(error("examine", errno)),
        }
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error("remove", errno)),
        }
    }

    /// Opens a file and takes its lock. `None`: somebody else has it.
    fn lock_partial(&self, name: &str, flags: OFlags) -> Result<Option<File>, FileError> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.dir, name, flags, FILE_MODE).map_err(|errno| self.file_error("open", name, errno))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file.into())),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(self.file_error("lock", name, errno)),
        }
    }
}

impl PartialBlob<'_> {
    /// Bytes that have arrived.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Reads what has arrived from a position on; nothing only at the end.
    pub(crate) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len_bytes.saturating_sub(position)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        match self.with_file(|file| file.read_at(&mut buffer[..most], position))? {
            0 if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }

    /// Adds bytes that have arrived. They survive the death of the process on return, and a power cut ten seconds later.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with_file(|file| file.write_all_at(bytes, self.len_bytes))?;
        self.len_bytes += bytes.len() as u64;
        if self.synced.elapsed() >= SYNC_INTERVAL { self.sync() } else { Ok(()) }
    }

    /// Waits until everything that has arrived is on disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.with_file(|file| Ok(fdatasync(file)?))?;
        if !self.name_synced {
            fsync(&self.repository.dir)?;
            self.name_synced = true;
        }
        self.synced = Instant::now();
        Ok(())
    }

    /// Throws away what has arrived.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.with_file(|file| file.set_len(0))?;
        self.len_bytes = 0;
        Ok(())
    }

    /// Removes the file, which is not needed any more.
    pub(crate) fn remove(self) {
        // Without it there is no lock, and the name is free for others.
        if let Some(file) = &*lock(&self.contents)
            && let Err(error) = self.repository.unlink_partial(&self.name, file)
        {
            tracing::warn!("{error}: {}, ignoring: the next collection will", error.source);
        }
    }

    /// Fails after the file was given up.
    fn with_file<T>(&self, action: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match &*lock(&self.contents) {
            Some(file) => action(file),
            None => Err(io::Error::new(io::ErrorKind::StorageFull, "it was given up to make room")),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::digest::Algorithm;
    use crate::repository::Verity;

    fn repository() -> (tempfile::TempDir, Repository) {
        let dir = tempfile::tempdir().unwrap();
        Repository::init(dir.path(), Algorithm::Sha512, Verity::Unverified).unwrap();
        let repository = Repository::open(dir.path()).unwrap();
        (dir, repository)
    }

    #[test]
    fn what_arrived_is_there_again() {
        let (dir, repository) = repository();
        let mut blob = repository.partial_blob("sha256:00", 10).unwrap().unwrap();
        blob.append(b"0123").unwrap();
        blob.append(b"45").unwrap();
        drop(blob);
        assert_eq!(repository.partial_blob_bytes("sha256:00").unwrap(), 6);
        let blob = repository.partial_blob("sha256:00", 10).unwrap().unwrap();
        let mut buffer = [0; 100];
        assert_eq!((blob.len_bytes(), blob.read_at(&mut buffer, 2).unwrap()), (6, 4));
        assert_eq!(&buffer[..4], b"2345");
        assert_eq!(blob.read_at(&mut buffer, 6).unwrap(), 0);
        blob.remove();
        assert!(!dir.path().join(".blob-sha256:00").exists());
        assert_eq!(repository.partial_blob_bytes("sha256:00").unwrap(), 0);
    }

    #[test]
    fn two_never_write_to_one_file() {
        let (dir, repository) = repository();
        let other = Repository::open(dir.path()).unwrap();
        let first = repository.partial_blob("sha256:00", 10).unwrap().unwrap();
        assert!(other.partial_blob("sha256:00", 10).unwrap().is_none());
        assert!(other.partial_blob("sha256:01", 10).unwrap().is_some());
        drop(first);
        assert!(other.partial_blob("sha256:00", 10).unwrap().is_some());
    }

    #[test]
    fn more_than_the_blob_has_is_thrown_away() {
        let (dir, repository) = repository();
        fs::write(dir.path().join(".blob-sha256:00"), b"0123456789").unwrap();
        assert_eq!(repository.partial_blob("sha256:00", 10).unwrap().unwrap().len_bytes(), 10);
        assert_eq!(repository.partial_blob("sha256:00", 9).unwrap().unwrap().len_bytes(), 0);
    }

    #[test]
    fn what_was_left_long_ago_is_removed() {
        let (dir, repository) = repository();
        let [old, used, new] = ["old", "used", "new"].map(|name| dir.path().join(format!(".blob-{name}")));
        let long_ago = SystemTime::now() - ABANDONED_AFTER - Duration::from_secs(60);
        for (path, time) in [(&old, long_ago), (&used, long_ago), (&new, SystemTime::now())] {
            fs::write(path, b"x").unwrap();
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
        let in_use = repository.partial_blob("used", 10).unwrap().unwrap();
        let other = Repository::open(dir.path()).unwrap();
        other.remove_abandoned_blobs();
        assert_eq!([&old, &used, &new].map(|path| path.exists()), [false, true, true]);
        drop(in_use);
        other.remove_abandoned_blobs();
        assert!(!used.exists());
    }

    #[test]
    fn all_is_given_up_when_room_is_short() {
        let (dir, repository) = repository();
        let other = Repository::open(dir.path()).unwrap();
        let mut ours = repository.partial_blob("sha256:00", 10).unwrap().unwrap();
        ours.append(b"0123").unwrap();
        let mut elsewhere = other.partial_blob("sha256:01", 10).unwrap().unwrap();
        elsewhere.append(b"0123").unwrap();
        drop(repository.partial_blob("sha256:02", 10).unwrap().unwrap());

        repository.give_up_partial_blobs();
        let left: Vec<_> = names(repository.dir.as_fd(), ".").unwrap().unwrap();
        let left: Vec<_> = left.iter().filter(|name| name.starts_with(PREFIX.as_bytes())).collect();
        assert_eq!(left, [&b".blob-sha256:01"[..]], "what another process has locked stays");
        assert_eq!(ours.read_at(&mut [0; 4], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(ours.append(b"4").unwrap_err().kind(), io::ErrorKind::StorageFull);

        // The next one that is fetched is kept again, and not removed by who has lost it.
        let mut next = repository.partial_blob("sha256:00", 10).unwrap().unwrap();
        next.append(b"01").unwrap();
        ours.remove();
        assert_eq!(repository.partial_blob_bytes("sha256:00").unwrap(), 2);
    }

    #[test]
    fn a_file_that_took_the_name_of_a_removed_one_stays() {
        let (dir, repository) = repository();
        let path = dir.path().join(".blob-sha256:00");
        fs::write(&path, b"removed").unwrap();
        // Opened before its writer is done with it, locked after that.
        let opened = repository.lock_partial(".blob-sha256:00", OFlags::empty()).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        repository.unlink_partial(".blob-sha256:00", &opened).unwrap();
        fs::write(&path, b"of another").unwrap();
        repository.unlink_partial(".blob-sha256:00", &opened).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"of another");
    }
}
