//! [`BootPartition`]: deployments as boot entries and boot files.
//!
//! The efi crate knows how to write entries and files safely; here is which entry belongs to which deployment.

mod keys;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use osupdate_core::digest::Digest;
use osupdate_core::kernel_args::ComposefsArg;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::repository::{ObjectError, Repository};
use osupdate_efi::entry::UkiKey;
use osupdate_efi::esp::{PutBootFilesError, RemoveEntryError, Space, VerifyBootFilesError, WriteEntryError};
use osupdate_efi::locate::{Devices, LocateError, device_of};
use osupdate_efi::mounted::{MountError, mount};
use osupdate_efi::name::{NEW_TRIES, ParseNameError};
use osupdate_efi::order::NamedEntry;
use osupdate_efi::pe::ReadError;
use osupdate_efi::secure_boot::{Refused, SecureBoot};
#[cfg(test)]
use osupdate_efi::variables::LoaderFeatures;
use osupdate_efi::variables::{EfiVariables, VariableError};
use osupdate_efi::{AccessError, BootDigest, Esp, ParseBootDigestError};
use osupdate_record::{Deployment as Record, DeploymentId};
use thiserror::Error;

pub use osupdate_efi::mounted::Access;

use crate::esps::Esps;
pub use crate::esps::UnusableEsp;
use crate::model::Entry;
use crate::program::Program;
use crate::survey::Ours;
use crate::sysroot::Sysroot;

/// Sort key of all our entries; the version decides among them.
const SORT_KEY: &str = "osupdate";

/// Where boot entries and boot files are.
#[derive(Debug)]
pub struct BootPartition {
    esp: Esp,
    /// The partitions with loaders; `None`: there is no other.
    esps: Option<Esps>,
    /// What Secure Boot of this machine accepts, if that is known.
    secure_boot: Result<SecureBoot, VariableError>,
}

