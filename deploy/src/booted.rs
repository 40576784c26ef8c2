//! What the running system says of itself: `/proc/cmdline`, `/proc/self/mountinfo` and the loader's variables.
//!
//! All are world-readable, so that `status` needs no privileges. The kernel argument names the image that was asked
//! for; the mount of the root tells which one was mounted and whether the kernel checks it; the loader, by which entry.

use std::io;
use std::path::PathBuf;

use osupdate_core::kernel_args::{KernelArgError, composefs_args};
use osupdate_efi::EntryName;
use osupdate_efi::name::OUR_PREFIX;
use osupdate_efi::variables::EfiVariables;
use osupdate_record::DeploymentId;
use thiserror::Error;

/// The deployment that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booted {
    /// Its name.
    pub id: DeploymentId,
    /// The root is the composefs overlay of this image, and the kernel checks every file with fs-verity.
    pub verified: bool,
    /// Sequence number of the boot entry that the loader started. `None`: the loader does not tell.
    pub sequence: Option<u64>,
}

/// Why it could not be found out what runs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootedError {
    /// A file of /proc could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel command line has a malformed composefs argument.
    #[error("the kernel command line has a malformed composefs argument")]
    Cmdline(#[source] KernelArgError),
}

/// What the root file system is, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct RootMount {
    /// Hex digits after `composefs:` in the source of the overlay.
    image: String,
    /// Mounted with `verity=require`.
    verity_required: bool,
}

impl Booted {
    /// Reads `/proc` and the loader's variables. `None`: this system was not booted from a composefs image.
    pub fn read() -> Result<Option<Self>, BootedError> {
        let read = |path: &str| {
            std::fs::read_to_string(path).map_err(|source| BootedError::Read { path: path.into(), source })
        };
        let booted = Self::parse(&read("/proc/cmdline")?, &read("/proc/self/mountinfo")?)?;
        let entry = EfiVariables::default().loader_entry_selected().unwrap_or_else(|err| {
            tracing::debug!("{err}, ignoring");
            None
        });
        Ok(booted.map(|booted| Self { sequence: entry.and_then(|entry| sequence(&booted.id, &entry)), ..booted }))
    }

    /// What the two texts tell.
    pub fn parse(cmdline: &str, mountinfo: &str) -> Result<Option<Self>, BootedError> {
        let asked = composefs_args(cmdline).map_err(BootedError::Cmdline)?;
        let root = root_mount(mountinfo);
        // Of several arguments setup-root takes the first whose image is there: the mount tells which.
        let booted = asked.iter().find(|arg| root.as_ref().is_none_or(|root| root.image == arg.digest.to_string()));
        let Some(digest) = booted.map(|arg| arg.digest.to_string()) else { return Ok(None) };
        let verified = root.is_some_and(|root| root.verity_required);
        // A digest's hex is always a deployment's name.
        Ok(digest.parse().ok().map(|id| Self { id, verified, sequence: None }))
    }
}

/// The sequence number of an entry, if it is one for this deployment.
fn sequence(id: &DeploymentId, entry: &str) -> Option<u64> {
    let name: EntryName = entry.parse().ok()?;
    let digits = name.id().strip_prefix(OUR_PREFIX)?.split('-').next()?.to_owned();
    name.sequence().filter(|_| id.as_str().starts_with(&digits))
}

/// The topmost mount on `/`, if it is a composefs overlay.
fn root_mount(mountinfo: &str) -> Option<RootMount> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"))?;
    let (_, file_system) = line.split_once(" - ")?;
    let mut fields = file_system.split(' ');
    let (file_system_type, source, options) = (fields.next()?, fields.next()?, fields.next()?);
    let image = source.strip_prefix("composefs:").filter(|_| file_system_type == "overlay")?;
    let verity_required = options.split(',').any(|option| option == "verity=require");
    Some(RootMount { image: image.to_owned(), verity_required })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "24 1 0:22 / / ro,relatime shared:1 - overlay composefs:HEX ro,lowerdir+=/x,datadir+=/y,\
                        redirect_dir=on,metacopy=on,verity=require";

    fn hex(digit: &str) -> String {
        digit.repeat(128)
    }

    fn mountinfo(line: &str, digit: &str) -> String {
        format!("20 24 0:5 / /proc rw - proc proc rw\n{}\n", line.replace("HEX", &hex(digit)))
    }

    #[test]
    fn verified_needs_the_overlay_with_verity_required() {
        let cmdline = format!("quiet composefs.digest=v1-sha512-12:{} root=UUID=x", hex("a"));
        let booted = Booted::parse(&cmdline, &mountinfo(ROOT, "a")).unwrap().unwrap();
        assert_eq!(booted.id.as_str(), hex("a"));
        assert!(booted.verified);
        let unverified = mountinfo(&ROOT.replace(",verity=require", ""), "a");
        assert!(!Booted::parse(&cmdline, &unverified).unwrap().unwrap().verified);
    }

    #[test]
    fn other_roots_are_not_verified() {
        let cmdline = format!("composefs.digest=v1-sha512-12:{}", hex("a"));
        let ext4 = "24 1 8:2 / / rw - ext4 /dev/sda2 rw,verity=require\n";
        assert!(!Booted::parse(&cmdline, ext4).unwrap().unwrap().verified);
        let covered = mountinfo(ROOT, "a") + "99 24 0:44 / / rw - tmpfs tmpfs rw\n";
        assert!(!Booted::parse(&cmdline, &covered).unwrap().unwrap().verified);
        assert_eq!(Booted::parse(&cmdline, &mountinfo(ROOT, "b")).unwrap(), None, "another image is the root");
    }

    #[test]
    fn of_several_arguments_the_mounted_one_counts() {
        let cmdline = format!("composefs.digest=v1-sha512-12:{} composefs.digest=v1-sha512-12:{}", hex("a"), hex("b"));
        assert_eq!(Booted::parse(&cmdline, &mountinfo(ROOT, "b")).unwrap().unwrap().id.as_str(), hex("b"));
    }

    #[test]
    fn entry_of_the_loader_counts_if_it_is_for_what_runs() {
        let id: DeploymentId = hex("a").parse().unwrap();
        assert_eq!(sequence(&id, "osupdate-aaaaaaaaaaaa-000007.conf"), Some(7));
        assert_eq!(sequence(&id, "osupdate-aaaaaaaaaaaa-000007+2-1.conf"), Some(7));
        assert_eq!(sequence(&id, "osupdate-bbbbbbbbbbbb-000007.conf"), None);
        assert_eq!(sequence(&id, "debian.conf"), None);
        assert_eq!(sequence(&id, "auto-windows"), None);
    }

    #[test]
    fn no_argument_is_no_osupdate_system() {
        assert_eq!(Booted::parse("quiet root=/dev/sda1", "").unwrap(), None);
        assert!(Booted::parse("composefs=xyz", "").is_err());
    }
}
