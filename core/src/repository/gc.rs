//! Garbage collection: keeps what refs lead to, removes everything else.
//!
//! All of it is decided before anything is removed, and if something that must be kept cannot be read, nothing is
//! removed. Names go before objects, with a sync between: a name never stands for an object that is half collected.

mod mark;

use rustix::fs::{AtFlags, FileType, statat, unlinkat};
use thiserror::Error;

use super::link::{REFS, object_of, read_link};
use super::lock::{self, LockFailure, LockHolders};
use super::{FileError, Namespace, NotWritable, OBJECTS, RefError, Repository, names, object};
use crate::digest::Digest;
use crate::observer::{Event, Observer};
pub use mark::MarkError;
use mark::Marker;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Begins the names of refs to streams that keep what they name only as long as something else keeps the stream of the
/// manifest whose digest follows: `oci-referrers/<subject>/<artifact>`. Artifacts of an image go with it.
pub(crate) const REFERRERS: &str = "oci-referrers/";
/// Begins the names of the streams of manifests.
pub(crate) const MANIFEST_PREFIX: &str = "oci-manifest-";

/// What to collect.
#[derive(Clone, Debug, Default)]
pub struct GcOptions {
    /// Counts only; takes no exclusive lock.
    pub dry_run: bool,
    /// What is kept as if a ref stood for it.
    pub extra_roots: Vec<Root>,
}

/// Something that is needed for a reason outside of the repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root {
    /// The name of a stream or image, or the digest of an object; it need not be there.
    pub name: String,
    /// Who needs it, for people: "boot entry linux.conf".
    pub reason: String,
}

/// What was removed; in a dry run, what would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcReport {
    /// Objects.
    pub objects_removed: u64,
    /// Their sizes together, and those of temporary files.
    pub freed_bytes: u64,
    /// Objects that stay.
    pub objects_kept: u64,
    /// Names of streams.
    pub streams_pruned: u64,
    /// Names of images.
    pub images_pruned: u64,
    /// Refs that stood for nothing.
    pub refs_pruned: u64,
    /// Files that a crash left behind. A dry run does not count them: they may be in use.
    pub temporary_files_removed: u64,
}

/// Why nothing was collected, or not everything.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GcError {
    /// Others use the repository.
    #[error("the repository {} is in use by {holders}; waited {waited_secs} seconds", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Who.
        holders: LockHolders,
        /// How long we waited.
        waited_secs: u64,
    },
    /// What a root needs cannot be told, so nothing was removed.
    #[error("cannot read {root}, so nothing was removed")]
    Root {
        /// Path of the ref or name in the repository, and of what it leads to.
        root: String,
        /// What is wrong.
        source: MarkError,
    },
    /// The refs cannot be read, so nothing was removed.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Whether a ref is one of [`REFERRERS`].
pub(super) enum Referrer {
    /// It is not.
    No,
    /// It is, and its subject is this object.
    Of(Digest),
    /// It is, and its subject has no name.
    OfNothing,
}

/// A ref that keeps an object as long as its subject is kept.
struct Conditional {
    path: String,
    subject: Digest,
    digest: Digest,
}

/// What is to be removed, as paths in the repository.
#[derive(Default)]
struct Plan {
    /// Refs and first-level names.
    links: Vec<String>,
    /// Objects with their sizes.
    objects: Vec<(String, u64)>,
}

/// What is in `objects/`.
#[derive(Default)]
struct ListedObjects {
    objects: Vec<Digest>,
    /// Paths in the repository.
    others: Vec<String>,
}

/// Marks what belongs to manifests that are kept, and what belongs to that. Returns the refs that keep nothing because what
/// they were for is about to go.
fn mark_referrers(mut pending: Vec<Conditional>, marker: &mut Marker<'_>) -> Result<Vec<Conditional>, GcError> {
    loop {
        let before = pending.len();
        let (live, dead): (Vec<_>, Vec<_>) = pending.into_iter().partition(|one| marker.is_live(&one.subject));
        for one in live {
            marker.add_root(&one.path, one.digest)?;
        }
        if dead.len() == before {
            return Ok(dead);
        }
        pending = dead;
    }
}

impl Repository {
    /// Removes everything that no ref, and none of the extra roots, leads to; also what crashes left behind.
    ///
    /// Waits until nobody else uses the repository, as long as it was opened for. The handle is borrowed exclusively because no
    /// other thread may store objects meanwhile; objects stored but not yet named are removed. Another process may
    /// change the repository just before and just after, not during the collection.
    pub fn gc(&mut self, options: &GcOptions, observer: &dyn Observer) -> Result<GcReport, GcError> {
        self.gc_with(options.dry_run, |_| Ok(options.extra_roots.clone()), observer)
    }

