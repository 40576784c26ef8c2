//! What readers of whole trees will read next.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::view::{Directory, Kind, Node};

/// How many files a reader may leave out and is still taken for one that goes through a tree.
const SKIPPED_MAX: u32 = 16;
/// Files that a reader has read in order before anything is done ahead of him.
const RUN_MIN: u32 = 2;
/// Files and bytes that are prepared ahead of a reader, at the most.
const FILES_MAX: u32 = 64;
const BYTES_MAX: u64 = 32 << 20;
/// Readers that are told apart.
const READERS_MAX: usize = 8;
/// For inodes without an object.
const NOWHERE: u32 = u32::MAX;

/// Files in the order in which a tree is walked, depth first and each directory as it is listed, and who reads them in that order.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Objects and their sizes in that order.
    order: Vec<(u32, u64)>,
    /// Where in the order an inode is, by its number minus one.
    positions: Vec<u32>,
    readers: Mutex<Vec<Reader>>,
}

/// Who went through a tree. Positions are indexes of the order.
#[derive(Clone, Copy, Debug)]
struct Reader {
    last: u32,
    /// Files read in order.
    run: u32,
    /// What comes before has been prepared.
    prepared: u32,
}

impl Ahead {
    /// `size` is that of an object's file.
    pub(crate) fn new(nodes: &[Node]) -> Self {
        let mut ahead = Self {
            order: Vec::new(),
            positions: vec![NOWHERE; nodes.len()],
            readers: Mutex::new(Vec::with_capacity(READERS_MAX)),
        };
        let entries = |directory: &Directory| directory.entries.iter().map(|(_, child)| *child).rev().collect();
        let mut rest: Vec<u64> = vec![1];
        while let Some(number) = rest.pop() {
            let at = number as usize - 1;
            match &nodes[at].kind {
                Kind::Directory(directory) => rest.extend::<Vec<_>>(entries(directory)),
                Kind::Object(index) if ahead.positions[at] == NOWHERE => {
                    ahead.positions[at] = ahead.order.len() as u32;
                    ahead.order.push((*index, nodes[at].attr.size));
                }
                _ => {}
            }
        }
        ahead
    }

    /// Objects to prepare when this inode is read: none unless a reader goes through the tree.
    pub(crate) fn after(&self, number: u64) -> impl Iterator<Item = u32> {
        let position = self.positions[number as usize - 1];
        let range = if position == NOWHERE { 0..0 } else { self.range_after(position) };
        self.order[range].iter().map(|(index, _)| *index)
    }

    fn range_after(&self, position: u32) -> Range<usize> {
        // What is guarded is whole at every instant.
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let follows = |reader: &Reader| position >= reader.last && position - reader.last <= SKIPPED_MAX + 1;
        let mut reader = match readers.iter().position(follows) {
            Some(found) => readers.remove(found),
            None => Reader { last: position, run: 0, prepared: position + 1 },
        };
        let again = position == reader.last && reader.run > 0;
        if !again {
            (reader.last, reader.run) = (position, reader.run + 1);
        }
        let from = reader.prepared.max(position + 1);
        let to = if again || reader.run < RUN_MIN { from } else { self.end(position, reader.run).max(from) };
        reader.prepared = to;
        // The one that has not read for longest is last, and forgotten first.
        readers.truncate(READERS_MAX - 1);
        readers.insert(0, reader);
        from as usize..to as usize
    }

