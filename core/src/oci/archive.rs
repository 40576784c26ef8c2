//! Tar archives of whole images, looked into where they are: nothing is unpacked.
//!
//! An archive is indexed once, header by header, with its contents passed over. From then on every file of it is read by
//! its offset, by several threads at once if need be. Links lead to other files of the archive and never out of it.
//! Documents that tell which image it is must be there once: of two, tools would not agree on the one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt as _;

use thiserror::Error;

use super::files::Files;
use crate::tar::{EntryKind, FormatError, Input, Reader, SparseMap};
use crate::tree::Content;

/// Most files in an archive. Images have a few for each layer.
const MEMBERS_MAX: usize = 1 << 16;
/// Most bytes of all their names and of the targets of links: the index is in memory.
const NAMES_MAX_BYTES: usize = 16 << 20;
/// Longest name of a file, or target of a link, that is kept: those of images are shorter.
const NAME_MAX: usize = 512;
/// Most links that follow each other.
const LINKS_MAX: usize = 8;

/// Why a file is not a tar archive that can be looked into.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// It is malformed.
    #[error("it is not a good tar archive")]
    Format(#[from] FormatError),
    /// No image has as many files.
    #[error("it has more files than an image in layers, as if they were those of a file system")]
    TooMany,
    /// A file has holes, which the tools that write images never make.
    #[error("a file in it is sparse, which no file of an image is")]
    Sparse,
}

/// A tar archive and where its files are.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Debug)]
struct Member {
    kind: Kind,
    /// The name is there more than once; the last one counts.
    repeated: bool,
}

#[derive(Debug)]
enum Kind {
    File(Contents),
    /// The name of another file.
    Link(Vec<u8>),
}

#[derive(Debug)]
enum Contents {
    Inline(Box<[u8]>),
    At { offset: u64, size: u64 },
}

/// What to do about a name that is in an archive more than once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    LastCounts,
    Refused,
}

impl Archive {
    /// Finds out what is in an archive.
    pub(crate) fn index(file: File) -> Result<Self, IndexError> {
        let size = file.metadata().map_err(IndexError::Read)?.len();
        let mut members: HashMap<Vec<u8>, Member> = HashMap::new();
        let mut reader = Reader::new(Scan { file: &file, size, at: 0, contents_at: 0 });
        let (mut count, mut names_bytes) = (0, 0);
        while let Some(entry) = reader.next_entry()? {
            count += 1;
            if count > MEMBERS_MAX || names_bytes > NAMES_MAX_BYTES {
                return Err(IndexError::TooMany);
            }
            let Some(name) = normal(&[], &entry.path) else { continue };
            let parent = name.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |slash| &name[..slash]);
            let link = |target: Option<Vec<u8>>| target.map(Kind::Link);
            let kind = match entry.kind {
                EntryKind::Regular(Content::Inline(bytes)) => Some(Kind::File(Contents::Inline(bytes))),
                EntryKind::Regular(Content::External { size, .. }) => {
                    Some(Kind::File(Contents::At { offset: reader.input().contents_at, size }))
                }
                EntryKind::Symlink(target) => link(normal(parent, &target)),
                EntryKind::HardLink(target) => link(normal(&[], &target)),
                _ => None,
            };
            let Some(kind) = kind else { continue };
            names_bytes += name.len();
            if let Kind::Link(target) = &kind {
                names_bytes += target.len();
            }
            let repeated = members.contains_key(&name);
            members.insert(name, Member { kind, repeated });
        }
        Ok(Self { file, members })
    }

    /// Whether there is a file, or a link to one, with this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name, Repeated::LastCounts).is_ok()
    }

    /// The name of the file that is found by this one, all links followed: the same for all of its names.
    pub(crate) fn own_name(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.find(name, Repeated::LastCounts)?.0)
    }

    /// Size of a file in bytes.
    pub(crate) fn size(&self, name: &str) -> io::Result<u64> {
        Ok(match self.find(name, Repeated::LastCounts)?.1 {
            Contents::Inline(bytes) => bytes.len() as u64,
            Contents::At { size, .. } => *size,
        })
    }

    /// A file and its name, all links followed.
    fn find(&self, name: &str, repeated: Repeated) -> io::Result<(Vec<u8>, &Contents)> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no {name} in the archive"));
        let invalid = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
        let mut name = normal(&[], name.as_bytes()).ok_or_else(missing)?;
        for _ in 0..=LINKS_MAX {
            let member = self.members.get(&name).ok_or_else(missing)?;
            if member.repeated && repeated == Repeated::Refused {
                return Err(invalid("it is in the archive more than once"));
            }
            match &member.kind {
                Kind::Link(target) => name.clone_from(target),
                Kind::File(contents) => return Ok((name, contents)),
            }
        }
        Err(invalid("it is a link to a link, and so on"))
    }

    fn open_as(&self, name: &str, repeated: Repeated) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(match self.find(name, repeated)?.1 {
            Contents::At { offset, size } => Box::new(Part { file: &self.file, at: *offset, left: *size }),
            Contents::Inline(bytes) => Box::new(Cursor::new(bytes)),
        })
    }
}

impl Files for Archive {
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>> {
        self.open_as(name, Repeated::LastCounts)
    }

