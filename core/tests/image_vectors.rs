//! Images, dumpfiles and digests against test vectors.
//!
//! The vectors below `tests/vectors/` were made for this project with the reference tools; the recipe is in their README.
//! Vectors that were taken from other projects' test suites are not in this repository. They are used where they are
//! found, in `../shared/vectors` beside the repository.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use osupdate_core::erofs::{self, Format};
use osupdate_core::tree::{LeafKind, Tree};
use osupdate_core::{Algorithm, dumpfile, fsverity};
use sha2::Digest as _;

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(path)
}

/// Where a vector is, or `None`, with a note, if it is one that is kept outside and not there.
fn find(path: &str) -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/image");
    let found = [own(path), shared.join(path)].into_iter().find(|candidate| candidate.exists());
    if found.is_none() {
        println!("skipped {path}: vectors of other projects are not here ({})", shared.display());
    }
    found
}

fn load(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_none_or(|extension| extension != "gz") {
        return bytes;
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    plain
}

/// Rows of a table without its head line, as columns.
fn rows(table: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(own(table)).unwrap();
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn dump(tree: &Tree) -> String {
    let mut out = Vec::new();
    dumpfile::write(tree, &mut out).unwrap();
    out.escape_ascii().to_string()
}

/// The format that `mkcomposefs` chooses when it is not told.
fn default_format(tree: &Tree) -> Format {
    let whiteouts = tree.leaves.iter().any(|leaf| leaf.kind == LeafKind::CharDevice(0));
    if whiteouts { Format::V1 } else { Format::V0 }
}

/// Version 2 rows that a peer makes differently, and why.
const V2_EXEMPT: [(&str, &str); 3] = [
    ("external-content-and-digest", "content and object on one file: content wins here, as in the other formats"),
    ("peer:fuzz-alpine", "object for an empty file: it is an empty file here, as in the other formats"),
    ("peer:fuzz-fedora", "object for an empty file: it is an empty file here, as in the other formats"),
];

fn check_index(variant: &str) {
    let mut failed = Vec::new();
    let mut checked = 0;
    for row in rows("INDEX.tsv").iter().filter(|row| row[2] == variant) {
        let [id, path, _, size, sha256, verity256, verity512, ..] = &row[..] else { panic!("short row {row:?}") };
        let Some(path) = find(path) else { continue };
        let exempt = V2_EXEMPT.iter().find(|(exempt, _)| variant == "v2" && exempt == id);
        if let Some((_, reason)) = exempt {
            println!("skipped {id} v2: {reason}");
            continue;
        }
        let tree = match dumpfile::parse(&load(&path)) {
            Ok(tree) => tree,
            Err(error) => {
                failed.push(format!("{id}: {error}"));
                continue;
            }
        };
        let format = match variant {
            "v0" => Format::V0,
            "v1" => Format::V1,
            "v2" => Format::V2,
            _ => default_format(&tree),
        };
        let image = match erofs::write(&tree, format) {
            Ok(image) => image,
            Err(error) => {
                failed.push(format!("{id}: {error}: {}", error.problem));
                continue;
            }
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let got = [
            image.len().to_string(),
            hex(&sha2::Sha256::digest(&image)),
            fsverity::digest(Algorithm::Sha256, &image).to_string(),
            fsverity::digest(Algorithm::Sha512, &image).to_string(),
        ];
        if [size, sha256, verity256, verity512] != got.each_ref() {
            failed.push(format!("{id}: image differs, {} bytes, expected {size}", got[0]));
        }
        checked += 1;
    }
    println!("{variant}: {checked} images");
    assert!(failed.is_empty(), "{} of {checked} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn index_v1() {
    check_index("v1");
}

#[test]
fn index_v0() {
    check_index("v0");
}

#[test]
fn index_default() {
    check_index("default");
}

#[test]
fn index_v2() {
    check_index("v2");
}
