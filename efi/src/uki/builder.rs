//! [`Builder`] makes UKIs, addons and profiles.

use std::borrow::Cow;

use osupdate_core::boot::OsRelease;
use thiserror::Error;

use super::sections::OF_ADDONS;
use super::{Kind, ParseUkiError, Uki, names, sbat};
use crate::measure::{Bank, KeyError, Pcr11, PhasePath, PolicyKey, PolicySignatures};
use crate::pe::{Machine, PROFILE_SECTION, Pe, PeError, REPEATED_SECTIONS, WriteError, Writer};

/// Initial ramdisks begin at multiples of it behind each other.
const INITRD_ALIGNMENT: usize = 4;
/// The description of the first profile, where others are joined and it has none.
const MAIN_PROFILE: &[u8] = b"ID=main";
/// What a profile that is joined may bring. More than ukify 257 takes: device trees and firmware that the hardware chooses, and an
/// os-release also if the first profile has none.
const OF_PROFILES: [&str; 11] = [
    names::LINUX,
    names::OS_RELEASE,
    names::COMMAND_LINE,
    names::INITRD,
    names::FIRMWARE,
    names::MICROCODE,
    names::SPLASH,
    names::DEVICE_TREE,
    names::DEVICE_TREE_AUTO,
    names::UNAME,
    names::PROFILE,
];

/// What a UKI is made of: the contents of its sections. With no kernel it becomes an addon, or, with `profile` and nothing to
/// join, a profile for a UKI.
///
/// Sections, their names, contents and order are those that ukify 257 of systemd makes. Nothing comes from the machine or
/// the clock: the same input gives the same bytes.
#[derive(Clone, Debug, Default)]
pub struct Builder<'a> {
    /// The boot stub: `linuxx64.efi.stub` of systemd for UKIs, `addonx64.efi.stub` for the others. A PE file.
    pub stub: &'a [u8],
    /// The kernel, a PE file.
    pub linux: Option<&'a [u8]>,
    /// Initial ramdisks, one behind the other.
    pub initrds: Vec<&'a [u8]>,
    /// The os-release file.
    pub os_release: Option<&'a [u8]>,
    /// The kernel command line.
    pub command_line: Option<&'a [u8]>,
    /// Version of the kernel; see [`super::kernel_version`].
    pub uname: Option<&'a str>,
    /// Microcode, an initial ramdisk of its own.
    pub microcode: Option<&'a [u8]>,
    /// A picture, BMP.
    pub splash: Option<&'a [u8]>,
    /// A device tree.
    pub device_tree: Option<&'a [u8]>,
    /// Device trees of which the hardware chooses one.
    pub device_trees_auto: Vec<&'a [u8]>,
    /// Which device tree is for which hardware; see [`super::hwids`].
    pub hwids: Option<&'a [u8]>,
    /// Lines for `.sbat`, behind those of stub and kernel. Without any, one that says that it is a UKI or an addon.
    pub sbat: Vec<&'a str>,
    /// The public key for `.pcrpkey`, PEM. Without it, that of the only signer.
    pub pcr_public_key: Option<&'a [u8]>,
    /// More sections, by name and contents. They are not measured.
    pub sections: Vec<(&'a str, &'a [u8])>,
    /// Description of the profile that is made, or of the first one if there are some to join.
    pub profile: Option<&'a [u8]>,
    /// Profiles to join, PE files that were made with `profile` and no kernel.
    pub join_profiles: Vec<&'a [u8]>,
    /// Keys that sign the expected values of PCR 11, each for the phases that it is for.
    pub signers: Vec<(&'a PolicyKey, Vec<PhasePath>)>,
    /// Banks to sign values of; all without any.
    pub banks: Vec<Bank>,
    /// Ids of the profiles whose values are signed; all without any.
    pub sign_profiles: Vec<&'a str>,
}

