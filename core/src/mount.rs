//! Mounting images: an EROFS mount that nobody sees, below an overlay that finds file contents in the objects.
//!
//! Everything happens on file descriptors: the image that was measured is the one that is mounted, and no path is
//! resolved a second time. The result is a detached mount; [`attach`] gives it a place. What the running kernel can do
//! is tried, never concluded from its version: the ways are in order, newest first.

mod context;
mod staging;
#[cfg(test)]
mod tests;

pub use context::ContextError;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, move_mount};
use thiserror::Error;

use crate::digest::Digest;
use crate::erofs;
use crate::proc_fd;
use crate::repository::{ImageError, Repository, Verity};
use context::Context;
use staging::Staging;

pub use osupdate_sys::namespace::private_mounts;

/// Bytes at the start of an image that tell how to mount it.
const HEADER_BYTES: usize = 32;

/// How an image is mounted.
#[derive(Debug)]
pub struct MountOptions {
    /// What `findmnt` shows as the source, by custom `composefs:<digest>`.
    pub source: String,
    /// Whether the kernel must find every object sealed with the digest that the image names.
    pub verity: Verity,
    /// Where changes go; without it nothing can be changed.
    pub upper: Option<Upper>,
    /// Makes the mount read-only even if there is an upper directory.
    pub read_only: bool,
    /// The user namespace, an open `/proc/PID/ns/user`, whose map the owners in the image go through.
    pub id_map: Option<OwnedFd>,
}

/// The writable layer of an overlay: two empty directories, or those of an earlier mount, on one file system.
#[derive(Debug)]
pub struct Upper {
    /// `upperdir`: the changes.
    pub upper: OwnedFd,
    /// `workdir`: the kernel's own.
    pub work: OwnedFd,
}

