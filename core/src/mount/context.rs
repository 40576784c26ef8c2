//! A file system under construction: `fsopen` and what follows, with the kernel's own words on errors.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use thiserror::Error;

/// The kernel keeps at most eight messages for a context.
const MESSAGES_MAX: usize = 8;

/// A step of mounting that the kernel refused.
#[derive(Debug, Error)]
#[error("{file_system} refuses {step}{}", list(log))]
pub struct ContextError {
    /// The kind of file system.
    pub file_system: &'static str,
    /// What was tried: `lowerdir+=/proc/self/fd/5`.
    pub step: String,
    /// What the kernel logged about it.
    pub log: Vec<String>,
    /// The error number.
    pub source: io::Error,
}

fn list(log: &[String]) -> String {
    if log.is_empty() { String::new() } else { format!(" ({})", log.join("; ")) }
}

impl ContextError {
    pub(super) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

/// An open file system context.
pub(super) struct Context {
    fd: OwnedFd,
    file_system: &'static str,
}

impl Context {
    pub(super) fn open(file_system: &'static str) -> Result<Self, ContextError> {
        let fd = fsopen(file_system, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| ContextError {
            file_system,
            step: "fsopen".to_owned(),
            log: Vec::new(),
            source: errno.into(),
        })?;
        Ok(Self { fd, file_system })
    }

    pub(super) fn set_flag(&self, key: &str) -> Result<(), ContextError> {
        fsconfig_set_flag(&self.fd, key).map_err(|errno| self.error(key.to_owned(), errno))
    }

    pub(super) fn set_string(&self, key: &str, value: &str) -> Result<(), ContextError> {
        fsconfig_set_string(&self.fd, key, value).map_err(|errno| self.error(format!("{key}={value}"), errno))
    }

    pub(super) fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> Result<(), ContextError> {
        fsconfig_set_fd(&self.fd, key, fd).map_err(|errno| self.error(format!("{key} by descriptor"), errno))
    }

    /// Makes the file system and a detached mount of it.
    pub(super) fn create(self, attributes: MountAttrFlags) -> Result<OwnedFd, ContextError> {
        fsconfig_create(&self.fd).map_err(|errno| self.error("to be made".to_owned(), errno))?;
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.error("to be mounted".to_owned(), errno))
    }

    fn error(&self, step: String, errno: Errno) -> ContextError {
        ContextError { file_system: self.file_system, step, log: self.read_log(), source: errno.into() }
    }

    /// Reads the messages: one a time, `<severity> <text>`, `ENODATA` at the end.
    fn read_log(&self) -> Vec<String> {
        let mut log = Vec::new();
        let mut buffer = [0; 1024];
        while log.len() < MESSAGES_MAX
            && let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer)
        {
            let message = String::from_utf8_lossy(&buffer[..length]);
            let text = message.split_once(' ').map_or(&*message, |(_, text)| text);
            log.push(text.trim_end().to_owned());
        }
        log
    }
}
