//! [`Prepared`]: what a deployment takes from its image.

use osupdate_core::boot::{self, OsRelease, find_kernel, os_release};
use osupdate_core::digest::Digest;
use osupdate_core::erofs;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{ImageSource, PullError, PullOptions, StoredImage, TreeError, image_tree, pull};
use osupdate_core::repository::{ImageError, Repository, Verity};
use osupdate_core::tree::Tree;
use osupdate_record::{
    Boot, Deployment as Record, DeploymentId, Etc, Image, LocalAddon, Origin, RECORD_VERSION, Requirement, Signature,
};
use thiserror::Error;

use crate::boot::{BootError, image_of};
use crate::directory::Directory;
use crate::kargs::allow::AllowListError;
use crate::kargs::{self, KargsError};
use crate::program::{self, Program};
use crate::timestamp;
use crate::uki::{self, Mismatch, SealedUki, UkiError};

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
    /// The boot files could not be read.
    #[error("cannot read the image's boot files")]
    KernelContents(#[source] Box<BootError>),
    /// Its files cannot be looked through for a UKI.
    #[error("cannot look through the files of the image")]
    Files(#[source] Box<TreeError>),
    /// It has no UKI that can be deployed, or it is not clear which one.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// Its UKI is for another image.
    #[error("the image's UKI would not boot it")]
    Mismatch(#[source] Box<Mismatch>),
    /// Its kernel arguments cannot be used.
    #[error("the kernel arguments of the image cannot be used")]
    Kargs(#[from] KargsError),
    /// It is not known which arguments of the machine it allows.
    #[error("it is not known which kernel arguments of this machine the image allows")]
    AllowList(#[from] AllowListError),
    /// Its os-release cannot be read.
    #[error("cannot read os-release of the image")]
    OsRelease(#[source] boot::BootError),
}

/// Why an image was not made ready to be deployed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It cannot be pulled.
    #[error(transparent)]
    Pull(Box<PullError>),
    /// It cannot be deployed.
    #[error(transparent)]
    Prepare(Box<PrepareError>),
}

impl From<PullError> for FetchError {
    fn from(err: PullError) -> Self {
        Self::Pull(Box::new(err))
    }
}

impl From<PrepareError> for FetchError {
    fn from(err: PrepareError) -> Self {
        Self::Prepare(Box::new(err))
    }
}

/// An image that can be deployed, and what a deployment of it takes from it.
#[derive(Debug)]
pub struct Prepared {
    /// Name of its deployment.
    pub id: DeploymentId,
    /// Its files.
    pub tree: Tree,
    /// What the loader starts.
    pub program: Program,
    /// Version of its kernel.
    pub kernel_version: String,
    /// Name of the directory for its boot files.
    pub boot_digest: String,
    /// Kernel arguments that it asks for, or that are sealed into its UKI.
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
    /// Public keys in PEM that the summary of a published tree must be signed with.
    pub summary_key: Option<String>,
    /// What an image from there must be signed with; none: it was followed before there were requirements.
    pub requirement: Option<Requirement>,
}

impl Prepared {
    /// Pulls an image and reads what is needed from it. If it has a UKI, that must be for this image.
    pub fn fetch(
        repository: &Repository,
        source: &dyn ImageSource,
        observer: &dyn Observer,
    ) -> Result<(StoredImage, Self), FetchError> {
        let options = PullOptions { bootable: true, ..PullOptions::default() };
        let mut image = pull(repository, source, &options, observer)?;
        // The boot form has nothing in /boot, where UKIs are.
        let files = match image.image {
            Some(digest) => read_tree(repository, digest)?,
            None => image_tree(repository, &image).map_err(|err| PrepareError::Files(Box::new(err)))?,
        };
        let uki = uki::find(repository, &files).map_err(PrepareError::from)?;
        if let Some(uki) = &uki {
            let computed = image.boot_image.ok_or(PrepareError::NoBootImage)?;
            if uki.image != computed {
                // It may be sealed by other rules than today's.
                let options = PullOptions { expected_boot_image: Some(uki.image), ..options };
                image = match pull(repository, source, &options, observer) {
                    Err(PullError::BootImage { .. }) => {
                        let mismatch = Mismatch::explain(repository, &image, uki, computed, observer);
                        return Err(PrepareError::Mismatch(Box::new(mismatch)).into());
                    }
                    result => result?,
                };
            }
            if uki.optional && repository.verity() == Verity::Required {
                return Err(PrepareError::from(UkiError::Optional { path: uki.file.path.clone() }).into());
            }
            for text in uki.doubts() {
                observer.event(Event::Warning(&text));
            }
        }
        let prepared = Self::of_image(repository, &image, uki)?;
        Ok((image, prepared))
    }

    /// Reads what is needed from a pulled image.
    fn of_image(repository: &Repository, image: &StoredImage, uki: Option<SealedUki>) -> Result<Self, PrepareError> {
        let digest = image.boot_image.ok_or(PrepareError::NoBootImage)?;
        let tree = read_tree(repository, digest)?;
        for path in ["etc", "var"] {
            if tree.directory(path).is_none() {
                return Err(PrepareError::Missing { path, purpose: "on which the machine's own is mounted" });
            }
        }
        // Entries are counted down at each boot until somebody says that it was a good one.
        if tree.regular_file(BLESS_BOOT).is_none() {
            let purpose = "which tells the boot loader that a boot was good (Debian package systemd-boot)";
            return Err(PrepareError::Missing { path: BLESS_BOOT, purpose });
        }
        let (program, kernel_version, image_arguments) = match uki {
            None => {
                let kernel = find_kernel(&tree).map_err(PrepareError::Kernel)?;
                let version = kernel.version.clone();
                (Program::Kernel(kernel), version, kargs::image_arguments(repository, &tree)?)
            }
            Some(sealed) => {
                let uki = sealed.record().ok_or(PrepareError::NoBootImage)?;
                let beside = || find_kernel(&tree).map(|kernel| kernel.version).ok();
                let version = sealed.kernel_version.clone().or_else(beside).unwrap_or_default();
                (Program::Uki { uki, local: None }, version, sealed.arguments)
            }
        };
        Self::new(repository, digest, tree, program, kernel_version, image_arguments)
    }

    /// Reads the same from the image of a deployment that exists. `root` is the physical root.
    pub fn of_deployment(
        repository: &Repository,
        root: &Directory,
        id: &DeploymentId,
        record: &Record,
    ) -> Result<Self, PrepareError> {
        let digest = image_of(id).map_err(|_| PrepareError::NoBootImage)?;
        let tree = read_tree(repository, digest)?;
        let contents = |err| PrepareError::KernelContents(Box::new(err));
        let program = Program::of_deployment(root, id, record, &tree).map_err(contents)?;
        let (version, arguments) = (record.boot.kernel.clone(), record.boot.image_arguments.clone());
        Self::new(repository, digest, tree, program, version, arguments)
    }

    fn new(
        repository: &Repository,
        digest: Digest,
        tree: Tree,
        program: Program,
        kernel_version: String,
        image_arguments: Vec<String>,
    ) -> Result<Self, PrepareError> {
        let boot_digest = program
            .boot_digest(repository, &digest)
            .map_err(|err| PrepareError::KernelContents(Box::new(err)))?
            .to_string();
        let release = os_release(repository, &tree).map_err(PrepareError::OsRelease)?;
        let id = digest.to_string().parse().map_err(|_| PrepareError::NoBootImage)?;
        Ok(Self { id, tree, program, kernel_version, boot_digest, image_arguments, release })
    }

    /// Adds the addon that a deployment has; it is the same file, signed as it is.
    pub(crate) fn add_local(
        &mut self,
        repository: &Repository,
        root: &Directory,
        from: &DeploymentId,
        local: LocalAddon,
    ) -> Result<(), PrepareError> {
        let contents = |err| PrepareError::KernelContents(Box::new(err));
        let addon = program::read_addon(root, from, &local).map_err(contents)?;
        if let Program::Uki { uki, local: contents } = &mut self.program {
            uki.local = Some(local);
            *contents = Some(addon);
        }
        let image = image_of(&self.id).map_err(contents)?;
        self.boot_digest = self.program.boot_digest(repository, &image).map_err(contents)?.to_string();
        Ok(())
    }

    /// The addon that was made on this machine.
    pub(crate) fn local(&self) -> Option<&LocalAddon> {
        self.program.uki()?.local.as_ref()
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
                kernel: self.kernel_version.clone(),
                arguments,
                image_arguments: self.image_arguments.clone(),
                uki: self.program.uki().cloned(),
                ..Boot::default()
            },
            boot_since: None,
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

/// The files of an image that is mounted.
pub(crate) fn read_tree(repository: &Repository, digest: Digest) -> Result<Tree, PrepareError> {
    let image = repository.read_image(&digest).map_err(|source| PrepareError::Open { digest, source })?;
    let (tree, _) = erofs::read(&image).map_err(|source| PrepareError::Read { digest, source })?;
    Ok(tree)
}

impl Source {
    /// The `[origin]` part of a record that is from now on for this source.
    pub(crate) fn origin(&self, before: Origin) -> Origin {
        Origin {
            plain_http: self.plain_http,
            summary_key: self.summary_key.clone(),
            requirement: self.requirement.clone(),
            ..before
        }
    }
}

/// Text of others without control characters, for messages and boot menus.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
}
