//! The threat model names a test for each attack that it calls covered: they exist.

use std::fs;
use std::path::{Path, PathBuf};

/// The source files below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn tests_that_the_threat_model_names_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for directory in ["core/src", "core/tests", "deploy/src", "tests/tests", "update/src", "update/tests"] {
        sources(&top.join(directory), &mut files);
    }
    let document = fs::read_to_string(top.join("update/TRUST.md")).unwrap();
    let named: Vec<_> = document.split('`').filter_map(|text| text.split_once(".rs: ")).collect();
    assert!(named.len() > 20, "there should be a test for each attack: {named:?}");
    for (file, test) in named {
        let is_meant = |path: &&PathBuf| path.ends_with(format!("{file}.rs"));
        let has_it = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap();
            let is_test = |indent: &str| text.contains(&format!("#[test]\n{indent}fn {test}()"));
            is_test("") || is_test("    ")
        };
        assert!(files.iter().filter(is_meant).any(has_it), "{file}.rs has no test {test}");
    }
}
