//! Answers to the kernel.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{
    BackingId, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use osupdate_core::tree::NAME_MAX;

use crate::contents::ContentError;
use crate::session::End;
use crate::view::{ACL, BLOCK, Directory, Kind, Node, View};

/// How long the kernel may rely on what it was told: for ever, as far as that can be said.
const FOREVER: Duration = Duration::from_secs(1 << 30);
const GENERATION: Generation = Generation(0);
/// Requests that the kernel makes ahead of readers.
const BACKGROUND: u16 = 64;
/// Size of files up to which they are read here although the kernel could: in one request, after which the kernel has them, while to open
/// an object for the kernel costs several each time.
const READ_HERE_MAX_BYTES: u64 = 128 * 1024;

thread_local! {
    /// What is read, until it is sent. At most as large as a request of the kernel, 1 MiB by default.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(crate) struct Server {
    view: View,
    checks_permissions: bool,
    end: End,
    /// The kernel reads objects itself.
    passthrough: AtomicBool,
    /// Files and directories need not be opened here.
    skips_open: bool,
    skips_opendir: bool,
    /// Files that the kernel reads itself, by inode: it takes one descriptor for each inode only.
    backed: Mutex<HashMap<u64, Backed>>,
}

#[derive(Debug)]
struct Backed {
    opened: usize,
    /// `None`: read here, as long as it is open.
    backing: Option<Backing>,
}

/// A file that the kernel reads itself.
#[derive(Clone, Debug)]
struct Backing {
    id: Arc<BackingId>,
    file: Arc<File>,
}

impl Server {
    pub(crate) fn new(view: View, checks_permissions: bool, end: End) -> Self {
        Self {
            view,
            checks_permissions,
            end,
            passthrough: AtomicBool::new(false),
            skips_open: false,
            skips_opendir: false,
            backed: Mutex::default(),
        }
    }

