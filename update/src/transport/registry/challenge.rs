//! The challenges of a `WWW-Authenticate` header (RFC 9110 section 11.6.1).

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Parses `Scheme key=value, key="quoted value", Scheme2 …`; what does not fit is passed over.
pub(super) fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() && after.is_empty() {
            return challenges;
        }
        match after.trim_start().strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, after) = parse_value(value.trim_start());
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            // A stray = or, after a scheme, its token68 padding.
            Some(after) => rest = after,
            None => {
                challenges.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((i, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[i + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed_as_they_occur() {
        let all = parse_challenges(
            r#"Negotiate, Bearer realm="https://auth.example/token?a=b, c",service=registry , scope="repository:a/b:pull,push", Basic realm="a \"b\"""#,
        );
        let schemes: Vec<_> = all.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["Negotiate", "Bearer", "Basic"]);
        assert_eq!(all[1].parameter("Realm"), Some("https://auth.example/token?a=b, c"));
        assert_eq!(all[1].parameter("service"), Some("registry"));
        assert_eq!(all[1].parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(all[2].parameter("realm"), Some(r#"a "b""#));
    }

    #[test]
    fn broken_challenges_end() {
        for text in ["", "=", "==,", "Bearer", "Bearer realm=\"", "Bearer realm=\"\\", ",,Bearer =x", "realm=x"] {
            parse_challenges(text);
        }
        assert_eq!(parse_challenges("realm=x"), []);
    }
}