    fn open_document(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>> {
        self.open_as(name, Repeated::Refused)
    }
}

/// The name of a path that is relative to a directory of the archive: without `.`, `..` and repeated slashes. `None`: it
/// leads out of the archive, or is longer than any name that is looked for.
fn normal(directory: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    if path.len() > NAME_MAX {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in directory.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let name = parts.join(&b'/');
    (!name.is_empty() && name.len() <= NAME_MAX).then_some(name)
}

/// One file of an archive.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if len == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buffer[..len], self.at)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive has become shorter"));
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// An archive that is read for its headers only.
struct Scan<'a> {
    file: &'a File,
    size: u64,
    at: u64,
    /// Where the last contents begin that were passed over.
    contents_at: u64,
}

impl Input for Scan<'_> {
    type Error = IndexError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IndexError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], self.at) {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    self.at += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(IndexError::Read(error)),
            }
        }
        Ok(filled)
    }

    fn contents(&mut self, size: u64) -> Result<Option<Content>, IndexError> {
        let Some(end) = self.at.checked_add(size).filter(|end| *end <= self.size) else { return Ok(None) };
        self.contents_at = self.at;
        self.at = end;
        Ok(Some(Content::External { size, payload: None, digest: None }))
    }

    fn expand(&mut self, _: Content, _: &SparseMap) -> Result<Content, IndexError> {
        Err(IndexError::Sparse)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::oci::files::read_bounded;

    fn header(name: &str, typeflag: u8, link: &str, size: u64) -> [u8; 512] {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = typeflag;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    fn file(name: &str, contents: &[u8]) -> Vec<u8> {
        let mut bytes = header(name, b'0', "", contents.len() as u64).to_vec();
        bytes.extend_from_slice(contents);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn index(parts: &[&[u8]]) -> Result<Archive, IndexError> {
        let mut archive = tempfile::tempfile().unwrap();
        archive.write_all(&parts.concat()).unwrap();
        archive.write_all(&[0; 1024]).unwrap();
        Archive::index(archive)
    }

    fn contents(archive: &Archive, name: &str) -> io::Result<Vec<u8>> {
        read_bounded(archive.open(name)?, 1 << 20)
    }

    #[test]
    fn files_are_found_by_their_names_and_by_links() {
        let large = [7; 3000];
        let archive = index(&[
            &file("./a/small", b"small"),
            &header("a/", b'5', "", 0),
            &file("a/large", &large),
            &header("b/link", b'2', "../a/large", 0),
            &header("hard", b'1', "./a/small", 0),
            &header("out", b'2', "../../etc/passwd", 0),
            &header("absolute", b'2', "/etc/passwd", 0),
            &header("x", b'2', "y", 0),
            &header("y", b'2', "x", 0),
        ])
        .unwrap();
        assert_eq!(contents(&archive, "a/small").unwrap(), b"small");
        assert_eq!(contents(&archive, "a/large").unwrap(), large);
        assert_eq!(contents(&archive, "b/link").unwrap(), large);
        assert_eq!(archive.size("b/link").unwrap(), 3000);
        assert_eq!(contents(&archive, "hard").unwrap(), b"small");
        for missing in ["a", "out", "absolute", "nothing", "../a/small"] {
            assert_eq!(archive.open(missing).err().unwrap().kind(), io::ErrorKind::NotFound, "{missing}");
        }
        assert_eq!(archive.open("x").err().unwrap().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn of_two_files_with_one_name_the_last_counts_but_not_as_a_document() {
        let archive = index(&[&file("x", b"1"), &file("y", b"3"), &file("./x", b"2")]).unwrap();
        assert_eq!(contents(&archive, "x").unwrap(), b"2");
        assert!(archive.open_document("y").is_ok());
        let link = header("link", b'2', "x", 0);
        let linked = index(&[&file("x", b"1"), &link, &file("x", b"2")]).unwrap();
        for error in [archive.open_document("x"), archive.open_document("./x"), linked.open_document("link")] {
            assert_eq!(error.err().unwrap().to_string(), "it is in the archive more than once");
        }
        assert_eq!(linked.own_name("./link").unwrap(), b"x");
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        for size in [3000, 0o77777777777] {
            let lie = [&header("x", b'0', "", size)[..], b"short"].concat();
            let error = index(&[&lie]).unwrap_err();
            assert!(matches!(error, IndexError::Format(_)), "{error}");
        }
    }

    #[test]
    fn file_systems_are_no_images() {
        let one = file("x", b"");
        assert!(matches!(index(&vec![&one[..]; MEMBERS_MAX + 1]), Err(IndexError::TooMany)));
    }

    #[test]
    fn names_do_not_fill_the_memory() {
        // A PAX header gives a link a longer name and target than there is room for in its own.
        let record = |key: &str| {
            let value = key.chars().cycle().take(500).collect::<String>();
            format!("{} {key}={value}\n", 3 + 1 + key.len() + 1 + 500 + 1)
        };
        let records = record("path") + &record("linkpath");
        let mut entry = header("pax", b'x', "", records.len() as u64).to_vec();
        entry.extend_from_slice(records.as_bytes());
        entry.resize(entry.len().next_multiple_of(512), 0);
        entry.extend_from_slice(&header("x", b'2', "y", 0));
        assert!(index(&[&entry]).is_ok());
        let enough = NAMES_MAX_BYTES / 1000 + 2;
        assert!(enough < MEMBERS_MAX);
        assert!(matches!(index(&vec![&entry[..]; enough]), Err(IndexError::TooMany)));
    }

    #[test]
    fn archive_that_becomes_shorter_is_noticed() {
        let archive = index(&[&file("x", &[7; 3000])]).unwrap();
        archive.file.set_len(1000).unwrap();
        assert_eq!(contents(&archive, "x").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
