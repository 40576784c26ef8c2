//! What is wrong with a UKI that can be read.

use osupdate_core::kernel_args::{KernelArgError, composefs_args};
use thiserror::Error;

use super::{Kind, Profile, Uki, names};
use crate::measure::{Bank, Pcr11, PhasePath, PolicySignatures};
use crate::pe::{Machine, Pe, PeError};

/// A section that can be written and executed, `IMAGE_SCN_MEM_EXECUTE | IMAGE_SCN_MEM_WRITE`.
const WRITE_AND_EXECUTE: u32 = 0x2000_0000 | 0x8000_0000;

/// One thing that is wrong, or weaker than it could be. Shows as what it means.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The kernel is not a PE file.
    #[error("the kernel cannot be started by the boot stub: {0}")]
    Kernel(PeError),
    /// The kernel is for another processor.
    #[error("the kernel is for {linux}, but the boot stub for {stub}")]
    Machines {
        /// Of the kernel.
        linux: Machine,
        /// Of the stub.
        stub: Machine,
    },
    /// There is no os-release.
    #[error("it has no section .osrel: systemd-boot does not show it")]
    NoOsRelease,
    /// The kernel argument that names the image cannot be understood.
    #[error("profile {profile}: {error}")]
    KernelArgument {
        /// The profile.
        profile: usize,
        /// What is wrong.
        error: KernelArgError,
    },
    /// Other profiles name an image, and this one does not.
    #[error("profile {profile}: it names no image, as others of its profiles do: booting it, nothing is verified")]
    NoImage {
        /// The profile.
        profile: usize,
    },
    /// Signatures of PCR values cannot be read.
    #[error("profile {profile}: the section .pcrsig is not JSON of the right form")]
    PcrSignatureForm {
        /// The profile.
        profile: usize,
    },
    /// Signatures of PCR values are for something else.
    #[error(
        "profile {profile}: no policy in .pcrsig is for the values that booting it leaves in PCR 11: it was signed before it was complete"
    )]
    PcrSignature {
        /// The profile.
        profile: usize,
    },
    /// Bytes of the file are in no section.
    #[error("{bytes} bytes behind its sections belong to none")]
    Behind {
        /// Their number.
        bytes: usize,
    },
    /// Whoever starts it may give any command line.
    #[error("it has no section .cmdline: whoever starts it gives the kernel any command line")]
    NoCommandLine,
    /// It has no generation.
    #[error("it has no section .sbat: shim does not start it")]
    NoSbat,
    /// It does not say which kernel it has.
    #[error("it has no section .uname: addons that are for one kernel only are not recognized")]
    NoUname,
    /// Signed PCR values, and not the key.
    #[error("profile {profile}: it has a section .pcrsig, but the key for it, .pcrpkey, is not there")]
    NoPcrPublicKey {
        /// The profile.
        profile: usize,
    },
    /// fs-verity is not insisted on.
    #[error(
        "profile {profile}: the image may be used without fs-verity (the ? in {argument}): files on the disk are not checked"
    )]
    OptionalVerity {
        /// The profile.
        profile: usize,
        /// The kernel argument.
        argument: String,
    },
    /// The stub takes an initramfs from whoever starts it.
    #[error(
        "its boot stub, {stub}, starts an initramfs that a boot entry has for it together with its own, signed or not, with Secure Boot, too"
    )]
    ForeignInitramfs {
        /// Name and version of the stub.
        stub: String,
    },
    /// A section is writable and executable.
    #[error("section {name} is writable and executable: firmware that forbids this does not start it")]
    WriteAndExecute {
        /// Its name.
        name: String,
    },
}

impl Finding {
    /// Its name, for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_) => "kernel",
            Self::Machines { .. } => "machines",
            Self::NoOsRelease => "no-os-release",
            Self::KernelArgument { .. } => "kernel-argument",
            Self::NoImage { .. } => "no-image",
            Self::PcrSignatureForm { .. } => "pcr-signature-form",
            Self::PcrSignature { .. } => "pcr-signature",
            Self::Behind { .. } => "behind-sections",
            Self::NoCommandLine => "no-command-line",
            Self::NoSbat => "no-sbat",
            Self::NoUname => "no-uname",
            Self::NoPcrPublicKey { .. } => "no-pcr-public-key",
            Self::OptionalVerity { .. } => "optional-verity",
            Self::ForeignInitramfs { .. } => "foreign-initramfs",
            Self::WriteAndExecute { .. } => "write-and-execute",
        }
    }

    /// Whether it does not work as intended; else it only is weaker than it could be.
    #[must_use]
    pub const fn is_problem(&self) -> bool {
        match self {
            Self::Kernel(_)
            | Self::Machines { .. }
            | Self::NoOsRelease
            | Self::KernelArgument { .. }
            | Self::NoImage { .. }
            | Self::PcrSignatureForm { .. }
            | Self::PcrSignature { .. }
            | Self::Behind { .. } => true,
            Self::NoCommandLine
            | Self::NoSbat
            | Self::NoUname
            | Self::NoPcrPublicKey { .. }
            | Self::OptionalVerity { .. }
            | Self::ForeignInitramfs { .. }
            | Self::WriteAndExecute { .. } => false,
        }
    }
}

