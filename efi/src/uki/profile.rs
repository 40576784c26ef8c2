//! [`Profile`], the sections that one way of booting a UKI uses.

use osupdate_core::boot::OsRelease;

use super::names;
use crate::pe::Section;

/// One way of booting a UKI: its own sections, and those for all profiles that it has none of itself.
#[derive(Clone, Debug)]
pub struct Profile<'data> {
    number: usize,
    sections: Vec<Section<'data>>,
    description: OsRelease,
}

impl<'data> Profile<'data> {
    pub(super) fn new(number: usize, base: &[Section<'data>], own: &[Section<'data>]) -> Self {
        let inherited = base.iter().filter(|section| own.iter().all(|other| other.name != section.name));
        let sections: Vec<_> = own.iter().chain(inherited).cloned().collect();
        let mut profile = Self { number, sections, description: OsRelease::default() };
        // The same form as that of os-release.
        profile.description = profile.text(names::PROFILE).map(OsRelease::parse).unwrap_or_default();
        profile
    }

    /// Counted from 0; `@1` behind the name of the UKI is profile 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// `ID` in its description.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.description.get("ID")
    }

    /// `TITLE` in its description, which the boot menu shows.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.description.get("TITLE")
    }

    /// The section of this name. Of those that may repeat, the first: see [`Profile::repeated`].
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section<'data>> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// All sections of this name.
    pub fn repeated(&self, name: &str) -> impl Iterator<Item = &Section<'data>> {
        self.sections.iter().filter(move |section| section.name == name)
    }

    /// All sections: the profile's own ones first.
    #[must_use]
    pub fn sections(&self) -> &[Section<'data>] {
        &self.sections
    }

    /// The kernel command line, as the boot stub passes it on: up to a NUL, without blanks at its ends.
    #[must_use]
    pub fn command_line(&self) -> Option<&'data str> {
        let line = self.text(names::COMMAND_LINE)?;
        Some(line.trim_matches(|c: char| c.is_ascii_whitespace() || c.is_ascii_control()))
    }

    /// What the operating system says about itself.
    #[must_use]
    pub fn os_release(&self) -> Option<OsRelease> {
        self.text(names::OS_RELEASE).map(OsRelease::parse)
    }

    /// The kernel's version.
    #[must_use]
    pub fn uname(&self) -> Option<&'data str> {
        self.text(names::UNAME).map(str::trim)
    }

    /// A section that is text, up to a NUL.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'data str> {
        // Uki::parse has checked those that are to be text.
        std::str::from_utf8(until_nul(self.section(name)?.data)).ok()
    }
}

/// Text ends where the first NUL is.
pub(super) fn until_nul(data: &[u8]) -> &[u8] {
    &data[..data.iter().position(|byte| *byte == 0).unwrap_or(data.len())]
}
