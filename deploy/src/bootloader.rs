//! Keeping the boot loader on the ESPs as new as the one in the image.
//!
//! `install` puts a boot loader down once; this is how it gets newer, on request and not with every upgrade: a boot loader that
//! works is what every deployment depends on.

mod judge;
mod keys;
mod offered;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};

use osupdate_core::observer::{Event, Observer};
use osupdate_efi::boot_program::{BootProgram, Identity, ReplaceError};
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::pe::PeError;
use osupdate_efi::secure_boot::{Refused, SecureBoot};
use osupdate_efi::{AccessError, Esp};
use thiserror::Error;

use self::offered::{Kind, Offered};
use crate::boot::{BootError, BootPartition};

/// The boot loader programs of an image.
#[derive(Clone, Debug)]
pub struct Programs {
    architecture: Architecture,
    systemd_boot: Option<Offered>,
    shim: Option<Offered>,
}

/// What an update may do that it does not do by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Replace programs that are newer than in the image.
    pub downgrade: bool,
    /// Replace a signed program by one that is not, where nobody checks signatures now.
    pub unsigned: bool,
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
    /// A program of the image is damaged.
    #[error("{} is not a program that firmware can start", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PeError,
    },
    /// A program of the image is another one.
    #[error("{} is not {expected} for {}", path.display(), architecture.efi_name())]
    OtherProgram {
        /// The file.
        path: PathBuf,
        /// What it must be.
        expected: &'static str,
        /// The processor of this machine.
        architecture: Architecture,
    },
    /// A program on an ESP cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Firmware would not start a program of the image. Nothing was changed.
    #[error("this machine would not start {}", path.display())]
    Refused {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: Refused,
    },
    /// A program that is signed would be replaced by one that is not. Nothing was changed.
    #[error("{path} on {place} is signed, {} is not", offered.display())]
    Unsigned {
        /// The program on the ESP.
        path: String,
        /// The partition.
        place: String,
        /// The program of the image.
        offered: PathBuf,
    },
    /// What shim starts does not come from where the new shim comes from. Nothing was changed.
    #[error("it is not known whether the new shim would start {path} on {place}, which is not from this image")]
    ShimAlone {
        /// What shim starts.
        path: String,
        /// The partition.
        place: String,
    },
    /// The new loaders would not count the boots of entries, or hide them. Nothing was changed.
    #[error("with the new boot loader a deployment that fails would not be given up: {} is still being tried", entries.join(", "))]
    Tried {
        /// Names of the entries.
        entries: Vec<String>,
    },
    /// All entries failed, so there is none that the machine can be trusted to boot. Nothing was changed.
    #[error("the boot loader has given up on all entries of osupdate")]
    AllFailed,
    /// Entries could not be read or written.
    #[error("cannot fit the boot entries to the new boot loader")]
    Entries(#[from] BootError),
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

impl BootloaderError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Damaged { .. } | Self::OtherProgram { .. } => {
                "install systemd-boot-efi (and shim-signed, if it is used) anew when building the image"
            }
            Self::Unsigned { .. } => {
                "have the signed form in the image, or give --allow-unsigned if Secure Boot is not to be turned on again"
            }
            Self::ShimAlone { .. } => {
                "shim starts what db, the owner's list (MOK) or its own maker has signed: put systemd-boot of this image there first, \
                 if it is to be used"
            }
            Self::Tried { .. } => {
                "reboot into it first, so that it is found good or given up; or drop what is staged with osupdate rollback"
            }
            Self::AllFailed => {
                "boot a deployment that works, and find out why its boots are not blessed (boot-complete.target)"
            }
            _ => return None,
        })
    }
}

/// A program that will be replaced.
struct Planned<'a> {
    esp: &'a Esp,
    program: BootProgram,
    installed: Installed,
    offered: &'a Offered,
}

impl Programs {
    /// Reads the programs of an image whose root is at `root`; `/` for the one that runs. Of the signed form and the plain one it
    /// is the one that this machine will start, the signed one if both.
    pub fn read(root: &Path, secure_boot: &SecureBoot) -> Result<Self, BootloaderError> {
        let architecture = Architecture::native().ok_or(BootloaderError::Architecture)?;
        let find = |kind: Kind| Offered::find(root, kind, architecture, secure_boot);
        Ok(Self { architecture, systemd_boot: find(Kind::SystemdBoot)?, shim: find(Kind::Shim)? })
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
    pub fn status(&self, boot: &BootPartition) -> Result<Vec<EspStatus>, BootloaderError> {
        let of_esp = |esp: &Esp| {
            let programs = esp.boot_programs(self.architecture)?;
            let programs = programs.iter().map(|program| self.compare(program)).collect();
            Ok(EspStatus { place: esp.place().to_owned(), programs })
        };
        boot.esps().iter().map(of_esp).collect()
    }

    /// Replaces what is older than in the image, or of another build, and what else is allowed.
    ///
    /// First everything is checked, and entries are fitted to the new loaders; then one program after the other is replaced, on one
    /// ESP after the other; the one where firmware looks by itself comes last on each. See [`Esp::replace_program`] for what a
    /// power cut leaves.
    pub fn update(
        &self,
        boot: &BootPartition,
        secure_boot: &SecureBoot,
        allowed: Allowed,
        observer: &dyn Observer,
    ) -> Result<Vec<Replaced>, BootloaderError> {
        let (mut plan, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for esp in boot.esps() {
            let first = plan.len();
            let programs = esp.boot_programs(self.architecture)?;
            let on_esp: Vec<_> =
                programs.iter().map(|program| (program.path.clone(), program.contents.clone())).collect();
            for program in programs {
                let (installed, offered) = (self.compare(&program), self.for_program(&program));
                let wanted = match installed.state {
                    State::Older | State::OtherBuild => true,
                    State::Newer => allowed.downgrade,
                    State::Current | State::NotInImage | State::Foreign => false,
                };
                before.push(program.identity.clone());
                match offered.filter(|_| wanted) {
                    Some(offered) => {
                        after.push(offered.identity.clone());
                        plan.push(Planned { esp, program, installed, offered });
                    }
                    None => after.push(program.identity),
                }
            }
            self.judge(&plan[first..], &on_esp, secure_boot, allowed)?;
        }
        let (before, after) = (boot.uki_support_with(before.iter()), boot.uki_support_with(after.iter()));
        keys::prepare(boot, before, after, observer)?;
        let mut replaced = Vec::new();
        for Planned { esp, installed, offered, .. } in plan {
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
        boot.correct_keys(observer)?;
        Ok(replaced)
    }
}
