//! What registries say in the body of an error.

use crate::output::printable;

/// What a registry says in the body of an error: `{"errors": [{"code": …, "message": …}]}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The first error's message, or code; empty if there is none. One line, printable, of bounded length.
    pub(super) message: String,
    /// Whether the body has the form that registries use.
    pub(super) is_registry: bool,
}

impl Complaint {
    /// Reads the body of an error.
    pub(super) fn parse(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Body {
            errors: Vec<Item>,
        }
        #[derive(serde::Deserialize)]
        struct Item {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        match serde_json::from_slice::<Body>(body) {
            Ok(Body { errors }) => {
                let message = errors.into_iter().next().map(|item| match item.message.is_empty() {
                    true => item.code,
                    false => item.message,
                });
                Self { message: printable(&message.unwrap_or_default()), is_registry: true }
            }
            Err(_) => Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_write_to_the_terminal_as_they_like() {
        let body = br#"{"errors": [{"code": "DENIED", "message": "no\u001b]0;title\u0007"}]}"#;
        assert_eq!(Complaint::parse(body), Complaint { message: "no]0;title".to_owned(), is_registry: true });
        assert_eq!(Complaint::parse(b"<html>"), Complaint::default());
    }
}
