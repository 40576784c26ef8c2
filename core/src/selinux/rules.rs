//! The lines of `file_contexts` and `file_contexts.subs`.

use std::collections::HashMap;

use super::{FileType, LineProblem, PolicyError, RULES_MAX};

/// Longest label, in bytes; the kernel's limit for one is a page.
pub(super) const CONTEXT_MAX_BYTES: usize = 4095;

/// One line of `file_contexts`.
#[derive(Debug)]
pub(super) struct Rule {
    /// A regular expression, to be matched against whole paths.
    pub(super) pattern: Box<[u8]>,
    /// `None`: any.
    pub(super) file_type: Option<FileType>,
    /// The label, or `<<none>>`.
    pub(super) context: Box<[u8]>,
    /// Where it is.
    pub(super) file: &'static str,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// Appends the rules of one file.
pub(super) fn parse_rules(file: &'static str, text: &[u8], rules: &mut Vec<Rule>) -> Result<(), PolicyError> {
    for (line, fields) in lines(text) {
        if rules.len() >= RULES_MAX {
            return Err(PolicyError::TooManyRules { file, line });
        }
        let rule = parse_rule(file, line, fields);
        rules.push(rule.map_err(|problem| PolicyError::Line { file, line, problem })?);
    }
    Ok(())
}

fn parse_rule<'a>(
    file: &'static str,
    line: usize,
    mut fields: impl Iterator<Item = &'a [u8]>,
) -> Result<Rule, LineProblem> {
    let pattern = fields.next().unwrap_or_default();
    let mut context = fields.next().ok_or(LineProblem::NoContext)?;
    let mut file_type = None;
    if let Some(letter) = context.strip_prefix(b"-") {
        let known = <[u8; 1]>::try_from(letter).ok().and_then(|[letter]| FileType::from_letter(letter));
        file_type = Some(known.ok_or(LineProblem::FileType)?);
        context = fields.next().ok_or(LineProblem::NoContext)?;
    }
    if fields.next().is_some() {
        return Err(LineProblem::TrailingField);
    }
    if context.len() > CONTEXT_MAX_BYTES {
        return Err(LineProblem::LongContext);
    }
    if pattern.contains(&0) || context.contains(&0) {
        return Err(LineProblem::Nul);
    }
    Ok(Rule { pattern: pattern.into(), file_type, context: context.into(), file, line })
}

/// Adds the aliases of one file; they replace earlier ones for the same paths.
pub(super) fn parse_aliases(
    file: &'static str,
    text: &[u8],
    aliases: &mut HashMap<Box<[u8]>, Box<[u8]>>,
) -> Result<(), PolicyError> {
    for (line, mut fields) in lines(text) {
        let wrong = |problem| PolicyError::Line { file, line, problem };
        let alias = fields.next().unwrap_or_default();
        let original = fields.next().ok_or(wrong(LineProblem::NoOriginal))?;
        if fields.next().is_some() {
            return Err(wrong(LineProblem::TrailingField));
        }
        aliases.insert(alias.into(), original.into());
    }
    Ok(())
}

/// The numbers, from 1, and fields of all lines that have any and are not comments.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, impl Iterator<Item = &[u8]>)> {
    text.split(|byte| *byte == b'\n').enumerate().filter_map(|(index, line)| {
        let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        let mut fields = line.split(is_blank).filter(|field: &&[u8]| !field.is_empty()).peekable();
        let first = fields.peek()?;
        (!first.starts_with(b"#")).then_some((index + 1, fields))
    })
}
