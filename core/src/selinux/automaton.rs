//! Finds the rule that wins for a path: one automaton for almost all patterns, PCRE2 for the few that it cannot match.
//!
//! What is matched is the path followed by the letter of its file type. The automaton is a lazily built DFA of all patterns,
//! the last rule first, so that a look-up costs one step for each byte of the path, however many rules there are. Its size,
//! its cache and how often that may fill up are limited, and with them the time that hostile patterns can take.

use pcre2::bytes::{Regex, RegexBuilder};
use regex_automata::hybrid::dfa::{Cache, Config, DFA};
use regex_automata::nfa::thompson::{self, NFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::Hir;

use super::pattern::translate;
use super::rules::Rule;
use super::{FileType, PolicyError};

/// Largest compiled form of all patterns, in bytes. The rules of a distribution take 4 MiB.
const NFA_MAX_BYTES: usize = 48 << 20;
/// Size of the DFA's cache, in bytes. For half a million paths and the rules of a distribution 6 MB suffice.
const CACHE_BYTES: usize = 32 << 20;
/// How often the cache may be filled.
const CACHE_FILLS_MAX: usize = 4;
/// Steps that PCRE2 may take for all look-ups together, and the fewest and the most for one.
const STEPS_MAX: u64 = 1 << 33;
const LOOKUP_STEPS_MIN: u64 = 500;
const LOOKUP_STEPS_MAX: u64 = 1_000_000;
/// PCRE2's working memory for one look-up, in KiB.
const LOOKUP_MEMORY_KIB: u32 = 16 << 10;

#[derive(Debug)]
pub(super) struct Automaton {
    dfa: DFA,
    cache: Cache,
    /// The rules whose patterns are in the DFA, by pattern number: the last rule first.
    rules: Vec<usize>,
    /// The other rules, the last one first.
    backtracking: Vec<(usize, Regex)>,
    /// What is matched, kept to be reused.
    subject: Vec<u8>,
}

impl Automaton {
    pub(super) fn compile(rules: &[Rule], paths: usize) -> Result<Self, PolicyError> {
        let mut hirs = Vec::with_capacity(rules.len());
        let mut in_dfa = Vec::with_capacity(rules.len());
        let mut in_pcre2 = Vec::new();
        for (index, rule) in rules.iter().enumerate().rev() {
            match translate(&rule.pattern) {
                Some(pattern) => {
                    hirs.push(parse(rule, &pattern)?);
                    in_dfa.push(index);
                }
                None => in_pcre2.push(index),
            }
        }
        let dfa = compile_dfa(&hirs).ok_or_else(|| too_large(&in_dfa, rules, &hirs))?;
        let backtracking = compile_backtracking(&in_pcre2, rules, paths)?;
        Ok(Self { cache: dfa.create_cache(), dfa, rules: in_dfa, backtracking, subject: Vec::new() })
    }

    /// The index of the last rule that fits.
    pub(super) fn lookup(
        &mut self,
        rules: &[Rule],
        path: &[u8],
        file_type: FileType,
    ) -> Result<Option<usize>, PolicyError> {
        self.subject.clear();
        self.subject.extend_from_slice(path);
        self.subject.push(file_type.letter());
        let shown = || String::from_utf8_lossy(path).into_owned();
        let input = Input::new(&self.subject).anchored(Anchored::Yes);
        let found = self.dfa.try_search_fwd(&mut self.cache, &input);
        let found = found.map_err(|_| PolicyError::TooComplex { path: shown() })?;
        let found = found.map(|half_match| self.rules[half_match.pattern().as_usize()]);
        for (index, regex) in &self.backtracking {
            if found.is_some_and(|found| found > *index) {
                break;
            }
            let Rule { file, line, .. } = rules[*index];
            if regex.is_match(&self.subject).map_err(|_| PolicyError::TooSlow { file, line, path: shown() })? {
                return Ok(Some(*index));
            }
        }
        Ok(found)
    }
}

fn wrong(rule: &Rule, source: impl std::error::Error + Send + Sync + 'static) -> PolicyError {
    let pattern = String::from_utf8_lossy(&rule.pattern).into_owned();
    PolicyError::Pattern { file: rule.file, line: rule.line, pattern, source: source.into() }
}

fn parse(rule: &Rule, pattern: &str) -> Result<Hir, PolicyError> {
    let letter = rule.file_type.map_or_else(|| ".".to_owned(), |file_type| format!("\\x{:02x}", file_type.letter()));
    let config = syntax::Config::new().unicode(false).utf8(false).dot_matches_new_line(true);
    syntax::parse_with(&format!("^(?:{pattern}){letter}$"), &config).map_err(|source| wrong(rule, source))
}

fn thompson_compiler() -> thompson::Compiler {
    let mut compiler = NFA::compiler();
    let config = thompson::Config::new().nfa_size_limit(Some(NFA_MAX_BYTES)).utf8(false);
    compiler.configure(config.which_captures(thompson::WhichCaptures::None));
    compiler
}

/// `None` if the patterns are too large.
fn compile_dfa(hirs: &[Hir]) -> Option<DFA> {
    let nfa = thompson_compiler().build_many_from_hir(hirs).ok()?;
    let config = Config::new()
        .match_kind(MatchKind::LeftmostFirst)
        .cache_capacity(CACHE_BYTES)
        .skip_cache_capacity_check(true)
        .minimum_cache_clear_count(Some(CACHE_FILLS_MAX));
    DFA::builder().configure(config).build_from_nfa(nfa).ok()
}

/// Names the rule at which the compiled forms, that of the first rule first, become too large.
fn too_large(in_dfa: &[usize], rules: &[Rule], hirs: &[Hir]) -> PolicyError {
    let mut size_bytes = 0;
    let mut at = (rules[0].file, rules[0].line);
    for (index, hir) in std::iter::zip(in_dfa, hirs).rev() {
        at = (rules[*index].file, rules[*index].line);
        size_bytes += thompson_compiler().build_from_hir(hir).map_or(NFA_MAX_BYTES, |nfa| nfa.memory_usage());
        if size_bytes >= NFA_MAX_BYTES {
            break;
        }
    }
    PolicyError::TooLarge { file: at.0, line: at.1 }
}

fn compile_backtracking(in_pcre2: &[usize], rules: &[Rule], paths: usize) -> Result<Vec<(usize, Regex)>, PolicyError> {
    let lookups = (paths.max(1) as u64).saturating_mul(in_pcre2.len().max(1) as u64);
    let steps = (STEPS_MAX / lookups).min(LOOKUP_STEPS_MAX);
    let mut compiled = Vec::with_capacity(in_pcre2.len());
    for index in in_pcre2 {
        let rule = &rules[*index];
        if steps < LOOKUP_STEPS_MIN {
            return Err(PolicyError::TooManyBacktracking { file: rule.file, line: rule.line });
        }
        let pattern = std::str::from_utf8(&rule.pattern).map_err(|source| wrong(rule, source))?;
        let mut builder = RegexBuilder::new();
        builder.dotall(true);
        // By itself first: parentheses must not find their partners in what is put around it.
        builder.build(pattern).map_err(|source| wrong(rule, source))?;
        let letter =
            rule.file_type.map_or_else(|| ".".to_owned(), |file_type| format!("\\x{:02x}", file_type.letter()));
        let limits = format!("(*LIMIT_MATCH={steps})(*LIMIT_HEAP={LOOKUP_MEMORY_KIB})");
        let whole = builder.build(&format!("{limits}^(?:{pattern}){letter}$")).map_err(|source| wrong(rule, source))?;
        compiled.push((*index, whole));
    }
    Ok(compiled)
}
