//! Dumpfiles: what is accepted is the same after it was written, and so are the images made of it.

use osupdate_core::dumpfile::{parse, write};
use osupdate_core::erofs::{self, Format, ReadError, ReadProblem};

pub(crate) fn run(text: &[u8]) {
    let Ok(tree) = parse(text) else { return };
    let mut written = Vec::new();
    write(&tree, &mut written).expect("memory can be written to");
    let again = parse(&written).expect("a dumpfile of our own can be read");
    let mut written_again = Vec::new();
    write(&again, &mut written_again).expect("memory can be written to");
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&written_again));
    for format in [Format::V0, Format::V1, Format::V2] {
        let Ok(image) = erofs::write(&tree, format) else {
            erofs::write(&again, format).expect_err("a tree that no image can hold");
            continue;
        };
        assert_eq!(erofs::write(&again, format).expect("the same tree"), image, "{format:?}");
        let from_image = match erofs::read(&image) {
            Ok((tree, _)) => tree,
            // A dumpfile may state any link count, and it is written; images with impossible ones are not read.
            Err(ReadError::File { problem: ReadProblem::LinkCount { .. }, .. }) => continue,
            Err(error) => panic!("an image of our own cannot be read: {error:?}"),
        };
        assert_eq!(erofs::write(&from_image, format).expect("it was written before"), image, "{format:?}");
    }
}
