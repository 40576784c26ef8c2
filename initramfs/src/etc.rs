//! The upper layer of /etc: what was changed on this machine, carried from deployment to deployment.
//!
//! At the first boot of a deployment its upper layer is made, by copying that of the deployment it names in
//! `[etc] carry_from`. The copy is complete and on the disk before it gets its name, so a power cut at any instant
//! leaves either nothing that counts or the whole. Later boots find it and change nothing. Since the upper layer
//! exists after the first boot whatever the mount of /etc is, it also marks the deployment as booted before.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use osupdate_record::{Deployment, DeploymentId, paths};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fsync, mkdirat, openat, renameat, statat, syncfs};
use rustix::io::Errno;

use crate::copy::{copy_directory, create_directory_like, open_directory};

/// The directory that holds the layers of /etc, in a deployment's directory.
const ETC: &str = "etc";

/// What was done about the upper layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// It was there already.
    AlreadyThere,
    /// It is new and empty: there is nothing to carry.
    Empty,
    /// It is a copy of that of this deployment.
    From(DeploymentId),
}

/// A deployment's directory on the physical root.
#[derive(Debug)]
pub(crate) struct State {
    directory: OwnedFd,
    id: String,
}

impl State {
    /// Opens the directory of the deployment `id`; `None` if there is none.
    pub(crate) fn open(sysroot: BorrowedFd<'_>, id: &str) -> Result<Option<Self>> {
        let path = format!("{}/{id}", paths::DEPLOYMENTS);
        match open_directory(sysroot, &path) {
            Ok(directory) => Ok(Some(Self { directory, id: id.to_owned() })),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(err).with_context(|| format!("cannot open the deployment's directory {path:?}")),
        }
    }

    /// Where it is, from the physical root.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", paths::DEPLOYMENTS, self.id)
    }

    /// Whether it was made by osupdate.
    pub(crate) fn has_record(&self) -> Result<bool> {
        match statat(&self.directory, paths::RECORD, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(err) => Err(err).with_context(|| format!("cannot look for \"{}/{}\"", self.path(), paths::RECORD)),
        }
    }

    /// The deployment's record; `None` if it was not made by osupdate. Read only at the first boot: a later one needs
    /// nothing of it, and must not fail on it.
    fn record(&self) -> Result<Option<Deployment>> {
        let what = || format!("cannot read the deployment's record \"{}/{}\"", self.path(), paths::RECORD);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.directory, paths::RECORD, flags, Mode::empty()) {
            Ok(file) => fs::File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(err) => return Err(err).with_context(what),
        };
        let text = std::io::read_to_string(file).with_context(what)?;
        Deployment::parse(&text).with_context(what).map(Some)
    }

    /// Makes sure that `etc/upper` exists, complete and durable.
    ///
    /// An empty one gets the metadata of `image_etc`, the image's own /etc, because the upper layer's is what the
    /// overlay shows.
    pub(crate) fn prepare_etc(&self, image_etc: BorrowedFd<'_>) -> Result<Carried> {
        let what = || format!("cannot prepare \"{}/{ETC}\"", self.path());
        let directory = self.directory.as_fd();
        let etc = ensure_directory(directory, ETC, Mode::from_raw_mode(0o755)).with_context(what)?;
        match statat(directory, paths::ETC_UPPER, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => return Ok(Carried::AlreadyThere),
            Ok(_) => bail!("\"{}/{}\" is not a directory", self.path(), paths::ETC_UPPER),
            Err(Errno::NOENT) => {}
            Err(err) => return Err(err).with_context(what),
        }
        remove_left_over(directory).with_context(what)?;
        let carried = match self.carry_source()? {
            Some((id, source)) => {
                copy_directory(source.as_fd(), directory, paths::ETC_UPPER_NEW)
                    .with_context(|| format!("cannot carry the local changes in /etc over from deployment {id}"))?;
                Carried::From(id)
            }
            None => {
                create_directory_like(image_etc, directory, paths::ETC_UPPER_NEW).with_context(what)?;
                Carried::Empty
            }
        };
        syncfs(&etc).with_context(what)?;
        renameat(directory, paths::ETC_UPPER_NEW, directory, paths::ETC_UPPER).with_context(what)?;
        fsync(&etc).with_context(what)?;
        Ok(carried)
    }

    /// The upper layer to copy, and whose it is.
    ///
    /// A deployment that was named but is gone is an error, since its changes may be what this machine can be reached
    /// by. One that is there and has no upper layer was never booted, or is not ours, and has nothing to carry.
    fn carry_source(&self) -> Result<Option<(DeploymentId, OwnedFd)>> {
        let Some(id) = self.record()?.and_then(|record| record.etc.carry_from) else {
            return Ok(None);
        };
        let what = || format!("cannot open the local changes in /etc of deployment {id}");
        let source = open_directory(&self.directory, format!("../{id}")).with_context(what)?;
        match open_directory(&source, paths::ETC_UPPER) {
            Ok(upper) => Ok(Some((id, upper))),
            // Put aside, if it is about to get another one and the change was interrupted.
            Err(Errno::NOENT) => match newest_aside(source.as_fd()).with_context(what)? {
                Some(aside) => open_directory(&source, aside).with_context(what).map(|upper| Some((id, upper))),
                None => Ok(None),
            },
            Err(err) => Err(err).with_context(what),
        }
    }
}

/// The upper layer that was put aside last, `etc/upper.<number>`.
fn newest_aside(state: BorrowedFd<'_>) -> rustix::io::Result<Option<String>> {
    let etc = match open_directory(state, ETC) {
        Ok(etc) => etc,
        Err(Errno::NOENT) => return Ok(None),
        Err(err) => return Err(err),
    };
    let mut newest = None;
    for entry in Dir::read_from(&etc)? {
        let entry = entry?;
        let number = entry.file_name().to_str().ok().and_then(|name| name.strip_prefix("upper.")?.parse::<u64>().ok());
        newest = newest.max(number);
    }
    Ok(newest.map(|number| format!("{}.{number}", paths::ETC_UPPER)))
}

/// Opens a directory, making it if it is missing.
pub(crate) fn ensure_directory(parent: BorrowedFd<'_>, name: &str, mode: Mode) -> rustix::io::Result<OwnedFd> {
    match mkdirat(parent, name, mode) {
        Ok(()) | Err(Errno::EXIST) => open_directory(parent, name),
        Err(err) => Err(err),
    }
}

/// Whether a deployment's `etc` can be used as /etc itself: it has something, and that is not the layers of an overlay.
pub(crate) fn is_complete_etc(etc: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut complete = false;
    for entry in Dir::read_from(etc)? {
        match entry?.file_name().to_bytes() {
            b"." | b".." => {}
            b"upper" => return Ok(false),
            _ => complete = true,
        }
    }
    Ok(complete)
}

/// Removes the beginning of a copy that a power cut interrupted.
fn remove_left_over(state: BorrowedFd<'_>) -> std::io::Result<()> {
    match fs::remove_dir_all(format!("/proc/self/fd/{}/{}", state.as_raw_fd(), paths::ETC_UPPER_NEW)) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
