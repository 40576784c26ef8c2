//! Which systemd-boot a program is: it says so in its own text, also when it does not run.

use crate::esp::Esp;
use crate::medium::AccessError;
use crate::paths;

/// Stands before name and version in the program.
const MARK: &[u8] = b"#### LoaderInfo: systemd-boot ";

/// Larger than any systemd-boot.
const PROGRAM_LIMIT_BYTES: u64 = 16 << 20;

/// The first version that knows the key `uki` in entries.
const UKI_KEY: u32 = 258;

/// The version of a systemd-boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderVersion {
    /// As the program has it: `257.13-1~deb13u1`.
    pub text: String,
    /// Its first number.
    pub major: u32,
}

impl LoaderVersion {
    /// Finds the version in a program. `None`: it is not systemd-boot.
    pub fn of(program: &[u8]) -> Option<Self> {
        let at = program.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
        let text = program[at..].split(|byte| !byte.is_ascii_graphic()).next()?;
        let text = std::str::from_utf8(text).ok()?.to_owned();
        let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
        let major = digits.parse().ok()?;
        Some(Self { text, major })
    }

    /// Whether it knows the key `uki` in entries. An older one hides entries that have it.
    pub const fn knows_uki_key(&self) -> bool {
        self.major >= UKI_KEY
    }
}

impl Esp {
    /// The versions of all systemd-boots on the partition, wherever firmware may start one from. Other loaders are left out.
    pub fn systemd_boots(&self) -> Result<Vec<LoaderVersion>, AccessError> {
        let mut found = Vec::new();
        for directory in [paths::SYSTEMD_PROGRAMS, paths::DEFAULT_PROGRAMS] {
            for item in self.medium.list(directory)? {
                if item.is_dir || !item.name.to_ascii_lowercase().ends_with(".efi") {
                    continue;
                }
                let path = format!("{directory}/{}", item.name);
                match self.medium.read(&path, PROGRAM_LIMIT_BYTES) {
                    Ok(Some(program)) => found.extend(LoaderVersion::of(&program)),
                    Ok(None) => {}
                    Err(err) if err.source.kind() == std::io::ErrorKind::FileTooLarge => {}
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn program(version: &str) -> Vec<u8> {
        [b"MZ\0\0 code ", MARK, version.as_bytes(), b" ####\0 more"].concat()
    }

    #[test]
    fn version_is_what_the_program_says() {
        let version = LoaderVersion::of(&program("257.13-1~deb13u1")).unwrap();
        assert_eq!((version.text.as_str(), version.major, version.knows_uki_key()), ("257.13-1~deb13u1", 257, false));
        assert!(LoaderVersion::of(&program("258~rc1")).unwrap().knows_uki_key());
        for other in [&b"MZ"[..], b"#### LoaderInfo: systemd-boot ", &program("next"), b"#### LoaderInfo: GRUB 2.12"] {
            assert_eq!(LoaderVersion::of(other), None);
        }
    }

    #[test]
    fn all_systemd_boots_count_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let esp = Esp::new(fs::File::open(dir.path()).unwrap().into(), "the test ESP");
        assert_eq!(esp.systemd_boots().unwrap(), []);
        for (path, contents) in [
            ("EFI/systemd/systemd-bootx64.efi", program("262.1")),
            ("EFI/BOOT/BOOTX64.EFI", program("257.13")),
            ("EFI/BOOT/grubx64.efi", b"MZ GRUB".to_vec()),
            ("EFI/BOOT/notes.txt", program("1")),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        let majors: Vec<_> = esp.systemd_boots().unwrap().iter().map(|version| version.major).collect();
        assert_eq!(majors, [262, 257]);
    }
}
