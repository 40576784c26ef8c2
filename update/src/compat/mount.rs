//! `mount.composefs`: mounts an image file over directories of objects.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use osupdate_core::Digest;
use osupdate_core::mount::{MountError, MountOptions, Upper, attach, compose};
use osupdate_core::repository::{Verity, measure_file};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::options::{Options, Spec};
use super::{Failure, chain, plain};

pub(super) const USAGE: &str = "\
usage: mount.composefs [-t type] [-o opt[,opts..]] IMAGE MOUNTPOINT
Example:
  mount.composefs -o basedir=/composefs/objects exampleimage.cfs /mnt/exampleimage
or, as a mount helper:
  mount -t composefs -o basedir=/composefs/objects exampleimage.cfs /mnt/exampleimage

Supported options:
  basedir=PATH[:PATH]    Specify location of basedir(s)
  digest=DIGEST          Specify required image digest
  verity                 Require all files to have specified and valid fs-verity digests
  tryverity              If supported by kernel, require fs-verity
  ro                     Read only
  rw                     Read/write
  upperdir               Overlayfs upperdir
  workdir                Overlayfs workdir
  idmap=PATH             Specify location of the user namespace whose id map is used
";

const SPECS: [Spec; 2] = [("t", true), ("o", true)];

/// What `-o` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    base_dirs: Vec<PathBuf>,
    digest: Option<Digest>,
    verity: bool,
    try_verity: bool,
    read_only: bool,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    /// A `/proc/PID/ns/user`.
    id_map: Option<PathBuf>,
}

pub(super) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let options = Options::parse("mount.composefs", arguments, &SPECS)?;
    if let Some(kind) = options.values("t").find(|kind| *kind != "composefs") {
        return Err(Failure::Message(format!("Unsupported fs type '{}'", kind.display())));
    }
    let (image, place) = match &options.operands[..] {
        [] => return Err(Failure::Usage("No source path specified".to_owned())),
        [_] => return Err(Failure::Usage("No mount path specified".to_owned())),
        [image, place] => (Path::new(image), Path::new(place)),
        _ => return Err(Failure::Usage("Too many arguments".to_owned())),
    };
    let mut wanted = Wanted::default();
    for list in options.values("o") {
        wanted.add(list)?;
    }
    if wanted.base_dirs.is_empty() {
        return Err(Failure::Usage("No object dirs specified".to_owned()));
    }
    if wanted.upper.is_some() != wanted.work.is_some() {
        return Err(Failure::Message("Both workdir and upperdir must be specified if used".to_owned()));
    }
    let file = File::open(image)
        .map_err(|error| Failure::because(format!("Failed to open {}", image.display()), plain(&error)))?;
    let failed = |reason: String| Failure::because(format!("Failed to mount composefs {}", image.display()), reason);
    let mount = wanted.mount(&file).map_err(failed)?;
    attach(mount.as_fd(), CWD, place).map_err(|error| failed(chain(&error)))
}

impl Wanted {
    fn add(&mut self, list: &OsStr) -> Result<(), Failure> {
        for option in split(list.as_bytes(), b',', true) {
            let (name, value) = match option.iter().position(|&byte| byte == b'=') {
                Some(at) => (&option[..at], Some(&option[at + 1..])),
                None => (&option[..], None),
            };
            let path = |value: Vec<u8>| PathBuf::from(OsString::from_vec(value));
            match (name, value) {
                (b"", None) => {}
                (b"basedir", Some(value)) => {
                    self.base_dirs
                        .extend(split(value, b':', false).into_iter().filter(|dir| !dir.is_empty()).map(path));
                }
                (b"digest", Some(value)) => {
                    let digest = str::from_utf8(value).ok().and_then(|text| text.to_ascii_lowercase().parse().ok());
                    self.digest = Some(
                        digest.ok_or_else(|| Failure::Message(format!("Invalid digest {}", value.escape_ascii())))?,
                    );
                    self.verity = true;
                }
                (b"verity", None) => self.verity = true,
                (b"tryverity", None) => self.try_verity = true,
                (b"ro", None) => self.read_only = true,
                (b"rw", None) => self.read_only = false,
                (b"upperdir", Some(value)) => self.upper = Some(path(unescape(value))),
                (b"workdir", Some(value)) => self.work = Some(path(unescape(value))),
                (b"idmap", Some(value)) => self.id_map = Some(path(unescape(value))),
                (b"basedir" | b"digest" | b"upperdir" | b"workdir" | b"idmap", None) => {
                    let name = name.escape_ascii();
                    return Err(Failure::Message(format!("No value specified for {name} option")));
                }
                _ => return Err(Failure::Message(format!("Unsupported option {}", name.escape_ascii()))),
            }
        }
        Ok(())
    }

