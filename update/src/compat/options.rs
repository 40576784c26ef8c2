//! Options as `getopt_long` takes them: anywhere among the arguments, long ones abbreviated, values behind `=` or next.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::Failure;

/// A long option, and whether it has a value.
pub(super) type Spec = (&'static str, bool);

/// What the arguments say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    given: Vec<(&'static str, OsString)>,
    /// Arguments that are no options.
    pub(super) operands: Vec<OsString>,
}

impl Options {
    /// Sorts the arguments. `--help` is known to all tools.
    pub(super) fn parse(tool: &str, arguments: &[OsString], specs: &[Spec]) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let bytes = argument.as_bytes();
            if bytes == b"--" {
                options.operands.extend(rest.cloned());
                break;
            }
            // `-o VALUE` and `-oVALUE`, for the options of one letter.
            let (name, mut value) = match bytes {
                [b'-', b'-', long @ ..] => match long.iter().position(|byte| *byte == b'=') {
                    Some(at) => (&long[..at], Some(OsStr::from_bytes(&long[at + 1..]).to_owned())),
                    None => (long, None),
                },
                [b'-', letter, value @ ..] => {
                    let value = (!value.is_empty()).then(|| OsStr::from_bytes(value).to_owned());
                    (std::slice::from_ref(letter), value)
                }
                _ => {
                    options.operands.push(argument.clone());
                    continue;
                }
            };
            if name == b"help" || bytes == b"-h" {
                return Err(Failure::Help);
            }
            let unknown = || Failure::Usage(format!("{tool}: unrecognized option '{}'", argument.display()));
            let is_long = bytes.starts_with(b"--");
            let candidates: Vec<&Spec> = specs
                .iter()
                .filter(|(spec, _)| (spec.len() > 1) == is_long && spec.as_bytes().starts_with(name))
                .collect();
            let (spec, has_value) = match candidates.iter().find(|(spec, _)| spec.as_bytes() == name) {
                Some(exact) => **exact,
                None => match candidates[..] {
                    [one] => *one,
                    [] => return Err(unknown()),
                    _ => {
                        let text = argument.display();
                        return Err(Failure::Usage(format!("{tool}: option '{text}' is ambiguous")));
                    }
                },
            };
            if has_value && value.is_none() {
                value = rest.next().cloned();
                if value.is_none() {
                    let dashes = if is_long { "--" } else { "-" };
                    return Err(Failure::Usage(format!("{tool}: option '{dashes}{spec}' requires an argument")));
                }
            }
            if !has_value && value.is_some() {
                return Err(Failure::Usage(format!("{tool}: option '--{spec}' doesn't allow an argument")));
            }
            options.given.push((spec, value.unwrap_or_default()));
        }
        Ok(options)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == name)
    }

    /// The value that was given last.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        self.values(name).last()
    }

    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        self.given.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value.as_os_str())
    }

    /// A value that must be a number of at least `least`.
    pub(super) fn number(&self, name: &str, what: &str, least: u32) -> Result<Option<u32>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number >= least);
        number.map(Some).ok_or_else(|| Failure::Usage(format!("Invalid {what} {}", value.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let specs = [("from-file", false), ("min-version", true), ("max-version", true), ("o", true)];
        Options::parse("tool", &arguments, &specs).map_err(|failure| match failure {
            Failure::Usage(text) | Failure::Message(text) => text,
            Failure::Help => "help".to_owned(),
        })
    }

    #[test]
    fn options_may_be_anywhere_and_abbreviated() {
        let options =
            parse(&["a", "--min=1", "--from", "-", "--max-version", "2", "-oa", "-o", "b", "--", "--x"]).unwrap();
        assert_eq!(options.operands, ["a", "-", "--x"]);
        assert!(options.has("from-file"));
        assert_eq!(options.number("min-version", "min version", 0).ok().flatten(), Some(1));
        assert_eq!(options.value("max-version"), Some("2".as_ref()));
        assert_eq!(options.values("o").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn wrong_options() {
        for (arguments, message) in [
            (&["--bad"][..], "tool: unrecognized option '--bad'"),
            (&["-x"], "tool: unrecognized option '-x'"),
            (&["--m=1"], "tool: option '--m=1' is ambiguous"),
            (&["--min"], "tool: option '--min-version' requires an argument"),
            (&["--from-file=x"], "tool: option '--from-file' doesn't allow an argument"),
            (&["--help"], "help"),
        ] {
            assert_eq!(parse(arguments).unwrap_err(), message);
        }
        let options = parse(&["--min-version=x"]).unwrap();
        assert!(options.number("min-version", "min version", 0).is_err());
    }
}
