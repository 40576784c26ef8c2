//! References to images that other programs keep on this machine.

use std::fmt;

use super::ParseReferenceError;

/// Longest name: that of the reference grammar, and a store in front.
const NAME_MAX: usize = 4096;

/// Who keeps an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTransport {
    /// podman, buildah and CRI-O.
    ContainersStorage,
    /// Docker.
    DockerDaemon,
}

/// Name of an image that another program keeps on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReference {
    /// Who keeps it.
    pub transport: LocalTransport,
    /// Its name, as that program has it.
    pub name: String,
}

impl LocalTransport {
    /// The transport's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ContainersStorage => "containers-storage",
            Self::DockerDaemon => "docker-daemon",
        }
    }

    /// The transport that a text begins with, and what follows.
    pub(super) fn split(text: &str) -> Option<(Self, &str)> {
        let (transport, name) = text.split_once(':')?;
        let known = [Self::ContainersStorage, Self::DockerDaemon];
        known.into_iter().find(|known| known.name() == transport).map(|known| (known, name))
    }
}

impl fmt::Display for LocalTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl LocalReference {
    pub(super) fn new(transport: LocalTransport, name: &str) -> Result<Self, ParseReferenceError> {
        let odd = |c: char| c.is_control() || c.is_whitespace();
        if name.is_empty() || name.len() > NAME_MAX || name.contains(odd) || name.starts_with("//") {
            return Err(ParseReferenceError::LocalName { transport, name: name.to_owned() });
        }
        Ok(Self { transport, name: name.to_owned() })
    }
}

impl fmt::Display for LocalReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport, self.name)
    }
}
