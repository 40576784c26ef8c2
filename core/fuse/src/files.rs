//! Files whose contents are objects: opened and read for the kernel.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use fuser::{BackingId, Errno, FileHandle, FopenFlags, ReplyData, ReplyOpen};

use crate::ahead::Ahead;
use crate::contents::ContentError;
use crate::view::View;
use crate::workers;

/// What the kernel has read of a file stays true, and nobody wants to hear that it is closed.
pub(crate) const KEEP: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);
/// Small files that are opened before the kernel is told to open files without asking. Who opens many of them waits for each answer,
/// which costs more than the kernel gains by reading large files itself.
const SMALL_OPENINGS_MAX: usize = 256;
/// Files that the kernel reads itself at a time. Each takes a descriptor, and a limit of 1024 is usual.
const BACKED_MAX: usize = 256;
/// Threads that prepare objects ahead of readers: they wait for the disk, mostly.
const AHEAD_THREADS: usize = 4;
/// Threads that check large objects: one for each processor, within these limits.
const CHECK_THREADS: RangeInclusive<usize> = 2..=8;

thread_local! {
    /// What is read, until it is sent. At most as large as a request of the kernel, 1 MiB by default.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) view: View,
    ahead: Ahead,
    /// The kernel reads large objects itself. Once it does not, it never does again.
    passthrough: AtomicBool,
    small_openings: AtomicUsize,
    /// Files that the kernel reads itself, by inode: it takes one descriptor for each inode only. Nothing is added without
    /// `passthrough`.
    backed: Mutex<HashMap<u64, Backed>>,
    /// What waits for an object to be checked, by its index; the first for each is with a checker.
    waiting: Mutex<HashMap<u32, Vec<Job>>>,
    /// Threads for what takes long; `None` if there are none to be had.
    checkers: OnceLock<Option<Sender<u32>>>,
    preparers: OnceLock<Option<Sender<u32>>>,
}

#[derive(Debug)]
struct Backed {
    opened: usize,
    backing: Backing,
}

/// A file that the kernel reads itself.
#[derive(Clone, Debug)]
struct Backing {
    id: Arc<BackingId>,
    file: Arc<File>,
}

/// What the kernel wants of a file.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) offset: u64,
    /// Not beyond the end of the file.
    pub(crate) size: usize,
    pub(crate) reply: ReplyData,
}

/// What an object must be checked for.
#[derive(Debug)]
enum Job {
    Open { number: u64, index: u32, reply: ReplyOpen },
    Read { index: u32, read: Read },
}

impl Files {
    pub(crate) fn new(view: View) -> Self {
        let ahead = Ahead::new(view.nodes());
        Self {
            view,
            ahead,
            passthrough: AtomicBool::new(false),
            small_openings: AtomicUsize::new(0),
            backed: Mutex::default(),
            waiting: Mutex::default(),
            checkers: OnceLock::new(),
            preparers: OnceLock::new(),
        }
    }

    pub(crate) fn use_passthrough(&self) {
        self.passthrough.store(true, Ordering::Relaxed);
    }

    fn uses_passthrough(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    /// Whether the kernel need not ask any more when it opens a file. Not as long as it reads one itself: it maps no file into memory
    /// that is open in both ways.
    pub(crate) fn need_no_opening(&self, is_small: bool) -> bool {
        if is_small && self.small_openings.fetch_add(1, Ordering::Relaxed) >= SMALL_OPENINGS_MAX {
            self.passthrough.store(false, Ordering::Relaxed);
        }
        !self.uses_passthrough() && self.backed().is_empty()
    }

    /// Opens a file, perhaps after this returns.
    pub(crate) fn open(self: &Arc<Self>, number: u64, index: u32, reply: ReplyOpen) {
        self.prepare_after(number);
        self.after_check(index, Job::Open { number, index, reply });
    }

    /// Reads a file, perhaps after this returns.
    pub(crate) fn read(self: &Arc<Self>, number: u64, index: u32, read: Read) {
        self.prepare_after(number);
        self.after_check(index, Job::Read { index, read });
    }

    /// Does at once what does not take long.
    fn after_check(self: &Arc<Self>, index: u32, job: Job) {
        if !self.view.contents.takes_long(index) {
            return self.work(job);
        }
        let checkers = self.checkers.get_or_init(|| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let threads = threads.clamp(*CHECK_THREADS.start(), *CHECK_THREADS.end());
            let files = Arc::downgrade(self);
            started(workers::start("check", threads, move |index| {
                if let Some(files) = files.upgrade() {
                    files.work_waiting(index);
                }
            }))
        });
        let Some(checkers) = checkers else { return self.work(job) };
        let mut waiting = lock(&self.waiting);
        if let Some(jobs) = waiting.get_mut(&index) {
            // One thread is enough for an object.
            return jobs.push(job);
        }
        waiting.insert(index, vec![job]);
        drop(waiting);
        if checkers.send(index).is_err() {
            self.work_waiting(index);
        }
    }

