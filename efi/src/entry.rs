//! Type #1 boot loader entries: the text of `loader/entries/*.conf`.
//!
//! Reading is as tolerant as systemd-boot's, because entries of others are read too; writing is strict, because a value
//! with a line break in it would be another key.

use osupdate_core::digest::Digest;
use thiserror::Error;

use crate::boot_digest::BootDigest;
use crate::paths;

/// Text of a Type #1 entry. Source: UAPI.1 boot loader specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// For the menu.
    pub title: Option<String>,
    /// Decides the order within a sort-key, greatest first.
    pub version: Option<String>,
    /// 32 hex digits.
    pub machine_id: Option<String>,
    /// Decides the order first.
    pub sort_key: Option<String>,
    /// EFI name of the architecture; another one hides the entry.
    pub architecture: Option<String>,
    /// Kernel.
    pub linux: Option<String>,
    /// Any EFI program.
    pub efi: Option<String>,
    /// Unified kernel image, with the treatment of Type #2.
    pub uki: Option<String>,
    /// Initial ramdisks, in order.
    pub initrd: Vec<String>,
    /// Kernel arguments; the loader joins them with spaces.
    pub options: Vec<String>,
    /// All other keys, in order.
    pub other: Vec<(String, String)>,
}

/// What an entry starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program<'a> {
    /// A kernel with its initial ramdisks.
    Linux(&'a str),
    /// An EFI program.
    Efi(&'a str),
    /// A unified kernel image.
    Uki(&'a str),
}

impl<'a> Program<'a> {
    /// Path from the root of the partition that has the entry.
    pub fn path(self) -> &'a str {
        match self {
            Self::Linux(path) | Self::Efi(path) | Self::Uki(path) => path,
        }
    }
}

/// The keys by which an entry can name a UKI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UkiKey {
    /// `uki`. A systemd-boot before 258 hides entries with it.
    Uki,
    /// `efi`. All know it; systemd-boot does not count the boots of entries with it from 258 on.
    Efi,
}

/// A value that cannot be written.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the value of {key:?} in a boot entry is empty or has a line break or another control character in it")]
pub struct InvalidValue {
    /// The key.
    pub key: String,
}

