//! Keeping the boot loader on the ESPs as new as the one in the image.
//!
//! `install` puts a boot loader down once; this is how it gets newer, on request and not with every upgrade: a boot loader that
//! works is what every deployment depends on.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use osupdate_core::observer::{Event, Observer};
use osupdate_efi::boot_program::{BootProgram, Identity, ReplaceError};
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::locate::{Devices, device_of};
use osupdate_efi::mounted::{Access, mount};
use osupdate_efi::secure_boot::{Refused, SecureBoot};
use osupdate_efi::variables::VariableError;
use osupdate_efi::{AccessError, Esp};
use thiserror::Error;

use crate::boot::BootError;
use crate::loader;

/// Where images have shim, from their root.
const SHIM_DIRECTORY: &str = "usr/lib/shim";

/// A program in the image.
#[derive(Clone, Debug)]
struct Offered {
    path: PathBuf,
    identity: Identity,
    contents: Vec<u8>,
}

/// The boot loader programs of an image.
#[derive(Clone, Debug)]
pub struct Programs {
    architecture: Architecture,
    systemd_boot: Option<Offered>,
    shim: Option<Offered>,
}

/// Why the boot loader was not looked at or not updated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootloaderError {
    /// EFI does not know this architecture.
    #[error("there is no EFI boot loader for this architecture")]
    Architecture,
    /// A program of the image cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ESPs cannot be found or used.
    #[error("cannot open the EFI system partitions")]
    Esp(#[source] BootError),
    /// A program on an ESP cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It is not known what firmware accepts.
    #[error("cannot find out what Secure Boot of this machine accepts")]
    SecureBoot(#[from] VariableError),
    /// Firmware would not start a program of the image. Nothing was changed.
    #[error("this machine would not start {}", path.display())]
    Refused {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: Refused,
    },
    /// The machine would not boot any more: the program does not know what is in boot entries. Nothing was changed.
    #[error("{} would not show {}, which the machine boots by", path.display(), entries.join(", "))]
    HidesEntries {
        /// The program.
        path: PathBuf,
        /// The entries.
        entries: Vec<String>,
    },
    /// A program could not be replaced. Those before it were.
    #[error("cannot replace {path} on {place}")]
    Replace {
        /// The program.
        path: String,
        /// The partition.
        place: String,
        /// Why.
        #[source]
        source: ReplaceError,
    },
}

/// How a program on an ESP compares with that of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is the same.
    Current,
    /// The image has a newer one.
    Older,
    /// The image has an older one.
    Newer,
    /// The image has another one of the same version, perhaps signed by somebody else.
    OtherBuild,
    /// The image has none of its kind.
    NotInImage,
    /// It is neither systemd-boot nor shim.
    Foreign,
}

impl State {
    /// As it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Older => "older",
            Self::Newer => "newer",
            Self::OtherBuild => "other-build",
            Self::NotInImage => "not-in-image",
            Self::Foreign => "foreign",
        }
    }
}

/// A program on an ESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Where it is, from the root of the ESP.
    pub path: String,
    /// Which it is.
    pub identity: Identity,
    /// Version of the image's, if it has one.
    pub offered: Option<String>,
    /// How they compare.
    pub state: State,
}

/// What is on an ESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspStatus {
    /// The ESP, for people: "the ESP (/dev/vda1)".
    pub place: String,
    /// The programs, in the order in which they are replaced.
    pub programs: Vec<Installed>,
}

/// A program that was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The ESP.
    pub place: String,
    /// Where the program is.
    pub path: String,
    /// Version before.
    pub from: Option<String>,
    /// Version now.
    pub to: Option<String>,
}

impl Programs {
    /// Reads the programs of an image whose root is at `root`; `/` for the one that runs.
    pub fn read(root: &Path) -> Result<Self, BootloaderError> {
        let architecture = Architecture::native().ok_or(BootloaderError::Architecture)?;
        let find = |directory: &str, name: &str| -> Result<Option<Offered>, BootloaderError> {
            for name in [format!("{name}.signed"), name.to_owned()] {
                let path = root.join(directory).join(name);
                match fs::read(&path) {
                    Ok(contents) => return Ok(Some(Offered { identity: Identity::of(&contents), path, contents })),
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(BootloaderError::Read { path, source }),
                }
            }
            Ok(None)
        };
        Ok(Self {
            architecture,
            systemd_boot: find(loader::DIRECTORY, &architecture.systemd_boot())?,
            shim: find(SHIM_DIRECTORY, &format!("shim{}.efi", architecture.efi_name()))?,
        })
    }

