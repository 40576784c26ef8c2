//! [`Prepared`]: what a deployment takes from its image.

use osupdate_core::boot::{self, Kernel, OsRelease, find_kernel, os_release};
use osupdate_core::digest::Digest;
use osupdate_core::erofs;
use osupdate_core::oci::StoredImage;
use osupdate_core::repository::{ImageError, Repository};
use osupdate_core::tree::Tree;
use osupdate_record::{
    Boot, Deployment as Record, DeploymentId, Etc, Image, Origin, RECORD_VERSION, Requirement, Signature,
};
use thiserror::Error;

use crate::boot::{BootError, kernel_digest};
use crate::kargs::{self, KargsError};
use crate::timestamp;

/// Takes the counter off the entry of a boot that was good.
const BLESS_BOOT: &str = "usr/lib/systemd/systemd-bless-boot";

/// Why an image cannot be deployed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// It was pulled without its boot image, or a deployment's name is no digest.
    #[error("the image has no boot image in the repository")]
    NoBootImage,
    /// The boot image is not in the repository, or damaged.
    #[error("cannot open the boot image {digest}")]
    Open {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// The boot image cannot be read.
    #[error("cannot read the boot image {digest}")]
    Read {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: erofs::ReadError,
    },
    /// Something is missing without which it does not boot, or not for long.
    #[error("the image has no /{path}, {purpose}")]
    Missing {
        /// What is missing.
        path: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// It has no kernel that can be booted.
    #[error("the image cannot be booted")]
    Kernel(#[source] boot::BootError),
    /// The kernel could not be read.
    #[error("cannot read the image's kernel")]
    KernelContents(#[source] Box<BootError>),
    /// Its kernel arguments cannot be used.
    #[error("the kernel arguments of the image cannot be used")]
    Kargs(#[from] KargsError),
    /// Its os-release cannot be read.
    #[error("cannot read os-release of the image")]
    OsRelease(#[source] boot::BootError),
}

/// An image that can be deployed, and what a deployment of it takes from it.
#[derive(Debug)]
pub struct Prepared {
    /// Name of its deployment.
    pub id: DeploymentId,
    /// Its files.
    pub tree: Tree,
    /// Its kernel.
    pub kernel: Kernel,
    /// Name of the directory for its boot files.
    pub boot_digest: String,
    /// Kernel arguments that it asks for.
    pub image_arguments: Vec<String>,
    /// What it calls itself.
    pub release: OsRelease,
}

/// Where an image came from, and where its successors will.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Reference as the user gave it.
    pub reference: String,
    /// The registry is spoken to without TLS.
    pub plain_http: bool,
    /// What an image from there must be signed with; none: it was followed before there were requirements.
    pub requirement: Option<Requirement>,
}

impl Prepared {
    /// Reads what is needed from a pulled image.
    pub fn of_image(repository: &Repository, image: &StoredImage) -> Result<Self, PrepareError> {
        let prepared = Self::of_boot_image(repository, image.boot_image.ok_or(PrepareError::NoBootImage)?)?;
        for path in ["etc", "var"] {
            if prepared.tree.directory(path).is_none() {
                return Err(PrepareError::Missing { path, purpose: "on which the machine's own is mounted" });
            }
        }
        // Entries are counted down at each boot until somebody says that it was a good one.
        if prepared.tree.regular_file(BLESS_BOOT).is_none() {
            let purpose = "which tells the boot loader that a boot was good (Debian package systemd-boot)";
            return Err(PrepareError::Missing { path: BLESS_BOOT, purpose });
        }
        Ok(prepared)
    }

    /// Reads the same from the image of a deployment that exists.
    pub fn of_deployment(repository: &Repository, id: &DeploymentId) -> Result<Self, PrepareError> {
        Self::of_boot_image(repository, id.as_str().parse().map_err(|_| PrepareError::NoBootImage)?)
    }

    fn of_boot_image(repository: &Repository, digest: Digest) -> Result<Self, PrepareError> {
        let image = repository.read_image(&digest).map_err(|source| PrepareError::Open { digest, source })?;
        let (tree, _) = erofs::read(&image).map_err(|source| PrepareError::Read { digest, source })?;
        let kernel = find_kernel(&tree).map_err(PrepareError::Kernel)?;
        let boot_digest =
            kernel_digest(repository, &kernel).map_err(|err| PrepareError::KernelContents(Box::new(err)))?.to_string();
        let image_arguments = kargs::image_arguments(repository, &tree)?;
        let release = os_release(repository, &tree).map_err(PrepareError::OsRelease)?;
        let id = digest.to_string().parse().map_err(|_| PrepareError::NoBootImage)?;
        Ok(Self { id, tree, kernel, boot_digest, image_arguments, release })
    }

    /// The record of a new deployment.
    pub fn record(
        &self,
        image: &StoredImage,
        source: &Source,
        signatures: &[Signature],
        sequence: u64,
        arguments: Vec<String>,
        carry_from: Option<DeploymentId>,
    ) -> Record {
        Record {
            version: RECORD_VERSION,
            sequence,
            created: timestamp::now(),
            pinned: false,
            image: self.image_record(image, source, signatures),
            origin: source.origin(Origin::default()),
            boot: Boot {
                digest: self.boot_digest.clone(),
                kernel: self.kernel.version.clone(),
                arguments,
                image_arguments: self.image_arguments.clone(),
                ..Boot::default()
            },
            etc: Etc { carry_from, ..Etc::default() },
            unknown: Default::default(),
        }
    }

    /// The `[image]` part of the record.
    pub(crate) fn image_record(&self, image: &StoredImage, source: &Source, signatures: &[Signature]) -> Image {
        let release = image.release();
        Image {
            reference: source.reference.clone(),
            manifest_digest: image.manifest_digest.to_string(),
            config_digest: image.config_digest.to_string(),
            version: release.version.as_deref().or(self.release.version()).map(one_line),
            title: self.release.title().map(one_line),
            expires: release.expires,
            signatures: signatures.to_vec(),
            ..Image::default()
        }
    }
}

impl Source {
    /// The `[origin]` part of a record that is from now on for this source.
    pub(crate) fn origin(&self, before: Origin) -> Origin {
        Origin { plain_http: self.plain_http, requirement: self.requirement.clone(), ..before }
    }
}

/// Text of others without control characters, for messages and boot menus.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
}
