//! What booting a UKI leaves in PCR 11 of a TPM, and signed policies over it.
//!
//! The boot stub measures each section of the profile that it boots, and systemd then measures a word at each phase of the boot.
//! So the values are known as soon as the UKI is made, and a secret can be sealed to a key that signs the values of every UKI
//! to come, instead of to the values of one.
//!
//! Source: systemd-stub(7), systemd-measure(1), systemd-pcrphase.service(8); TPM 2.0 Part 3, TPM2_PolicyPCR.

mod bank;
mod key;
mod phase;
mod policy;

use crate::uki::{MEASURED_SECTIONS, Profile, names};

pub use bank::{Bank, ParseBankError};
pub use key::{KeyError, PolicyKey, PublicKey};
pub use phase::{ParsePhasesError, PhasePath};
pub use policy::{ParsePolicyError, PolicySignature, PolicySignatures};

/// The register that the sections and phases are measured into.
pub const PCR: u8 = 11;

/// A value of PCR 11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcr11 {
    bank: Bank,
    value: Vec<u8>,
}

impl Pcr11 {
    /// The value that the boot stub leaves when it boots this profile, before any phase.
    ///
    /// One for each device tree that the hardware may choose, in their order; else one.
    #[must_use]
    pub fn of_profile(profile: &Profile<'_>, bank: Bank) -> Vec<Self> {
        let sections = profile.sections().iter().map(|section| (section.name, section.data));
        Self::of_sections(&sections.collect::<Vec<_>>(), bank)
    }

    /// The same for sections by name and contents, in any order. Of sections that cannot repeat, the first counts.
    pub(crate) fn of_sections(sections: &[(&str, &[u8])], bank: Bank) -> Vec<Self> {
        let trees: Vec<_> = named(sections, names::DEVICE_TREE_AUTO).collect();
        let mut values = vec![Self { bank, value: vec![0; bank.digest_bytes()] }];
        for name in MEASURED_SECTIONS {
            match name {
                names::DEVICE_TREE_AUTO if !trees.is_empty() => {
                    let before = values.remove(0);
                    values.extend(trees.iter().map(|tree| before.clone().with_section(name, tree)));
                }
                _ => {
                    let Some(data) = named(sections, name).next() else { continue };
                    let digest = bank.digest(data);
                    values.iter_mut().for_each(|value| value.measure(name, data, &digest));
                }
            }
        }
        values
    }

    fn with_section(mut self, name: &str, data: &[u8]) -> Self {
        let digest = self.bank.digest(data);
        self.measure(name, data, &digest);
        self
    }

    /// A section is measured as its name with a NUL, and then its contents; if it is empty, not at all.
    fn measure(&mut self, name: &str, data: &[u8], digest: &[u8]) {
        if !data.is_empty() {
            self.extend(&self.bank.digest(&[name.as_bytes(), &[0]].concat()));
            self.extend(digest);
        }
    }

    /// The value after these phases of the boot.
    #[must_use]
    pub fn after(&self, phases: &PhasePath) -> Self {
        let mut after = self.clone();
        for word in phases.words() {
            after.extend(&self.bank.digest(word.as_bytes()));
        }
        after
    }

    /// What TPM2_PCR_Extend does.
    fn extend(&mut self, digest: &[u8]) {
        self.value = self.bank.digest(&[&self.value[..], digest].concat());
    }

    /// The bank that it is in.
    #[must_use]
    pub fn bank(&self) -> Bank {
        self.bank
    }

    /// The value itself.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

/// The contents of all sections of this name.
fn named<'a>(sections: &'a [(&'a str, &'a [u8])], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    sections.iter().filter(move |(other, _)| *other == name).map(|(_, data)| *data)
}

#[cfg(test)]
mod tests;