/// Why a UKI cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The stub is not a correct PE file.
    #[error("the boot stub cannot be used")]
    Stub(#[source] PeError),
    /// The kernel is not a correct PE file: it was built without CONFIG_EFI_STUB, or is compressed as a whole.
    #[error("the kernel cannot be started by the boot stub")]
    Linux(#[source] PeError),
    /// Stub and kernel are for different processors.
    #[error("the kernel is for {linux}, but the boot stub for {stub}")]
    Machines {
        /// Of the kernel.
        linux: Machine,
        /// Of the stub.
        stub: Machine,
    },
    /// The stub is a whole UKI.
    #[error("the boot stub has section {name} already: it is no plain stub")]
    NotPlain {
        /// A section that is to be added.
        name: String,
    },
    /// There is nothing to put into an addon.
    #[error("there is nothing in it: an addon has a command line, a device tree, an initial ramdisk or microcode")]
    Nothing,
    /// A section was given twice.
    #[error("section {name} is given twice")]
    Duplicate {
        /// Its name.
        name: String,
    },
    /// A profile to join is not a correct PE file.
    #[error("profile {number} to join cannot be used")]
    ProfileFile {
        /// Counted from 1, as they were given.
        number: usize,
        /// What is wrong.
        #[source]
        source: PeError,
    },
    /// A profile to join is not one profile.
    #[error(
        "profile {number} to join is not a profile: its first section is {PROFILE_SECTION}, and there is no other one"
    )]
    NotProfile {
        /// Counted from 1, as they were given.
        number: usize,
    },
    /// Only a UKI is measured into PCR 11.
    #[error("only a UKI has expected values of PCR 11 that can be signed: give a kernel")]
    NothingToSign,
    /// There is no profile of this id.
    #[error("there is no profile with ID={id}, whose values are to be signed")]
    UnknownProfile {
        /// The id.
        id: String,
    },
    /// Signing has failed.
    #[error("cannot sign the expected values of PCR 11")]
    Sign(#[source] KeyError),
    /// The file cannot be put together.
    #[error("cannot add sections to the boot stub")]
    Write(#[source] WriteError),
    /// What was made is not accepted.
    #[error("what was made is not a correct UKI")]
    Result(#[source] ParseUkiError),
}

/// A section to be: its name and contents.
type Part<'a> = (Cow<'a, str>, Cow<'a, [u8]>);

impl<'a> Builder<'a> {
    /// Makes the file.
    ///
    /// # Errors
    /// What does not fit together, or what is wrong with one of the files; see [`BuildError`].
    pub fn build(&self) -> Result<Vec<u8>, BuildError> {
        let stub = Pe::parse(self.stub).map_err(BuildError::Stub)?;
        let linux = self.linux.map(Pe::parse).transpose().map_err(BuildError::Linux)?;
        if let Some(linux) = &linux {
            check_machines(linux.machine(), stub.machine())?;
        }
        let mut groups = vec![self.base(&stub, linux.as_ref())?];
        for (index, file) in self.join_profiles.iter().enumerate() {
            groups.push(profile_to_join(file, index + 1)?);
        }
        groups.iter().try_for_each(|group| check_group(&stub, group))?;
        self.sign(&mut groups)?;
        let mut writer = Writer::new(&stub).map_err(BuildError::Write)?;
        // Firmware that insists on it would start the stub, and the kernel would fault.
        let is_kernel = |part: &&Part<'_>| part.0 == names::LINUX;
        let is_compatible = |kernel: &Part<'_>| Pe::parse(&kernel.1).is_ok_and(|kernel| kernel.is_nx_compatible());
        if !groups.iter().flatten().filter(is_kernel).all(is_compatible) {
            writer.clear_nx_compatible();
        }
        for (name, data) in groups.into_iter().flatten() {
            let written = match &*name {
                names::SBAT => writer.replace(&name, data),
                _ => writer.add(&name, data, 0, name == names::LINUX),
            };
            written.map_err(BuildError::Write)?;
        }
        let file = writer.finish().map_err(BuildError::Write)?;
        Uki::parse(&Pe::parse(&file).map_err(BuildError::Stub)?).map_err(BuildError::Result)?;
        Ok(file)
    }

    /// What the file will be.
    fn kind(&self) -> Kind {
        match (self.linux, self.profile) {
            (_, Some(_)) if self.join_profiles.is_empty() => Kind::Profile,
            (None, _) => Kind::Addon,
            (Some(_), _) => Kind::Uki,
        }
    }

    /// The sections for all profiles, and those of the first one.
    fn base(&self, stub: &Pe<'a>, linux: Option<&Pe<'a>>) -> Result<Vec<Part<'a>>, BuildError> {
        let kind = self.kind();
        let mut parts: Vec<Part<'a>> = Vec::new();
        let mut add = |name: &'a str, data: Option<Cow<'a, [u8]>>| {
            parts.extend(data.filter(|data| !data.is_empty()).map(|data| (Cow::from(name), data)));
        };
        let given = |data: Option<&'a [u8]>| data.map(Cow::from);
        if kind == Kind::Profile {
            add(names::PROFILE, given(self.profile));
        }
        add(names::OS_RELEASE, given(self.os_release));
        add(names::COMMAND_LINE, given(self.command_line));
        add(names::DEVICE_TREE, given(self.device_tree));
        for tree in &self.device_trees_auto {
            add(names::DEVICE_TREE_AUTO, given(Some(tree)));
        }
        add(names::HWIDS, given(self.hwids));
        add(names::UNAME, given(self.uname.map(str::as_bytes)));
        add(names::SPLASH, given(self.splash));
        add(names::PCR_PUBLIC_KEY, self.public_key()?);
        add(names::LINUX, given(self.linux));
        add(names::INITRD, joined(&self.initrds));
        add(names::MICROCODE, given(self.microcode));
        for (name, data) in &self.sections {
            add(name, given(Some(data)));
        }
        if kind != Kind::Profile {
            add(names::SBAT, Some(self.sbat(stub, linux).into_bytes().into()));
        }
        if kind == Kind::Uki && !self.join_profiles.is_empty() {
            add(names::PROFILE, given(self.profile.or(Some(MAIN_PROFILE))));
        }
        if kind == Kind::Addon && !parts.iter().any(|(name, _)| OF_ADDONS.contains(&&**name)) {
            return Err(BuildError::Nothing);
        }
        Ok(parts)
    }

    fn sbat(&self, stub: &Pe<'_>, linux: Option<&Pe<'_>>) -> String {
        let (programs, usual) = match linux {
            Some(linux) => (vec![stub, linux], sbat::UKI),
            None => (Vec::new(), sbat::ADDON),
        };
        let texts = if self.sbat.is_empty() { &[usual][..] } else { &self.sbat[..] };
        sbat::merge(&programs, texts)
    }

    fn public_key(&self) -> Result<Option<Cow<'a, [u8]>>, BuildError> {
        match (self.pcr_public_key, &self.signers[..]) {
            (Some(key), _) => Ok(Some(key.into())),
            (None, [(key, _)]) => Ok(Some(key.public().to_pem().map_err(BuildError::Sign)?.into_bytes().into())),
            _ => Ok(None),
        }
    }

    /// Adds the signatures of the expected values of PCR 11 to each profile that is to have some.
    fn sign(&self, groups: &mut [Vec<Part<'a>>]) -> Result<(), BuildError> {
        if self.signers.is_empty() {
            return Ok(());
        }
        if self.kind() != Kind::Uki {
            return Err(BuildError::NothingToSign);
        }
        let ids: Vec<_> = groups.iter().map(|group| id(group)).collect();
        let is_wanted = |wanted: &&&str| !ids.iter().flatten().any(|id| id == **wanted);
        if let Some(id) = self.sign_profiles.iter().find(is_wanted) {
            return Err(BuildError::UnknownProfile { id: (*id).to_owned() });
        }
        let banks = if self.banks.is_empty() { &Bank::ALL[..] } else { &self.banks[..] };
        let shared = groups[0].iter().position(|(name, _)| name == PROFILE_SECTION).unwrap_or(groups[0].len());
        let mut sections = Vec::with_capacity(groups.len());
        for (number, own) in groups.iter().enumerate() {
            let wanted = |id: &String| self.sign_profiles.contains(&&id[..]);
            if !self.sign_profiles.is_empty() && !ids[number].as_ref().is_some_and(wanted) {
                sections.push(None);
                continue;
            }
            let inherited = if number == 0 { &[][..] } else { &groups[0][..shared] };
            let inherited = inherited.iter().filter(|(name, _)| own.iter().all(|(other, _)| other != name));
            let measured: Vec<_> = own.iter().chain(inherited).map(|(name, data)| (&**name, &**data)).collect();
            sections.push(Some(self.signatures(&measured, banks)?));
        }
        for (group, signatures) in groups.iter_mut().zip(sections) {
            let json = signatures.map(|signatures| signatures.to_json().into_bytes());
            group.extend(json.map(|json| (Cow::from(names::PCR_SIGNATURE), Cow::from(json))));
        }
        Ok(())
    }

    fn signatures(&self, sections: &[(&str, &[u8])], banks: &[Bank]) -> Result<PolicySignatures, BuildError> {
        let mut signatures = PolicySignatures::default();
        let values: Vec<_> = banks.iter().map(|bank| Pcr11::of_sections(sections, *bank)).collect();
        // In the order of ukify: for each device tree and key, all phases; for each phase, all banks.
        for tree in 0..values.first().map_or(0, Vec::len) {
            for (key, phases) in &self.signers {
                for (phase, value) in
                    phases.iter().flat_map(|phase| values.iter().map(move |of_bank| (phase, &of_bank[tree])))
                {
                    signatures.sign(&value.after(phase), key).map_err(BuildError::Sign)?;
                }
            }
        }
        Ok(signatures)
    }
}

/// A stub starts kernels of its own kind; that of 32-bit x86 also those of 64 bits, which have a second entry for it.
fn check_machines(linux: Machine, stub: Machine) -> Result<(), BuildError> {
    match (linux, stub) {
        (Machine::X64, Machine::Ia32) => Ok(()),
        _ if linux == stub => Ok(()),
        _ => Err(BuildError::Machines { linux, stub }),
    }
}

/// One behind the other, each at a multiple of 4 bytes, as the kernel wants it.
fn joined<'a>(initrds: &[&'a [u8]]) -> Option<Cow<'a, [u8]>> {
    match initrds {
        [] => None,
        [one] => Some((*one).into()),
        several => {
            let mut joined = Vec::with_capacity(several.iter().map(|initrd| initrd.len() + INITRD_ALIGNMENT).sum());
            for initrd in several {
                joined.extend(*initrd);
                joined.resize(joined.len().next_multiple_of(INITRD_ALIGNMENT), 0);
            }
            Some(joined.into())
        }
    }
}

