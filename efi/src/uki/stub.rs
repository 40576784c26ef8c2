//! Boot stubs: which one a program begins with, and what is known of it.

use crate::pe::Pe;

/// The systemd that has it.
const SYSTEMD_STUB: &str = "systemd-stub ";
/// The first of its versions that joins initramfs files, without asking whether Secure Boot is on. Earlier ones end with an error if
/// somebody has registered an initramfs.
///
/// Source: systemd pull request 41748, of April 2026; tried with 257.13 and 262.1.
const JOINS_INITRAMFS: u32 = 261;

/// What the stub of a program says of itself: `systemd-stub 257.13-1~deb13u1` of `#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####`.
pub(super) fn name(pe: &Pe<'_>) -> Option<String> {
    let magic = pe.section(".sdmagic")?;
    let text = std::str::from_utf8(super::profile::until_nul(magic.data)).ok()?;
    let name = text.trim().strip_prefix("#### LoaderInfo:")?.strip_suffix("####")?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether the stub of this name is known to start an initramfs that whoever starts it has registered, together with that of the UKI.
pub(super) fn joins_initramfs(name: &str) -> bool {
    let version = name.strip_prefix(SYSTEMD_STUB).map(|version| version.trim_start_matches('v'));
    let major = version.and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= JOINS_INITRAMFS)
}

#[cfg(test)]
mod tests {
    use super::joins_initramfs;

    #[test]
    fn stubs_are_told_apart_by_their_version() {
        for name in
            ["systemd-stub 261~rc1-1", "systemd-stub 262-1", "systemd-stub 262.1-1", "systemd-stub v263-12-gabc"]
        {
            assert!(joins_initramfs(name), "{name}");
        }
        for name in
            ["systemd-stub 257.13-1~deb13u1", "systemd-stub 260.1-1", "systemd-stub", "systemd-stub next", "other 262"]
        {
            assert!(!joins_initramfs(name), "{name}");
        }
    }
}