    /// Does all that waits for an object; the first of it has it checked.
    fn work_waiting(&self, index: u32) {
        loop {
            let mut waiting = lock(&self.waiting);
            match waiting.get_mut(&index).and_then(Vec::pop) {
                Some(job) => {
                    drop(waiting);
                    self.work(job);
                }
                None => {
                    waiting.remove(&index);
                    return;
                }
            }
        }
    }

    fn work(&self, job: Job) {
        match job {
            Job::Open { number, index, reply } => match self.open_object(number, index, &reply) {
                Ok(Some(backing)) => reply.opened_passthrough(FileHandle(0), FopenFlags::FOPEN_NOFLUSH, &backing.id),
                Ok(None) => reply.opened(FileHandle(0), KEEP),
                Err(_) => reply.error(Errno::EIO),
            },
            Job::Read { index, read: Read { offset, size, reply } } => BUFFER.with_borrow_mut(|buffer| {
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                match self.view.contents.read_at(index, &mut buffer[..size], offset) {
                    Ok(length) => reply.data(&buffer[..length]),
                    Err(_) => reply.error(Errno::EIO),
                }
            }),
        }
    }

    /// Has objects prepared for a reader who goes through the tree.
    fn prepare_after(self: &Arc<Self>, number: u64) {
        for index in self.ahead.after(number) {
            if !self.view.contents.is_to_prepare(index) {
                continue;
            }
            let preparers = self.preparers.get_or_init(|| {
                let files = Arc::downgrade(self);
                started(workers::start("ahead", AHEAD_THREADS, move |index| {
                    if let Some(files) = files.upgrade() {
                        files.view.contents.prepare(index);
                    }
                }))
            });
            // Without it, readers wait longer.
            if preparers.as_ref().is_none_or(|preparers| preparers.send(index).is_err()) {
                return;
            }
        }
    }

    fn backed(&self) -> MutexGuard<'_, HashMap<u64, Backed>> {
        lock(&self.backed)
    }

    /// Opens a file for a reader; `None` if it is read here, else it is to be closed with [`Files::close`].
    fn open_object(&self, number: u64, index: u32, reply: &ReplyOpen) -> Result<Option<Backing>, ContentError> {
        if let Some(backing) = self.open_again(number) {
            // The kernel takes no other file as long as this one is open.
            let is_good = self.view.contents.check_again(index, &backing.file);
            if is_good.is_err() {
                self.close(number);
            }
            return is_good.map(|()| Some(backing));
        }
        let file = Arc::new(self.view.contents.open(index)?);
        let Some(backing) = self.uses_passthrough().then(|| self.open_backing(file, reply)).flatten() else {
            // Another thread may have opened it meanwhile.
            return Ok(self.open_again(number));
        };
        let mut backed = self.backed();
        if !backed.contains_key(&number) {
            if backed.len() >= BACKED_MAX {
                self.passthrough.store(false, Ordering::Relaxed);
            }
            // Or it has been ended.
            if !self.uses_passthrough() {
                return Ok(None);
            }
        }
        let opened = backed.entry(number).or_insert(Backed { opened: 0, backing });
        opened.opened += 1;
        Ok(Some(opened.backing.clone()))
    }

    /// Opens a file once more that the kernel reads itself.
    fn open_again(&self, number: u64) -> Option<Backing> {
        let mut backed = self.backed();
        let file = backed.get_mut(&number)?;
        file.opened += 1;
        Some(file.backing.clone())
    }

    pub(crate) fn close(&self, number: u64) {
        let mut backed = self.backed();
        let closed = match backed.get_mut(&number) {
            Some(file) => {
                file.opened -= 1;
                if file.opened == 0 { backed.remove(&number) } else { None }
            }
            None => None,
        };
        drop(backed);
        // The kernel is told after others may go on.
        drop(closed);
    }

    fn open_backing(&self, file: Arc<File>, reply: &ReplyOpen) -> Option<Backing> {
        match reply.open_backing(&*file) {
            Ok(id) => Some(Backing { id: Arc::new(id), file }),
            Err(error) => {
                tracing::debug!("no passthrough: {error}, reading files here");
                self.passthrough.store(false, Ordering::Relaxed);
                None
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole at every instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn started<J>(result: std::io::Result<Sender<J>>) -> Option<Sender<J>> {
    result.inspect_err(|error| tracing::warn!("cannot start threads: {error}, readers wait for each other")).ok()
}
