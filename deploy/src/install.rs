//! Installing an image onto an empty disk.
//!
//! Everything that can be refused is refused before the disk is touched: the disk, the image, the size. From then on a
//! failure leaves a disk that does not boot, and says so; running the same again with `wipe` starts over. Nothing is
//! mounted where others could see it, and nothing of the machine that installs is copied.

mod disk;
pub(crate) mod enrolment;
mod error;
mod file_system;
mod partition;
mod size;
mod var;

use std::error::Error;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use osupdate_core::Algorithm;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{ImageSource, Offer, Platform};
use osupdate_core::repository::{Repository, Verity};
use osupdate_efi::mounted::Access;
use osupdate_record::{DeploymentId, paths};

use crate::boot::{BootError, BootPartition};
use crate::change;
use crate::directory::Directory;
use crate::kargs;
use crate::loader::LoaderFile;
use crate::machine::Machine;
use crate::prepare::{FetchError, Prepared, Source};
use crate::program::Program;
use crate::state;
use crate::sysroot::{Patience, Sysroot};
use crate::trust::Accepted;

pub use disk::{Disk, DiskError};
pub use enrolment::EnrolmentError;
pub use error::{Done, InstallError, StepError};
pub use file_system::FileSystem;
pub use size::SizeError;
pub use var::VarError;

/// What says on a machine by whom its images must be signed.
const POLICY: &str = "etc/containers/policy.json";

/// The sequence number of the first deployment.
const FIRST_SEQUENCE: u64 = 1;

/// How the root file system is found at boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootMount {
    /// By the UUID of the new file system.
    Uuid,
    /// By the type of its partition, on the disk that the loader came from; no argument is written.
    Auto,
    /// By this `root=` value.
    Spec(String),
}

/// What to install, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The whole disk.
    pub disk: PathBuf,
    /// Origin of later updates. Its requirement is the one that the image is accepted with.
    pub origin: Source,
    /// Type of the root file system.
    pub file_system: FileSystem,
    /// Size of the ESP.
    pub esp_bytes: u64,
    /// The machine's own kernel arguments, besides those for the root.
    pub kernel_arguments: Vec<String>,
    /// How the root is found.
    pub root_mount: RootMount,
    /// Overwrite what is on the disk.
    pub wipe: bool,
}

/// What was installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Name of the deployment.
    pub id: DeploymentId,
    /// Its record.
    pub record: osupdate_record::Deployment,
    /// Sets of Secure Boot keys that the loader can enrol.
    pub secure_boot_keys: Vec<String>,
}

