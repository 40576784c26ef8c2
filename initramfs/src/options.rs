//! The command line of the program. Parsed by hand: a parser library would be a quarter of the binary.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Verifies the operating system image named on the kernel command line and makes it the root file system.

Runs in the initramfs, after the physical root is mounted and before the switch to the new root.

Usage: osupdate-setup-root [OPTIONS]

Options:
      --sysroot DIR    Where the physical root is mounted, and the new root afterwards [default: /sysroot]
      --config FILE    Configuration file; without it the defaults hold
                       [default: /usr/lib/composefs/setup-root-conf.toml]
      --cmdline TEXT   Kernel command line to use instead of /proc/cmdline
  -h, --help           Print this help
  -V, --version        Print the version
";

/// What the program is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Run(Options),
    Help,
    Version,
}

/// The options of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) sysroot: PathBuf,
    pub(crate) config: PathBuf,
    /// `None`: that of the running kernel.
    pub(crate) cmdline: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { sysroot: "/sysroot".into(), config: "/usr/lib/composefs/setup-root-conf.toml".into(), cmdline: None }
    }
}

/// Parses the arguments after the program's name. `--name value` and `--name=value` are the same.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request> {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let argument = into_text(argument)?;
        let (name, attached) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || match attached.clone() {
            Some(value) => Ok(value),
            None => into_text(arguments.next().with_context(|| format!("option {name} needs a value"))?),
        };
        match name {
            "--sysroot" => options.sysroot = value()?.into(),
            "--config" => options.config = value()?.into(),
            "--cmdline" => options.cmdline = Some(value()?),
            "-h" | "--help" if attached.is_none() => return Ok(Request::Help),
            "-V" | "--version" if attached.is_none() => return Ok(Request::Version),
            _ => bail!("unknown argument {argument:?}"),
        }
    }
    Ok(Request::Run(options))
}

fn into_text(argument: OsString) -> Result<String> {
    argument.into_string().map_err(|argument| anyhow!("argument {argument:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Request> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn values_may_be_attached_or_separate() {
        let expected = Options { sysroot: "/s".into(), config: "/c".into(), cmdline: Some("a=b c".into()) };
        let words = ["--sysroot=/s", "--config", "/c", "--cmdline", "a=b c"];
        assert_eq!(parse_words(&words).unwrap(), Request::Run(expected));
        assert_eq!(parse_words(&[]).unwrap(), Request::Run(Options::default()));
        assert_eq!(parse_words(&["--sysroot", "/s", "--help"]).unwrap(), Request::Help);
    }

    #[test]
    fn refusals_name_the_argument() {
        for (words, why) in [
            (&["--sysroot"][..], "option --sysroot needs a value"),
            (&["--root-fs", "/x"], "unknown argument \"--root-fs\""),
            (&["--help=yes"], "unknown argument \"--help=yes\""),
            (&["/sysroot"], "unknown argument \"/sysroot\""),
        ] {
            assert_eq!(parse_words(words).unwrap_err().to_string(), why);
        }
    }
}
