//! Unified kernel images, UKIs: a boot stub, a kernel, what it is started with, and what describes them, in one PE file that
//! carries one signature.
//!
//! [`Uki::parse`] reads what [`Pe::parse`] has accepted; [`Builder`] makes UKIs and addons, which are the same without a kernel.
//! A UKI may have profiles: sections before the first `.profile` are for all, those behind one `.profile` are for that
//! profile, and take the place of those for all.
//!
//! Source: UAPI.5 (unified kernel image), and what systemd-stub does with the sections.

mod builder;
mod check;
mod command_lines;
pub mod hwids;
mod profile;
mod sbat;
mod sections;
mod stub;
mod uname;

use thiserror::Error;

use crate::pe::{PROFILE_SECTION, Pe, Section};

pub use builder::{BuildError, Builder};
pub use check::Finding;
pub use command_lines::{UkiError, command_lines};
pub use profile::Profile;
pub use sections::{MEASURED_SECTIONS, SECTIONS, names};
pub use uname::kernel_version;

/// The kernel takes no longer command lines than a part of this.
const TEXT_MAX_BYTES: usize = 64 << 10;

/// What a program with the sections of UKIs is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It has a kernel, and can be booted.
    Uki,
    /// It has no kernel: the boot stub of a UKI adds its command line, device trees, initial ramdisk or microcode.
    Addon,
    /// It begins with `.profile`: to be joined to a UKI when that is built.
    Profile,
}

impl Kind {
    /// `uki`, `addon` or `profile`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uki => "uki",
            Self::Addon => "addon",
            Self::Profile => "profile",
        }
    }
}

/// Why a PE file is not a UKI that can be understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseUkiError {
    /// It is another program: it has none of the sections.
    #[error("it is neither a UKI nor an addon: it has no section .linux, .cmdline or another that the boot stub uses")]
    NotUki,
    /// A section that is to be text is not UTF-8.
    #[error("its section {name} is not text")]
    NotText {
        /// Name of the section.
        name: &'static str,
    },
    /// A section that is to be text is too long for that.
    #[error("its section {name} has {bytes} bytes, more than {TEXT_MAX_BYTES}")]
    TooLong {
        /// Name of the section.
        name: &'static str,
        /// Its size.
        bytes: usize,
    },
}

/// A UKI, an addon, or a profile for a UKI.
#[derive(Clone, Debug)]
pub struct Uki<'data> {
    kind: Kind,
    stub: Option<String>,
    profiles: Vec<Profile<'data>>,
}

impl<'data> Uki<'data> {
    /// Sorts the sections of a PE file into profiles.
    ///
    /// # Errors
    /// When it has none of a UKI's sections, or one that is to be text and is not.
    pub fn parse(pe: &Pe<'data>) -> Result<Self, ParseUkiError> {
        let known: Vec<_> = pe.sections().iter().filter(|section| SECTIONS.contains(&section.name)).collect();
        for section in &known {
            check_text(section)?;
        }
        let mut groups = vec![Vec::new()];
        for section in &known {
            if section.name == PROFILE_SECTION {
                groups.push(Vec::new());
            }
            if let Some(group) = groups.last_mut() {
                group.push((*section).clone());
            }
        }
        let base = groups.remove(0);
        let profiles = match groups.is_empty() {
            true => vec![Profile::new(0, &base, &[])],
            false => groups.iter().enumerate().map(|(number, own)| Profile::new(number, &base, own)).collect(),
        };
        let has = |name: &str| known.iter().any(|section| section.name == name);
        let kind = if has(names::LINUX) {
            Kind::Uki
        } else if known.first().is_some_and(|section| section.name == PROFILE_SECTION) {
            Kind::Profile
        } else if sections::OF_ADDONS.iter().any(|name| has(name)) {
            Kind::Addon
        } else {
            return Err(ParseUkiError::NotUki);
        };
        Ok(Self { kind, stub: stub::name(pe), profiles })
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Name and version of its boot stub, as that says it: `systemd-stub 257.13-1~deb13u1`. Addons of systemd 257 have none.
    #[must_use]
    pub fn stub(&self) -> Option<&str> {
        self.stub.as_deref()
    }

    /// Its boot stub, if that starts an initramfs that whoever starts it has for it, signed or not, together with its own. That of systemd
    /// 261 and later does, with Secure Boot, too; the earlier ones refuse. Of other stubs it is not known.
    #[must_use]
    pub fn stub_for_any_initramfs(&self) -> Option<&str> {
        self.stub().filter(|stub| self.kind == Kind::Uki && stub::joins_initramfs(stub))
    }

    /// All profiles; one where the file has no `.profile`. The first is what boots unless another one is asked for.
    #[must_use]
    pub fn profiles(&self) -> &[Profile<'data>] {
        &self.profiles
    }
}

fn check_text(section: &Section<'_>) -> Result<(), ParseUkiError> {
    let Some(name) = sections::TEXT.into_iter().find(|name| *name == section.name) else { return Ok(()) };
    let bytes = section.data.len();
    if bytes > TEXT_MAX_BYTES {
        return Err(ParseUkiError::TooLong { name, bytes });
    }
    std::str::from_utf8(profile::until_nul(section.data)).map_err(|_| ParseUkiError::NotText { name })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pe::fake::pe;

    fn parse(file: &[u8]) -> Result<Uki<'_>, ParseUkiError> {
        Uki::parse(&Pe::parse(file).unwrap())
    }

