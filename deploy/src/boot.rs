//! [`BootPartition`]: deployments as boot entries and boot files.
//!
//! The efi crate knows how to write entries and files safely; here is which entry belongs to which deployment.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Cursor};
use std::path::PathBuf;

use osupdate_core::boot::Kernel;
use osupdate_core::digest::Digest;
use osupdate_core::kernel_args::ComposefsArg;
use osupdate_core::repository::{ObjectError, Repository};
use osupdate_core::tree::Content;
use osupdate_efi::esp::{BootFiles, PutBootFilesError, RemoveEntryError, Space, VerifyBootFilesError, WriteEntryError};
use osupdate_efi::locate::{Devices, LocateError, device_of};
use osupdate_efi::mounted::{MountError, mount};
use osupdate_efi::name::{NEW_TRIES, ParseNameError};
use osupdate_efi::order::NamedEntry;
use osupdate_efi::variables::{EfiVariables, VariableError};
use osupdate_efi::{AccessError, BootDigest, Esp, ParseBootDigestError, Source};
use osupdate_record::{Deployment as Record, DeploymentId};
use rustix::fs::AtFlags;
use thiserror::Error;

pub use osupdate_efi::mounted::Access;

use crate::model::Entry;
use crate::survey::root_argument;
use crate::sysroot::Sysroot;

/// Sort key of all our entries; the version decides among them.
const SORT_KEY: &str = "osupdate";

/// Where boot entries and boot files are.
#[derive(Debug)]
pub struct BootPartition {
    esp: Esp,
}

/// What is on the boot partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Entries for this physical root that the loader can start.
    pub entries: Vec<Entry>,
    /// Entries for this physical root whose kernel or initrd is missing.
    pub incomplete: Vec<Entry>,
    /// Entries of others.
    pub foreign: Vec<Foreign>,
}

/// An entry that is not ours, or ours but for another physical root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: Option<String>,
}