    /// How far is prepared for a reader that has read so many files in order.
    fn end(&self, position: u32, run: u32) -> u32 {
        let first = position as usize + 1;
        let last = (first + (2 * run).min(FILES_MAX) as usize).min(self.order.len());
        let mut bytes = 0;
        let fitting = self.order[first.min(last)..last].iter().take_while(|(_, size)| {
            bytes += size;
            bytes <= BYTES_MAX
        });
        position + 1 + fitting.count() as u32
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use fuser::{FileAttr, FileType, INodeNo};
    use osupdate_core::tree::Xattrs;

    use super::*;

    const NOTHING: [u32; 0] = [];

    fn node(size: u64, kind: Kind) -> Node {
        let time = SystemTime::UNIX_EPOCH;
        let attr = FileAttr {
            ino: INodeNo(0),
            size,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::RegularFile,
            perm: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        Node { attr, xattrs: Xattrs::default(), kind }
    }

    fn directory(children: impl IntoIterator<Item = u64>) -> Node {
        let entries = children.into_iter().map(|child| (child.to_string().into_bytes().into(), child)).collect();
        node(0, Kind::Directory(Directory { parent: 1, entries }))
    }

    /// A directory of so many files of this size; file `n` is object `n` and inode `n + 2`.
    fn flat(count: u32, size: u64) -> Ahead {
        let files = (0..count).map(|index| node(size, Kind::Object(index)));
        Ahead::new(&[directory(2..u64::from(count) + 2)].into_iter().chain(files).collect::<Vec<_>>())
    }

    fn after(ahead: &Ahead, file: u64) -> Vec<u32> {
        ahead.after(file + 2).collect()
    }

    #[test]
    fn a_tree_is_walked_in_depth_and_links_and_others_are_left_out() {
        // /2 is a file, /3 a directory with 5, 6 (inline) and 2 once more, /4 a file.
        let nodes = [
            directory([2, 3, 4]),
            node(1, Kind::Object(7)),
            directory([5, 6, 2]),
            node(1, Kind::Object(8)),
            node(1, Kind::Object(9)),
            node(1, Kind::Inline(Box::default())),
        ];
        let ahead = Ahead::new(&nodes);
        assert_eq!(ahead.order, [(7, 1), (9, 1), (8, 1)]);
        assert_eq!(ahead.after(2).count(), 0);
        assert_eq!(ahead.after(6).count(), 0);
        assert_eq!(ahead.after(5).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn more_and_more_is_prepared_for_who_goes_on() {
        let ahead = flat(1000, 1);
        assert_eq!(after(&ahead, 0), NOTHING);
        assert_eq!(after(&ahead, 1), [2, 3, 4, 5]);
        // The same file once more.
        assert_eq!(after(&ahead, 1), NOTHING);
        assert_eq!(after(&ahead, 2), [6, 7, 8]);
        // Some are left out.
        assert_eq!(after(&ahead, 10), (11..=18).collect::<Vec<_>>());
        let mut last = 18;
        for file in 11..1000 {
            let next = after(&ahead, file);
            assert!(next.iter().all(|index| *index > last && *index <= file as u32 + FILES_MAX), "{file}: {next:?}");
            last = next.last().copied().unwrap_or(last);
        }
        assert_eq!(last, 999);
        assert_eq!(after(&ahead, 999), NOTHING);
    }

    #[test]
    fn nothing_is_prepared_for_who_jumps() {
        let ahead = flat(1000, 1);
        for number in 0..1000 {
            assert_eq!(after(&ahead, number * 577 % 1000), NOTHING);
        }
    }

    #[test]
    fn large_files_are_prepared_one_by_one_and_huge_ones_not_at_all() {
        let ahead = flat(10, BYTES_MAX);
        assert_eq!(after(&ahead, 0), NOTHING);
        for file in 1..9 {
            assert_eq!(after(&ahead, file), [file as u32 + 1]);
        }
        let ahead = flat(10, BYTES_MAX + 1);
        for file in 0..10 {
            assert_eq!(after(&ahead, file), NOTHING);
        }
    }

    #[test]
    fn readers_do_not_disturb_each_other() {
        let ahead = flat(10_000, 1);
        let readers = READERS_MAX as u64 - 1;
        for step in 0..100 {
            for reader in 0..readers {
                assert_eq!(after(&ahead, reader * 1000 + step).is_empty(), step == 0, "{reader} {step}");
            }
            // One that jumps.
            assert_eq!(after(&ahead, 9_999 - step * 20), NOTHING);
        }
    }
}
