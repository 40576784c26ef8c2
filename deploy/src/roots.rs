//! What of the repository the system needs, whatever the refs say: roots for the collection of garbage.
//!
//! Deployments have refs of their own. These roots hold where a ref was lost, where another program wrote the boot entry,
//! and for images that are sealed into UKIs. Whatever cannot be read may be what is needed: then there are no roots but
//! an error, and nothing may be collected.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use osupdate_core::Digest;
use osupdate_core::kernel_args::{ComposefsArg, split};
use osupdate_core::observer::{Event, Observer};
use osupdate_core::repository::{Repository, Root};
use osupdate_efi::AccessError;
use osupdate_efi::Esp;
use osupdate_efi::locate::{Devices, LocateError, device_of};
use osupdate_efi::mounted::{Access, MountError, mount};
use osupdate_record::{Deployment as Record, DeploymentId, paths};
use thiserror::Error;

use crate::directory::Directory;
use crate::list::BEFORE;

/// The command line of the running kernel.
const CMDLINE: &str = "/proc/cmdline";
/// The mounts of this process.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Why it is not known what is needed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RootsError {
    /// The boot partitions were not found.
    #[error("cannot find the boot partition, whose entries may need images")]
    Locate(#[from] LocateError),
    /// One could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// One could not be read.
    #[error("cannot read what boots from {place}, so it is not known which images are needed")]
    Boot {
        /// The partition.
        place: String,
        /// Why.
        source: AccessError,
    },
    /// A file or directory could not be read.
    #[error("cannot read {}, so it is not known which images are needed", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the running kernel was started with, all alternatives.
pub fn of_running_kernel() -> Result<Vec<Root>, RootsError> {
    let line = std::fs::read_to_string(CMDLINE).map_err(|source| RootsError::Read { path: CMDLINE.into(), source })?;
    Ok(of_command_line("the running kernel", &line))
}

/// The images of a repository that are mounted where this process can see it: without their objects, their files could no
/// longer be read. Mounts are known by what setup-root, `osupdate image mount` and other composefs tools call their source.
pub fn of_mounts(repository: &Repository) -> Result<Vec<Root>, RootsError> {
    let text = match std::fs::read_to_string(MOUNTS) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(RootsError::Read { path: MOUNTS.into(), source }),
    };
    let mut roots = mounted(&text);
    // The others are of other repositories.
    roots.retain(|(digest, _)| !matches!(repository.object_size(digest), Ok(None)));
    Ok(roots.into_iter().map(|(digest, reason)| Root { name: digest.to_string(), reason }).collect())
}