/// Why the boot partition could not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// It could not be found.
    #[error("cannot find the boot partition")]
    Locate(#[from] LocateError),
    /// The device of the physical root could not be found out.
    #[error("cannot find out on which device {} is", path.display())]
    Root {
        /// The physical root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It could not be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An entry of ours could not be read; without it nothing can be decided.
    #[error("cannot read the boot entry {file_name}")]
    Unreadable {
        /// The entry.
        file_name: String,
        /// Why.
        #[source]
        source: AccessError,
    },
    /// Boot files could not be written.
    #[error("cannot put the kernel on the boot partition")]
    Put(#[from] PutBootFilesError),
    /// Boot files could not be examined.
    #[error("cannot examine a kernel on the boot partition")]
    Verify(#[source] VerifyBootFilesError),
    /// An entry could not be written.
    #[error("cannot write the boot entry")]
    Write(#[from] WriteEntryError),
    /// An entry could not be removed.
    #[error("cannot remove a boot entry")]
    Remove(#[from] RemoveEntryError),
    /// The file name of an entry is not one.
    #[error("{file_name:?} is not the name of a boot entry")]
    Name {
        /// The name.
        file_name: String,
        /// Why.
        #[source]
        source: ParseNameError,
    },
    /// A record names boot files that cannot be.
    #[error("the deployment's record names no boot files")]
    Digest(#[from] ParseBootDigestError),
    /// The image does not have the kernel that the record names.
    #[error("the image's kernel has the digest {found}, the deployment's record says {recorded}")]
    OtherKernel {
        /// Of the image.
        found: BootDigest,
        /// Of the record.
        recorded: String,
    },
    /// A kernel could not be opened in the repository.
    #[error("cannot open the kernel in the repository")]
    Object(#[source] ObjectError),
    /// A kernel has no contents in the repository.
    #[error("the image's kernel has no contents")]
    NoContents,
    /// A kernel could not be read.
    #[error("cannot read the kernel from the repository")]
    Read(#[source] io::Error),
}

/// The entry that somebody told the loader to prefer, whatever the order is: for one boot, or as the default.
///
/// Needs no privileges. Neither is ever set by us; `None` also where there are no loader variables.
pub fn preferred_by_loader() -> Option<String> {
    let variables = EfiVariables::default();
    let read = |result: Result<Option<String>, VariableError>| {
        result.unwrap_or_else(|err| {
            tracing::debug!("{err}, ignoring");
            None
        })
    };
    read(variables.loader_entry_one_shot()).or_else(|| read(variables.loader_entry_default()))
}

/// Opens the kernel's two files so that they can be read more than once.
fn open(repository: &Repository, content: &Content) -> Result<Box<dyn Source>, BootError> {
    match content {
        Content::Inline(bytes) => Ok(Box::new(Cursor::new(bytes.to_vec()))),
        Content::External { digest: Some(digest), .. } => {
            Ok(Box::new(File::from(repository.open_object(digest).map_err(BootError::Object)?)))
        }
        Content::External { digest: None, .. } => Err(BootError::NoContents),
    }
}

/// The name of the boot files of a kernel.
pub(crate) fn kernel_digest(repository: &Repository, kernel: &Kernel) -> Result<BootDigest, BootError> {
    let (mut vmlinuz, mut initrd) = (open(repository, &kernel.vmlinuz)?, open(repository, &kernel.initramfs)?);
    BootDigest::of(&mut *vmlinuz, &mut *initrd).map_err(BootError::Read)
}

impl BootPartition {
    /// Finds the boot partition of a running system and mounts it where nobody else sees it.
    pub fn find(sysroot: &Sysroot, access: Access) -> Result<Self, BootError> {
        let path = sysroot.path();
        let root = device_of(path).map_err(|source| BootError::Root { path: path.to_owned(), source })?;
        let partitions = Devices::default().locate(root)?;
        let mounted = mount(&partitions.boot().device, access)?;
        Ok(Self::new(Esp::new(mounted, partitions.boot_place())))
    }

    /// Takes the mounted partition.
    pub fn new(esp: Esp) -> Self {
        Self { esp }
    }

    /// Reads all entries. `roots` are the `root=` arguments of this physical root's records: entries with another one boot
    /// another disk's system that happens to use the same partition.
    pub(crate) fn read(&self, roots: &BTreeSet<Option<String>>) -> Result<Listing, BootError> {
        let mut listing = Listing::default();
        let found = self.esp.entries()?;
        if let Some(unreadable) = found.unreadable.into_iter().find(|entry| entry.name.is_ours()) {
            let file_name = unreadable.name.file_name().to_owned();
            return Err(BootError::Unreadable { file_name, source: unreadable.error });
        }
        for named in found.entries {
            match own(&named).filter(|_| roots.contains(&root_argument(named.entry.options.iter().map(String::as_str))))
            {
                Some(entry) if self.esp.is_complete(&named.entry) => listing.entries.push(entry),
                Some(entry) => listing.incomplete.push(entry),
                None => listing.foreign.push(Foreign { id: named.name.id(), title: named.entry.title }),
            }
        }
        Ok(listing)
    }

    /// Removes what interrupted writes left.
    pub(crate) fn remove_temporaries(&self) -> Result<(), BootError> {
        self.esp.clean_temporary()?;
        Ok(())
    }

    /// Room on the partition.
    pub(crate) fn space(&self) -> Result<Space, BootError> {
        Ok(self.esp.space()?)
    }

    /// Whether these boot files are there and intact; they are read from the medium.
    pub(crate) fn has_kernel(&self, digest: &str) -> Result<bool, BootError> {
        match self.esp.verify_boot_files(&digest.parse()?) {
            Ok(()) => Ok(true),
            Err(VerifyBootFilesError::Missing { .. } | VerifyBootFilesError::Damaged { .. }) => Ok(false),
            Err(err) => Err(BootError::Verify(err)),
        }
    }

    /// What removing these boot files would free, in whole clusters; 0 if they cannot be examined.
    pub(crate) fn kernel_bytes(&self, digest: &str, space: Space) -> u64 {
        let Ok(digest) = digest.parse::<BootDigest>() else { return 0 };
        let size = |path: String| {
            let stat = rustix::fs::statat(self.esp.root(), path.trim_start_matches('/'), AtFlags::SYMLINK_NOFOLLOW);
            stat.map_or(0, |stat| allocated(u64::try_from(stat.st_size).unwrap_or(0), space))
        };
        size(digest.vmlinuz()) + size(digest.initrd())
    }

    /// Puts a kernel on the partition unless it is there, and verifies it. `recorded` is what its name must be.
    pub(crate) fn write_kernel(
        &self,
        repository: &Repository,
        kernel: &Kernel,
        recorded: &str,
    ) -> Result<(), BootError> {
        let (mut vmlinuz, mut initrd) = (open(repository, &kernel.vmlinuz)?, open(repository, &kernel.initramfs)?);
        let found = self.esp.put_boot_files(BootFiles { vmlinuz: &mut *vmlinuz, initrd: &mut *initrd })?.digest;
        if found.to_string() != recorded {
            return Err(BootError::OtherKernel { found, recorded: recorded.to_owned() });
        }
        Ok(())
    }

    /// Writes the entry of a deployment. `counted`: the loader gives it up after some boots without blessing.
    pub(crate) fn write_entry(&self, id: &DeploymentId, record: &Record, counted: bool) -> Result<(), BootError> {
        let (name, entry) = entry_of(id, record, counted)?;
        Ok(self.esp.write_entry(&name, &entry)?)
    }

    /// Removes an entry.
    pub(crate) fn remove_entry(&self, entry: &Entry) -> Result<(), BootError> {
        let file_name = || entry.file_name.clone();
        let name = entry.file_name.parse().map_err(|source| BootError::Name { file_name: file_name(), source })?;
        self.esp.remove_entry(&name)?;
        Ok(())
    }

    /// Removes boot files that neither an entry nor one of these records names.
    pub(crate) fn remove_unneeded_kernels<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(), BootError> {
        let keep: Result<BTreeSet<BootDigest>, _> = records.map(|record| record.boot.digest.parse()).collect();
        self.esp.remove_unreferenced_boot_files(&keep?)?;
        Ok(())
    }
}

/// What a file takes up.
pub(crate) fn allocated(size_bytes: u64, space: Space) -> u64 {
    size_bytes.div_ceil(space.cluster_bytes).saturating_mul(space.cluster_bytes)
}

/// An entry as ours; `None` if it is none.
fn own(named: &NamedEntry) -> Option<Entry> {
    let sequence = named.name.sequence().filter(|_| named.name.is_ours())?;
    let deployment = named.entry.image()?.to_string().parse().ok()?;
    let tries_left = named.name.tries().map(|tries| tries.left);
    Some(Entry { deployment, sequence, tries_left, file_name: named.name.file_name().to_owned() })
}

/// Name and text of a deployment's entry.
fn entry_of(
    id: &DeploymentId,
    record: &Record,
    counted: bool,
) -> Result<(osupdate_efi::EntryName, osupdate_efi::Entry), BootError> {
    // A deployment's name always is a digest in hex.
    let digest: Digest = id.as_str().parse().map_err(|_| BootError::NoContents)?;
    let name = osupdate_efi::EntryName::ours(&digest, record.sequence, counted.then_some(NEW_TRIES));
    let kernel: BootDigest = record.boot.digest.parse()?;
    let mut options = vec![ComposefsArg::required(digest).to_string()];
    options.extend(record.boot.arguments.iter().chain(&record.boot.image_arguments).cloned());
    let image_version = record.image.version.as_deref().filter(|version| !version.is_empty());
    let entry = osupdate_efi::Entry {
        title: Some(
            record.image.title.clone().filter(|title| !title.is_empty()).unwrap_or_else(|| "osupdate".to_owned()),
        ),
        version: Some(match image_version {
            Some(version) => format!("{:06}-{version}", record.sequence),
            None => format!("{:06}", record.sequence),
        }),
        sort_key: Some(SORT_KEY.to_owned()),
        linux: Some(kernel.vmlinuz()),
        initrd: vec![kernel.initrd()],
        options: vec![options.join(" ")],
        ..osupdate_efi::Entry::default()
    };
    Ok((name, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{deployment, id};

    fn record() -> Record {
        let mut record = deployment('a', 7, false).record;
        record.boot.digest = "b".repeat(64);
        record.boot.arguments = vec!["root=UUID=1".to_owned(), "rw".to_owned()];
        record.boot.image_arguments = vec!["console=ttyS0".to_owned()];
        record.image.version = Some("13.2".to_owned());
        record.image.title = Some("Example OS 13".to_owned());
        record
    }

    #[test]
    fn entry_text_is_stable() {
        let (name, entry) = entry_of(&id('a'), &record(), true).unwrap();
        assert_eq!(name.file_name(), "osupdate-aaaaaaaaaaaa-000007+3-0.conf");
        let (a, b) = ("a".repeat(128), "b".repeat(64));
        assert_eq!(
            entry.to_text().unwrap(),
            format!(
                "title Example OS 13\nversion 000007-13.2\nsort-key osupdate\nlinux /EFI/osupdate/{b}/vmlinuz\n\
                 initrd /EFI/osupdate/{b}/initrd\n\
                 options composefs.digest=v1-sha512-12:{a} root=UUID=1 rw console=ttyS0\n"
            )
        );
        let (name, _) = entry_of(&id('a'), &record(), false).unwrap();
        assert_eq!(name.file_name(), "osupdate-aaaaaaaaaaaa-000007.conf");
    }

    #[test]
    fn entry_without_title_or_version_can_be_written() {
        let mut record = record();
        record.image.version = Some(String::new());
        record.image.title = None;
        let (_, entry) = entry_of(&id('a'), &record, true).unwrap();
        assert!(entry.to_text().unwrap().starts_with("title osupdate\nversion 000007\n"));
    }

    #[test]
    fn written_entry_is_recognized() {
        let (name, entry) = entry_of(&id('a'), &record(), true).unwrap();
        let own = own(&NamedEntry { name, entry }).unwrap();
        assert_eq!((own.deployment, own.sequence, own.tries_left), (id('a'), 7, Some(3)));
    }
}