/// The sections of a profile that is to be joined.
fn profile_to_join<'a>(file: &'a [u8], number: usize) -> Result<Vec<Part<'a>>, BuildError> {
    let pe = Pe::parse(file).map_err(|source| BuildError::ProfileFile { number, source })?;
    // What stands behind the stub; its .sbat is that of the stub, and a UKI has one.
    let parts = pe.sections().iter().filter(|section| OF_PROFILES.contains(&section.name));
    let parts: Vec<Part<'a>> = parts.map(|section| (section.name.into(), section.data.into())).collect();
    let marks = parts.iter().filter(|(name, _)| name == PROFILE_SECTION).count();
    if marks != 1 || parts[0].0 != PROFILE_SECTION {
        return Err(BuildError::NotProfile { number });
    }
    Ok(parts)
}

/// A section comes once, and the stub has none of them but `.sbat`.
fn check_group(stub: &Pe<'_>, group: &[Part<'_>]) -> Result<(), BuildError> {
    for (index, (name, _)) in group.iter().enumerate() {
        if !REPEATED_SECTIONS.contains(&&**name) && group[..index].iter().any(|(other, _)| other == name) {
            return Err(BuildError::Duplicate { name: name.clone().into_owned() });
        }
        if name != names::SBAT && stub.section(name).is_some() {
            return Err(BuildError::NotPlain { name: name.clone().into_owned() });
        }
    }
    Ok(())
}

/// The id of a profile.
fn id(group: &[Part<'_>]) -> Option<String> {
    let (_, description) = group.iter().find(|(name, _)| name == PROFILE_SECTION)?;
    OsRelease::parse(&String::from_utf8_lossy(description)).get("ID").map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests;
