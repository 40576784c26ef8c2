//! What a user may have meant by a name that is not there.

/// Least similarity of a name that is worth a hint, between 0 and 1.
const SIMILAR: f64 = 0.8;
/// Most names in a hint.
const NAMED_MAX: usize = 5;

/// Names the tags that resemble a name, or else some of those that there are.
pub(super) fn hint(name: &str, tags: &[String]) -> String {
    if tags.is_empty() {
        return "there are no images at all: osupdate image pull REFERENCE".to_owned();
    }
    let mut near: Vec<_> = tags.iter().map(|tag| (similarity(name, tag), tag.as_str())).collect();
    near.retain(|(similarity, _)| *similarity >= SIMILAR);
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let named: Vec<_> = near.iter().map(|(_, tag)| *tag).take(NAMED_MAX).collect();
    if !named.is_empty() {
        return format!("similar tags: {}", named.join(", "));
    }
    let named: Vec<_> = tags.iter().map(String::as_str).take(NAMED_MAX).collect();
    let more = match tags.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more: osupdate image list"),
    };
    format!("there are: {}{more}", named.join(", "))
}

/// How much a name resembles a tag, or its last part: most tags are long references.
fn similarity(name: &str, tag: &str) -> f64 {
    let last = tag.rsplit('/').next().unwrap_or(tag);
    let base = last.split(':').next().unwrap_or(last);
    [tag, last, base].into_iter().map(|part| strsim::jaro_winkler(name, part)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, tags: &[&str]) -> String {
        hint(name, &tags.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn similar_names_come_before_any_names() {
        let tags = ["docker://registry.example/os:1", "docker://registry.example/os:2", "test"];
        assert_eq!(of("tset", &tags), "similar tags: test");
        assert_eq!(
            of("docker://registry.example/os:3", &tags),
            "similar tags: docker://registry.example/os:1, docker://registry.example/os:2"
        );
        assert_eq!(of("os:2", &tags), "similar tags: docker://registry.example/os:2, docker://registry.example/os:1");
        assert_eq!(of("banana", &tags[..1]), "there are: docker://registry.example/os:1");
        let many: Vec<_> = (0..9).map(|number| format!("x{number}")).collect();
        assert_eq!(hint("banana", &many), "there are: x0, x1, x2, x3, x4 and 4 more: osupdate image list");
        assert!(of("x", &[]).contains("no images at all"));
    }
}