    /// What would take the place of a program.
    fn for_program(&self, program: &BootProgram) -> Option<&Offered> {
        match program.identity {
            Identity::SystemdBoot(_) => self.systemd_boot.as_ref(),
            Identity::Shim(_) => self.shim.as_ref(),
            Identity::Other => None,
        }
    }

    fn compare(&self, program: &BootProgram) -> Installed {
        let offered = self.for_program(program);
        let state = match (&program.identity, offered) {
            (Identity::Other, _) => State::Foreign,
            (_, None) => State::NotInImage,
            (_, Some(offered)) if offered.contents == program.contents => State::Current,
            (installed, Some(offered)) => {
                let version = |identity: &Identity| identity.version().unwrap_or_default().to_owned();
                match osupdate_efi::version::compare(&version(installed), &version(&offered.identity)) {
                    Ordering::Less => State::Older,
                    Ordering::Equal => State::OtherBuild,
                    Ordering::Greater => State::Newer,
                }
            }
        };
        Installed {
            path: program.path.clone(),
            identity: program.identity.clone(),
            offered: offered.and_then(|offered| offered.identity.version().map(str::to_owned)),
            state,
        }
    }

    /// Compares what is on the ESPs with the image.
    pub fn status(&self, esps: &[Esp]) -> Result<Vec<EspStatus>, BootloaderError> {
        let of_esp = |esp: &Esp| {
            let programs = esp.boot_programs(self.architecture)?;
            let programs = programs.iter().map(|program| self.compare(program)).collect();
            Ok(EspStatus { place: esp.place().to_owned(), programs })
        };
        esps.iter().map(of_esp).collect()
    }

    /// Replaces what is older than in the image, or of another build; with `downgrade` also what is newer.
    ///
    /// First everything is checked, then one program after the other is replaced, on one ESP after the other; the one where
    /// firmware looks by itself comes last on each. See [`Esp::replace_program`] for what a power cut leaves.
    pub fn update(
        &self,
        esps: &[Esp],
        secure_boot: &SecureBoot,
        downgrade: bool,
        observer: &dyn Observer,
    ) -> Result<Vec<Replaced>, BootloaderError> {
        let mut plan = Vec::new();
        for esp in esps {
            for program in esp.boot_programs(self.architecture)? {
                let (installed, offered) = (self.compare(&program), self.for_program(&program));
                let wanted = match installed.state {
                    State::Older | State::OtherBuild => true,
                    State::Newer => downgrade,
                    State::Current | State::NotInImage | State::Foreign => false,
                };
                match offered {
                    Some(offered) if wanted => plan.push((esp, installed, offered)),
                    _ => {}
                }
            }
        }
        for (_, installed, offered) in &plan {
            // Firmware itself starts shim; shim starts the rest, if it is there.
            let checked = match installed.identity {
                Identity::Shim(_) => secure_boot.check_by_firmware(&offered.contents),
                _ => secure_boot.check(&offered.contents),
            };
            checked.map_err(|source| BootloaderError::Refused { path: offered.path.clone(), source })?;
        }
        if let Some((_, _, offered)) = plan.iter().find(|(_, _, offered)| offered.identity.hides_uki_key()) {
            let mut entries = Vec::new();
            for esp in esps {
                let with_key = esp.entries()?.entries.into_iter().filter(|named| named.entry.uki.is_some());
                entries.extend(with_key.map(|named| named.name.file_name().to_owned()));
            }
            if !entries.is_empty() {
                return Err(BootloaderError::HidesEntries { path: offered.path.clone(), entries });
            }
        }
        let mut replaced = Vec::new();
        for (esp, installed, offered) in plan {
            let (path, place) = (installed.path, esp.place().to_owned());
            observer.event(Event::Step(&format!("replacing {path} on {place}")));
            esp.replace_program(&path, &offered.contents).map_err(|source| BootloaderError::Replace {
                path: path.clone(),
                place: place.clone(),
                source,
            })?;
            let from = installed.identity.version().map(str::to_owned);
            replaced.push(Replaced { place, path, from, to: installed.offered });
        }
        Ok(replaced)
    }
}

