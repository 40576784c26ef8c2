//! Paths that the patterns of a policy match, or almost match.

use osupdate_core::selinux::FileType;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::Question;

/// Most samples of one pattern.
const OF_ONE_MAX: usize = 8;

/// Samples of every rule in a `file_contexts`, for its file type and another one, and with something before or after.
pub(crate) fn of_rules(rules: &[u8]) -> Vec<Question> {
    let mut questions = Vec::new();
    for line in String::from_utf8_lossy(rules).lines().filter(|line| !line.trim_start().starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [pattern, types @ ..] = &fields[..] else { continue };
        let hir = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern).unwrap();
        let file_type = match types.first().map(|type_| type_.as_bytes()) {
            Some(b"-d") => FileType::Directory,
            Some(b"-l") => FileType::Symlink,
            Some(b"-s") => FileType::Socket,
            Some(b"-p") => FileType::Fifo,
            Some(b"-b") => FileType::BlockDevice,
            Some(b"-c") => FileType::CharDevice,
            _ => FileType::Regular,
        };
        for sample in samples(&hir) {
            let longer = [&sample[..], b"/more"].concat();
            let shorter = sample[..sample.len().saturating_sub(1)].to_vec();
            questions.push((sample.clone(), FileType::Directory));
            questions.extend([sample, longer, shorter].map(|path| (path, file_type)));
        }
    }
    // libselinux takes several slashes for one and removes the last one; paths of files have none of either.
    questions.retain(|(path, _)| {
        path.starts_with(b"/") && !path.ends_with(b"/") && !path.windows(2).any(|pair| pair == b"//")
    });
    questions
}

fn samples(hir: &Hir) -> Vec<Vec<u8>> {
    let mut found = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Vec::new()],
        HirKind::Literal(literal) => vec![literal.0.to_vec()],
        HirKind::Class(class) => {
            let bytes = match class {
                Class::Bytes(bytes) => Some(bytes.clone()),
                Class::Unicode(ascii) => ascii.to_byte_class(),
            };
            let bytes = bytes.expect("a class of bytes");
            let ranges = bytes.ranges();
            let has = |byte: u8| ranges.iter().any(|range| (range.start()..=range.end()).contains(&byte));
            let usual = [b'x', b'.', b'7'].into_iter().filter(|byte| has(*byte));
            let all = usual.chain(ranges.first().map(|range| range.start()).filter(|first| *first > b' '));
            all.map(|byte| vec![byte]).collect()
        }
        HirKind::Repetition(repetition) => {
            let of_one = samples(&repetition.sub);
            let mut times = vec![repetition.min, repetition.min + 1];
            times.retain(|times| repetition.max.is_none_or(|max| *times <= max));
            times.into_iter().flat_map(|times| of_one.iter().map(move |one| one.repeat(times as usize))).collect()
        }
        HirKind::Capture(capture) => samples(&capture.sub),
        HirKind::Concat(parts) => {
            let mut all = vec![Vec::new()];
            for part in parts {
                let of_part = samples(part);
                let count = all.len().max(of_part.len()).min(OF_ONE_MAX);
                // Not every combination: each sample of both at least once.
                all = (0..count)
                    .map(|index| [&all[index % all.len()][..], &of_part[index % of_part.len()]].concat())
                    .collect();
            }
            all
        }
        HirKind::Alternation(alternatives) => alternatives.iter().flat_map(samples).collect(),
    };
    found.dedup();
    found.truncate(OF_ONE_MAX);
    found
}
