//! The configuration file, in the format of composefs-setup-root: which parts of the root are writable, and how.
//!
//! It is part of the image's initramfs, so it is as trusted as the kernel. A value that we do not know is an error:
//! guessing could make a machine writable that was meant to forget. A key that we do not know may belong to another
//! reader of the same file and is only warned about.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// How a directory of the new root is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// Not at all: the image's own directory is seen.
    None,
    /// A directory of the deployment's state takes its place.
    Bind,
    /// The image's directory, under an upper layer in the deployment's state.
    Overlay,
    /// The image's directory, under an upper layer in memory.
    Transient,
}

/// The settings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The whole root is writable and forgets at shutdown.
    pub(crate) root_transient: bool,
    pub(crate) etc: MountKind,
    pub(crate) var: MountKind,
    /// Keys that were not understood, for people.
    pub(crate) unknown_keys: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { root_transient: false, etc: MountKind::Overlay, var: MountKind::Bind, unknown_keys: Vec::new() }
    }
}

impl Config {
    /// Reads the file; a missing one gives the defaults.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(err) => return Err(err).with_context(|| format!("cannot read the configuration file {path:?}")),
        };
        Self::parse(&text).with_context(|| format!("the configuration file {path:?} is not valid"))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut config = Self::default();
        for (section, content) in text.parse::<Table>()? {
            let Value::Table(content) = content else {
                config.unknown_keys.push(section);
                continue;
            };
            for (key, value) in content {
                let name = format!("{section}.{key}");
                match (section.as_str(), key.as_str()) {
                    ("root", "transient") => config.root_transient = boolean(&name, &value)?,
                    ("etc", "mount") => config.etc = mount_kind(&name, &value)?,
                    ("var", "mount") => config.var = mount_kind(&name, &value)?,
                    // Keys come in alphabetical order, so `transient` overrides `mount`.
                    ("etc", "transient") if boolean(&name, &value)? => config.etc = MountKind::Transient,
                    ("var", "transient") if boolean(&name, &value)? => config.var = MountKind::Transient,
                    ("etc" | "var", "transient") => {}
                    _ => config.unknown_keys.push(name),
                }
            }
        }
        Ok(config)
    }
}

fn boolean(name: &str, value: &Value) -> Result<bool> {
    value.as_bool().with_context(|| format!("key {name} is {value}, it must be true or false"))
}

fn mount_kind(name: &str, value: &Value) -> Result<MountKind> {
    Ok(match value.as_str() {
        Some("none") => MountKind::None,
        Some("bind") => MountKind::Bind,
        Some("overlay") => MountKind::Overlay,
        Some("transient") => MountKind::Transient,
        _ => bail!("key {name} is {value}, it must be \"none\", \"bind\", \"overlay\" or \"transient\""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_files_are_the_defaults() {
        assert_eq!(Config::load(Path::new("/nonexistent/conf.toml")).unwrap(), Config::default());
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn all_keys_are_read() {
        let text = "[root]\ntransient = true\n[etc]\nmount = \"bind\"\ntransient = false\n[var]\nmount = \"none\"\n";
        let expected =
            Config { root_transient: true, etc: MountKind::Bind, var: MountKind::None, unknown_keys: Vec::new() };
        assert_eq!(Config::parse(text).unwrap(), expected);
    }

    #[test]
    fn transient_wins_over_mount_in_any_order() {
        for text in ["[etc]\ntransient = true\nmount = \"bind\"", "[etc]\nmount = \"bind\"\ntransient = true"] {
            assert_eq!(Config::parse(text).unwrap().etc, MountKind::Transient);
        }
    }

    #[test]
    fn bad_values_are_errors_that_name_file_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf.toml");
        for (text, why) in [
            ("[etc]\nmount = \"volatile\"", "key etc.mount is \"volatile\""),
            ("[var]\nmount = true", "key var.mount is true"),
            ("[root]\ntransient = \"yes\"", "key root.transient is \"yes\""),
            ("[var]\ntransient = 1", "key var.transient is 1"),
            ("[etc\n", "line 1"),
        ] {
            fs::write(&path, text).unwrap();
            let message = format!("{:#}", Config::load(&path).unwrap_err());
            assert!(message.contains("conf.toml") && message.contains(why), "{message}");
        }
    }

    #[test]
    fn unknown_keys_are_told() {
        let config = Config::parse("top = 1\n[etc]\nmout = \"none\"\n[ect]\nmount = \"none\"").unwrap();
        assert_eq!(config.unknown_keys, ["ect.mount", "etc.mout", "top"]);
        assert_eq!(config.etc, MountKind::Overlay);
    }
}
