//! Why an installation failed, and how far it came.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use osupdate_core::oci::PullError;
use osupdate_core::repository::{InitError, OpenError as RepositoryError};
use thiserror::Error;

use super::disk::DiskError;
use super::enrolment::EnrolmentError;
use super::size::SizeError;
use super::var::VarError;
use crate::boot::BootError;
use crate::change::ChangeError;
use crate::prepare::PrepareError;
use crate::state::StateError;
use crate::sysroot::LockError;
use crate::tool::ToolError;

/// Why nothing was installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Privileges are needed.
    #[error("installing needs root privileges")]
    NotRoot,
    /// Images are not bootable on this architecture.
    #[error("installing on {architecture} is not supported")]
    Architecture {
        /// The architecture.
        architecture: &'static str,
    },
    /// A kernel argument cannot be used.
    #[error("{argument:?} cannot be a kernel argument here")]
    KernelArgument {
        /// The argument.
        argument: String,
    },
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The image cannot be reached at all.
    #[error("cannot open the image {reference}")]
    Open {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The image cannot be examined at its origin.
    #[error("cannot examine the image {reference}")]
    Offer {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<PullError>,
    },
    /// The image is not one to be installed.
    #[error("cannot install the image {reference}")]
    Refused {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The image does not fit.
    #[error("cannot install to {}", disk.display())]
    Size {
        /// The disk.
        disk: PathBuf,
        /// Why.
        #[source]
        source: SizeError,
    },
    /// It failed after the disk was touched.
    #[error("installing to {} failed after {done}; the disk does not boot", disk.display())]
    Begun {
        /// The disk.
        disk: PathBuf,
        /// What was done to it.
        done: Done,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
}

/// How far an installation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// The partition table may have been written.
    Partitioning,
    /// There is a new partition table.
    Partitioned,
    /// There are new file systems.
    Formatted,
    /// The image is in the repository.
    Pulled,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Partitioning => "partitioning was begun",
            Self::Partitioned => "it was partitioned",
            Self::Formatted => "it was partitioned and formatted",
            Self::Pulled => "the image was pulled onto it",
        })
    }
}

/// Why an installation that had begun failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StepError {
    /// A program of the system failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The new partitions cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A new file system cannot be mounted.
    #[error("cannot mount {}", path.display())]
    Mount {
        /// The partition.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The new file systems cannot be written to or synced.
    #[error("cannot write to the new file system")]
    Write(#[source] io::Error),
    /// The repository cannot be made.
    #[error("cannot make the repository")]
    Init(#[from] InitError),
    /// The repository cannot be opened.
    #[error("cannot open the new repository")]
    Open(#[from] RepositoryError),
    /// Kernel arguments were given that the loader could not pass on.
    #[error(
        "kernel arguments were given, but those of this image are sealed into its UKI: nothing can be added to them"
    )]
    SealedArguments,
    /// The image cannot be pulled.
    #[error("cannot pull the image")]
    Pull(#[from] PullError),
    /// The image cannot be deployed.
    #[error("cannot deploy the image")]
    Prepare(#[from] PrepareError),
    /// /var cannot be filled.
    #[error(transparent)]
    Var(#[from] VarError),
    /// The state cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The new root cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The Secure Boot keys of the image cannot be put on the ESP.
    #[error("cannot put the image's Secure Boot keys on the ESP")]
    Enrolment(#[from] EnrolmentError),
    /// The boot loader cannot be installed.
    #[error("cannot install the boot loader")]
    Loader(#[source] crate::loader::LoaderError),
    /// The deployment cannot be made.
    #[error("cannot make the deployment")]
    Change(#[from] ChangeError),
    /// The boot partition cannot be used.
    #[error(transparent)]
    Boot(#[from] BootError),
}
