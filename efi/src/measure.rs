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
        let sections = profile.sections().iter().map(|section| Measured {
            name: section.name,
            data: section.data,
            zeros: (section.memory_bytes as usize).saturating_sub(section.data.len()),
        });
        Self::of(&sections.collect::<Vec<_>>(), bank)
    }

    /// The same for sections by name and contents, in any order. Of sections that cannot repeat, the first counts.
    pub(crate) fn of_sections(sections: &[(&str, &[u8])], bank: Bank) -> Vec<Self> {
        let sections: Vec<_> = sections.iter().map(|(name, data)| Measured { name, data, zeros: 0 }).collect();
        Self::of(&sections, bank)
    }

    fn of(sections: &[Measured<'_>], bank: Bank) -> Vec<Self> {
        let named = |name: &'static str| sections.iter().filter(move |section| section.name == name);
        let trees: Vec<_> = named(names::DEVICE_TREE_AUTO).collect();
        let mut values = vec![Self { bank, value: vec![0; bank.digest_bytes()] }];
        for name in MEASURED_SECTIONS {
            match name {
                names::DEVICE_TREE_AUTO if !trees.is_empty() => {
                    let before = values.remove(0);
                    values.extend(trees.iter().map(|tree| before.clone().with_section(tree)));
                }
                _ => {
                    let Some(section) = named(name).next() else { continue };
                    let digest = section.digest(bank);
                    values.iter_mut().for_each(|value| value.measure(section, &digest));
                }
            }
        }
        values
    }

    fn with_section(mut self, section: &Measured<'_>) -> Self {
        let digest = section.digest(self.bank);
        self.measure(section, &digest);
        self
    }

    /// A section is measured as its name with a NUL, and then its contents; if it is empty, not at all.
    fn measure(&mut self, section: &Measured<'_>, digest: &[u8]) {
        if section.data.len() + section.zeros > 0 {
            self.extend(&self.bank.digest(&[section.name.as_bytes(), &[0]].concat()));
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

/// A section as it is measured: in memory, where zeros follow its contents if it takes more than these.
struct Measured<'a> {
    name: &'a str,
    data: &'a [u8],
    zeros: usize,
}

impl Measured<'_> {
    fn digest(&self, bank: Bank) -> Vec<u8> {
        bank.digest_with_zeros(self.data, self.zeros)
    }
}

#[cfg(test)]
mod tests;
