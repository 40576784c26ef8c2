//! SELinux policies: rules, then after a line `path` paths to look up; the rule that wins is the one that PCRE2 alone finds.

use osupdate_core::selinux::{FileType, Policy};
use pcre2::bytes::{Regex, RegexBuilder};

/// Steps that PCRE2 may take where it is the judge; beyond that there is no judgement.
const STEPS_MAX: u32 = 100_000;
const PATHS: &[u8] = b"\npath\n";

pub(crate) fn run(input: &[u8]) {
    let split = input.windows(PATHS.len()).position(|window| window == PATHS);
    let (rules, paths) = match split {
        Some(at) => (&input[..at], &input[at + PATHS.len()..]),
        None => (input, &b"/usr/lib/x"[..]),
    };
    let paths: Vec<&[u8]> = paths.split(|byte| *byte == b'\n').take(8).collect();
    // A number of paths for which the steps of a look-up are few.
    let Ok(mut policy) = Policy::parse(&[("file_contexts", rules.to_vec())], 100_000) else { return };
    let judge = judge(rules);
    for path in paths {
        for file_type in [FileType::Regular, FileType::Directory, FileType::Symlink] {
            let Ok(label) = policy.lookup(path, file_type) else { return };
            let Some(judge) = &judge else { continue };
            let subject = [path, &[file_type.letter()]].concat();
            let mut winner = None;
            for (regex, context) in judge.iter().rev() {
                match regex.is_match(&subject) {
                    Ok(true) => {
                        winner = Some(&context[..]);
                        break;
                    }
                    Ok(false) => {}
                    Err(_) => return,
                }
            }
            let winner = winner.filter(|context| *context != b"<<none>>");
            assert_eq!(label, winner, "{:?} {file_type:?}", String::from_utf8_lossy(path));
        }
    }
}

/// Expression and context of each rule. `None`: PCRE2 cannot take them all, as with bytes that are not UTF-8.
fn judge(rules: &[u8]) -> Option<Vec<(Regex, Vec<u8>)>> {
    let mut judge = Vec::new();
    for line in rules.split(|byte| *byte == b'\n') {
        let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        let fields: Vec<&[u8]> = line.split(is_blank).filter(|field| !field.is_empty()).collect();
        let (pattern, letter, context) = match fields[..] {
            [] => continue,
            [first, ..] if first.starts_with(b"#") => continue,
            [pattern, context] => (pattern, ".".to_owned(), context),
            [pattern, [b'-', letter], context] => (pattern, format!("\\x{letter:02x}"), context),
            _ => unreachable!("the policy was accepted"),
        };
        let pattern = std::str::from_utf8(pattern).ok()?;
        let whole = format!("(*LIMIT_MATCH={STEPS_MAX})^(?:{pattern}){letter}$");
        judge.push((RegexBuilder::new().dotall(true).build(&whole).ok()?, context.to_vec()));
    }
    Some(judge)
}
