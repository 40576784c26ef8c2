//! The sealed examples, built as their READMEs say, but upon the image that has the agent: see [`crate::images`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::images::{Images, cache, digest_of, top};
use crate::lab::{DISK_BYTES, Lab, empty_disk, install};
use crate::machine::{Boot, Config, DiskFormat, REGISTRY_IN_GUEST, overlay};
use crate::registry::Registry;
use crate::tool;

/// One of the examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// `examples/uki`.
    Uki,
    /// `examples/unified`.
    Unified,
    /// `examples/unified-secureboot`.
    UnifiedSecureBoot,
}

impl Example {
    /// All.
    pub const ALL: [Self; 3] = [Self::Uki, Self::Unified, Self::UnifiedSecureBoot];

    /// The name of its directory, and of its image in the registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uki => "uki",
            Self::Unified => "unified",
            Self::UnifiedSecureBoot => "unified-secureboot",
        }
    }

    /// What machines with it follow, as they see it.
    pub fn reference(self) -> String {
        format!("docker://{REGISTRY_IN_GUEST}/{}:latest", self.name())
    }

    fn directory(self) -> PathBuf {
        top().join("examples").join(self.name())
    }

    /// How it is installed, besides the reference and the disk.
    const fn options(self) -> &'static str {
        match self {
            // To have a root on two disks later.
            Self::Unified => "--filesystem btrfs",
            Self::Uki | Self::UnifiedSecureBoot => "",
        }
    }

    /// What the installer must say about it.
    const fn told(self) -> &'static [&'static str] {
        match self {
            Self::Uki | Self::Unified => &["It boots with /boot/EFI/Linux/debian-bls-1.efi of the image"],
            Self::UnifiedSecureBoot => &[
                "It boots with /boot/EFI/Linux/debian-bls-1.efi of the image",
                "Secure Boot keys of the image are on the ESP (auto)",
                "a virtual machine enrols the set auto at its first boot",
            ],
        }
    }
}

/// The keys that `examples/unified-secureboot` has made.
pub fn keys() -> PathBuf {
    cache().join("unified-secureboot/keys")
}

impl Images {
    /// An example in this version, in skopeo's syntax; built once. `systemd` has another boot loader and other stubs for it.
    pub fn example(&self, example: Example, version: u32, systemd: Option<&Path>) -> Result<String> {
        let mut made_of = vec![example.directory()];
        made_of.extend(systemd.map(Path::to_owned));
        if example == Example::UnifiedSecureBoot {
            tool::run(Command::new(example.directory().join("keys")).arg(keys()))?;
            made_of.push(keys());
        }
        let made_of: Vec<&Path> = made_of.iter().map(PathBuf::as_path).collect();
        let layout = self.directory().join(format!("{}-{version}-{}", example.name(), digest_of(&made_of)?));
        if !layout.exists() {
            eprintln!("lab: building version {version} of examples/{}", example.name());
            let base = match systemd {
                Some(systemd) => self.with_systemd(version, systemd)?,
                None => self.base(version)?,
            };
            let unfinished = layout.with_extension("unfinished");
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished)?;
            }
            let mut build = Command::new(example.directory().join("build"));
            build.arg(version.to_string()).arg(format!("oci:{}:{version}", unfinished.display()));
            tool::run_logged(build.env("BASE", base).env("OSUPDATE_CACHE", cache()), &cache().join("build.log"))?;
            fs::rename(&unfinished, &layout).context("keeping the image")?;
        }
        Ok(format!("oci:{}:{version}", layout.display()))
    }
}

impl Lab {
    /// Makes this version of an example what machines with it follow.
    pub fn publish_example(
        &self,
        registry: &Registry,
        example: Example,
        version: u32,
        systemd: Option<&Path>,
    ) -> Result<()> {
        self.publish_as(registry, &self.images().example(example, version, systemd)?, example.name())
    }

    /// A machine of its own on which version 1 of an example was installed, not started yet.
    pub fn installed_example(&self, example: Example, registry: &Registry, directory: &Path) -> Result<Config> {
        let disk = self.example_disk(example)?;
        Ok(Config {
            name: example.name().to_owned(),
            boot: Boot::Firmware,
            disks: vec![overlay(&disk, DiskFormat::Raw, &directory.join("disk.qcow2"))?],
            network: Some(registry.network()),
            ..Config::default()
        })
    }

    /// A disk on which version 1 of an example was installed, shared: not to be written to. All are made by one installer, once.
    fn example_disk(&self, example: Example) -> Result<PathBuf> {
        let mut sources = Vec::new();
        for example in Example::ALL {
            sources.push((example, self.images().example(example, 1, None)?));
        }
        let disk = |(example, source): &(Example, String)| {
            let layout = Path::new(source.trim_start_matches("oci:").trim_end_matches(":1"));
            (*example, layout.with_extension("raw"))
        };
        let disks: Vec<_> = sources.iter().map(disk).collect();
        let missing: Vec<_> = disks.iter().filter(|(_, disk)| !disk.exists()).collect();
        if !missing.is_empty() {
            let registry = Registry::start()?;
            let mut unfinished = Vec::new();
            for (example, disk) in &missing {
                self.publish_example(&registry, *example, 1, None)?;
                unfinished.push(disk.with_extension("unfinished"));
                empty_disk(&disk.with_extension("unfinished"), DISK_BYTES)?;
            }
            let targets: Vec<&Path> = unfinished.iter().map(PathBuf::as_path).collect();
            let mut installer = self.installer(&targets, &registry)?;
            for ((example, _), device) in missing.iter().zip(["/dev/vdb", "/dev/vdc", "/dev/vdd"]) {
                let (source, options) = (example.reference(), example.options());
                let command = format!("osupdate install to-disk --source {source} --plain-http {options} {device}");
                let said = install(&mut installer, &command)?;
                for part in example.told() {
                    ensure!(said.contains(part), "{part:?} is not in what {command} said: {said}");
                }
            }
            installer.power_off()?;
            for ((_, disk), unfinished) in missing.iter().zip(&unfinished) {
                fs::rename(unfinished, disk).context("keeping the disk")?;
            }
        }
        let found = disks.into_iter().find(|(found, _)| *found == example);
        found.map(|(_, disk)| disk).context("all examples were installed")
    }
}