/// The images in the text of a mountinfo file, and where they are mounted.
fn mounted(mountinfo: &str) -> Vec<(Digest, String)> {
    let mount = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let digest = file_system.split(' ').nth(1)?.strip_prefix("composefs:")?.parse().ok()?;
        Some((digest, format!("the mount {}", mount.split(' ').nth(4)?)))
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// What the deployments below a physical root need. A record that cannot be read still tells its image: by its name.
pub fn of_deployments(root: &Path) -> Result<Vec<Root>, RootsError> {
    let path = root.join(paths::DEPLOYMENTS);
    let error = |source| RootsError::Read { path: path.clone(), source };
    let directory = match Directory::open(&path) {
        Ok(directory) => directory,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(error(err)),
    };
    let mut roots = Vec::new();
    for name in directory.names().map_err(error)? {
        let Ok(id) = name.strip_prefix(paths::NEW_PREFIX).unwrap_or(&name).parse::<DeploymentId>() else { continue };
        let reason = format!("deployment {}", id.short(12));
        roots.push(Root { name: id.to_string(), reason: reason.clone() });
        for file in [paths::RECORD, BEFORE] {
            let text = match directory.read_text(Path::new(&name).join(file)) {
                Ok(text) => text,
                Err(err) => {
                    tracing::debug!("{name}/{file}: {err}, ignoring");
                    continue;
                }
            };
            if let Ok(record) = Record::parse(&text) {
                let name = format!("oci-manifest-{}", record.image.manifest_digest);
                roots.push(Root { name, reason: reason.clone() });
            }
        }
    }
    Ok(roots)
}

/// What can be booted from the partitions of the boot loader, whoever put it there. `root` is the physical root.
pub fn of_boot_partitions(root: &Path, observer: &dyn Observer) -> Result<Vec<Root>, RootsError> {
    let device = device_of(root).map_err(|source| RootsError::Read { path: root.to_owned(), source })?;
    let partitions = Devices::default().locate(device)?;
    let mut roots = Vec::new();
    for partition in [Some(&partitions.esp), partitions.xbootldr.as_ref()].into_iter().flatten() {
        let esp = Esp::new(mount(&partition.device, Access::Read)?, partition.device.display().to_string());
        roots.extend(of_boot_partition(&esp, observer)?);
    }
    Ok(roots)
}

/// What can be booted from one partition: by Type #1 entries, UKIs and addons.
pub fn of_boot_partition(esp: &Esp, observer: &dyn Observer) -> Result<Vec<Root>, RootsError> {
    let found = esp.command_lines().map_err(|source| RootsError::Boot { place: esp.place().to_owned(), source })?;
    for path in &found.unusable {
        let text = format!("{path} on {} is not a PE file, ignoring it", esp.place());
        observer.event(Event::Warning(&text));
    }
    let lines = found.lines.iter();
    Ok(lines.flat_map(|(from, line)| of_command_line(&format!("boot entry {from}"), line)).collect())
}

/// The images that a command line names. A malformed argument names none: setup-root would refuse it.
fn of_command_line(reason: &str, line: &str) -> Vec<Root> {
    let arguments = split(line).filter_map(|argument| argument.parse::<ComposefsArg>().ok());
    arguments.map(|argument| Root { name: argument.digest.to_string(), reason: reason.to_owned() }).collect()
}

/// Whether a directory is the repository of the system that runs.
pub fn is_repository_of_system(repository: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |path: &Path| {
        let metadata = File::open(path).and_then(|file| file.metadata()).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let ours = Path::new(paths::PHYSICAL_ROOT).join(paths::REPOSITORY);
    identity(repository).is_some_and(|found| Some(found) == identity(&ours))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;

    use osupdate_core::observer::Silent;

    use super::*;

    fn hex(digit: char) -> String {
        digit.to_string().repeat(128)
    }

    fn names(roots: &[Root]) -> Vec<&str> {
        roots.iter().map(|root| root.name.as_str()).collect()
    }

    #[test]
    fn all_alternatives_of_a_command_line_count() {
        let (a, b) = (hex('a'), hex('b'));
        let line = format!("quiet composefs={a} composefs.digest=?v1-sha512-12:{b} composefs=nonsense");
        let roots = of_command_line("boot entry x.conf", &line);
        assert_eq!(names(&roots), [a, b]);
        assert_eq!(roots[0].reason, "boot entry x.conf");
    }

    #[test]
    fn mounted_images_count() {
        let (a, b) = (hex('a'), hex('b'));
        let text = format!(
            "20 24 0:5 / /proc rw - proc proc rw\n\
             45 27 0:40 / /mnt\\040x ro,relatime shared:2 - overlay composefs:{a} ro,lowerdir+=/,datadir+=/objects\n\
             46 27 0:41 / /b ro - fuse.composefs composefs:{b} ro\n\
             47 27 0:42 / /c ro - overlay composefs:nonsense ro\n48 27 0:43 / /d ro - overlay composefs ro\n"
        );
        let found: Vec<_> = mounted(&text).into_iter().map(|(digest, reason)| (digest.to_string(), reason)).collect();
        assert_eq!(found, [(a, "the mount /mnt\\040x".to_owned()), (b, "the mount /b".to_owned())]);
    }

    #[test]
    fn deployments_count_even_if_damaged_or_unfinished() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(of_deployments(temp.path()).unwrap(), []);
        let deploy = temp.path().join(paths::DEPLOYMENTS);
        let make = |name: &str| fs::create_dir_all(deploy.join(name)).unwrap();
        make(&hex('a'));
        make(&format!("{}{}", paths::NEW_PREFIX, hex('b')));
        make("notes");
        let record = "version = 1\nsequence = 7\ncreated = \"\"\n[image]\nreference = \"r\"\n\
                      manifest_digest = \"sha256:00\"\nconfig_digest = \"c\"\n[boot]\ndigest = \"d\"\nkernel = \"6\"\n";
        fs::write(deploy.join(hex('a')).join(paths::RECORD), record).unwrap();
        let mut roots = of_deployments(temp.path()).unwrap();
        roots.sort();
        assert_eq!(names(&roots), [&hex('a'), &hex('b'), "oci-manifest-sha256:00"]);
        fs::write(deploy.join(hex('a')).join(paths::RECORD), "damaged").unwrap();
        assert_eq!(of_deployments(temp.path()).unwrap().len(), 2);
    }

    #[test]
    fn entries_of_others_count() {
        let temp = tempfile::tempdir().unwrap();
        let entries = temp.path().join("loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(entries.join("bootc.conf"), format!("linux /a\noptions root=x composefs={}\n", hex('c'))).unwrap();
        let root: OwnedFd = File::open(temp.path()).unwrap().into();
        let esp = Esp::new(root, "the test ESP");
        assert_eq!(names(&of_boot_partition(&esp, &Silent).unwrap()), [hex('c')]);
        fs::create_dir_all(temp.path().join("EFI")).unwrap();
        fs::write(temp.path().join("EFI/Linux"), "not a directory").unwrap();
        assert!(matches!(of_boot_partition(&esp, &Silent), Err(RootsError::Boot { .. })));
    }
}