    /// The same with extra roots that are looked for when nobody else can use the repository any more, and so make none.
    pub fn gc_with<E: From<GcError>>(
        &mut self,
        dry_run: bool,
        extra_roots: impl FnOnce(&Self) -> Result<Vec<Root>, E>,
        observer: &dyn Observer,
    ) -> Result<GcReport, E> {
        let collect = |repository: &Self| {
            let options = GcOptions { dry_run, extra_roots: extra_roots(repository)? };
            Ok(repository.collect(&options, observer)?)
        };
        if dry_run {
            return collect(self);
        }
        self.check_writable().map_err(GcError::from)?;
        let waiting = |holders: LockHolders| {
            observer.event(Event::Step(&format!("waiting for {holders}, which uses the repository")));
        };
        let locked = lock::acquire(self.dir.as_fd(), lock::Mode::Exclusive, self.lock_timeout, waiting);
        let collected = locked
            .map_err(|failure| match failure {
                LockFailure::Busy(holders) => {
                    GcError::Busy { path: self.path.clone(), holders, waited_secs: self.lock_timeout.as_secs() }
                }
                LockFailure::Errno(errno) => self.file_error("lock", "", errno).into(),
            })
            .map_err(E::from)
            .and_then(|()| collect(self));
        // Also after a failed attempt, in which the shared lock was lost. Collections of others end.
        match lock::acquire(self.dir.as_fd(), lock::Mode::Shared, Duration::MAX, waiting) {
            Ok(()) | Err(LockFailure::Busy(_)) => collected,
            Err(LockFailure::Errno(errno)) => Err(GcError::from(self.file_error("lock", "", errno)).into()),
        }
    }

