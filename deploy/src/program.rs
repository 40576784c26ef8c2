//! [`Program`]: what of an image is on the boot partition.

use std::fs::File;
use std::io::{Cursor, Read as _};

use osupdate_core::Digest;
use osupdate_core::boot::{Kernel, find_kernel};
use osupdate_core::repository::Repository;
use osupdate_core::tree::{Content, Tree};
use osupdate_efi::esp::BootFiles;
use osupdate_efi::{BootDigest, Source, pe};
use osupdate_record::{Deployment as Record, DeploymentId, LocalAddon, Uki, paths};

use crate::boot::BootError;
use crate::directory::Directory;

/// Largest local addon that is read; it has a command line and little else.
const LOCAL_ADDON_MAX_BYTES: u64 = 1 << 20;

/// Name of the addon with this machine's kernel arguments, beside the UKI. The stub adds addons in the order of their names.
const LOCAL_ADDON: &str = "zz-local.addon.efi";

/// What the loader starts.
#[derive(Clone, Debug)]
pub enum Program {
    /// A kernel with its initramfs. The digest of the image is in the boot entry.
    Kernel(Kernel),
    /// A UKI. The digest of the image is sealed into it.
    Uki {
        /// Where it is in the repository.
        uki: Uki,
        /// The addon that was made on this machine.
        local: Option<Vec<u8>>,
    },
}

impl Program {
    /// What a deployment that exists starts. `tree` is that of its image.
    pub(crate) fn of_deployment(
        root: &Directory,
        id: &DeploymentId,
        record: &Record,
        tree: &Tree,
    ) -> Result<Self, BootError> {
        let Some(uki) = &record.boot.uki else {
            return find_kernel(tree).map(Self::Kernel).map_err(BootError::Kernel);
        };
        let local = match uki.local.as_ref().map(|local| read_addon(root, id, local)) {
            // It is needed only if the boot files are lost, too.
            Some(Err(BootError::LocalAddon { path, source })) if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!("{path} is lost, ignoring");
                None
            }
            result => result.transpose()?,
        };
        Ok(Self::Uki { uki: uki.clone(), local })
    }

    /// The UKI, if it is one.
    pub fn uki(&self) -> Option<&Uki> {
        match self {
            Self::Kernel(_) => None,
            Self::Uki { uki, .. } => Some(uki),
        }
    }

    /// The files for the boot partition, each of which can be read more than once.
    pub(crate) fn files<'a>(&'a self, repository: &Repository, image: &Digest) -> Result<BootFiles<'a>, BootError> {
        match self {
            Self::Kernel(kernel) => {
                Ok(BootFiles::kernel(open(repository, &kernel.vmlinuz)?, open(repository, &kernel.initramfs)?))
            }
            Self::Uki { uki, local } => {
                let mut addons = Vec::new();
                for addon in &uki.addons {
                    addons.push((addon.name.clone(), open_object(repository, &addon.object)?));
                }
                if let Some(local) = local {
                    addons.push((LOCAL_ADDON.to_owned(), Box::new(Cursor::new(local.as_slice()))));
                }
                Ok(BootFiles::uki(image, open_object(repository, &uki.object)?, addons))
            }
        }
    }

    /// Contents of the addon that was made on this machine.
    pub(crate) fn local(&self) -> Option<&[u8]> {
        match self {
            Self::Uki { local, .. } => local.as_deref(),
            Self::Kernel(_) => None,
        }
    }

    /// Shows each file of the image that firmware checks before it is started: path and contents.
    pub(crate) fn each_signed(
        &self,
        repository: &Repository,
        mut check: impl FnMut(&str, &[u8]) -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        let mut check = |path: &str, mut file: Box<dyn Source + '_>| {
            let contents = pe::read(&mut *file);
            let contents = contents.map_err(|source| BootError::Program { path: path.to_owned(), source })?;
            check(path, &contents)
        };
        match self {
            Self::Kernel(kernel) => {
                check(&format!("/usr/lib/modules/{}/vmlinuz", kernel.version), open(repository, &kernel.vmlinuz)?)
            }
            Self::Uki { uki, .. } => {
                check(&format!("/{}", uki.path), open_object(repository, &uki.object)?)?;
                uki.addons.iter().try_for_each(|addon| {
                    let path = format!("/{}.extra.d/{}", uki.path, addon.name);
                    check(&path, open_object(repository, &addon.object)?)
                })
            }
        }
    }

    /// The name of the boot files.
    pub(crate) fn boot_digest(&self, repository: &Repository, image: &Digest) -> Result<BootDigest, BootError> {
        self.files(repository, image)?.digest().map_err(BootError::Read)
    }

    /// Sizes of the boot files.
    pub(crate) fn sizes_bytes(&self, repository: &Repository, image: &Digest) -> Result<Vec<u64>, BootError> {
        self.files(repository, image)?.sizes_bytes().map_err(BootError::Read)
    }
}

/// Reads the local addon of a deployment.
pub(crate) fn read_addon(root: &Directory, id: &DeploymentId, local: &LocalAddon) -> Result<Vec<u8>, BootError> {
    let path = format!("{}/{}", paths::deployment(id), local.file);
    let mut contents = Vec::new();
    let read = root.file(&path).and_then(|file| file.take(LOCAL_ADDON_MAX_BYTES).read_to_end(&mut contents));
    read.map(|_| contents).map_err(|source| BootError::LocalAddon { path, source })
}

fn open<'a>(repository: &Repository, content: &'a Content) -> Result<Box<dyn Source + 'a>, BootError> {
    match content {
        Content::Inline(bytes) => Ok(Box::new(Cursor::new(&bytes[..]))),
        Content::External { digest: Some(digest), .. } => {
            Ok(Box::new(File::from(repository.open_object(digest).map_err(BootError::Object)?)))
        }
        Content::External { digest: None, .. } => Err(BootError::NoContents),
    }
}

fn open_object<'a>(repository: &Repository, object: &str) -> Result<Box<dyn Source + 'a>, BootError> {
    let digest: Digest = object.parse().map_err(|_| BootError::NoObject { object: object.to_owned() })?;
    Ok(Box::new(File::from(repository.open_object(&digest).map_err(BootError::Object)?)))
}
