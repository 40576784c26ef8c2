//! `osupdate install`: puts an image onto an empty disk.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum, ValueHint};
use osupdate_core::oci::Offer;
use osupdate_deploy::install::{self, DiskError, FileSystem, InstallError, Options, RootMount};
use osupdate_deploy::prepare::Source;
use serde::Serialize;

use super::status::signed::{SignatureRow, signed_by};
use super::summary_key::SummaryKeyOption;
use super::transfer::TransferRate;
use crate::admission::{self, Allowances, Candidate};
use crate::byte_size;
use crate::cli::Context;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::transport::{self, ImageReference, SourceOptions, open_source};

/// Install an image
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    ToDisk(ToDisk),
}

/// Install an image onto a whole disk
///
/// Makes a partition table with an EFI system partition and a root, pulls the image into a repository there, and installs
/// the image's systemd-boot with one boot entry. Image, disk and size are checked before anything is written.
///
/// The image must be signed, by a key that /etc/containers/policy.json of the machine that installs names. Upgrades are checked
/// by the policy of the installed system.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate install to-disk --source docker://registry.example.com/os:1 /dev/vda
  osupdate install to-disk --source oci:build/image --target-imgref registry.example.com/os:1 --karg console=ttyS0 /dev/vda")]
struct ToDisk {
    /// The disk, such as /dev/vda
    #[arg(value_hint = ValueHint::FilePath)]
    disk: PathBuf,

    /// The image: docker://HOST/NAME:TAG, oci:DIRECTORY[:TAG], or another reference as for image pull
    #[arg(long, value_name = "REF", add = completion::references())]
    source: ImageReference,

    /// The image that the installed system follows, if it is another one
    #[arg(long, value_name = "REF", add = completion::references())]
    target_imgref: Option<ImageReference>,

    /// Speak to the registry without TLS, now and for later upgrades
    #[arg(long)]
    plain_http: bool,

    #[command(flatten)]
    allow: Allowances,

    /// Type of the root file system
    #[arg(long, value_enum, default_value_t = RootType::Ext4, value_name = "TYPE")]
    filesystem: RootType,

    /// Size of the EFI system partition: bytes, or a number with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = byte_size::parse)]
    esp_size: u64,

    /// Kernel argument of this machine; can be given several times
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    karg: Vec<String>,

    /// What to write as root=, or auto: the root is found by the type of its partition [default: UUID=...]
    #[arg(long, value_name = "SPEC")]
    root_mount_spec: Option<String>,

    /// Overwrite what is on the disk
    #[arg(long)]
    wipe: bool,

    #[command(flatten)]
    summary_key: SummaryKeyOption,

    #[command(flatten)]
    transfer: TransferRate,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RootType {
    Ext4,
    Btrfs,
}

/// What `--json` prints; a contract.
#[derive(Serialize)]
struct Report {
    disk: PathBuf,
    deployment: String,
    reference: String,
    manifest_digest: String,
    image_version: Option<String>,
    signatures: Vec<SignatureRow>,
    /// Path of the UKI in the image.
    uki: Option<String>,
    /// Sets of keys that the loader can enrol.
    secure_boot_keys: Vec<String>,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.command {
            Command::ToDisk(args) => args.run(context),
        }
    }
}

