use std::error::Error;

use super::*;
use crate::dumpfile;
use crate::tree::{Content, Directory, Entry, Leaf, LeafKind, Stat, Tree};

fn tree(lines: &str) -> Tree {
    dumpfile::parse(format!("/ 0 40755 2 0 0 0 0.0 - - -\n{lines}").as_bytes()).unwrap()
}

fn round_trip(tree: &Tree, format: Format) {
    let image = write(tree, format).unwrap();
    let (again, format_read) = read(&image).unwrap();
    assert_eq!((&again, format_read), (tree, format));
    assert_eq!(write(&again, format).unwrap(), image);
}

#[test]
fn special_files_with_a_huge_size_have_extended_inodes() {
    let plain = tree("/a 0 10600 1 0 0 0 0.0 - - -\n");
    let huge = tree("/a 4294967296 10600 1 0 0 0 0.0 - - -\n");
    round_trip(&plain, Format::V1);
    round_trip(&huge, Format::V1);
    assert_ne!(write(&plain, Format::V1).unwrap(), write(&huge, Format::V1).unwrap());
}

#[test]
fn a_nested_overlay_is_kept() {
    // What a container store leaves behind: the marks of an overlay of its own, on files that are no whiteouts of ours.
    let tree = tree(
        "/d 0 40755 2 0 0 0 0.0 - - - trusted.overlay.opaque=x user.overlay.whiteouts=\n\
         /d/x 0 100644 1 0 0 0 0.0 - - - trusted.overlay.whiteout=\n\
         /e 0 40755 2 0 0 0 0.0 - - -\n\
         /e/w 0 20000 1 0 0 0 0.0 - - - user.a=b\n",
    );
    for format in [Format::V0, Format::V1, Format::V2] {
        round_trip(&tree, format);
    }
}

#[test]
fn an_image_names_all_objects_that_it_may_be_asked_for() {
    let [digest, path] = ["ab", "cd"].map(|byte| byte.repeat(32));
    let lines = format!("/a 9 100644 1 0 0 0 0.0 {}/{} - {digest}\n", &path[..2], &path[2..]);
    let image = write(&tree(&lines), Format::V1).unwrap();
    let expected = [digest.parse().unwrap(), path.parse().unwrap()].into();
    assert_eq!(objects(&image).unwrap(), expected);
}

#[test]
fn acls_are_announced() {
    let acl = tree("/a 0 100644 1 0 0 0 0.0 - - - system.posix_acl_access=x\n");
    let uses = |tree: &Tree, format| uses_acl(&write(tree, format).unwrap()[..32]);
    assert_eq!(uses(&acl, Format::V1), Some(true));
    assert_eq!(uses(&tree(""), Format::V1), Some(false));
    assert_eq!(uses(&tree(""), Format::V2), Some(true));
    assert_eq!(uses_acl(&[0; 32]), None);
    assert_eq!(uses_acl(b"short"), None);
}

#[test]
fn version_2_is_narrower() {
    let problem = |lines| write(&tree(lines), Format::V2).unwrap_err().problem;
    let content = format!("/a 513 100644 1 0 0 0 0.0 - {} -\n", "x".repeat(513));
    assert_eq!(problem(&content), WriteProblem::InlineLength(513));
    let target = format!("/a 0 120777 1 0 0 0 0.0 {} - -\n", "x".repeat(1025));
    assert_eq!(problem(&target), WriteProblem::Target(1025, 1024));
    let linked = "/a 0 20000 2 0 0 0 0.0 - - -\n/b 0 @120000 - - - - 0.0 /a - -\n";
    assert_eq!(problem(linked), WriteProblem::WhiteoutLinked);
    assert_eq!(problem("/a 9 100644 1 0 0 0 0.0 not/an/object - -\n"), WriteProblem::PayloadNotObject);
}

#[test]
fn trees_that_have_no_image_are_refused_by_path() {
    let mut tree = Tree::default();
    let content = Content::Inline(Box::new([0; 5001]));
    let id = tree.push_leaf(Leaf::new(Stat::default(), LeafKind::Regular(content)));
    let mut directory = Directory::default();
    directory.entries.insert((*b"a\n").into(), Entry::Leaf(id));
    tree.root.entries.insert((*b"d").into(), Entry::Directory(directory));
    let error = write(&tree, Format::V1).unwrap_err();
    assert_eq!(error.to_string(), "cannot write /d/a\\n to an image");
    assert_eq!(error.source().unwrap().to_string(), "inline content of 5001 bytes is too long");

    let mut tree = Tree::default();
    tree.root.entries.insert((*b"..").into(), Entry::Directory(Directory::default()));
    assert_eq!(write(&tree, Format::V1).unwrap_err().problem, WriteProblem::Name);
}

#[test]
fn attributes_cannot_be_multiplied_without_end() {
    // Inodes that share an attribute of 65535 bytes have 60 bytes each in the image and a thousand times more in memory.
    let mut tree = Tree::default();
    let mut stat = Stat::default();
    stat.xattrs.insert((*b"user.a").into(), vec![0; 65535].into());
    for number in 0..1_400 {
        let id = tree.push_leaf(Leaf::new(stat.clone(), LeafKind::Fifo));
        tree.root.entries.insert(format!("{number}").into_bytes().into(), Entry::Leaf(id));
    }
    let image = write(&tree, Format::V1).unwrap();
    assert!(image.len() < 256 << 10);
    match read(&image).unwrap_err() {
        ReadError::File { problem, .. } => assert_eq!(problem, ReadProblem::XattrTotal),
        other => panic!("{other}"),
    }
}

/// The image of `lines`, with the count in front of the first inode of this mode changed to `count`.
fn with_xattr_count(lines: &str, mode: u16, count: u8) -> Vec<u8> {
    let mut image = write(&tree(lines), Format::V1).unwrap();
    let at = image.windows(2).position(|bytes| bytes == mode.to_le_bytes()).unwrap();
    image[at - 2] = count;
    image
}

#[test]
fn attributes_that_kernels_do_not_read_are_refused() {
    let message = |image: &[u8]| {
        let error = read(image).unwrap_err();
        format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default())
    };
    let empty = message(&with_xattr_count("/a 0 100640 1 0 0 0 0.0 - - -\n", 0o100_640, 1));
    assert!(empty.contains("/a") && empty.contains("header only"), "{empty}");
    // Of the names that hide the object store, too, although they are not in the tree.
    let hidden = with_xattr_count("", 0o20_644, 2);
    assert!(message(&hidden).contains("/00"), "{}", message(&hidden));
}