    fn directory(&self, number: INodeNo) -> Result<&Directory, Errno> {
        match &self.view.node(number).ok_or(Errno::ENOENT)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn backed(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Backed>> {
        self.backed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a file for a reader, by whom it is closed with [`Server::close`]; `None` if it is read here.
    fn open_object(
        &self,
        number: INodeNo,
        index: u32,
        passthrough: bool,
        reply: &ReplyOpen,
    ) -> Result<Option<Backing>, ContentError> {
        if let Some(backing) = self.open_again(number) {
            // The kernel takes no other file as long as this one is open.
            let is_good =
                backing.as_ref().map_or(Ok(()), |backing| self.view.contents.check_again(index, &backing.file));
            if is_good.is_err() {
                self.close(number);
            }
            return is_good.map(|()| backing);
        }
        let file = Arc::new(self.view.contents.open(index)?);
        let backing = passthrough.then(|| self.open_backing(file, reply)).flatten();
        let mut backed = self.backed();
        // Another thread may have opened it meanwhile; the kernel takes one for each inode.
        let opened = backed.entry(number.0).or_insert(Backed { opened: 0, backing });
        opened.opened += 1;
        Ok(opened.backing.clone())
    }

    /// Counts one more opening of a file that is open already.
    fn open_again(&self, number: INodeNo) -> Option<Option<Backing>> {
        let mut backed = self.backed();
        let file = backed.get_mut(&number.0)?;
        file.opened += 1;
        Some(file.backing.clone())
    }

    fn close(&self, number: INodeNo) {
        let mut backed = self.backed();
        let closed = match backed.get_mut(&number.0) {
            Some(file) => {
                file.opened -= 1;
                if file.opened == 0 { backed.remove(&number.0) } else { None }
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

    fn read_object(&self, index: u32, offset: u64, size: usize, reply: ReplyData) {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.view.contents.read_at(index, &mut buffer[..size], offset) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(_) => reply.error(Errno::EIO),
            }
        });
    }

    /// The entries of a directory after an offset, with the offset that follows each.
    fn entries<'a>(
        &'a self,
        number: INodeNo,
        directory: &'a Directory,
        offset: u64,
    ) -> impl Iterator<Item = (u64, &'a [u8], &'a FileAttr)> {
        let dots = [(&b"."[..], number.0), (&b".."[..], directory.parent)];
        let names = directory.entries.iter().map(|(name, child)| (&**name, *child));
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let from_names = names.skip(skipped.saturating_sub(dots.len()));
        dots.into_iter().skip(skipped).chain(from_names).zip(offset + 1..).filter_map(|((name, child), next)| {
            let node = self.view.node(INodeNo(child))?;
            Some((next, name, &node.attr))
        })
    }
}

/// Sends an attribute, or its size to who asks for that.
fn send_xattr(data: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(data.len() as u32),
        size if data.len() > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(data),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let can = config.capabilities();
        let mut wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO;
        if self.checks_permissions && !self.view.lacks(ACL) {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        let unsupported = |bits| io::Error::other(format!("the kernel did not offer {bits:?}"));
        config.add_capabilities(wanted & can).map_err(unsupported)?;
        // Only who may read any file may have the kernel do it.
        if can.contains(InitFlags::FUSE_PASSTHROUGH)
            && rustix::process::geteuid().is_root()
            // More, and no overlay could be put above it.
            && config.set_max_stack_depth(1).is_ok()
        {
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(unsupported)?;
            self.passthrough = AtomicBool::new(true);
        }
        for (flag, skips) in [
            (InitFlags::FUSE_NO_OPEN_SUPPORT, &mut self.skips_open),
            (InitFlags::FUSE_NO_OPENDIR_SUPPORT, &mut self.skips_opendir),
        ] {
            if can.contains(flag) {
                config.add_capabilities(flag).map_err(unsupported)?;
                *skips = true;
            }
        }
        // Any number above zero is taken.
        config.set_max_background(BACKGROUND).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn destroy(&mut self) {
        self.end.tell();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes();
        if name.len() > NAME_MAX {
            return reply.error(Errno::ENAMETOOLONG);
        }
        let directory = match self.directory(parent) {
            Ok(directory) => directory,
            Err(errno) => return reply.error(errno),
        };
        match directory.get(name).and_then(|number| self.view.node(number)) {
            Some(node) => reply.entry(&FOREVER, &node.attr, GENERATION),
            // The kernel remembers a name without an inode, too.
            None => match self.view.node(parent) {
                Some(node) => {
                    reply.entry(&FOREVER, &FileAttr { ino: INodeNo(0), ..node.attr }, GENERATION);
                }
                None => reply.error(Errno::ENOENT),
            },
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.node(number) {
            Some(node) => reply.attr(&FOREVER, &node.attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.view.node(number) {
            Some(Node { kind: Kind::Symlink(target), .. }) => reply.data(target),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let passthrough = self.passthrough.load(Ordering::Relaxed);
        if !passthrough && self.skips_open && self.backed().is_empty() {
            return reply.error(Errno::ENOSYS);
        }
        let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        let index = match self.view.node(number) {
            Some(Node { kind: Kind::Object(index), attr, .. }) if attr.size > READ_HERE_MAX_BYTES => index,
            _ => return reply.opened(FileHandle(0), keep),
        };
        match self.open_object(number, *index, passthrough, &reply) {
            Ok(Some(backing)) => reply.opened_passthrough(FileHandle(0), FopenFlags::FOPEN_NOFLUSH, &backing.id),
            Ok(None) => reply.opened(FileHandle(0), keep),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.close(number);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(node) = self.view.node(number) else { return reply.error(Errno::ENOENT) };
        match &node.kind {
            Kind::Inline(bytes) => {
                let start = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
                let end = bytes.len().min(start + size as usize);
                reply.data(&bytes[start..end]);
            }
            Kind::Object(index) => {
                let rest = node.attr.size.saturating_sub(offset).min(u64::from(size));
                self.read_object(*index, offset, rest as usize, reply);
            }
            Kind::Nowhere => reply.error(Errno::EIO),
            Kind::Directory(_) => reply.error(Errno::EISDIR),
            Kind::Symlink(_) | Kind::Special => reply.error(Errno::EINVAL),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.skips_opendir {
            return reply.error(Errno::ENOSYS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let directory = match self.directory(number) {
            Ok(directory) => directory,
            Err(errno) => return reply.error(errno),
        };
        for (next, name, attr) in self.entries(number, directory, offset) {
            if reply.add(attr.ino, next, attr.kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let directory = match self.directory(number) {
            Ok(directory) => directory,
            Err(errno) => return reply.error(errno),
        };
        for (next, name, attr) in self.entries(number, directory, offset) {
            if reply.add(attr.ino, next, OsStr::from_bytes(name), &FOREVER, attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.view.bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, self.view.len(), 0, BLOCK, NAME_MAX as u32, BLOCK);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(node) = self.view.node(number) else { return reply.error(Errno::ENOENT) };
        match node.xattrs.get(name.as_bytes()) {
            Some(value) => send_xattr(value, size, reply),
            // An image without any is as a file system that has none; who hears this asks no more.
            None if self.view.lacks(name.as_bytes()) => reply.error(Errno::EOPNOTSUPP),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(node) = self.view.node(number) else { return reply.error(Errno::ENOENT) };
        let mut names = Vec::new();
        for name in node.xattrs.keys() {
            // As in the kernel's own file systems, they are for root only.
            if request.uid() == 0 || !name.starts_with(b"trusted.") {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        send_xattr(&names, size, reply);
    }
}