impl ToDisk {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let source = self.source.absolute()?;
        let origin = self.target_imgref.map_or_else(|| Ok(source.clone()), ImageReference::absolute)?;
        let summary_key = self.summary_key.load(&source)?;
        // Another tree has another key.
        let followed_key = summary_key.clone().filter(|_| source.tree() == origin.tree());
        let options = Options {
            disk: self.disk,
            origin: Source {
                reference: origin.to_string(),
                plain_http: self.plain_http,
                summary_key: followed_key,
                requirement: None,
            },
            file_system: match self.filesystem {
                RootType::Ext4 => FileSystem::Ext4,
                RootType::Btrfs => FileSystem::Btrfs,
            },
            esp_bytes: self.esp_size,
            kernel_arguments: self.karg,
            root_mount: match self.root_mount_spec {
                None => RootMount::Uuid,
                Some(spec) if spec == "auto" => RootMount::Auto,
                Some(spec) => RootMount::Spec(spec),
            },
            wipe: self.wipe,
        };
        let open = || {
            let options = SourceOptions {
                plain_http: self.plain_http,
                limits: self.transfer.limits(),
                ..SourceOptions::default()
            }
            .with_summary_key(summary_key);
            open_source(&source, &options).map_err(|err| Box::new(err) as Box<dyn std::error::Error + Send + Sync>)
        };
        let accept = |image: &transport::Source, offer: &Offer<'_>| {
            let candidate = Candidate { reference: &source, source: image, offer };
            admission::install(&candidate, &origin, self.allow, &*context.observer)
                .map_err(|err| Box::new(err) as Box<dyn std::error::Error + Send + Sync>)
        };
        let installed = match install::to_disk(open, accept, &options, &*context.observer) {
            Ok(installed) => installed,
            Err(err) => {
                let hint = hint(&err);
                let result: Result<Outcome, _> = Err(anyhow::Error::new(err));
                return match hint {
                    Some(hint) => result.hint(hint),
                    None => result,
                };
            }
        };
        let osupdate_deploy::record::Deployment { image, boot, .. } = installed.record;
        let report = Report {
            disk: options.disk,
            deployment: installed.id.to_string(),
            reference: image.reference,
            manifest_digest: image.manifest_digest,
            image_version: image.version,
            signatures: image.signatures.iter().map(SignatureRow::new).collect(),
            uki: boot.uki.map(|uki| format!("/{}", uki.path)),
            secure_boot_keys: installed.secure_boot_keys,
        };
        context.output.write(&report, |out| {
            let version = report.image_version.as_deref().unwrap_or("without a version");
            let signed = signed_by(&report.signatures);
            writeln!(
                out,
                "Installed version {version} of {}, {signed}, on {}.",
                report.reference,
                report.disk.display()
            )?;
            if let Some(uki) = &report.uki {
                writeln!(
                    out,
                    "It boots with {uki} of the image, into which its digest and kernel arguments are sealed."
                )?;
            }
            tell_keys(out, &report.secure_boot_keys)?;
            writeln!(out, "Boot the machine from this disk to use it.")
        })?;
        Ok(Outcome::Done)
    }
}

/// Tells what becomes of the Secure Boot keys of the image.
fn tell_keys(out: &mut dyn Write, sets: &[String]) -> io::Result<()> {
    if sets.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "Secure Boot keys of the image are on the ESP ({}). While the firmware is in setup mode:",
        sets.join(", ")
    )?;
    if sets.iter().any(|set| set == "auto") {
        writeln!(out, "  a virtual machine enrols the set auto at its first boot, and restarts;")?;
        writeln!(out, "  on any other machine, choose \"Enroll Secure Boot keys\" in the boot menu.")
    } else {
        writeln!(out, "  choose \"Enroll Secure Boot keys\" in the boot menu.")
    }
}

/// The next step for the user.
fn hint(err: &InstallError) -> Option<&'static str> {
    Some(match err {
        InstallError::NotRoot => "run it as root",
        InstallError::Disk(DiskError::NotEmpty { .. }) => "to overwrite everything on this disk, give --wipe",
        InstallError::Disk(DiskError::InUse { .. }) => "free the disk (umount, swapoff, ...), or choose another one",
        InstallError::Disk(DiskError::Partition { .. }) => "name the whole disk",
        InstallError::Size { .. } => "choose a larger disk or a smaller --esp-size",
        InstallError::Begun { .. } => "when the cause is removed, run the same command again with --wipe",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_the_pinned_one() {
        let report = Report {
            disk: "/dev/vda".into(),
            deployment: "a".to_owned(),
            reference: "oci:/x".to_owned(),
            manifest_digest: "sha256:0".to_owned(),
            image_version: None,
            signatures: Vec::new(),
            uki: Some("/boot/EFI/Linux/os.efi".to_owned()),
            secure_boot_keys: vec!["auto".to_owned()],
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"disk":"/dev/vda","deployment":"a","reference":"oci:/x","manifest_digest":"sha256:0","image_version":null,"signatures":[],"uki":"/boot/EFI/Linux/os.efi","secure_boot_keys":["auto"]}"#
        );
    }

    #[test]
    fn fate_of_secure_boot_keys_is_told() {
        let told = |sets: &[&str]| {
            let mut out = Vec::new();
            tell_keys(&mut out, &sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>()).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(told(&[]), "");
        assert!(told(&["auto"]).contains("a virtual machine enrols the set auto"), "{}", told(&["auto"]));
        assert!(!told(&["vendor"]).contains("virtual machine"), "{}", told(&["vendor"]));
    }
}