    fn collect(&self, options: &GcOptions, observer: &dyn Observer) -> Result<GcReport, GcError> {
        observer.event(Event::Step("finding what is in use"));
        let mut plan = Plan::default();
        let mut report = GcReport::default();
        let mut marker = Marker::new(self);
        // Each takes about half of the time.
        let (marked, listed) = thread::scope(|scope| {
            let listing = scope.spawn(|| self.list_objects());
            let marked = self.mark(options, &mut marker, &mut plan, observer);
            (marked, listing.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        marked?;
        let listed = listed?;
        report.refs_pruned = plan.links.len() as u64;

        for (namespace, pruned) in
            [(Namespace::Streams, &mut report.streams_pruned), (Namespace::Images, &mut report.images_pruned)]
        {
            let dead = self.dead_names(namespace, &marker, observer)?;
            *pruned = dead.len() as u64;
            plan.links.extend(dead);
        }
        report.objects_kept = self.find_dead_objects(listed, &marker, &mut plan, observer)?;
        report.objects_removed = plan.objects.len() as u64;
        report.freed_bytes = plan.objects.iter().map(|(_, size_bytes)| size_bytes).sum();
        if !options.dry_run {
            self.remove(&plan, &mut report, observer)?;
        }
        Ok(report)
    }

    /// Marks everything that is kept; plans to remove refs that keep nothing.
    fn mark(
        &self,
        options: &GcOptions,
        marker: &mut Marker<'_>,
        plan: &mut Plan,
        observer: &dyn Observer,
    ) -> Result<(), GcError> {
        let mut conditional = Vec::new();
        for namespace in [Namespace::Streams, Namespace::Images] {
            let directory = namespace.directory();
            for (name, target) in self.refs(namespace)? {
                let path = format!("{directory}/{REFS}/{name}");
                let digest = self.first_level(namespace, &target)?;
                match (digest, self.subject_of_ref(namespace, &name)?) {
                    (Some(digest), Referrer::No) => marker.add_root(&path, digest)?,
                    (Some(digest), Referrer::Of(subject)) => conditional.push(Conditional { path, subject, digest }),
                    (Some(_), Referrer::OfNothing) => {
                        plan.links.push(path);
                    }
                    (None, _) => {
                        let warning = format!("{path} stands for {target}, which does not exist");
                        observer.event(Event::Warning(&warning));
                        plan.links.push(path);
                    }
                }
            }
        }
        for root in &options.extra_roots {
            let found = self.objects_of_root(&root.name)?;
            if found.is_empty() {
                let Root { name, reason } = root;
                let warning = format!("{reason} needs {name}, which is not in the repository");
                observer.event(Event::Warning(&warning));
            }
            for (path, digest) in found {
                marker.add_root(&path, digest)?;
            }
        }
        for dead in mark_referrers(conditional, marker)? {
            plan.links.push(dead.path);
        }
        Ok(())
    }

    /// What the name of a ref says about when it keeps something.
    pub(super) fn subject_of_ref(&self, namespace: Namespace, name: &str) -> Result<Referrer, FileError> {
        let (Namespace::Streams, Some(rest)) = (namespace, name.strip_prefix(REFERRERS)) else {
            return Ok(Referrer::No);
        };
        let subject = rest.split('/').next().unwrap_or_default();
        let subject = self.first_level(namespace, &format!("{MANIFEST_PREFIX}{subject}"))?;
        Ok(subject.map_or(Referrer::OfNothing, Referrer::Of))
    }

    /// What a root stands for, with the paths of its names: of a stream and of an image, or an object itself.
    pub(super) fn objects_of_root(&self, name: &str) -> Result<Vec<(String, Digest)>, FileError> {
        let mut found = Vec::new();
        for namespace in [Namespace::Streams, Namespace::Images] {
            if let Some(digest) = self.first_level(namespace, name)? {
                found.push((format!("{}/{name}", namespace.directory()), digest));
            }
        }
        if found.is_empty()
            && let Ok(digest) = name.parse::<Digest>()
            && digest.algorithm() == self.algorithm()
            && self.object_size(&digest)?.is_some()
        {
            found.push((name.to_owned(), digest));
        }
        Ok(found)
    }

    /// First-level names of objects that are about to go, or gone.
    fn dead_names(
        &self,
        namespace: Namespace,
        marker: &Marker<'_>,
        observer: &dyn Observer,
    ) -> Result<Vec<String>, FileError> {
        let directory = namespace.directory();
        let listed = names(self.dir.as_fd(), directory).map_err(|error| self.file_error("read", directory, error))?;
        let mut dead = Vec::new();
        for name in listed.unwrap_or_default() {
            let Ok(name) = String::from_utf8(name) else { continue };
            if name == REFS {
                continue;
            }
            let path = format!("{directory}/{name}");
            let digest = match self.file_type(&path)? {
                FileType::Symlink => read_link(self.dir.as_fd(), &path).ok().and_then(|target| object_of(&target)),
                _ => None,
            };
            match digest {
                Some(digest) if marker.is_live(&digest) => {}
                Some(_) => dead.push(path),
                None => observer.event(Event::Warning(&format!("{path} is not the name of an object, leaving it"))),
            }
        }
        Ok(dead)
    }

    /// All objects, and the paths of what is among them and is none.
    fn list_objects(&self) -> Result<ListedObjects, FileError> {
        let mut listed = ListedObjects::default();
        for prefix in self.object_prefixes()? {
            let directory = format!("{OBJECTS}/{prefix}");
            let found =
                names(self.dir.as_fd(), &directory).map_err(|error| self.file_error("read", &directory, error))?;
            for rest in found.unwrap_or_default() {
                match Digest::from_parts(prefix.as_bytes(), &rest) {
                    Ok(digest) => listed.objects.push(digest),
                    Err(_) => listed.others.push(format!("{directory}/{}", String::from_utf8_lossy(&rest))),
                }
            }
        }
        Ok(listed)
    }

    /// Adds dead objects to the plan; returns the number of the others.
    fn find_dead_objects(
        &self,
        listed: ListedObjects,
        marker: &Marker<'_>,
        plan: &mut Plan,
        observer: &dyn Observer,
    ) -> Result<u64, FileError> {
        for path in listed.others {
            observer.event(Event::Warning(&format!("{path} is not an object, leaving it")));
        }
        let mut kept = 0;
        for digest in listed.objects {
            if marker.is_live(&digest) {
                kept += 1;
                continue;
            }
            let path = format!("{OBJECTS}/{}", digest.object_path());
            let size_bytes = self.size_bytes(&path)?;
            plan.objects.push((path, size_bytes));
        }
        Ok(kept)
    }

    fn remove(&self, plan: &Plan, report: &mut GcReport, observer: &dyn Observer) -> Result<(), FileError> {
        observer.event(Event::Step("removing what is not"));
        for path in &plan.links {
            self.unlink(path)?;
        }
        if !plan.links.is_empty() {
            self.sync_files()?;
        }
        for (path, _) in &plan.objects {
            self.unlink(path)?;
        }
        for path in self.temporary_files()? {
            report.freed_bytes += self.size_bytes(&path)?;
            self.unlink(&path)?;
            report.temporary_files_removed += 1;
        }
        Ok(())
    }

    /// The directories below `objects/`; anything else there is none of our business.
    pub(super) fn object_prefixes(&self) -> Result<Vec<String>, FileError> {
        let listed = names(self.dir.as_fd(), OBJECTS).map_err(|error| self.file_error("read", OBJECTS, error))?;
        let prefixes = listed.unwrap_or_default().into_iter().filter_map(|name| String::from_utf8(name).ok());
        Ok(prefixes.filter(|name| object::is_prefix(name)).collect())
    }

    fn size_bytes(&self, path: &str) -> Result<u64, FileError> {
        let stat = statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.file_error("examine", path, errno))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn unlink(&self, path: &str) -> Result<(), FileError> {
        unlinkat(&self.dir, path, AtFlags::empty()).map_err(|errno| self.file_error("remove", path, errno))
    }
}
