//! A computer in directories: a physical root, an ESP, and what loader and setup-root do at a boot.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use osupdate_core::Algorithm;
use osupdate_core::observer::{Observer, Silent};
use osupdate_core::oci::{Offer, Platform};
use osupdate_core::repository::{Namespace, OpenOptions, Repository, Verity};
use osupdate_efi::Esp;
use osupdate_efi::boot_program::{self, Identity};
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::name::BootTries;
use osupdate_efi::order::{NamedEntry, compare};
use osupdate_efi::pe::fake::pe;
use osupdate_efi::secure_boot::SecureBoot;
use osupdate_efi::variables::LoaderFeatures;
use osupdate_record::{Deployment as Record, DeploymentId, paths};

use super::image::Image;
use crate::boot::BootPartition;
use crate::booted::Booted;
use crate::change;
use crate::cleanup;
use crate::directory::Directory;
use crate::machine::{Machine, Step};
use crate::model::Model;
use crate::plan::Rollback;
use crate::prepare::{Prepared, Source};
use crate::rollback;
use crate::stage::{self, Request, StageError, Staged};
use crate::state;
use crate::sysroot::{Patience, Sysroot};

/// The reference of all images here.
pub(super) const REFERENCE: &str = "oci:/images:os";

pub(super) struct Computer {
    directory: tempfile::TempDir,
    booted: Option<Booted>,
    /// Whether boots are blessed, as boot-complete.target does.
    pub(super) blessing: bool,
    /// The command line of the kernel that runs.
    pub(super) line: String,
    /// What firmware accepts.
    pub(super) secure_boot: SecureBoot,
    /// What a loader can that is not on the ESP.
    pub(super) elsewhere: Option<LoaderFeatures>,
}

/// The systemd-boot of computers at first: it hides entries with the key `uki`.
const OLD_LOADER: u32 = 257;
/// The first that does not, and that does not count the boots of entries with the key `efi`.
const NEW_LOADER: u32 = 258;