impl Entry {
    /// Reads an entry. Never fails: what cannot be understood is kept in `other` or left out, and
    /// [`program`](Self::program) says whether the loader can use the rest.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut entry = Self::default();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            entry.set(key, value.trim_start());
        }
        entry
    }

    /// Repeated keys: the last one wins, except where the specification makes a list.
    fn set(&mut self, key: &str, value: &str) {
        let single = match key {
            "title" => &mut self.title,
            "version" => &mut self.version,
            "machine-id" => &mut self.machine_id,
            "sort-key" => &mut self.sort_key,
            "architecture" => &mut self.architecture,
            "linux" => &mut self.linux,
            "efi" => &mut self.efi,
            "uki" => &mut self.uki,
            "initrd" => return self.initrd.push(value.to_owned()),
            "options" => return self.options.push(value.to_owned()),
            _ => return self.other.push((key.to_owned(), value.to_owned())),
        };
        *single = (!value.is_empty()).then(|| value.to_owned());
    }

    /// The written form. Values are literal: they may hold anything but control characters.
    pub fn to_text(&self) -> Result<String, InvalidValue> {
        let single = [
            ("title", &self.title),
            ("version", &self.version),
            ("machine-id", &self.machine_id),
            ("sort-key", &self.sort_key),
            ("architecture", &self.architecture),
            ("linux", &self.linux),
            ("efi", &self.efi),
            ("uki", &self.uki),
        ];
        let mut lines: Vec<(&str, &str)> =
            single.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))).collect();
        lines.extend(self.initrd.iter().map(|path| ("initrd", path.as_str())));
        lines.extend(self.options.iter().map(|arguments| ("options", arguments.as_str())));
        lines.extend(self.other.iter().map(|(key, value)| (key.as_str(), value.as_str())));

        let mut text = String::new();
        for (key, value) in lines {
            if value.trim() != value || value.is_empty() || value.contains(char::is_control) {
                return Err(InvalidValue { key: key.to_owned() });
            }
            text += &format!("{key} {value}\n");
        }
        Ok(text)
    }

    /// What the entry starts; `None` if it names nothing or several things, for which systemd-boot hides an entry.
    pub fn program(&self) -> Option<Program<'_>> {
        let url = self.other.iter().any(|(key, _)| key == "uki-url");
        match (&self.linux, &self.efi, &self.uki) {
            _ if url => None,
            (Some(path), None, None) => Some(Program::Linux(path)),
            (None, Some(path), None) => Some(Program::Efi(path)),
            (None, None, Some(path)) => Some(Program::Uki(path)),
            _ => None,
        }
    }

    /// All files on the partition that the entry needs to boot.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.program().map(Program::path).into_iter().chain(self.initrd.iter().map(String::as_str))
    }

    /// All kernel arguments in one line.
    pub fn command_line(&self) -> String {
        self.options.join(" ")
    }

    /// Digest of the composefs image that the entry boots: by its `composefs.digest=` or `composefs=` argument, else by the
    /// name of the UKI, if it is one of ours.
    pub fn image(&self) -> Option<Digest> {
        self.image_argument().or_else(|| self.sealed_image())
    }

    /// Digest of the image that is sealed into the UKI which the entry starts, by the name that we give to UKIs:
    /// `EFI/osupdate/<boot digest>/<image>.efi`.
    pub fn sealed_image(&self) -> Option<Digest> {
        let path = match self.program()? {
            Program::Linux(_) => return None,
            Program::Efi(path) | Program::Uki(path) => path,
        };
        let (directory, name) = path.rsplit_once(['/', '\\'])?;
        let (directory, boot_digest) = directory.rsplit_once(['/', '\\'])?;
        boot_digest.to_ascii_lowercase().parse::<BootDigest>().ok()?;
        let directory = directory.replace('\\', "/");
        if !directory.trim_start_matches('/').eq_ignore_ascii_case(paths::BOOT_FILES) {
            return None;
        }
        name.to_ascii_lowercase().strip_suffix(paths::UKI_SUFFIX)?.parse().ok()
    }

    /// By which key it names its UKI, if that is one of ours.
    pub fn uki_key(&self) -> Option<UkiKey> {
        self.sealed_image()?;
        Some(if self.uki.is_some() { UkiKey::Uki } else { UkiKey::Efi })
    }

    /// The same, naming its UKI by this key.
    #[must_use]
    pub fn with_uki_key(mut self, key: UkiKey) -> Self {
        let path = self.uki.take().or(self.efi.take());
        match key {
            UkiKey::Uki => self.uki = path,
            UkiKey::Efi => self.efi = path,
        }
        self
    }

    fn image_argument(&self) -> Option<Digest> {
        self.command_line().split_ascii_whitespace().find_map(|word| {
            let value = match word.split_once('=')? {
                ("composefs.digest", value) => value.rsplit_once(':')?.1,
                ("composefs", value) => value.trim_start_matches('?'),
                _ => return None,
            };
            value.parse().ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_others_is_read_with_all_its_oddities() {
        let entry = Entry::parse(
            b"\xef\xbb\xbf# made by hand\r\n\
            title\t  Debian GNU/Linux  \r\n\
            title Debian\r\n\
            \r\n\
            \tlinux /vmlinuz\r\n\
            initrd /ucode.img\r\n\
            initrd   /initrd.img\r\n\
            options root=UUID=1  quiet\r\n\
            options x=\"a  b\"\r\n\
            sort-key\r\n\
            grub_users $grub_users\r\n\
            x-own #not a comment",
        );
        assert_eq!(entry.title.as_deref(), Some("Debian"));
        assert_eq!(entry.program(), Some(Program::Linux("/vmlinuz")));
        assert_eq!(entry.initrd, ["/ucode.img", "/initrd.img"]);
        assert_eq!(entry.command_line(), "root=UUID=1  quiet x=\"a  b\"");
        assert_eq!(entry.sort_key, None);
        assert_eq!(
            entry.other,
            [("grub_users".to_owned(), "$grub_users".to_owned()), ("x-own".to_owned(), "#not a comment".to_owned())]
        );
        assert_eq!(entry.files().collect::<Vec<_>>(), ["/vmlinuz", "/ucode.img", "/initrd.img"]);
    }

    #[test]
    fn entries_that_start_nothing_or_too_much_have_no_program() {
        assert_eq!(Entry::parse(b"").program(), None);
        assert_eq!(Entry::parse(b"title x\n\xff\xfe\n").program(), None);
        assert_eq!(Entry::parse(b"linux /a\nefi /b\n").program(), None);
        assert_eq!(Entry::parse(b"linux /a\nuki-url http://x\n").program(), None);
        assert_eq!(Entry::parse(b"uki /b.efi\n").program(), Some(Program::Uki("/b.efi")));
    }

    #[test]
    fn written_form_is_stable_and_read_back() {
        let digest = "a".repeat(128);
        let entry = Entry {
            title: Some("Example OS 13".to_owned()),
            version: Some("000007-13.2".to_owned()),
            sort_key: Some("osupdate".to_owned()),
            linux: Some("/EFI/osupdate/ab/vmlinuz".to_owned()),
            initrd: vec!["/EFI/osupdate/ab/initrd".to_owned()],
            options: vec![format!("composefs.digest=v1-sha512-12:{digest} root=UUID=1 rw")],
            ..Entry::default()
        };
        let text = entry.to_text().unwrap();
        assert_eq!(
            text,
            format!(
                "title Example OS 13\nversion 000007-13.2\nsort-key osupdate\nlinux /EFI/osupdate/ab/vmlinuz\n\
                 initrd /EFI/osupdate/ab/initrd\noptions composefs.digest=v1-sha512-12:{digest} root=UUID=1 rw\n"
            )
        );
        assert_eq!(Entry::parse(text.as_bytes()), entry);
        assert_eq!(entry.image().unwrap().to_string(), digest);
    }

    #[test]
    fn a_value_cannot_smuggle_in_a_key() {
        for value in ["x\noptions init=/bin/sh", "x\r", "x\0", " x", ""] {
            let entry = Entry { title: Some(value.to_owned()), ..Entry::default() };
            assert_eq!(entry.to_text(), Err(InvalidValue { key: "title".to_owned() }), "{value:?}");
        }
    }

    #[test]
    fn image_is_found_in_every_accepted_form() {
        let digest = "b".repeat(64);
        for argument in [
            format!("quiet composefs.digest=v1-sha256-12:{digest}"),
            format!("composefs.digest=?v1-sha256-12:{digest} rw"),
            format!("composefs={digest}"),
            format!("composefs=?{digest}"),
        ] {
            let entry = Entry { options: vec![argument.clone()], ..Entry::default() };
            assert_eq!(entry.image().map(|image| image.to_string()), Some(digest.clone()), "{argument}");
        }
        let entry = Entry { options: vec![format!("xcomposefs={digest} composefs=zz")], ..Entry::default() };
        assert_eq!(entry.image(), None);
    }

    #[test]
    fn image_of_a_uki_is_told_by_its_name_only_where_the_name_is_ours() {
        let (boot, image) = ("c".repeat(64), "b".repeat(128));
        let sealed = |text: &str| Entry::parse(text.as_bytes()).image().map(|image| image.to_string());
        for text in [
            format!("uki /EFI/osupdate/{boot}/{image}.efi\n"),
            format!("efi /EFI/osupdate/{boot}/{image}.efi\n"),
            format!("efi \\efi\\OSUPDATE\\{boot}\\{}.EFI\n", image.to_uppercase()),
        ] {
            assert_eq!(sealed(&text), Some(image.clone()), "{text}");
        }
        for text in [
            format!("linux /EFI/osupdate/{boot}/{image}.efi\n"),
            format!("uki /EFI/Linux/{image}.efi\n"),
            format!("uki /EFI/osupdate/{image}.efi\n"),
            format!("uki /EFI/osupdate/{boot}/other.efi\n"),
            format!("uki /x/EFI/osupdate/{boot}/{image}.efi\n"),
        ] {
            assert_eq!(sealed(&text), None, "{text}");
        }
    }
}
