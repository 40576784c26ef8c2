//! The mounts of the new root: put together where nobody sees them, then moved into place at once.
//!
//! Everything is mounted below a private tmpfs. Private, because systemd shares all mounts with other namespaces, and the
//! kernel does not move a mount away from a shared one. The tmpfs also has the upper layers of what is transient: the
//! overlay keeps it in memory after it is no longer mounted anywhere. A failure before the last step leaves the
//! physical root where it was.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, open, openat, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount, open_tree,
    unmount,
};

use crate::physical_root::PhysicalRoot;

/// Where the new root is put together.
const STAGING: &str = "/run/osupdate-setup-root";
/// Directory in it on which the new root is mounted.
const NEW_ROOT: &str = "root";

/// The two writable directories of an overlay.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) upper: OwnedFd,
    pub(crate) work: OwnedFd,
}

/// The tmpfs below which the new root is put together; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    directory: OwnedFd,
}

impl Staging {
    pub(crate) fn create() -> Result<Self> {
        let what = || format!("cannot mount a tmpfs at {STAGING:?}");
        fs::create_dir_all(STAGING).with_context(what)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        mount("osupdate-setup-root", STAGING, "tmpfs", flags, c"mode=0700").with_context(what)?;
        mount_change(STAGING, MountPropagationFlags::PRIVATE).with_context(what)?;
        let directory = open(STAGING, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self { directory: directory.with_context(what)? })
    }

    /// Creates the layers of a transient overlay; `name` is for nobody but us.
    pub(crate) fn transient_layers(&self, name: &str) -> Result<Layers> {
        let create = |name: &str, mode| {
            mkdirat(&self.directory, name, mode)?;
            openat(&self.directory, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        };
        let layers = || {
            let upper = create(&format!("{name}-upper"), Mode::from_raw_mode(0o755))?;
            Ok::<_, Errno>(Layers { upper, work: create(&format!("{name}-work"), Mode::RWXU)? })
        };
        layers().with_context(|| format!("cannot create the transient layers of {name}"))
    }

    /// Mounts a detached mount as the new root.
    pub(crate) fn attach_root(self, root: BorrowedFd<'_>) -> Result<NewRoot> {
        let what = "cannot mount the new root";
        mkdirat(&self.directory, NEW_ROOT, Mode::from_raw_mode(0o755)).context(what)?;
        attach(root, self.directory.as_fd(), NEW_ROOT).context(what)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.directory, NEW_ROOT, flags, Mode::empty()).context(what)?;
        Ok(NewRoot { directory, staging: self })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // All that is still mounted below goes with it.
        if let Err(err) = unmount(STAGING, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            crate::report::warning(&format!("cannot unmount {STAGING:?}: {err}, ignoring"));
        }
        if let Err(err) = fs::remove_dir(STAGING) {
            crate::report::warning(&format!("cannot remove {STAGING:?}: {err}, ignoring"));
        }
    }
}

/// The new root while it is put together.
#[derive(Debug)]
pub(crate) struct NewRoot {
    directory: OwnedFd,
    staging: Staging,
}

impl NewRoot {
    /// The tmpfs below it.
    pub(crate) fn staging(&self) -> &Staging {
        &self.staging
    }

    /// Whether the image has a directory of this name.
    pub(crate) fn has_directory(&self, name: &str) -> Result<bool> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()),
            Err(Errno::NOENT) => Ok(false),
            Err(err) => Err(err).with_context(|| format!("cannot look for /{name} in the image")),
        }
    }

    /// Opens a directory of the image, itself and not what a link points to.
    pub(crate) fn open_directory(&self, name: &str) -> Result<OwnedFd> {
        crate::copy::open_directory(&self.directory, name)
            .with_context(|| format!("cannot open the directory /{name} of the image"))
    }

    /// Binds a directory over that of the image, and what is mounted below it too.
    pub(crate) fn bind(&self, source: BorrowedFd<'_>, name: &str) -> Result<()> {
        let what = || format!("cannot mount /{name}");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let clone = open_tree(source, "", flags).with_context(what)?;
        attach(clone.as_fd(), self.directory.as_fd(), name).with_context(what)
    }

    /// Mounts an overlay over a directory of the image, which is its lower layer.
    ///
    /// Without the features by which an upper layer depends on one particular lower layer: it will be copied, and used
    /// with another image.
    pub(crate) fn overlay(&self, name: &str, layers: &Layers) -> Result<()> {
        let lower = self.open_directory(name)?;
        let mounted = || {
            let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
            let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
            set("source", "overlay")?;
            for feature in ["index", "metacopy", "redirect_dir"] {
                set(feature, "off")?;
            }
            // By path: layers as descriptors need Linux 6.13.
            set("lowerdir", &path_of(lower.as_fd()))?;
            set("upperdir", &path_of(layers.upper.as_fd()))?;
            set("workdir", &path_of(layers.work.as_fd()))?;
            fsconfig_create(&context).map_err(|err| with_kernel_messages(context.as_fd(), err))?;
            let overlay = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
            attach(overlay.as_fd(), self.directory.as_fd(), name)?;
            anyhow::Ok(())
        };
        mounted().with_context(|| format!("cannot mount the overlay at /{name}"))
    }

    /// Puts the new root in the place of the physical root, which is then only at its own `/sysroot`.
    pub(crate) fn replace(self, physical: &PhysicalRoot) -> Result<()> {
        let path = physical.path();
        let what = || format!("cannot put the new root in place at {path:?}");
        // The parts came with the propagation of what they were cloned from: a mount made in /var would appear in
        // the physical root too, and stay there.
        let root = Path::new(STAGING).join(NEW_ROOT);
        mount_change(&root, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).with_context(what)?;
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).with_context(what)?;
        move_mount(CWD, &root, CWD, path, MoveMountFlags::empty()).with_context(what)
    }
}

/// Attaches a detached mount.
fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    move_mount(mount, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Adds what the kernel says about a failed mount.
fn with_kernel_messages(context: BorrowedFd<'_>, err: Errno) -> anyhow::Error {
    let mut message = [0; 1024];
    match rustix::io::read(context, &mut message) {
        Ok(length) => anyhow::Error::new(err).context(String::from_utf8_lossy(&message[..length]).trim().to_owned()),
        // It has nothing to say.
        Err(_) => err.into(),
    }
}