impl Computer {
    /// A computer on which an image was installed and booted.
    pub(super) fn installed(image: &Image) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("esp/loader/entries")).unwrap();
        fs::create_dir_all(directory.path().join("esp/EFI/systemd")).unwrap();
        fs::create_dir_all(directory.path().join("esp/EFI/BOOT")).unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        state::prepare(&Directory::open(&root).unwrap()).unwrap();
        Repository::init(&root.join(paths::REPOSITORY), Algorithm::Sha512, Verity::Unverified).unwrap();
        let mut computer = Self {
            directory,
            booted: None,
            blessing: true,
            line: String::new(),
            secure_boot: SecureBoot::default(),
            elsewhere: None,
        };
        computer.set_loader(OLD_LOADER);
        computer.run(None, |machine| {
            let (stored, prepared) = Prepared::fetch(machine.repository, image, &Silent).unwrap();
            let arguments = vec!["root=UUID=1".to_owned(), "rw".to_owned()];
            let record = prepared.record(&stored, &source(), &[], 1, arguments, None);
            change::keep_image(machine, &prepared.id, &stored).unwrap();
            change::put_new(machine, &prepared.id, &record, &prepared).unwrap();
        });
        computer.boot();
        computer
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(super) fn esp(&self) -> PathBuf {
        self.directory.path().join("esp")
    }

    pub(super) fn booted(&self) -> DeploymentId {
        self.booted.as_ref().unwrap().id.clone()
    }

    /// Puts another systemd-boot on the ESP, as somebody else does who does not look at entries.
    pub(super) fn set_loader(&mut self, version: u32) {
        self.set_loaders([version; 2]);
    }

    /// The same with two versions, of which firmware starts the first.
    pub(super) fn set_loaders(&mut self, versions: [u32; 2]) {
        for (path, version) in loader_places().iter().zip(versions) {
            fs::write(self.esp().join(path), systemd_boot(version)).unwrap();
        }
    }

    /// Version of the systemd-boot that firmware starts.
    fn loader(&self) -> u32 {
        let program = fs::read(self.esp().join(&loader_places()[0])).unwrap();
        Identity::of(&program).version().unwrap().parse().unwrap()
    }

    /// The directory of a deployment.
    pub(super) fn state(&self, id: &DeploymentId) -> PathBuf {
        self.root().join(paths::deployment(id))
    }

    fn open_esp(&self) -> Esp {
        let fd: OwnedFd = fs::File::open(self.esp()).unwrap().into();
        Esp::new(fd, "the ESP")
    }

    /// Does something as one run of the program.
    pub(super) fn run<T>(&self, stop_after: Option<Step>, action: impl FnOnce(&Machine<'_>) -> T) -> T {
        self.run_observed(stop_after, &Silent, action)
    }

    /// The same, observed.
    pub(super) fn run_observed<T>(
        &self,
        stop_after: Option<Step>,
        observer: &dyn Observer,
        action: impl FnOnce(&Machine<'_>) -> T,
    ) -> T {
        let sysroot = Sysroot::open(&self.root()).unwrap();
        let lock = sysroot.lock(Patience::Fail, "test", &Silent).unwrap();
        let repository = sysroot.repository(&OpenOptions::default()).unwrap();
        let mut boot = BootPartition::new(self.open_esp()).with_secure_boot(self.secure_boot.clone());
        if self.elsewhere.is_some() {
            boot = boot.with_esps(vec![self.open_esp()], self.elsewhere);
        }
        let mut machine = Machine::new(&sysroot, &repository, &boot, self.booted.clone(), &lock, observer);
        machine.stop_after = stop_after;
        action(&machine)
    }

    /// The same, with the power cut after a step. `false`: the step was not reached, so all was done.
    pub(super) fn cut<T>(&self, step: Step, action: impl FnOnce(&Machine<'_>) -> T) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| self.run(Some(step), action)));
        match result {
            Ok(_) => false,
            Err(payload) => match payload.downcast::<Step>() {
                Ok(_) => true,
                Err(other) => std::panic::resume_unwind(other),
            },
        }
    }

    pub(super) fn upgrade(&self, image: &Image) -> Staged {
        self.run(None, |machine| upgrade(machine, image, false)).unwrap()
    }

    pub(super) fn rollback(&self) -> Rollback {
        self.run(None, rollback::rollback).unwrap().plan
    }

    pub(super) fn model(&self) -> Model {
        self.run(None, |machine| machine.survey().unwrap().model)
    }

    pub(super) fn record(&self, id: &DeploymentId) -> Record {
        self.model().get(id).unwrap().record.clone()
    }

    /// File names of all entries.
    pub(super) fn entries(&self) -> BTreeSet<String> {
        names(&self.esp().join("loader/entries"))
    }

    /// Boots: what firmware, loader, setup-root and blessing do. Returns the deployment that runs then.
    pub(super) fn boot(&mut self) -> DeploymentId {
        let esp = self.open_esp();
        let loader = self.loader();
        let mut listing = esp.entries().unwrap();
        listing.entries.retain(|named| named.entry.uki.is_none() || loader >= NEW_LOADER);
        let is_counted = |entry: &osupdate_efi::Entry| entry.efi.is_none() || loader < NEW_LOADER;
        // The counter of one that is not counted has no meaning to the loader.
        let seen = |named: &NamedEntry| match is_counted(&named.entry) {
            true => named.clone(),
            false => NamedEntry { name: named.name.with_tries(None), entry: named.entry.clone() },
        };
        let (seen, named) = listing
            .entries
            .iter()
            .map(|named| (seen(named), named))
            .min_by(|(a, _), (b, _)| compare(a, b))
            .expect("the loader shows an entry");
        assert!(esp.is_complete(&named.entry), "the chosen entry has no files");
        self.line = self.command_line(&named.entry);
        let mut name = named.name.clone();
        let is_counted = seen.name.tries().is_some();
        if let Some(BootTries { left, done }) = seen.name.tries() {
            let tried = BootTries { left: left.saturating_sub(1), done: done + 1 };
            name = self.rename_entry(&name, Some(tried));
        }
        let args = osupdate_core::kernel_args::composefs_args(&self.line).unwrap();
        let id: DeploymentId = args[0].digest.to_string().parse().unwrap();
        self.set_up_root(&id);
        // What is not counted is not blessed.
        if self.blessing && is_counted {
            self.rename_entry(&name, None);
        }
        self.booted = Some(Booted { id: id.clone(), verified: false, sequence: name.sequence() });
        id
    }

    /// What loader and stub make of an entry: the arguments of the entry, or those in the UKI and then those in its addons.
    fn command_line(&self, entry: &osupdate_efi::Entry) -> String {
        let (Some(path), None) = (entry.uki.as_ref().or(entry.efi.as_ref()), &entry.linux) else {
            return entry.command_line();
        };
        assert!(entry.options.is_empty(), "without Secure Boot they would hide what is sealed");
        let uki = self.esp().join(path.trim_start_matches('/'));
        let addons = uki.with_file_name(format!("{}.extra.d", uki.file_name().unwrap().to_str().unwrap()));
        let addons: Vec<PathBuf> =
            if addons.exists() { names(&addons).into_iter().map(|name| addons.join(name)).collect() } else { vec![] };
        let lines = [uki].into_iter().chain(addons).map(|path| {
            let lines = osupdate_efi::uki::command_lines(fs::File::open(path).unwrap()).unwrap();
            lines.into_iter().next().unwrap()
        });
        lines.collect::<Vec<_>>().join(" ")
    }

    fn rename_entry(&self, name: &osupdate_efi::EntryName, tries: Option<BootTries>) -> osupdate_efi::EntryName {
        let new = name.with_tries(tries);
        let entries = self.esp().join("loader/entries");
        fs::rename(entries.join(name.file_name()), entries.join(new.file_name())).unwrap();
        new
    }

    /// Opens the image and makes /etc.
    fn set_up_root(&self, id: &DeploymentId) {
        let repository = Repository::open(&self.root().join(paths::REPOSITORY)).unwrap();
        repository.read_image(&id.as_str().parse().unwrap()).unwrap();
        let text = fs::read_to_string(self.root().join(paths::record(id))).unwrap();
        let record = Record::parse(&text).unwrap();
        let upper = self.state(id).join(paths::ETC_UPPER);
        if upper.exists() {
            return;
        }
        fs::create_dir_all(&upper).unwrap();
        if let Some(from) = record.etc.carry_from {
            let from = self.state(&from).join(paths::ETC_UPPER);
            assert!(from.exists(), "the source of /etc is gone");
            for name in names(&from) {
                fs::copy(from.join(&name), upper.join(&name)).unwrap();
            }
        }
    }

    /// Writes a file in the running system's /etc.
    pub(super) fn change_etc(&self, name: &str, text: &str) {
        fs::write(self.state(&self.booted()).join(paths::ETC_UPPER).join(name), text).unwrap();
    }

    /// Everything in the physical root and on the ESP, with what tells a change.
    pub(super) fn everything(&self) -> BTreeSet<String> {
        use std::os::unix::fs::MetadataExt as _;
        let mut found = BTreeSet::new();
        let mut open = vec![self.root(), self.esp()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                found.insert(format!("{path:?} {} {}.{}", metadata.len(), metadata.ctime(), metadata.ctime_nsec()));
                if metadata.is_dir() {
                    open.push(path);
                }
            }
        }
        found
    }

    /// Names of the files changed in the running system's /etc.
    pub(super) fn etc(&self) -> BTreeSet<String> {
        names(&self.state(&self.booted()).join(paths::ETC_UPPER))
    }

    /// Asserts that there is nothing but whole deployments: no remains, and one of everything for each.
    pub(super) fn assert_whole(&self) {
        let model = self.model();
        assert!(model.damaged.is_empty() && model.interrupted.is_empty(), "{model:?}");
        let ids: BTreeSet<String> = model.deployments().iter().map(|item| item.id.to_string()).collect();
        assert_eq!(names(&self.root().join(paths::DEPLOYMENTS)), ids);
        let repository = Repository::open(&self.root().join(paths::REPOSITORY)).unwrap();
        for namespace in [Namespace::Streams, Namespace::Images] {
            let refs = repository.refs(namespace).unwrap();
            let kept: BTreeSet<String> = refs
                .iter()
                .filter_map(|(name, _)| Some(name.strip_prefix(paths::REPOSITORY_REF_PREFIX)?.to_owned()))
                .collect();
            assert_eq!(kept, ids, "references");
        }
        let mut kernels = BTreeSet::new();
        for named in self.open_esp().entries().unwrap().entries {
            let path = named.entry.program().unwrap().path().to_owned();
            kernels.insert(path.split('/').nth(3).unwrap().to_owned());
        }
        for deployment in model.deployments() {
            let entry = model.entry(&deployment.id).expect("it has an entry");
            assert_eq!(entry.sequence, deployment.record.sequence);
            let own: Vec<_> = model.entries().iter().filter(|other| other.deployment == deployment.id).collect();
            let behind = own.iter().filter(|other| other.sequence != entry.sequence).count();
            assert!(
                behind == 0 || behind == 1 && entry.tries_left.is_some(),
                "one entry, or a good one behind: {own:?}"
            );
            assert_eq!(deployment.unfinished, None);
        }
        let recorded = model.deployments().iter().map(|item| item.record.boot.digest.clone());
        kernels.extend(recorded);
        for kernel in &kernels {
            self.open_esp().verify_boot_files(&kernel.parse().unwrap()).unwrap();
        }
        assert_eq!(names(&self.esp().join("EFI/osupdate")), kernels, "boot files");
    }
}

/// What `upgrade` does.
pub(super) fn upgrade(machine: &Machine<'_>, image: &Image, retry_failed: bool) -> Result<Staged, StageError> {
    let survey = cleanup::repair(machine)?;
    let offer = Offer::fetch(image, &Platform::host()).unwrap();
    let request = Request { source: source(), signatures: Vec::new(), retry_failed, allow_unsealed: true };
    stage::stage(machine, &survey, &offer, &request)
}

/// Where computers have their loader, the place first that firmware tries first.
fn loader_places() -> [String; 2] {
    let [systemd, _, fallback] = boot_program::places(Architecture::native().unwrap());
    [systemd, fallback]
}

/// A program like systemd-boot.
pub(super) fn systemd_boot(version: u32) -> Vec<u8> {
    pe(&[(".sdmagic", format!("#### LoaderInfo: systemd-boot {version} ####\0").as_bytes())])
}

pub(super) fn source() -> Source {
    Source { reference: REFERENCE.to_owned(), plain_http: false, summary_key: None, requirement: None }
}

/// Names in a directory.
pub(super) fn names(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
