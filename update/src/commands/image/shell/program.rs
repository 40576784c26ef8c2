//! Why a program of the image cannot be run.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

/// Where programs are.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const STATUS_NOT_FOUND: u8 = 127;
const STATUS_CANNOT_RUN: u8 = 126;
/// Processors by their numbers in ELF files.
const MACHINES: [(u16, &str); 8] = [
    (3, "x86"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];

/// A program of an image was not run; the status is that of shells.
#[derive(Debug, Error)]
pub(crate) enum NotRun {
    #[error("there is no {0} in the image")]
    NotFound(String),
    #[error("{} cannot be started: the image lacks what its first line or its ELF header names", .0.display())]
    NoInterpreter(PathBuf),
    #[error("{} is for {machine}, and this machine is {ARCH}", path.display())]
    OtherMachine { path: PathBuf, machine: &'static str },
    #[error("cannot run {program} of the image")]
    Other { program: String, source: io::Error },
}

impl NotRun {
    pub(super) fn new(program: &OsStr, error: &io::Error) -> Self {
        let path = find(program);
        let name = || program.display().to_string();
        match (path, Errno::from_io_error(error)) {
            (None, Some(Errno::NOENT | Errno::NOTDIR)) => Self::NotFound(name()),
            // The C library gives to /bin/sh what the kernel does not take, and there may be none.
            (Some(path), Some(errno @ (Errno::NOENT | Errno::NOEXEC))) => match machine(&path) {
                Some(machine) if machine != ARCH => Self::OtherMachine { path, machine },
                _ if errno == Errno::NOENT => Self::NoInterpreter(path),
                _ => Self::other(name(), error),
            },
            _ => Self::other(name(), error),
        }
    }

    fn other(program: String, error: &io::Error) -> Self {
        let source = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        Self::Other { program, source }
    }

    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::NotFound(_) => STATUS_NOT_FOUND,
            Self::NoInterpreter(_) | Self::OtherMachine { .. } | Self::Other { .. } => STATUS_CANNOT_RUN,
        }
    }
}

/// The file that a program's name stands for.
fn find(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    let exists = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    match path.components().count() {
        1 => PATH.split(':').map(|directory| Path::new(directory).join(path)).find(exists),
        _ => Some(path.to_owned()).filter(exists),
    }
}

/// The processor that an ELF file is for.
fn machine(path: &Path) -> Option<&'static str> {
    let mut header = [0; 20];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    let [b'\x7f', b'E', b'L', b'F', _, order, .., low, high] = header else { return None };
    let number = if order == 2 { u16::from_be_bytes([low, high]) } else { u16::from_le_bytes([low, high]) };
    Some(MACHINES.iter().find(|(known, _)| *known == number).map_or("another kind of machine", |(_, name)| name))
}