    fn mount(&self, image: &File) -> Result<OwnedFd, String> {
        if let Some(expected) = self.digest {
            match measure_file(image.as_fd()).map_err(|error| plain(&error))? {
                Some(found) if found == expected => {}
                Some(found) => return Err(format!("Image has wrong fs-verity: {found}")),
                None => return Err("Image has no fs-verity".to_owned()),
            }
        }
        let open_with = |path: &Path, flags: OFlags| {
            openat(CWD, path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| format!("{}: {}", path.display(), plain(&std::io::Error::from(errno))))
        };
        let open = |path: &Path| open_with(path, OFlags::DIRECTORY);
        let open_file = |path: &Path| open_with(path, OFlags::empty());
        let objects = self.base_dirs.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
        let objects: Vec<BorrowedFd<'_>> = objects.iter().map(|dir| dir.as_fd()).collect();
        let options = |verity| {
            let upper = match (&self.upper, &self.work) {
                (Some(upper), Some(work)) => Some(Upper { upper: open(upper)?, work: open(work)? }),
                _ => None,
            };
            let read_only = self.read_only || upper.is_none();
            let id_map = self.id_map.as_deref().map(open_file).transpose()?;
            Ok::<_, String>(MountOptions { source: "composefs".to_owned(), verity, upper, read_only, id_map })
        };
        let verity = if self.verity || self.try_verity { Verity::Required } else { Verity::Unverified };
        match compose(image.as_fd(), &objects, &options(verity)?) {
            Err(MountError::Verity(_)) if !self.verity => {
                compose(image.as_fd(), &objects, &options(Verity::Unverified)?)
            }
            result => result,
        }
        .map_err(|error| chain(&error))
    }
}

fn unescape(value: &[u8]) -> Vec<u8> {
    // No argument has a NUL byte.
    split(value, 0, false).concat()
}

/// Splits a list. A backslash takes away the meaning of the next character; it is kept if the parts are split again.
fn split(list: &[u8], separator: u8, keep_escapes: bool) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = list.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == separator {
            parts.push(Vec::new());
            continue;
        }
        let Some(part) = parts.last_mut() else { continue };
        match byte {
            b'\\' => {
                if keep_escapes {
                    part.push(byte);
                }
                part.extend(bytes.next());
            }
            byte => part.push(byte),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_at_commas_and_directories_at_colons() {
        let mut wanted = Wanted::default();
        assert!(wanted.add(OsStr::new(r"basedir=/a:/b\:c:/d\,e,ro")).is_ok());
        assert!(wanted.add(OsStr::new(r"rw,verity,upperdir=/u\,x,workdir=/w")).is_ok());
        assert_eq!(wanted.base_dirs, ["/a", "/b:c", "/d,e"].map(PathBuf::from));
        assert!(wanted.verity && !wanted.read_only && !wanted.try_verity);
        assert!(wanted.add(OsStr::new("idmap=/proc/1/ns/user")).is_ok());
        assert_eq!(wanted.id_map, Some("/proc/1/ns/user".into()));
        assert_eq!((wanted.upper, wanted.work), (Some("/u,x".into()), Some("/w".into())));
    }

    #[test]
    fn a_digest_needs_verity() {
        let mut wanted = Wanted::default();
        assert!(wanted.add(OsStr::new(&format!("digest={}", "AB".repeat(32)))).is_ok());
        assert!(wanted.verity && wanted.digest.is_some());
        assert!(wanted.add(OsStr::new("digest=zz")).is_err());
        for bad in ["unknown", "ro=1", "basedir", "=x"] {
            assert!(Wanted::default().add(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
