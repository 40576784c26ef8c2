//! What the tests of one run share: the images, and a disk on which version 1 was installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::images::Images;
use crate::machine::{Boot, Config, Disk, DiskFormat, Machine, REGISTRY_IN_GUEST, overlay};
use crate::registry::Registry;
use crate::signing::SigningKey;
use crate::tool;

/// Size of the disks that are installed to.
pub const DISK_BYTES: u64 = 6 << 30;
/// The image that installed machines follow, as they see it.
pub fn reference() -> String {
    format!("docker://{REGISTRY_IN_GUEST}/os:latest")
}

/// Shared by all tests.
#[derive(Debug)]
pub struct Lab {
    images: Images,
}

/// The lab that the tests of one program share, for one test at a time: two emulated machines at once on two processors
/// make both miss their time limits. A test that failed leaves it usable: it has changed copies only.
pub fn shared() -> (&'static Lab, MutexGuard<'static, ()>) {
    static LAB: OnceLock<Lab> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lab = LAB.get_or_init(|| match Lab::open(&|text| eprintln!("lab: {text}")) {
        Ok(lab) => lab,
        Err(error) => panic!("the lab cannot be opened: {error:#}"),
    });
    (lab, turn)
}

impl Lab {
    /// Builds the images, unless the cache has them.
    pub fn open(say: &dyn Fn(&str)) -> Result<Self> {
        Ok(Self { images: Images::get(say)? })
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// A disk on which version 1 was installed, shared: not to be written to. Made once.
    fn installed_disk(&self) -> Result<PathBuf> {
        let installed = self.images.directory().join("installed.raw");
        if !installed.exists() {
            let registry = self.registry(1)?;
            let unfinished = self.images.directory().join("unfinished.raw");
            empty_disk(&unfinished, DISK_BYTES)?;
            let mut installer = self.installer(&[&unfinished], &registry)?;
            install(&mut installer, &install_command("/dev/vdb", ""))?;
            installer.power_off()?;
            fs::rename(&unfinished, &installed)?;
        }
        Ok(installed)
    }

    /// A registry in which `os:latest` is this version.
    pub fn registry(&self, version: u32) -> Result<Registry> {
        let registry = Registry::start()?;
        self.publish(&registry, version)?;
        Ok(registry)
    }

    /// Makes `os:latest` this version, signed with the key that the images trust.
    pub fn publish(&self, registry: &Registry, version: u32) -> Result<()> {
        self.publish_signed(registry, version, self.images.key())
    }

    /// Makes `os:latest` this version, signed with this key.
    pub fn publish_signed(&self, registry: &Registry, version: u32, key: &SigningKey) -> Result<()> {
        Self::publish_image(registry, &self.images.source(version), "os", key)
    }

    /// Makes `os:latest` this version with a UKI that is signed, as the image is.
    pub fn publish_sealed(&self, registry: &Registry, version: u32) -> Result<()> {
        self.publish_as(registry, &self.images.sealed(version)?, "os")
    }

    /// Makes `os:latest` this version with this UKI; the image is signed.
    pub fn publish_with_uki(&self, registry: &Registry, version: u32, uki: &[u8]) -> Result<()> {
        let directory = tempfile::tempdir()?;
        self.images.write_with_uki(version, uki, directory.path())?;
        self.publish_as(registry, &format!("oci:{}", directory.path().display()), "os")
    }

    /// Makes `NAME:latest` an image that is given in skopeo's syntax, signed with the key that the images trust.
    pub fn publish_as(&self, registry: &Registry, source: &str, name: &str) -> Result<()> {
        Self::publish_image(registry, source, name, self.images.key())
    }

    fn publish_image(registry: &Registry, source: &str, name: &str, key: &SigningKey) -> Result<()> {
        let name = format!("{name}:latest");
        registry.push_signed(source, &name, key, &format!("{REGISTRY_IN_GUEST}/{name}"))
    }

    /// Copies this version to `NAME:TAG`, not signed.
    pub fn publish_unsigned(&self, registry: &Registry, version: u32, name_and_tag: &str) -> Result<()> {
        registry.push(&self.images.source(version), name_and_tag)
    }

    /// A machine of its own on which version 1 was installed, not started yet.
    pub fn installed(&self, name: &str, registry: &Registry, directory: &Path) -> Result<Config> {
        let disk = self.installed_copy(directory)?;
        Ok(Config {
            name: name.to_owned(),
            boot: Boot::Firmware,
            disks: vec![disk],
            network: Some(registry.network()),
            ..Config::default()
        })
    }

    /// A disk of its own on which version 1 was installed.
    pub fn installed_copy(&self, directory: &Path) -> Result<Disk> {
        overlay(&self.installed_disk()?, DiskFormat::Raw, &directory.join("disk.qcow2"))
    }

    /// A running installer machine, which has `targets` as its disks `/dev/vdb` and following.
    pub fn installer(&self, targets: &[&Path], registry: &Registry) -> Result<Machine> {
        let mut disks = vec![Disk::snapshot(self.images.installer_disk(), DiskFormat::Raw)];
        disks.extend(targets.iter().map(|target| Disk::new(target, DiskFormat::Raw)));
        Machine::boot(&Config {
            name: "installer".to_owned(),
            boot: Boot::Kernel {
                kernel: self.images.kernel(),
                initrd: self.images.initrd(),
                arguments: "root=/dev/vda rw console=ttyS0".to_owned(),
            },
            disks,
            network: Some(registry.network()),
            ..Config::default()
        })
    }
}

/// The command that installs `os:latest`, with a console that the harness sees.
pub fn install_command(disk: &str, options: &str) -> String {
    format!("osupdate install to-disk --source {} --plain-http --karg console=ttyS0 {options} {disk}", reference())
}

/// Runs an installation and returns what it printed.
pub fn install(installer: &mut Machine, command: &str) -> Result<String> {
    let reply = installer.run_for(&format!("{command} 2>&1"), Duration::from_secs(900))?;
    if reply.status != 0 {
        bail!("exit status {} of {command}:\n{}", reply.status, reply.stdout);
    }
    Ok(reply.stdout)
}

/// Makes an empty disk, sparse.
pub fn empty_disk(path: &Path, size_bytes: u64) -> Result<()> {
    let file = fs::File::create(path).with_context(|| format!("creating {}", path.display()))?;
    file.set_len(size_bytes)?;
    Ok(())
}

/// Writes the disk of a machine that is off as raw bytes, to be damaged.
pub fn flatten(disk: &Disk, raw: &Path) -> Result<()> {
    tool::run(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(&disk.path).arg(raw))?;
    Ok(())
}