/// Installs an image onto a whole disk.
///
/// `open` opens the image at its origin; it is called when the disk was found usable. `accept` then tells whether this image
/// may be installed, and what is required of its successors.
pub fn to_disk<S: ImageSource>(
    open: impl FnOnce() -> Result<S, Box<dyn Error + Send + Sync>>,
    accept: impl FnOnce(&S, &Offer<'_>) -> Result<Accepted, Box<dyn Error + Send + Sync>>,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Installed, InstallError> {
    if !rustix::process::geteuid().is_root() {
        return Err(InstallError::NotRoot);
    }
    let architecture = std::env::consts::ARCH;
    let root_type = partition::root_type(architecture).ok_or(InstallError::Architecture { architecture })?;
    check_arguments(options)?;
    let mut disk = Disk::open(&options.disk)?;
    if !options.wipe {
        disk.check_empty()?;
    }
    let reference = || options.origin.reference.clone();
    let source = open().map_err(|source| InstallError::Open { reference: reference(), source })?;
    let offer = Offer::fetch(&source, &Platform::host())
        .map_err(|source| InstallError::Offer { reference: reference(), source: Box::new(source) })?;
    let accepted =
        accept(&source, &offer).map_err(|source| InstallError::Refused { reference: reference(), source })?;
    size::check(disk.size_bytes(), options.esp_bytes, offer.layer_bytes())
        .map_err(|source| InstallError::Size { disk: options.disk.clone(), source })?;

    let mut done = Done::Partitioning;
    write(&mut disk, root_type, &offer, &accepted, options, observer, &mut done).map_err(|source| InstallError::Begun {
        disk: options.disk.clone(),
        done,
        source: Box::new(source),
    })
}

/// The part that changes the disk; `done` tells how far it came.
fn write(
    disk: &mut Disk,
    root_type: &str,
    offer: &Offer<'_>,
    accepted: &Accepted,
    options: &Options,
    observer: &dyn Observer,
    done: &mut Done,
) -> Result<Installed, StepError> {
    observer.event(Event::Step(&format!("partitioning {}", disk.path().display())));
    disk.partition(&partition::script(options.esp_bytes, root_type))?;
    *done = Done::Partitioned;
    let [esp_partition, root] = disk.wait_for_partitions([partition::ESP_NUMBER, partition::ROOT_NUMBER])?;

    observer.event(Event::Step(&format!("making file systems: vfat, {}", options.file_system)));
    file_system::make_esp(&esp_partition)?;
    let uuid = options.file_system.make_root(&root)?;
    *done = Done::Formatted;

    // Declared first, so dropped last: what uses the mounts is gone before they are.
    let root_mount = file_system::mount_root(options.file_system, &root)?;
    let esp_mount = osupdate_efi::mounted::mount(&esp_partition, Access::Write).map_err(BootError::from)?;
    let directory = Directory::new(root_mount.as_fd()).map_err(StepError::Write)?;
    // The root of a new file system may not be for others to look into; status needs that.
    directory.set_mode(0o755).map_err(StepError::Write)?;
    let repository_path =
        Path::new("/proc/self/fd").join(directory.as_fd().as_raw_fd().to_string()).join(paths::REPOSITORY);
    Repository::init(&repository_path, Algorithm::Sha512, Verity::Required)?;
    let repository = Repository::open_at(directory.as_fd(), Path::new(paths::REPOSITORY))?;

    observer.event(Event::Step(&format!("pulling {}", options.origin.reference)));
    let (image, prepared) = Prepared::fetch(&repository, offer, observer).map_err(|err| match err {
        FetchError::Pull(err) => StepError::from(*err),
        FetchError::Prepare(err) => StepError::from(*err),
    })?;
    *done = Done::Pulled;

    observer.event(Event::Step("making the deployment"));
    let own_arguments = !options.kernel_arguments.is_empty() || matches!(options.root_mount, RootMount::Spec(_));
    if own_arguments && matches!(prepared.program, Program::Uki { .. }) {
        return Err(StepError::SealedArguments);
    }
    state::prepare(&directory)?;
    let var = directory.directory(paths::VAR).map_err(StepError::Write)?;
    var::populate(&repository, &prepared.tree, &var)?;
    if accepted.requirement.refuses_unsigned() && prepared.tree.follow_to_file(POLICY).is_none() {
        observer.event(Event::Warning(&format!(
            "the image has no /{POLICY} that names the key it is signed with: upgrades will be refused until the machine has one"
        )));
    }
    let origin = Source { requirement: Some(accepted.requirement.clone()), ..options.origin.clone() };
    let arguments = root_arguments(options, &uuid);
    let record = prepared.record(&image, &origin, &accepted.signatures, FIRST_SEQUENCE, arguments, None);

    let esp = osupdate_efi::Esp::new(esp_mount, format!("the ESP ({})", esp_partition.display()));
    let keys = enrolment::find(&repository, &prepared.tree)?;
    let loaders = LoaderFile::find(&repository, &prepared.tree).map_err(StepError::Loader)?;
    let loader = enrolment::choose(&repository, &prepared.program, loaders, &keys)?;
    let secure_boot_keys = enrolment::install(&esp, &keys)?;
    if let Some(loader) = loader {
        loader.install(&esp, !keys.is_empty()).map_err(StepError::Loader)?;
    }
    let boot = BootPartition::new(esp);
    let sysroot = Sysroot::new(root, directory);
    let lock = sysroot.lock(Patience::Fail, "osupdate install", observer)?;
    let machine = Machine::new(&sysroot, &repository, &boot, None, &lock, observer);
    change::keep_image(&machine, &prepared.id, &image)?;
    change::put_new(&machine, &prepared.id, &record, &prepared)?;

    observer.event(Event::Step("writing everything to the disk"));
    sysroot.directory().sync_file_system().map_err(StepError::Write)?;
    Ok(Installed { id: prepared.id, record, secure_boot_keys })
}

/// Refuses arguments that would break a boot entry or select another image.
fn check_arguments(options: &Options) -> Result<(), InstallError> {
    let spec = match &options.root_mount {
        RootMount::Spec(spec) => Some(spec),
        RootMount::Uuid | RootMount::Auto => None,
    };
    for argument in options.kernel_arguments.iter().chain(spec) {
        if !kargs::is_usable(argument) {
            return Err(InstallError::KernelArgument { argument: argument.clone() });
        }
    }
    Ok(())
}

/// The machine's kernel arguments.
fn root_arguments(options: &Options, uuid: &str) -> Vec<String> {
    let mut arguments = match &options.root_mount {
        RootMount::Uuid => vec![format!("root=UUID={uuid}")],
        RootMount::Spec(spec) => vec![format!("root={spec}")],
        RootMount::Auto => Vec::new(),
    };
    // The root is writable for what is not the image: state and repository.
    arguments.push("rw".to_owned());
    arguments.extend(options.kernel_arguments.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(root_mount: RootMount, arguments: &[&str]) -> Options {
        Options {
            disk: "/dev/null".into(),
            origin: Source { reference: "oci:/x".to_owned(), plain_http: false, summary_key: None, requirement: None },
            file_system: FileSystem::Ext4,
            esp_bytes: 1 << 30,
            kernel_arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            root_mount,
            wipe: false,
        }
    }

    #[test]
    fn root_is_found_as_asked_for() {
        let arguments = |root_mount| root_arguments(&options(root_mount, &["quiet"]), "1-2");
        assert_eq!(arguments(RootMount::Uuid), ["root=UUID=1-2", "rw", "quiet"]);
        assert_eq!(arguments(RootMount::Auto), ["rw", "quiet"]);
        assert_eq!(arguments(RootMount::Spec("LABEL=x".to_owned())), ["root=LABEL=x", "rw", "quiet"]);
    }

    #[test]
    fn arguments_that_would_break_the_entry_are_refused() {
        assert!(check_arguments(&options(RootMount::Auto, &["console=ttyS0", "a=\"b c\""])).is_ok());
        for argument in ["", " x", "a\nlinux /x", "composefs=0", "composefs.digest=x"] {
            assert!(check_arguments(&options(RootMount::Auto, &[argument])).is_err(), "{argument:?}");
            assert!(check_arguments(&options(RootMount::Spec(argument.to_owned()), &[])).is_err(), "{argument:?}");
        }
    }

    #[test]
    fn device_that_is_no_disk_is_refused_before_anything() {
        let err = to_disk(
            || -> Result<Offer<'_>, _> { panic!("asked for the image") },
            |_, _| panic!("looked at the image"),
            &options(RootMount::Uuid, &[]),
            &osupdate_core::observer::Silent,
        )
        .unwrap_err();
        assert!(matches!(err, InstallError::NotRoot | InstallError::Disk(DiskError::NotBlockDevice { .. })), "{err}");
    }
}
