//! The threat models name a test for each attack that they call covered: these exist.

use std::fs;
use std::path::{Path, PathBuf};

/// The documents, and the least number of tests that each names.
const DOCUMENTS: [(&str, usize); 2] = [("update/TRUST.md", 20), ("efi/SEALING.md", 10)];

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
fn tests_that_the_threat_models_name_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for crate_directory in ["core", "deploy", "efi", "initramfs", "tests", "update"] {
        for directory in ["src", "tests"] {
            let directory = top.join(crate_directory).join(directory);
            if directory.is_dir() {
                sources(&directory, &mut files);
            }
        }
    }
    for (document, least) in DOCUMENTS {
        let text = fs::read_to_string(top.join(document)).unwrap();
        let named: Vec<_> = text.split('`').filter_map(|text| text.split_once(".rs: ")).collect();
        assert!(named.len() >= least, "{document} should name a test for each attack: {named:?}");
        for (file, test) in named {
            let is_meant = |path: &&PathBuf| path.ends_with(format!("{file}.rs"));
            let has_it = |path: &PathBuf| {
                let text = fs::read_to_string(path).unwrap();
                let is_test = |indent: &str| text.contains(&format!("#[test]\n{indent}fn {test}()"));
                is_test("") || is_test("    ")
            };
            assert!(files.iter().filter(is_meant).any(has_it), "{document}: {file}.rs has no test {test}");
        }
    }
}
