//! The one way in which small files are written, so that a crash leaves the old or the new contents, never a mix.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Letters of random names: those which every file system tells apart.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Number of random letters: 60 bits.
const RANDOM_LETTERS: usize = 12;
/// So many names are tried before `EEXIST` is an error.
const ATTEMPTS: usize = 16;

/// Replaces the file `name` in `dir`, with exactly these permissions.
///
/// Writes `.<name>.tmp-<12 letters>` beside it, syncs that, renames it over the old file and syncs the directory. What
/// was written survives a crash after return; a crash before leaves the old file, and perhaps the temporary one.
/// `name` has no slash.
pub fn write_file(dir: BorrowedFd<'_>, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
    if name.is_empty() || name.contains('/') {
        return Err(Errno::INVAL.into());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let prefix = format!(".{name}.tmp-");
    let (file, temporary) =
        with_temporary_name(&prefix, |temporary| openat(dir, temporary, flags, Mode::from_raw_mode(mode)))?;

    let written = fill(file.into(), mode, contents).and_then(|()| Ok(renameat(dir, &temporary, dir, name)?));
    if let Err(error) = written {
        if let Err(errno) = unlinkat(dir, &temporary, AtFlags::empty()) {
            tracing::warn!("cannot remove {temporary}: {errno}, ignoring");
        }
        return Err(error);
    }
    Ok(fsync(dir)?)
}

fn fill(mut file: std::fs::File, mode: u32, contents: &[u8]) -> io::Result<()> {
    match fchmod(file.as_fd(), Mode::from_raw_mode(mode)) {
        // FAT has no permissions of its own to set.
        Err(Errno::PERM) => tracing::debug!("the file system refuses mode {mode:o}, ignoring"),
        result => result?,
    }
    file.write_all(contents)?;
    Ok(fsync(&file)?)
}

/// Calls `make` with `<prefix><12 random letters>` until the name is free; returns the result and the name.
pub(crate) fn with_temporary_name<T>(
    prefix: &str,
    make: impl Fn(&str) -> rustix::io::Result<T>,
) -> rustix::io::Result<(T, String)> {
    for _ in 0..ATTEMPTS {
        let mut random = [0; RANDOM_LETTERS];
        // Up to 256 bytes come whole or not at all.
        getrandom(&mut random, GetRandomFlags::empty())?;
        let letters = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
        let name: String = prefix.chars().chain(letters).collect();
        match make(&name) {
            Err(Errno::EXIST) => {}
            result => return result.map(|made| (made, name)),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_the_contents_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let fd = fs::File::open(dir.path()).unwrap();
        write_file(fd.as_fd(), "state.toml", 0o600, b"old, and longer than the new").unwrap();
        write_file(fd.as_fd(), "state.toml", 0o644, b"new").unwrap();
        let path = dir.path().join("state.toml");
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let fd = fs::File::open(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("taken/by-a-directory")).unwrap();
        assert!(write_file(fd.as_fd(), "taken", 0o644, b"x").is_err());
        assert!(dir.path().join("taken/by-a-directory").is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_with_a_slash_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fd = fs::File::open(dir.path()).unwrap();
        assert!(write_file(fd.as_fd(), "../escape", 0o644, b"x").is_err());
    }
}