/// Why an image was not mounted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// The image is not in the repository, or damaged.
    #[error("cannot open the image")]
    Image(#[from] ImageError),
    /// The header of the image cannot be read.
    #[error("cannot read the header of the image")]
    Header(#[source] io::Error),
    /// It is something else.
    #[error("the file is not a composefs image")]
    NotAnImage,
    /// The objects cannot be used.
    #[error("cannot open the directory of objects")]
    Objects(#[source] io::Error),
    /// The kernel does not mount the EROFS file.
    #[error("cannot mount the EROFS image")]
    Erofs(#[source] ContextError),
    /// The kernel cannot mount files, and no loop device can be had.
    #[error("cannot attach the image to a loop device")]
    Loop(#[source] io::Error),
    /// The kernel does not map the owners.
    #[error("cannot map the owners in the image: linux 5.19 or later and a user namespace with a map are needed")]
    IdMap(#[source] io::Error),
    /// The kernel's overlay knows no fs-verity.
    #[error("the overlay cannot check fs-verity digests: linux 6.6 or later is needed")]
    Verity(#[source] ContextError),
    /// The kernel refuses the overlay in all ways.
    #[error("cannot mount the overlay: {}", join(.0))]
    Overlay(Vec<Attempt>),
    /// The image cannot be attached to a private directory, which this kernel needs.
    #[error("cannot attach the image to a private directory below {}", path.display())]
    Staging {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The mount cannot be attached to its place.
    #[error("cannot attach the mount to {}", path.display())]
    Attach {
        /// The place.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A way to mount the overlay that did not work.
#[derive(Debug)]
pub struct Attempt {
    layering: Layering,
    error: ContextError,
}

fn join(attempts: &[Attempt]) -> String {
    let texts: Vec<_> = attempts
        .iter()
        .map(|attempt| format!("{}: {}: {}", attempt.layering, attempt.error, attempt.error.source))
        .collect();
    texts.join("; ")
}

/// How EROFS gets at the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// It reads the file: linux 6.12.
    File,
    /// Through a loop device.
    Loop,
}

impl Backing {
    const ALL: [Self; 2] = [Self::File, Self::Loop];
}

/// How the overlay is told its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layering {
    /// By descriptor, the image detached: linux 6.15.
    Detached,
    /// By descriptor, the image attached somewhere: linux 6.13.
    Descriptor,
    /// By path, one option for each: linux 6.7.
    Path,
    /// By path, all in one option: linux 6.5.
    OneString,
}

impl Layering {
    const ALL: [Self; 4] = [Self::Detached, Self::Descriptor, Self::Path, Self::OneString];

    fn by_descriptor(self) -> bool {
        matches!(self, Self::Detached | Self::Descriptor)
    }
}

impl fmt::Display for Layering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detached => "detached layers",
            Self::Descriptor => "layers by descriptor",
            Self::Path => "layers by path",
            Self::OneString => "layers in one string",
        })
    }
}

/// Mounts an image over directories of objects, searched in their order; returns a detached mount.
///
/// The caller has measured the image. The directories must be opened for reading (`O_PATH` is not enough before linux
/// 6.15). Before linux 6.15 the image is for a moment attached to a private directory below `/run`.
pub fn compose(
    image: BorrowedFd<'_>,
    objects: &[BorrowedFd<'_>],
    options: &MountOptions,
) -> Result<OwnedFd, MountError> {
    compose_by(image, objects, options, &Backing::ALL, &Layering::ALL)
}

/// Attaches a detached mount to a directory, over whatever is there.
pub fn attach(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &Path) -> Result<(), MountError> {
    move_mount(mount, "", dir, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| MountError::Attach { path: path.to_owned(), source: errno.into() })
}

impl Repository {
    /// Mounts an image of the repository; writable if there is an upper layer. Returns a detached mount.
    pub fn mount_image(&self, image: &Digest, upper: Option<Upper>) -> Result<OwnedFd, MountError> {
        let file = self.open_image(image)?;
        let objects = self.objects_dir().map_err(MountError::Objects)?;
        let read_only = upper.is_none();
        let options = MountOptions {
            source: format!("composefs:{image}"),
            verity: self.verity(),
            upper,
            read_only,
            id_map: None,
        };
        compose(file.as_fd(), &[objects.as_fd()], &options)
    }
}

fn compose_by(
    image: BorrowedFd<'_>,
    objects: &[BorrowedFd<'_>],
    options: &MountOptions,
    backings: &[Backing],
    layerings: &[Layering],
) -> Result<OwnedFd, MountError> {
    let erofs = mount_erofs(image, backings)?;
    if let Some(user_namespace) = &options.id_map {
        osupdate_sys::id_map::set(erofs.as_fd(), user_namespace.as_fd()).map_err(MountError::IdMap)?;
    }
    mount_overlay(erofs.as_fd(), objects, options, layerings)
}

fn mount_erofs(image: BorrowedFd<'_>, backings: &[Backing]) -> Result<OwnedFd, MountError> {
    let mut header = [0; HEADER_BYTES];
    let read = rustix::io::pread(image, &mut header, 0).map_err(|errno| MountError::Header(errno.into()))?;
    let uses_acl = erofs::uses_acl(&header[..read]).ok_or(MountError::NotAnImage)?;

    if backings.contains(&Backing::File) {
        match mount_erofs_from(&proc_fd::path(image), uses_acl) {
            // "Block device required".
            Err(error) if error.errno() == Some(Errno::NOTBLK) && backings.contains(&Backing::Loop) => {}
            result => return result.map_err(MountError::Erofs),
        }
    }
    // The device lives as long as its descriptor or the mount.
    let (_device, path) = osupdate_sys::loopdev::attach_read_only(image).map_err(MountError::Loop)?;
    mount_erofs_from(&path.to_string_lossy(), uses_acl).map_err(MountError::Erofs)
}

fn mount_erofs_from(source: &str, uses_acl: bool) -> Result<OwnedFd, ContextError> {
    let context = Context::open("erofs")?;
    context.set_flag("ro")?;
    context.set_string("source", source)?;
    if !uses_acl {
        // Spares the kernel a search for ACLs in every file.
        context.set_flag("noacl")?;
    }
    context.create(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn mount_overlay(
    erofs: BorrowedFd<'_>,
    objects: &[BorrowedFd<'_>],
    options: &MountOptions,
    layerings: &[Layering],
) -> Result<OwnedFd, MountError> {
    let mut attempts = Vec::new();
    let mut staging = None;
    for layering in layerings.iter().copied() {
        if layering != Layering::Detached && staging.is_none() {
            staging = Some(Staging::attach(erofs)?);
        }
        let error = match mount_overlay_by(layering, erofs, objects, options) {
            Ok(mount) => return Ok(mount),
            Err(OverlayError::Verity(error)) => return Err(MountError::Verity(error)),
            Err(OverlayError::Context(error)) => error,
        };
        // What kernels answer to an option, or a kind of descriptor, that they do not know.
        let unknown = matches!(error.errno(), Some(Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP));
        attempts.push(Attempt { layering, error });
        if !unknown {
            break;
        }
    }
    Err(MountError::Overlay(attempts))
}

enum OverlayError {
    Verity(ContextError),
    Context(ContextError),
}

impl From<ContextError> for OverlayError {
    fn from(error: ContextError) -> Self {
        Self::Context(error)
    }
}

fn mount_overlay_by(
    layering: Layering,
    erofs: BorrowedFd<'_>,
    objects: &[BorrowedFd<'_>],
    options: &MountOptions,
) -> Result<OwnedFd, OverlayError> {
    let context = Context::open("overlay")?;
    context.set_string("source", &options.source)?;
    // Implied by data-only layers on new kernels, needed on others.
    context.set_string("metacopy", "on")?;
    context.set_string("redirect_dir", "on")?;
    if options.verity == Verity::Required {
        context.set_string("verity", "require").map_err(OverlayError::Verity)?;
    }
    let set_layer = |key: &'static str, layer: BorrowedFd<'_>| {
        if layering.by_descriptor() {
            context.set_fd(key, layer)
        } else {
            context.set_string(key, &proc_fd::path(layer))
        }
    };
    if let Some(Upper { upper, work }) = &options.upper {
        set_layer("upperdir", upper.as_fd())?;
        set_layer("workdir", work.as_fd())?;
    }
    if layering == Layering::OneString {
        let layers: Vec<_> = std::iter::once(&erofs).chain(objects).map(|layer| proc_fd::path(*layer)).collect();
        // Two colons make the layers that follow data-only.
        context.set_string("lowerdir", &layers.join("::"))?;
    } else {
        set_layer("lowerdir+", erofs)?;
        for layer in objects {
            set_layer("datadir+", *layer)?;
        }
    }
    let attributes = if options.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    Ok(context.create(attributes)?)
}
