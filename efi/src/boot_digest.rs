//! [`BootDigest`], the name of boot files that belong together.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::str::FromStr;

use osupdate_core::digest::Digest;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::paths;

/// A file that can be read more than once.
pub trait Source: Read + Seek {}

impl<T: Read + Seek + ?Sized> Source for T {}

/// SHA-256 over the boot files, each with its length before it (u64, little endian): the kernel and then the initial ramdisk; or
/// the UKI and then its addons, and before each its name, which has its length before it, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootDigest([u8; 32]);

impl BootDigest {
    /// Computes the digest. Both sources are read from their beginning to their end.
    pub fn of(vmlinuz: &mut dyn Source, initrd: &mut dyn Source) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        hash_file(&mut hasher, vmlinuz)?;
        hash_file(&mut hasher, initrd)?;
        Ok(Self(hasher.finalize().into()))
    }

    /// The same of a UKI and its addons, with their names in the directory.
    pub(crate) fn of_named(files: &mut [(String, Box<dyn Source + '_>)]) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        for (name, file) in files {
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hash_file(&mut hasher, &mut **file)?;
        }
        Ok(Self(hasher.finalize().into()))
    }

    /// The directory of the files, as a path on the partition: `EFI/osupdate/<digest>`.
    pub fn directory(&self) -> String {
        format!("{}/{self}", paths::BOOT_FILES)
    }

    /// The kernel, as an entry names it: `/EFI/osupdate/<digest>/vmlinuz`.
    pub fn vmlinuz(&self) -> String {
        format!("/{}/{}", self.directory(), paths::VMLINUZ)
    }

    /// The initial ramdisk, as an entry names it: `/EFI/osupdate/<digest>/initrd`.
    pub fn initrd(&self) -> String {
        format!("/{}/{}", self.directory(), paths::INITRD)
    }

    /// The UKI into which the digest of `image` is sealed, as an entry names it: `/EFI/osupdate/<digest>/<image>.efi`.
    pub fn uki(&self, image: &Digest) -> String {
        format!("/{}/{}", self.directory(), paths::uki(image))
    }
}

/// Hashes the length of a file and then its bytes.
fn hash_file(hasher: &mut Sha256, source: &mut dyn Source) -> io::Result<()> {
    let size_bytes = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    hasher.update(size_bytes.to_le_bytes());
    let mut buffer = vec![0; 1 << 17];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// The text is not 64 lower-case hex digits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a boot digest has 64 lower-case hex digits, this is {0:?}")]
pub struct ParseBootDigestError(String);

impl FromStr for BootDigest {
    type Err = ParseBootDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseBootDigestError(text.to_owned());
        if text.len() != 64 || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for BootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn digest(vmlinuz: &str, initrd: &str) -> BootDigest {
        BootDigest::of(&mut Cursor::new(vmlinuz), &mut Cursor::new(initrd)).unwrap()
    }

    #[test]
    fn digest_is_the_one_on_disk() {
        // printf '\x06\0\0\0\0\0\0\0kernel\x02\0\0\0\0\0\0\0rd' | sha256sum
        let known = "000fd2e3a9e3137e400a07f75f3a6f5b9e528db7707fe05e0352ee9d00deea18";
        assert_eq!(digest("kernel", "rd").to_string(), known);
        assert_eq!(known.parse(), Ok(digest("kernel", "rd")));
    }

    #[test]
    fn digest_of_a_uki_is_the_one_on_disk_and_covers_names() {
        let uki = |names: [&str; 2]| {
            let mut files = names.map(|name| (name.to_owned(), Box::new(Cursor::new("x")) as Box<dyn Source>));
            BootDigest::of_named(&mut files).unwrap()
        };
        // printf '\x01\0\0\0\0\0\0\0a\x01\0\0\0\0\0\0\0x\x01\0\0\0\0\0\0\0b\x01\0\0\0\0\0\0\0x' | sha256sum
        let known = "e85fedcffed890265baa325b1fa81d40cd5c7ce28e64f3cef80df86750c0f920";
        assert_eq!(uki(["a", "b"]).to_string(), known);
        assert_ne!(uki(["a", "b"]), uki(["a", "c"]));
    }

    #[test]
    fn a_byte_cannot_move_from_one_file_to_the_other() {
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
    }

    #[test]
    fn reading_starts_at_the_beginning_again() {
        let mut vmlinuz = Cursor::new("kernel");
        vmlinuz.set_position(3);
        assert_eq!(BootDigest::of(&mut vmlinuz, &mut Cursor::new("rd")).unwrap(), digest("kernel", "rd"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "ab", &"A".repeat(64), &"+a".repeat(32), &"é".repeat(32)] {
            assert!(text.parse::<BootDigest>().is_err(), "{text}");
        }
    }
}
