//! Users and groups.

use std::collections::HashSet;

use super::files::{self, ReadError};
use super::{Findings, Image, Lint, Severity};

pub(super) static EMPTY_PASSWORD: Lint = Lint {
    name: "empty-password",
    severity: Severity::Error,
    reason: "anybody who comes to a console of a machine can log in with it",
    fix: "passwd --lock USER when building the image; let people log in with keys, or set a password on the machine",
};
pub(super) static ACCOUNT_NOT_DECLARED: Lint = Lint {
    name: "account-not-declared",
    severity: Severity::Warning,
    reason: "a machine on which /etc/passwd or /etc/group was changed keeps its own and does not get the account; and numbers \
             that are given out in the order in which packages are installed differ from build to build",
    fix: "declare it in a sysusers.d file, with its number",
};

const SYSUSERS: [&str; 3] = ["etc/sysusers.d", "usr/local/lib/sysusers.d", "usr/lib/sysusers.d"];
/// Smaller numbers are the distribution's own and the same everywhere.
const FIRST_DYNAMIC: u32 = 100;
/// `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

pub(super) fn check(image: &Image<'_>, findings: &mut Findings) -> Result<(), ReadError> {
    let text = |path: &str| files::text(image.files, image.tree, path).map(Option::unwrap_or_default);
    for path in ["etc/shadow", "etc/passwd"] {
        for line in text(path)?.lines() {
            if let Some((name, rest)) = line.split_once(':')
                && rest.starts_with(':')
                && !name.is_empty()
            {
                findings.add(&EMPTY_PASSWORD, path.as_bytes(), format!("{name} has no password"));
            }
        }
    }
    let declared = Declared::parse(&files::drop_ins(image.files, image.tree, &SYSUSERS, ".conf")?);
    let mut told = HashSet::new();
    for (path, kind, known) in [("etc/passwd", "user", &declared.users), ("etc/group", "group", &declared.groups)] {
        for line in text(path)?.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, number, ..] = fields[..] else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            if number < FIRST_DYNAMIC || number == NOBODY || known.contains(name) || !told.insert(name.to_owned()) {
                continue;
            }
            findings.add(&ACCOUNT_NOT_DECLARED, path.as_bytes(), format!("{kind} {name}, {number}"));
        }
    }
    Ok(())
}

/// What `sysusers.d` makes.
#[derive(Default)]
struct Declared {
    users: HashSet<String>,
    groups: HashSet<String>,
}

impl Declared {
    fn parse(texts: &[String]) -> Self {
        let mut declared = Self::default();
        for line in texts.iter().flat_map(|text| text.lines()) {
            let mut words = line.split_whitespace();
            let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
            let name = name.trim_matches(['"', '\'']).to_owned();
            match kind {
                // A user has a group of the same name unless another one is named.
                "u" | "u!" => {
                    declared.groups.insert(name.clone());
                    declared.users.insert(name);
                }
                "g" => drop(declared.groups.insert(name)),
                _ => {}
            }
        }
        declared
    }
}
