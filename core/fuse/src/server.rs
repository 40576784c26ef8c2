//! Answers to the kernel.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use osupdate_core::tree::NAME_MAX;

use crate::files::{Files, KEEP, Read};
use crate::session::End;
use crate::view::{ACL, BLOCK, Directory, Kind, Node, View};

/// How long the kernel may rely on what it was told: for ever, as far as that can be said.
const FOREVER: Duration = Duration::from_secs(1 << 30);
const GENERATION: Generation = Generation(0);
/// Requests that the kernel makes ahead of readers. Those for large objects that are not checked yet wait, others should not.
const BACKGROUND: u16 = 512;
/// Size of files up to which they are read here although the kernel could: in one request, after which the kernel has them, while to open
/// an object for the kernel costs several each time.
const READ_HERE_MAX_BYTES: u64 = 128 * 1024;

#[derive(Debug)]
pub(crate) struct Server {
    files: Arc<Files>,
    checks_permissions: bool,
    end: End,
    /// Files and directories need not be opened here.
    skips_open: bool,
    skips_opendir: bool,
}

impl Server {
    pub(crate) fn new(view: View, checks_permissions: bool, end: End) -> Self {
        let files = Arc::new(Files::new(view));
        Self { files, checks_permissions, end, skips_open: false, skips_opendir: false }
    }

    fn view(&self) -> &View {
        &self.files.view
    }

    fn node(&self, number: INodeNo) -> Result<&Node, Errno> {
        self.view().node(number).ok_or(Errno::ENOENT)
    }

    fn directory(&self, number: INodeNo) -> Result<&Directory, Errno> {
        match &self.node(number)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
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
            let node = self.view().node(INodeNo(child))?;
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
        if self.checks_permissions && !self.view().lacks(ACL) {
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
            self.files.use_passthrough();
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
        match directory.get(name).and_then(|number| self.view().node(number)) {
            Some(node) => reply.entry(&FOREVER, &node.attr, GENERATION),
            // The kernel remembers a name without an inode, too.
            None => match self.view().node(parent) {
                Some(node) => {
                    reply.entry(&FOREVER, &FileAttr { ino: INodeNo(0), ..node.attr }, GENERATION);
                }
                None => reply.error(Errno::ENOENT),
            },
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view().node(number) {
            Some(node) => reply.attr(&FOREVER, &node.attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.view().node(number) {
            Some(Node { kind: Kind::Symlink(target), .. }) => reply.data(target),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let large = match self.view().node(number) {
            Some(Node { kind: Kind::Object(index), attr, .. }) if attr.size > READ_HERE_MAX_BYTES => Some(*index),
            _ => None,
        };
        if self.skips_open && self.files.need_no_opening(large.is_none()) {
            return reply.error(Errno::ENOSYS);
        }
        match large {
            Some(index) => self.files.open(number.0, index, reply),
            None => reply.opened(FileHandle(0), KEEP),
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
        self.files.close(number.0);
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
        let Some(node) = self.view().node(number) else { return reply.error(Errno::ENOENT) };
        match &node.kind {
            Kind::Inline(bytes) => {
                let start = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
                let end = bytes.len().min(start + size as usize);
                reply.data(&bytes[start..end]);
            }
            Kind::Object(index) => {
                let rest = node.attr.size.saturating_sub(offset).min(u64::from(size));
                self.files.read(number.0, *index, Read { offset, size: rest as usize, reply });
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
        let blocks = self.view().bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, self.view().len(), 0, BLOCK, NAME_MAX as u32, BLOCK);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(node) = self.view().node(number) else { return reply.error(Errno::ENOENT) };
        match node.xattrs.get(name.as_bytes()) {
            Some(value) => send_xattr(value, size, reply),
            // An image without any is as a file system that has none; who hears this asks no more.
            None if self.view().lacks(name.as_bytes()) => reply.error(Errno::EOPNOTSUPP),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(node) = self.view().node(number) else { return reply.error(Errno::ENOENT) };
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