impl Uki<'_> {
    /// All that is wrong with it, problems first.
    #[must_use]
    pub fn check(&self, pe: &Pe<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        let end = pe.sections().iter().map(|section| section.file.end).max().unwrap_or_default();
        let bytes = pe.certificates().start.saturating_sub(end);
        // Certificates begin at multiples of 8 bytes.
        if bytes >= 8 {
            found.push(Finding::Behind { bytes });
        }
        for profile in self.profiles() {
            self.check_profile(profile, pe, &mut found);
        }
        if self.kind() == Kind::Uki {
            self.check_images(&mut found);
            found.extend(self.stub_for_any_initramfs().map(|stub| Finding::ForeignInitramfs { stub: stub.to_owned() }));
        }
        if self.kind() != Kind::Profile && pe.section(names::SBAT).is_none() {
            found.push(Finding::NoSbat);
        }
        for section in
            pe.sections().iter().filter(|section| section.characteristics & WRITE_AND_EXECUTE == WRITE_AND_EXECUTE)
        {
            found.push(Finding::WriteAndExecute { name: section.name.to_owned() });
        }
        // Profiles share sections: what is wrong with these is said once.
        let mut once: Vec<Finding> = Vec::new();
        for finding in found {
            if !once.contains(&finding) {
                once.push(finding);
            }
        }
        once.sort_by_key(|finding| !finding.is_problem());
        once
    }

    /// If a profile names an image, all must.
    fn check_images(&self, found: &mut Vec<Finding>) {
        let names_none = |profile: &&Profile<'_>| {
            composefs_args(profile.command_line().unwrap_or_default()).is_ok_and(|arguments| arguments.is_empty())
        };
        let (without, with): (Vec<_>, Vec<_>) = self.profiles().iter().partition(names_none);
        if !with.is_empty() {
            found.extend(without.iter().map(|profile| Finding::NoImage { profile: profile.number() }));
        }
    }

    fn check_profile(&self, profile: &Profile<'_>, pe: &Pe<'_>, found: &mut Vec<Finding>) {
        let number = profile.number();
        let line = profile.command_line();
        match composefs_args(line.unwrap_or_default()) {
            Ok(arguments) => found.extend(
                arguments
                    .iter()
                    .filter(|argument| argument.optional)
                    .map(|argument| Finding::OptionalVerity { profile: number, argument: argument.to_string() }),
            ),
            Err(error) => found.push(Finding::KernelArgument { profile: number, error }),
        }
        if self.kind() != Kind::Uki {
            return;
        }
        found.extend(profile.section(names::LINUX).and_then(|linux| match Pe::parse(linux.data) {
            Err(error) => Some(Finding::Kernel(error)),
            Ok(linux) => match (linux.machine(), pe.machine()) {
                (Machine::X64, Machine::Ia32) => None,
                (linux, stub) => (linux != stub).then_some(Finding::Machines { linux, stub }),
            },
        }));
        if profile.section(names::OS_RELEASE).is_none() {
            found.push(Finding::NoOsRelease);
        }
        if line.is_none_or(str::is_empty) {
            found.push(Finding::NoCommandLine);
        }
        if profile.section(names::UNAME).is_none() {
            found.push(Finding::NoUname);
        }
        let Some(signatures) = profile.section(names::PCR_SIGNATURE) else { return };
        if profile.section(names::PCR_PUBLIC_KEY).is_none() {
            found.push(Finding::NoPcrPublicKey { profile: number });
        }
        match PolicySignatures::from_json(super::profile::until_nul(signatures.data)) {
            Err(_) => found.push(Finding::PcrSignatureForm { profile: number }),
            Ok(signatures) if !fits(profile, &signatures) => found.push(Finding::PcrSignature { profile: number }),
            Ok(_) => {}
        }
    }
}

/// Whether a policy is for the value that the boot stub leaves, at a usual phase or before all.
fn fits(profile: &Profile<'_>, signatures: &PolicySignatures) -> bool {
    let with_any = Bank::ALL.into_iter().filter(|bank| !signatures.of_bank(*bank).is_empty());
    with_any.into_iter().any(|bank| {
        let values = Pcr11::of_profile(profile, bank);
        let phases = PhasePath::all();
        let policies = values.iter().flat_map(|value| phases.iter().map(|phase| value.after(phase).policy()));
        policies.into_iter().any(|policy| signatures.of_bank(bank).iter().any(|signature| signature.is_for(&policy)))
    })
}