/// Mounts the ESPs of the running system where nobody else sees them: that of the loader, and those on all disks of the
/// physical root at `root`.
pub fn esps(root: &Path, access: Access) -> Result<Vec<Esp>, BootloaderError> {
    let find = || -> Result<Vec<Esp>, BootError> {
        let number = device_of(root).map_err(|source| BootError::Root { path: root.to_owned(), source })?;
        let mut esps = Vec::new();
        for partition in Devices::default().esps(number)? {
            let place = format!("the ESP ({})", partition.device.display());
            esps.push(Esp::new(mount(&partition.device, access)?, place));
        }
        Ok(esps)
    };
    find().map_err(BootloaderError::Esp)
}

#[cfg(test)]
mod tests {
    use osupdate_core::observer::Silent;
    use osupdate_efi::authenticode::fake::Authority;
    use osupdate_efi::pe::fake::pe;
    use osupdate_efi::secure_boot::fake::enable;
    use osupdate_efi::variables::EfiVariables;
    use tempfile::TempDir;

    use super::*;

    fn systemd_boot(version: &str) -> Vec<u8> {
        pe(&[(".sdmagic", format!("#### LoaderInfo: systemd-boot {version} ####\0").as_bytes())])
    }

    fn shim(version: &str) -> Vec<u8> {
        pe(&[(".data", format!("UEFI SHIM\n$Version: {version} $\n").as_bytes())])
    }

    struct Fake {
        dir: TempDir,
        esps: Vec<Esp>,
    }

