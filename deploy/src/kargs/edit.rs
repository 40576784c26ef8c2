//! [`Edit`]: changes of a list of kernel arguments.

use thiserror::Error;

/// What is to be changed, in this order: arguments are removed, replaced, added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Arguments that go: `KEY=VALUE` is one, `KEY` all with this key.
    pub delete: Vec<String>,
    /// Arguments `KEY=VALUE` that take the place of the one with their key.
    pub replace: Vec<String>,
    /// Arguments that come, unless they are there.
    pub append: Vec<String>,
}

/// Why a list cannot be changed so.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EditError {
    /// What is to go is not there.
    #[error("this machine has no kernel argument {argument:?} of its own, it has: {}", list(present))]
    Missing {
        /// What is to go.
        argument: String,
        /// What is there.
        present: Vec<String>,
    },
    /// What is to be replaced is there more than once.
    #[error("this machine has several kernel arguments {key}=: {}", list(present))]
    Several {
        /// The key.
        key: String,
        /// They.
        present: Vec<String>,
    },
    /// It is not what can be replaced.
    #[error("{argument:?} cannot replace a kernel argument: it is not of the form KEY=VALUE")]
    NoValue {
        /// The argument.
        argument: String,
    },
}

fn list(arguments: &[String]) -> String {
    if arguments.is_empty() { "none".to_owned() } else { arguments.join(" ") }
}

fn key(argument: &str) -> &str {
    argument.split('=').next().unwrap_or_default()
}

impl Edit {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The list with the changes.
    pub fn apply(&self, arguments: &[String]) -> Result<Vec<String>, EditError> {
        let mut result = arguments.to_vec();
        for argument in &self.delete {
            let goes = |present: &String| present == argument || !argument.contains('=') && key(present) == argument;
            let before = result.len();
            result.retain(|present| !goes(present));
            if result.len() == before {
                return Err(EditError::Missing { argument: argument.clone(), present: result });
            }
        }
        for argument in &self.replace {
            if !argument.contains('=') {
                return Err(EditError::NoValue { argument: argument.clone() });
            }
            let places: Vec<usize> = (0..result.len()).filter(|place| key(&result[*place]) == key(argument)).collect();
            match places[..] {
                [place] => result[place].clone_from(argument),
                [] => return Err(EditError::Missing { argument: format!("{}=", key(argument)), present: result }),
                _ => {
                    let present = places.iter().map(|place| result[*place].clone()).collect();
                    return Err(EditError::Several { key: key(argument).to_owned(), present });
                }
            }
        }
        for argument in &self.append {
            if !result.contains(argument) {
                result.push(argument.clone());
            }
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn apply(delete: &[&str], replace: &[&str], append: &[&str]) -> Result<Vec<String>, EditError> {
        let edit = Edit { delete: strings(delete), replace: strings(replace), append: strings(append) };
        edit.apply(&strings(&["rw", "console=tty0", "console=ttyS0", "loglevel=3"]))
    }

    #[test]
    fn arguments_go_change_and_come() {
        let all = ["rw", "console=tty0", "console=ttyS0", "loglevel=3"];
        assert_eq!(
            apply(&["console=tty0"], &["loglevel=7"], &["quiet", "rw"]).unwrap(),
            ["rw", "console=ttyS0", "loglevel=7", "quiet"]
        );
        assert_eq!(apply(&["console"], &[], &["console=ttyS1"]).unwrap(), ["rw", "loglevel=3", "console=ttyS1"]);
        assert_eq!(apply(&[], &[], &[]).unwrap(), all);
    }

    #[test]
    fn what_is_not_there_or_not_clear_is_said() {
        let err = apply(&["quiet"], &[], &[]).unwrap_err().to_string();
        assert_eq!(
            err,
            "this machine has no kernel argument \"quiet\" of its own, it has: rw console=tty0 console=ttyS0 loglevel=3"
        );
        assert!(matches!(apply(&[], &["console=x"], &[]), Err(EditError::Several { .. })));
        assert!(matches!(apply(&[], &["quiet=1"], &[]), Err(EditError::Missing { .. })));
        assert!(matches!(apply(&[], &["rw"], &[]), Err(EditError::NoValue { .. })));
    }
}