    #[test]
    fn a_uki_without_profiles_has_one() {
        let file = pe(&[
            (".text", b"code"),
            (".sdmagic", b"#### LoaderInfo: systemd-stub 257.9-1 ####\0"),
            (".osrel", b"NAME=\"Example OS\"\n"),
            (".cmdline", b"  composefs=abc quiet \n\0garbage"),
            (".uname", b"6.12.1-amd64"),
            (".linux", b"kernel"),
        ]);
        let uki = parse(&file).unwrap();
        assert_eq!((uki.kind(), uki.stub()), (Kind::Uki, Some("systemd-stub 257.9-1")));
        let [profile] = uki.profiles() else { panic!("{uki:?}") };
        assert_eq!(profile.command_line(), Some("composefs=abc quiet"));
        assert_eq!(profile.uname(), Some("6.12.1-amd64"));
        assert_eq!(profile.os_release().unwrap().title(), Some("Example OS"));
        assert_eq!((profile.id(), profile.title()), (None, None));
        assert_eq!(profile.section(".linux").unwrap().data, b"kernel");
        assert_eq!(uki.stub_for_any_initramfs(), None);
        let magic = (".sdmagic", &b"#### LoaderInfo: systemd-stub 262-1 ####"[..]);
        assert!(parse(&pe(&[magic, (".linux", b"kernel")])).unwrap().stub_for_any_initramfs().is_some());
        let addon = pe(&[magic, (".cmdline", b"quiet")]);
        assert_eq!(parse(&addon).unwrap().stub_for_any_initramfs(), None);
    }

    #[test]
    fn sections_of_a_profile_take_the_place_of_those_for_all() {
        let file = pe(&[
            (".cmdline", b"base"),
            (".dtbauto", b"one"),
            (".dtbauto", b"two"),
            (".linux", b"kernel"),
            (".profile", b"ID=main\nTITLE=\"As usual\"\n"),
            (".profile", b"ID=rescue\n"),
            (".cmdline", b"rescue"),
        ]);
        let uki = parse(&file).unwrap();
        let [main, rescue] = uki.profiles() else { panic!("{uki:?}") };
        assert_eq!((main.number(), main.id(), main.title()), (0, Some("main"), Some("As usual")));
        assert_eq!((rescue.number(), rescue.id(), rescue.title()), (1, Some("rescue"), None));
        assert_eq!((main.command_line(), rescue.command_line()), (Some("base"), Some("rescue")));
        assert_eq!(rescue.section(".linux").unwrap().data, b"kernel");
        let trees: Vec<_> = rescue.repeated(".dtbauto").map(|section| section.data).collect();
        assert_eq!(trees, [b"one", b"two"]);
    }

    #[test]
    fn programs_are_told_apart() {
        assert_eq!(parse(&pe(&[(".cmdline", b"quiet"), (".sbat", b"sbat,1")])).unwrap().kind(), Kind::Addon);
        assert_eq!(parse(&pe(&[(".profile", b"ID=x"), (".cmdline", b"quiet")])).unwrap().kind(), Kind::Profile);
        assert_eq!(parse(&pe(&[(".text", b"code"), (".sbat", b"sbat,1")])).unwrap_err(), ParseUkiError::NotUki);
    }

    #[test]
    fn what_is_to_be_text_is_checked() {
        let error = parse(&pe(&[(".cmdline", b"caf\xe9")])).unwrap_err();
        assert_eq!(error.to_string(), "its section .cmdline is not text");
        let error = parse(&pe(&[(".cmdline", &[b'x'; TEXT_MAX_BYTES + 1])])).unwrap_err();
        assert!(matches!(error, ParseUkiError::TooLong { name: ".cmdline", bytes: 65537 }));
        assert!(parse(&pe(&[(".cmdline", b"x"), (".initrd", &[0xff; TEXT_MAX_BYTES + 1])])).is_ok());
    }
}