/// What is on the boot partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Entries for this physical root that the loader can start.
    pub entries: Vec<Entry>,
    /// Entries for this physical root whose kernel, initrd or UKI is missing.
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
    #[error("cannot put the boot files on the boot partition")]
    Put(#[from] PutBootFilesError),
    /// Boot files could not be examined.
    #[error("cannot examine boot files on the boot partition")]
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
    /// The image does not have the boot files that the record names.
    #[error("the image's boot files have the digest {found}, the deployment's record says {recorded}")]
    OtherKernel {
        /// Of the image.
        found: BootDigest,
        /// Of the record.
        recorded: String,
    },
    /// The image has no kernel, or several.
    #[error("the image cannot be booted")]
    Kernel(#[source] osupdate_core::boot::BootError),
    /// A file could not be opened in the repository.
    #[error("cannot open the boot files in the repository")]
    Object(#[source] ObjectError),
    /// A record names an object that cannot be.
    #[error("the deployment's record names {object:?}, which is no object of a repository")]
    NoObject {
        /// What it names.
        object: String,
    },
    /// A kernel has no contents in the repository.
    #[error("the image's kernel has no contents")]
    NoContents,
    /// A boot file could not be read.
    #[error("cannot read the boot files from the repository")]
    Read(#[source] io::Error),
    /// Firmware, or shim, would not start it.
    #[error("Secure Boot of this machine would refuse {path} of the image")]
    Refused {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Refused,
    },
    /// A boot file is too large.
    #[error("cannot read {path} of the image")]
    Program {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The addon with the machine's own kernel arguments could not be read.
    #[error("cannot read {path}, the addon with this machine's kernel arguments")]
    LocalAddon {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
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

impl BootPartition {
    /// Finds the boot partition of a running system and mounts it where nobody else sees it.
    pub fn find(sysroot: &Sysroot, access: Access) -> Result<Self, BootError> {
        Self::open(sysroot, access, Access::Read)
    }

    /// The same, for a change of the boot loaders.
    pub fn find_with_loaders(sysroot: &Sysroot) -> Result<Self, BootError> {
        Self::open(sysroot, Access::Write, Access::Write)
    }

    fn open(sysroot: &Sysroot, access: Access, esp_access: Access) -> Result<Self, BootError> {
        let (path, devices) = (sysroot.path(), Devices::default());
        let root = device_of(path).map_err(|source| BootError::Root { path: path.to_owned(), source })?;
        let partitions = devices.locate(root)?;
        // First this one: a partition that is mounted for writing can be mounted for reading, too, but not the other way round.
        let mounted = mount(&partitions.boot().device, access)?;
        let esps = Esps::open(&devices, root, esp_access)?;
        let secure_boot = SecureBoot::read(&devices.variables);
        Ok(Self { esps: Some(esps), secure_boot, ..Self::new(Esp::new(mounted, partitions.boot_place())) })
    }

    /// Takes the mounted partition of a system that does not run; the loader is there, too.
    pub fn new(esp: Esp) -> Self {
        Self { esp, esps: None, secure_boot: Ok(SecureBoot::default()) }
    }

    /// The same with loaders on these partitions, and one elsewhere.
    #[cfg(test)]
    pub(crate) fn with_esps(self, esps: Vec<Esp>, elsewhere: Option<LoaderFeatures>) -> Self {
        Self { esps: Some(Esps::new(esps, elsewhere)), ..self }
    }

    /// The ESPs from which the machine may be started: that of the loader first, and those on all disks of the root.
    pub fn esps(&self) -> &[Esp] {
        self.esps.as_ref().map_or(std::slice::from_ref(&self.esp), |esps| &esps.usable)
    }

    /// ESPs that cannot be mounted.
    pub fn unusable_esps(&self) -> &[UnusableEsp] {
        self.esps.as_ref().map_or(&[], |esps| &esps.unusable)
    }

    /// The same on a machine with this state of Secure Boot.
    #[cfg(test)]
    pub(crate) fn with_secure_boot(self, secure_boot: SecureBoot) -> Self {
        Self { secure_boot: Ok(secure_boot), ..self }
    }

    /// Whether Secure Boot is on, or it is not known.
    pub(crate) fn checks_signatures(&self) -> bool {
        self.secure_boot.as_ref().map_or(true, |secure_boot| secure_boot.enabled)
    }

    /// Checks that this machine will start a program of an image: what firmware would refuse must not become what boots next.
    pub(crate) fn check_program(
        &self,
        repository: &Repository,
        program: &Program,
        observer: &dyn Observer,
    ) -> Result<(), BootError> {
        let secure_boot = match &self.secure_boot {
            Ok(secure_boot) if !secure_boot.enabled => return Ok(()),
            Ok(secure_boot) => secure_boot,
            Err(err) => {
                let source = std::error::Error::source(err).map(|source| format!(": {source}")).unwrap_or_default();
                let text = format!("{err}{source}: it is not known what Secure Boot of this machine accepts");
                observer.event(Event::Warning(&text));
                return Ok(());
            }
        };
        program.each_signed(repository, |path, contents| {
            secure_boot.check(contents).map_err(|source| BootError::Refused { path: path.to_owned(), source })
        })?;
        if let Some(Err(refused)) = program.local().map(|addon| secure_boot.check(addon)) {
            let text = format!("the kernel arguments in the addon of this machine would be ignored: {refused}");
            observer.event(Event::Warning(&text));
        }
        Ok(())
    }

    /// Reads all entries. `ours` tells which are for this physical root; others boot another disk's system that happens to use
    /// the same partition.
    pub(crate) fn read(&self, ours: &Ours) -> Result<Listing, BootError> {
        let mut listing = Listing::default();
        let found = self.esp.entries()?;
        if let Some(unreadable) = found.unreadable.into_iter().find(|entry| entry.name.is_ours()) {
            let file_name = unreadable.name.file_name().to_owned();
            return Err(BootError::Unreadable { file_name, source: unreadable.error });
        }
        for named in found.entries {
            match own(&named).filter(|own| ours.has(&named.entry, &own.deployment)) {
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
        let sizes_bytes = self.esp.boot_file_sizes_bytes(&digest).unwrap_or_default();
        sizes_bytes.into_iter().map(|size_bytes| allocated(size_bytes, space)).sum()
    }

    /// Puts boot files on the partition unless they are there, and verifies them. `recorded` is what their name must be.
    pub(crate) fn write_kernel(
        &self,
        repository: &Repository,
        id: &DeploymentId,
        program: &Program,
        recorded: &str,
    ) -> Result<(), BootError> {
        let files = program.files(repository, &image_of(id)?)?;
        let found = self.esp.put_boot_files(files)?.digest;
        if found.to_string() != recorded {
            return Err(BootError::OtherKernel { found, recorded: recorded.to_owned() });
        }
        Ok(())
    }

    /// Writes the entry of a deployment. `counted`: the loader gives it up after some boots without blessing.
    pub(crate) fn write_entry(&self, id: &DeploymentId, record: &Record, counted: bool) -> Result<(), BootError> {
        let key = if record.boot.uki.is_some() { self.uki_support()?.key() } else { UkiKey::Efi };
        let (name, entry) = entry_of(id, record, counted, key)?;
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

/// The digest that a deployment is named by.
pub(crate) fn image_of(id: &DeploymentId) -> Result<Digest, BootError> {
    // A deployment's name always is a digest in hex.
    id.as_str().parse().map_err(|_| BootError::NoContents)
}

/// Name and text of a deployment's entry; a UKI is named by this key.
fn entry_of(
    id: &DeploymentId,
    record: &Record,
    counted: bool,
    uki_key: UkiKey,
) -> Result<(osupdate_efi::EntryName, osupdate_efi::Entry), BootError> {
    let digest = image_of(id)?;
    let name = osupdate_efi::EntryName::ours(&digest, record.sequence, counted.then_some(NEW_TRIES));
    let boot_files: BootDigest = record.boot.digest.parse()?;
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
        ..osupdate_efi::Entry::default()
    };
    let entry = match &record.boot.uki {
        Some(_) => osupdate_efi::Entry { efi: Some(boot_files.uki(&digest)), ..entry }.with_uki_key(uki_key),
        None => {
            let mut options = vec![ComposefsArg::required(digest).to_string()];
            options.extend(record.boot.arguments.iter().chain(&record.boot.image_arguments).cloned());
            osupdate_efi::Entry {
                linux: Some(boot_files.vmlinuz()),
                initrd: vec![boot_files.initrd()],
                options: vec![options.join(" ")],
                ..entry
            }
        }
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
        let (name, entry) = entry_of(&id('a'), &record(), true, UkiKey::Efi).unwrap();
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
        let (name, _) = entry_of(&id('a'), &record(), false, UkiKey::Efi).unwrap();
        assert_eq!(name.file_name(), "osupdate-aaaaaaaaaaaa-000007.conf");
    }

    #[test]
    fn entry_without_title_or_version_can_be_written() {
        let mut record = record();
        record.image.version = Some(String::new());
        record.image.title = None;
        let (_, entry) = entry_of(&id('a'), &record, true, UkiKey::Efi).unwrap();
        assert!(entry.to_text().unwrap().starts_with("title osupdate\nversion 000007\n"));
    }

    #[test]
    fn written_entry_is_recognized() {
        let (name, entry) = entry_of(&id('a'), &record(), true, UkiKey::Efi).unwrap();
        let own = own(&NamedEntry { name, entry }).unwrap();
        assert_eq!((own.deployment, own.sequence, own.tries_left), (id('a'), 7, Some(3)));
    }

    #[test]
    fn entry_of_a_uki_has_no_arguments_and_the_key_that_the_loader_knows() {
        let mut record = record();
        record.boot.uki = Some(Default::default());
        let (a, b) = ("a".repeat(128), "b".repeat(64));
        for (uki_key, key) in [(UkiKey::Uki, "uki"), (UkiKey::Efi, "efi")] {
            let (name, entry) = entry_of(&id('a'), &record, true, uki_key).unwrap();
            let text = format!(
                "title Example OS 13\nversion 000007-13.2\nsort-key osupdate\n{key} /EFI/osupdate/{b}/{a}.efi\n"
            );
            assert_eq!(entry.to_text().unwrap(), text);
            assert_eq!(own(&NamedEntry { name, entry }).unwrap().deployment, id('a'));
        }
    }
}
