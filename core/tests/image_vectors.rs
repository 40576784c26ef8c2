//! Images, dumpfiles and digests against test vectors.
//!
//! The vectors below `tests/vectors/` were made for this project with the reference tools; the recipe is in their README.
//! Vectors that were taken from other projects' test suites are not in this repository. They are used where they are
//! found, in `../shared/vectors` beside the repository.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use osupdate_core::erofs::{self, Format};
use osupdate_core::tree::{Directory, Entry, LeafKind, Tree};
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

fn dump_bytes(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    dumpfile::write(tree, &mut out).unwrap();
    out
}

fn dump(tree: &Tree) -> String {
    dump_bytes(tree).escape_ascii().to_string()
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

/// Reading an image and writing it again must make the same image, and versions 0 and 1 must keep the whole tree.
fn check_round_trip(tree: &Tree, image: &[u8], format: Format) -> Result<(), String> {
    let (read, read_format) = match erofs::read(image) {
        Ok(read) => read,
        Err(error) => return Err(format!("not read: {}", chain(&error))),
    };
    if read_format != format {
        return Err(format!("read as {read_format:?}"));
    }
    match erofs::write(&read, format) {
        Ok(again) if again == image => {}
        Ok(_) => return Err("written again, the image differs".to_owned()),
        Err(error) => return Err(format!("not written again: {}", error.problem)),
    }
    let (before, after) = (dump(&without_choices(tree)), dump(&without_choices(&read)));
    if format != Format::V2 && before != after {
        let difference = before.split("\\n/").zip(after.split("\\n/")).find(|(before, after)| before != after);
        return Err(format!("read tree differs: {difference:?}"));
    }
    if dumpfile::parse(&dump_bytes(&read)).as_ref().map(dump) != Ok(dump(&read)) {
        return Err("the dump of the tree is not parsed to the same tree".to_owned());
    }
    Ok(())
}

/// A tree without what its image cannot tell: which of two neighbouring names is the primary one, and whether a
/// directory with whiteouts had the mark of such directories before.
fn without_choices(tree: &Tree) -> Tree {
    fn remove_marks(directory: &mut Directory) {
        directory.stat.xattrs.remove(&b"user.overlay.opaque"[..]);
        for entry in directory.entries.values_mut() {
            if let Entry::Directory(child) = entry {
                remove_marks(child);
            }
        }
    }
    let mut tree = tree.clone();
    tree.leaves.iter_mut().for_each(|leaf| leaf.primary_path = None);
    remove_marks(&mut tree.root);
    tree
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

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
        // The default is one of the others.
        if variant != "default"
            && let Err(problem) = check_round_trip(&tree, &image, format)
        {
            failed.push(format!("{id}: {problem}"));
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

/// The reader of another project takes what we write: erofs-utils.
#[test]
fn images_pass_fsck_erofs() {
    let fsck = |path: &Path| std::process::Command::new("fsck.erofs").arg(path).output();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    if let Err(error) = fsck(&path) {
        assert!(std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_none(), "fsck.erofs: {error}");
        println!("skipped: fsck.erofs: {error}");
        return;
    }
    let mut failed = Vec::new();
    let mut checked = 0;
    for row in rows("INDEX.tsv").iter().filter(|row| matches!(row[2].as_str(), "v0" | "v1")) {
        let Some(dump) = find(&row[1]) else { continue };
        let format = if row[2] == "v0" { Format::V0 } else { Format::V1 };
        let image = erofs::write(&dumpfile::parse(&load(&dump)).unwrap(), format).unwrap();
        fs::write(&path, image).unwrap();
        let output = fsck(&path).unwrap();
        checked += 1;
        if !output.status.success() {
            failed.push(format!("{} {}: {}", row[0], row[2], String::from_utf8_lossy(&output.stderr)));
        }
    }
    println!("{checked} images");
    assert!(checked > 0 && failed.is_empty(), "{} of {checked} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn images_are_read_and_written_again() {
    let mut names: Vec<_> = fs::read_dir(own("images")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let peers = ["v0", "v1", "v2"].map(|variant| format!("rs-simple.{variant}.img.gz").into());
    names.extend(peers);
    for name in names {
        let name = name.to_str().unwrap();
        let Some(path) = find(&format!("images/{name}")) else { continue };
        let image = load(&path);
        let (tree, format) = erofs::read(&image).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert!(name.contains(&format!(".v{}.", format.number())), "{name}: read as {format:?}");
        assert!(erofs::write(&tree, format).unwrap() == image, "{name}: written again, the image differs");
    }
}

/// An image with an edit applied, in the words of the table.
fn malformed_image(base: &str, edit: &str) -> Vec<u8> {
    let mut image = load(&own(&format!("malformed/{base}.img.gz")));
    if let Some(len) = edit.strip_prefix("truncate to ") {
        image.truncate(len.strip_suffix(" bytes").unwrap().parse().unwrap());
    } else if edit != "whole image" {
        for change in edit.split(' ') {
            let (offset, hex) = change.split_once(':').unwrap();
            let at: usize = offset.parse().unwrap();
            for (index, pair) in hex.as_bytes().chunks(2).enumerate() {
                image[at + index] = u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
            }
        }
    }
    image
}

/// Cases that the Rust composefs takes and we do not, with what we say. It does not look at names, types and attributes
/// as closely, and at stubs and whiteouts only in its fsck.
const STRICTER: [(&str, &str); 23] = [
    ("link-size-0", "symlink target"),
    ("link-size-4096", "symlink target"),
    ("link-target-nul", "symlink target"),
    ("dirent-ftype-dir", "directory says type 2"),
    ("dirent-ftype-0", "directory says type 0"),
    ("dirent-reserved", "malformed directory block"),
    ("name-nul", "malformed file name"),
    ("name-slash", "malformed file name"),
    ("name-unsorted", "out of order"),
    ("xattr-filter-0", "filter"),
    ("xattr-name-nul", "malformed extended attribute name"),
    ("redirect-no-slash", "redirect"),
    ("redirect-traversal", "redirect"),
    ("redirect-and-metacopy-renamed", "filter"),
    ("chunk-entry-not-null", "chunk table"),
    ("chunk-format-indexes", "chunk table"),
    ("chunk-format-reserved", "chunk table"),
    ("ext-size-huge", "external file"),
    ("redirect-nonhex", "redirect"),
    ("redirect-other-object", "redirect"),
    ("metacopy-digest-changed", "redirect"),
    ("v1-with-whiteout-marked-v2", "trusted.overlay.opaque"),
    ("v2-marked-v1", "chunk table"),
];

/// In versions 0 and 1 a payload need not be the path of the digest: mkcomposefs takes it from the dumpfile.
const V1_TAKES: [&str; 3] = ["redirect-nonhex", "redirect-other-object", "metacopy-digest-changed"];

#[test]
fn malformed_images() {
    let mut failed = Vec::new();
    let rows = rows("malformed/MALFORMED.tsv");
    for row in &rows {
        let [base, case, edit, read_tree, ..] = &row[..] else { panic!("short row {row:?}") };
        let image = malformed_image(base, edit);
        let result = erofs::read(&image);
        let name = if case == "-" { base } else { case };
        let stricter = STRICTER.iter().find(|(case, _)| case == name);
        let stricter = stricter.filter(|(case, _)| base != "base-v1" || !V1_TAKES.contains(case));
        let verdict = result.as_ref().map_or_else(|error| chain(error), |_| "accepted".to_owned());
        println!("{base} {case}: {verdict}");
        let expected = match stricter {
            Some((_, reason)) => verdict.contains(reason),
            None => result.is_err() == read_tree.starts_with("reject"),
        };
        if !expected {
            failed.push(format!("{base} {case}: {verdict}, expected {stricter:?} or {read_tree}"));
        }
        assert_eq!(erofs::objects(&image).is_err(), result.is_err());
    }
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

#[test]
fn directories_can_be_nested_2047_times() {
    let check = || {
        let image = malformed_image("v2-depth-2047", "whole image");
        let (tree, format) = erofs::read(&image).unwrap();
        assert!(erofs::write(&tree, format).unwrap() == image);
        let v1 = erofs::write(&tree, Format::V1).unwrap();
        assert_eq!(dump(&erofs::read(&v1).unwrap().0), dump(&tree));
    };
    // Dropping a tree recurses; without optimization that needs more than the 2 MiB of test threads.
    std::thread::Builder::new().stack_size(8 << 20).spawn(check).unwrap().join().unwrap();
}

#[test]
fn questionable_dumps() {
    let mut failed = Vec::new();
    for row in rows("dump-edge.tsv") {
        let [case, c, _, rs, _, sha256] = &row[..] else { panic!("short row {row:?}") };
        let Some(path) = find(&format!("dump-edge/{case}.dump")) else { continue };
        let result = dumpfile::parse(&load(&path));
        println!("{case}: {}", result.as_ref().map_or_else(|error| error.to_string(), |_| "accepted".to_owned()));
        match result {
            Err(error) if c == "accept" && rs == "accept" => failed.push(format!("{case}: {error}")),
            Ok(_) if c != "accept" && rs != "accept" => failed.push(format!("{case}: accepted")),
            Ok(tree) if c == "accept" => {
                let image = erofs::write(&tree, Format::V1).unwrap();
                let hex: String = sha2::Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
                if hex != *sha256 {
                    failed.push(format!("{case}: image differs"));
                }
            }
            _ => {}
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn fsverity_digests() {
    for row in rows("fsverity/fsverity.tsv") {
        let [size, pattern, algorithm, expected, ..] = &row[..] else { panic!("short row {row:?}") };
        let size: usize = size.parse().unwrap();
        let data: Vec<u8> = match pattern.as_str() {
            "zero" => vec![0; size],
            "5a" => vec![0x5a; size],
            "mod251" => (0..size).map(|i| (i % 251) as u8).collect(),
            text => text.strip_prefix("text:").unwrap().replace("\\n", "\n").into_bytes(),
        };
        assert_eq!(data.len(), size, "{row:?}");
        let algorithm: Algorithm = algorithm.parse().unwrap();
        assert_eq!(fsverity::digest(algorithm, &data).to_string(), *expected, "{size} bytes of {pattern}");
    }
}

/// Small random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Damages images in random places. The reader must return, and what it takes must be a tree that can be written.
#[test]
fn damaged_images_are_refused_or_sound() {
    const INTERESTING: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 0x24];
    let rounds = std::env::var("OSUPDATE_TEST_ROUNDS").map_or(400, |rounds| rounds.parse().unwrap());
    let mut images: Vec<_> =
        ["base-v1", "base-v2", "v1-with-whiteout"].map(|base| load(&own(&format!("malformed/{base}.img.gz")))).into();
    images.extend(
        ["random-canon-18.v0", "random-canon-18.v1", "random-canon-18.v2", "xattr-shared-order.v1"]
            .map(|name| load(&own(&format!("images/{name}.img.gz")))),
    );
    let mut random = Random(0x5eed);
    let mut accepted = 0;
    for round in 0..rounds {
        for (number, image) in images.iter().enumerate() {
            let mut image = image.clone();
            // Most of an image can be stubs and padding: aim at bytes that are something.
            let used: Vec<usize> = (1024..image.len()).filter(|&at| image[at] != 0).collect();
            for _ in 0..1 + random.below(4) {
                let at = used[random.below(used.len())].saturating_add(random.below(4)).min(image.len() - 1);
                image[at] = match random.below(3) {
                    0 => INTERESTING[random.below(INTERESTING.len())],
                    1 => image[at] ^ 1 << random.below(8),
                    _ => random.below(256) as u8,
                };
            }
            let Ok((tree, format)) = erofs::read(&image) else { continue };
            accepted += 1;
            let again = erofs::write(&tree, format)
                .unwrap_or_else(|error| panic!("round {round} of image {number}: {}", chain(&error)));
            let (tree_again, _) = erofs::read(&again)
                .unwrap_or_else(|error| panic!("round {round} of image {number}: {}", chain(&error)));
            assert_eq!(dump(&tree_again), dump(&tree), "round {round} of image {number}");
        }
    }
    println!("{accepted} of {} damaged images were sound", rounds * images.len());
    assert!(accepted > 0, "nothing was accepted: the test does not reach the later checks");
}