    /// Two ESPs, and an image.
    fn fake() -> Fake {
        let dir = TempDir::new().unwrap();
        let esp = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.join("EFI/systemd")).unwrap();
            fs::create_dir_all(path.join("EFI/BOOT")).unwrap();
            Esp::new(fs::File::open(path).unwrap().into(), format!("the ESP ({name})"))
        };
        let esps = vec![esp("one"), esp("two")];
        fs::create_dir_all(dir.path().join("image").join(loader::DIRECTORY)).unwrap();
        fs::create_dir_all(dir.path().join("image").join(SHIM_DIRECTORY)).unwrap();
        Fake { dir, esps }
    }

    impl Fake {
        fn write(&self, path: &str, contents: &[u8]) {
            fs::write(self.dir.path().join(path), contents).unwrap();
        }

        fn read(&self, path: &str) -> Vec<u8> {
            fs::read(self.dir.path().join(path)).unwrap()
        }

        fn programs(&self) -> Programs {
            Programs::read(&self.dir.path().join("image")).unwrap()
        }

        fn states(&self) -> Vec<State> {
            let status = self.programs().status(&self.esps).unwrap();
            status.into_iter().flat_map(|esp| esp.programs).map(|program| program.state).collect()
        }

        fn update(&self, secure_boot: &SecureBoot, downgrade: bool) -> Result<Vec<Replaced>, BootloaderError> {
            self.programs().update(&self.esps, secure_boot, downgrade, &Silent)
        }
    }

    fn name() -> String {
        Architecture::native().unwrap().systemd_boot()
    }

    fn fallback() -> String {
        Architecture::native().unwrap().default_program()
    }

    #[test]
    fn every_esp_gets_what_is_newer_and_nothing_else() {
        let fake = fake();
        let offered = format!("image/{}/{}", loader::DIRECTORY, name());
        fake.write(&offered, &systemd_boot("258.1"));
        fake.write(&format!("one/EFI/systemd/{}", name()), &systemd_boot("257.13"));
        fake.write(&format!("one/EFI/BOOT/{}", fallback()), &systemd_boot("258.1"));
        fake.write(&format!("two/EFI/systemd/{}", name()), &systemd_boot("259"));
        fake.write(&format!("two/EFI/BOOT/{}", fallback()), b"MZ something else");
        assert_eq!(fake.states(), [State::Older, State::Current, State::Newer, State::Foreign]);

        let off = SecureBoot::default();
        let replaced = fake.update(&off, false).unwrap();
        assert_eq!(
            replaced,
            [Replaced {
                place: "the ESP (one)".to_owned(),
                path: format!("EFI/systemd/{}", name()),
                from: Some("257.13".to_owned()),
                to: Some("258.1".to_owned()),
            }]
        );
        assert_eq!(fake.read(&format!("one/EFI/systemd/{}", name())), systemd_boot("258.1"));
        assert_eq!(fake.states(), [State::Current, State::Current, State::Newer, State::Foreign]);
        assert_eq!(fake.update(&off, true).unwrap().len(), 1);
        assert_eq!(fake.states(), [State::Current, State::Current, State::Current, State::Foreign]);
        // The signed form is preferred, and another build of the same version is taken.
        fake.write(&format!("{offered}.signed"), &pe(&[(".sdmagic", b"#### LoaderInfo: systemd-boot 258.1 #### x")]));
        assert_eq!(fake.states()[..3], [State::OtherBuild; 3]);
        assert_eq!(fake.update(&off, false).unwrap().len(), 3);
    }

    #[test]
    fn loader_that_hides_what_boots_is_not_written() {
        let fake = fake();
        fake.write(&format!("one/EFI/systemd/{}", name()), &systemd_boot("262.1"));
        fake.write(&format!("image/{}/{}", loader::DIRECTORY, name()), &systemd_boot("257.13"));
        let entries = fake.dir.path().join("one/loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(entries.join("osupdate-a.conf"), "uki /EFI/osupdate/a.efi\n").unwrap();
        let err = fake.update(&SecureBoot::default(), true).unwrap_err();
        assert!(
            matches!(&err, BootloaderError::HidesEntries { entries, .. } if *entries == ["osupdate-a.conf"]),
            "{err}"
        );
        assert_eq!(fake.read(&format!("one/EFI/systemd/{}", name())), systemd_boot("262.1"));
        fs::write(entries.join("osupdate-a.conf"), "efi /EFI/osupdate/a.efi\n").unwrap();
        assert_eq!(fake.update(&SecureBoot::default(), true).unwrap().len(), 1);
    }

    #[test]
    fn shim_is_replaced_after_what_it_starts() {
        let fake = fake();
        let grub = format!("EFI/BOOT/grub{}.efi", Architecture::native().unwrap().efi_name());
        let shim_name = format!("shim{}.efi", Architecture::native().unwrap().efi_name());
        fake.write(&format!("one/{grub}"), &systemd_boot("257"));
        fake.write(&format!("one/EFI/BOOT/{}", fallback()), &shim("15.7"));
        fake.write(&format!("image/{}/{}", loader::DIRECTORY, name()), &systemd_boot("258"));
        assert_eq!(fake.states(), [State::Older, State::NotInImage]);
        fake.write(&format!("image/{SHIM_DIRECTORY}/{shim_name}.signed"), &shim("15.8"));
        let replaced = fake.update(&SecureBoot::default(), false).unwrap();
        let paths: Vec<_> = replaced.iter().map(|replaced| replaced.path.clone()).collect();
        assert_eq!(paths, [grub, format!("EFI/BOOT/{}", fallback())]);
    }

    #[test]
    fn what_firmware_would_refuse_is_not_written() {
        let fake = fake();
        let (db, other) = (Authority::new("db"), Authority::new("other"));
        let variables = TempDir::new().unwrap();
        enable(variables.path(), &[db.certificate()]);
        let secure_boot = SecureBoot::read(&EfiVariables::new(variables.path())).unwrap();
        let (old, new) = (systemd_boot("257"), systemd_boot("258"));
        let offered = format!("image/{}/{}.signed", loader::DIRECTORY, name());
        fake.write(&format!("one/EFI/systemd/{}", name()), &old);
        fake.write(&offered, &other.signer().sign(&new).unwrap());
        let err = fake.update(&secure_boot, false).unwrap_err();
        assert!(matches!(err, BootloaderError::Refused { source: Refused::NotTrusted { .. }, .. }), "{err:?}");
        assert_eq!(fake.read(&format!("one/EFI/systemd/{}", name())), old);
        fake.write(&offered, &db.signer().sign(&new).unwrap());
        assert_eq!(fake.update(&secure_boot, false).unwrap().len(), 1);
    }
}
