//! EROFS images: what is accepted can be written, and what is written is the same tree.

use std::collections::BTreeSet;

use osupdate_core::dumpfile;
use osupdate_core::erofs::{Format, find_objects, objects, read, uses_acl, write};
use osupdate_core::tree::{Directory, Entry, Tree};

pub(crate) fn run(image: &[u8]) {
    uses_acl(image);
    let objects = objects(image);
    let found = find_objects(image);
    let Ok((mut tree, format)) = read(image) else { return };
    if format == Format::V2 {
        // Its writers leave them out.
        clear_nanoseconds(&mut tree.root);
        tree.leaves.iter_mut().for_each(|leaf| leaf.stat.mtime_nanos = 0);
    }
    let objects = objects.expect("what can be read as a tree can be searched for objects");
    let found: BTreeSet<_> = found.expect("the same search, with fewer checks").into_iter().collect();
    assert_eq!(found, objects);
    let written = write(&tree, format).expect("what was read can be written");
    let (again, _) = read(&written).expect("what was written can be read");
    assert_eq!(tree, again, "the tree of the written image is another one");
    assert_eq!(write(&again, format).expect("it was written before"), written, "the same tree, another image");
    assert_eq!(objects, osupdate_core::erofs::objects(&written).expect("it was read before"));
    same_as_dump(&tree, format, &written);
}

fn clear_nanoseconds(directory: &mut Directory) {
    directory.stat.mtime_nanos = 0;
    for entry in directory.entries.values_mut() {
        if let Entry::Directory(child) = entry {
            clear_nanoseconds(child);
        }
    }
}

/// A tree that came from an image is the same after it was a dumpfile.
fn same_as_dump(tree: &Tree, format: Format, image: &[u8]) {
    let mut dump = Vec::new();
    dumpfile::write(tree, &mut dump).expect("memory can be written to");
    let from_dump = dumpfile::parse(&dump).expect("a dumpfile of our own can be read");
    assert_eq!(write(&from_dump, format).expect("the tree was written before"), image, "by way of a dumpfile");
}
