//! Mounting, serving and unmounting.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use thiserror::Error;

use crate::server::Server;
use crate::view::View;

const DEVICE: &str = "/dev/fuse";
/// More do not help: the kernel has its own threads for what it reads itself.
const THREADS_MAX: usize = 8;
/// What unmounts for who may not.
const HELPER: &str = "fusermount3";

/// Who may look into the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All users, as permissions and owners in the image say. For root.
    Everyone,
    /// The user who mounts it, as permissions and owners in the image say.
    Owner,
    /// The user who mounts it, who may read everything: for a user namespace, where the image's owners are nobody.
    OwnerReadsAll,
}

/// How a view is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What `findmnt` shows as the source, by custom `composefs:<digest>`.
    pub source: String,
    /// Who may look into it.
    pub access: Access,
}

/// Why a view was not mounted, served or unmounted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel has no FUSE, or the device is not here.
    #[error("there is no {DEVICE}: the kernel has no FUSE, or its module is not loaded")]
    NoDevice,
    /// The user may not use FUSE.
    #[error("no permission to use {DEVICE}")]
    DevicePermission(#[source] io::Error),
    /// The mount was refused.
    #[error("cannot mount on {} through FUSE", path.display())]
    Mount {
        /// Where to.
        path: PathBuf,
        /// What the kernel or fusermount3 said.
        source: io::Error,
    },
    /// The kernel's requests cannot be answered any more.
    #[error("serving failed")]
    Serve(#[source] io::Error),
    /// It was not unmounted.
    #[error("cannot unmount {}", path.display())]
    Unmount {
        /// What.
        path: PathBuf,
        /// What the kernel or fusermount3 said.
        source: io::Error,
    },
}

/// A view that is mounted. Unmounted when it is dropped, and when all files in it are closed after [`unmount`].
#[derive(Debug)]
pub struct Served {
    session: Session<Server>,
    ender: Ender,
}

/// Ends the serving of a view, from another thread.
#[derive(Clone, Debug)]
pub struct Ender {
    end: End,
    place: PathBuf,
    /// Number of the file system, which no other has as long as it is served.
    device: (u32, u32),
}

/// Where the end of a session is told, before it is dropped: a session that is dropped unmounts what is at its place, although its own mount
/// is gone and another one may be there by then.
#[derive(Clone, Debug, Default)]
pub(crate) struct End(Arc<OnceLock<Sender<io::Result<()>>>>);

impl End {
    fn set(&self, sender: Sender<io::Result<()>>) {
        // A session is served once.
        self.0.get_or_init(|| sender);
    }

    /// Tells it, and waits for the end of the process. Returns at once if nobody wants to know.
    pub(crate) fn tell(&self) {
        if self.send() {
            loop {
                thread::park();
            }
        }
    }

    fn send(&self) -> bool {
        self.0.get().is_some_and(|sender| sender.send(Ok(())).is_ok())
    }
}

/// Mounts a view on a directory: read-only, without device files and set-user-id programs. Access works when the view is
/// served; until then it waits.
///
/// Where the process may not mount, `fusermount3` does it.
pub fn mount(view: View, directory: &Path, options: &MountOptions) -> Result<Served, MountError> {
    let device = fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    match &device {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::NoDevice),
        _ => {}
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::FSName(options.source.clone()),
        MountOption::CUSTOM("subtype=composefs".to_owned()),
    ];
    let checks_permissions = options.access != Access::OwnerReadsAll;
    if checks_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = match options.access {
        Access::Everyone => SessionACL::All,
        Access::Owner | Access::OwnerReadsAll => SessionACL::Owner,
    };
    config.n_threads = Some(thread::available_parallelism().map_or(1, usize::from).clamp(2, THREADS_MAX));
    // A queue of its own for each thread; the helper may open the device for who cannot.
    config.clone_fd = device.is_ok();
    let end = End::default();
    match Session::new(Server::new(view, checks_permissions, end.clone()), directory, &config) {
        Ok(session) => {
            let error = |source| MountError::Mount { path: directory.to_owned(), source };
            let device = device_at(directory).map_err(error)?;
            Ok(Served { session, ender: Ender { end, place: directory.to_owned(), device } })
        }
        Err(error) => match device {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(MountError::DevicePermission(error)),
            _ => Err(MountError::Mount { path: directory.to_owned(), source: error }),
        },
    }
}

/// Which file system is mounted on a directory. It is not asked itself: it may not be served yet, or by this process.
fn device_at(directory: &Path) -> io::Result<(u32, u32)> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, directory, flags, StatxFlags::empty())?;
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

impl Ender {
    /// Unmounts the view. If its place is another's, or nobody's, it ends nevertheless, and with it what is still open in it.
    pub fn end(&self) -> Result<(), MountError> {
        if device_at(&self.place).is_ok_and(|device| device == self.device) {
            return unmount(&self.place);
        }
        self.end.send();
        Ok(())
    }
}

impl Served {
    /// What ends it.
    pub fn ender(&self) -> Ender {
        self.ender.clone()
    }

    /// Answers the kernel until the view is unmounted and no file of it is open, or its connection is aborted.
    pub fn serve(self) -> Result<(), MountError> {
        let (sender, receiver) = channel();
        self.ender.end.set(sender.clone());
        let session = self.session;
        // It is left waiting if it ends as it should.
        thread::spawn(move || sender.send(session.run()));
        match receiver.recv().unwrap_or(Ok(())) {
            // Kernels tell the threads of a connection that has ended the one or the other.
            Err(error)
                if [Errno::CONNABORTED, Errno::NODEV]
                    .iter()
                    .any(|end| error.raw_os_error() == Some(end.raw_os_error())) =>
            {
                Ok(())
            }
            ended => ended.map_err(MountError::Serve),
        }
    }
}

/// Takes a mount from its place. Files that are open in it stay readable; its server ends when they are closed.
pub fn unmount(directory: &Path) -> Result<(), MountError> {
    let error = |source| MountError::Unmount { path: directory.to_owned(), source };
    match rustix::mount::unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::PERM) => {}
        Err(errno) => return Err(error(errno.into())),
    }
    let mut command = Command::new(HELPER);
    command.args(["-u", "-z", "--"]).arg(directory).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(error)?;
    if output.status.success() {
        return Ok(());
    }
    Err(error(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
}
