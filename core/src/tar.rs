//! A streaming tar reader for input that may be hostile.
//!
//! Layers of OCI images are tar archives from anywhere, so the reader is strict where two readers could disagree (header
//! checksums, extension headers, sizes) and bounded in what it keeps in memory: [`EXTENSION_BYTES_MAX`] of extension
//! headers and [`PENDING_EXTENSIONS_MAX`] of them per entry; contents are handed on as they come. Understood are ustar and
//! old headers, GNU long names, PAX extended headers with the keys that matter for a file tree, base-256 numbers, and
//! sparse files in all forms that GNU tar has written.
//!
//! Passed over are global PAX headers and extended attributes under `LIBARCHIVE.xattr.`. *Rationale:* the tools that make
//! and unpack container layers do so too, so that what runs as a container is what is booted, and images have the digest
//! that other composefs tools compute. `bsdtar` writes attributes also in the form that is read.
//!
//! One parser serves two purposes. When a layer is imported, the [`Input`] is the archive itself, and every byte that is
//! read goes into a split stream. When a file tree is built, the [`Input`] is that split stream, and large contents are
//! references to objects.

#[cfg(test)]
pub(crate) mod fake;
mod header;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

use std::fmt;

use thiserror::Error;

use crate::tree::{Content, INLINE_MAX, Stat};
use header::{BLOCK_LEN, Extents, Header};
use sparse::{EXTENTS_MAX, Extent};
pub use sparse::{HoleWrite, SparseMap};

/// Most bytes of extension headers (long names, PAX records) before one entry.
pub const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Most extension headers before one entry.
pub const PENDING_EXTENSIONS_MAX: usize = 16;

/// Most bytes in the holes of all sparse files of one archive. They take no room in it, but have to be hashed and may have
/// to be stored.
pub const HOLE_BYTES_MAX: u64 = 16 << 30;

/// Where an archive comes from, and where the contents of its files go.
pub trait Input {
    /// What can fail here; includes what can be wrong with the archive.
    type Error: From<FormatError>;

    /// Fills `buffer` with the next bytes of the archive; fewer only at its end.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Self::Error>;

    /// Takes the next `size` bytes, above [`INLINE_MAX`], which are one regular file's contents without padding.
    /// `None`: the archive ended before.
    ///
    /// # Errors
    /// When the bytes cannot be read or stored.
    fn contents(&mut self, size: u64) -> Result<Option<Content>, Self::Error>;

    /// Turns what the archive has of a sparse file, which was the last contents, into the whole file of more than
    /// [`INLINE_MAX`] bytes.
    ///
    /// # Errors
    /// When it cannot be read or stored.
    fn expand(&mut self, data: Content, map: &SparseMap) -> Result<Content, Self::Error>;
}

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name as it is in the archive, not empty.
    pub path: Vec<u8>,
    /// Metadata; of no meaning for hard links.
    pub stat: Stat,
    /// Type and what belongs to it.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    Regular(Content),
    /// Another name of the file with this name.
    HardLink(Vec<u8>),
    /// Symbolic link with this target.
    Symlink(Vec<u8>),
    /// Character device, in the kernel's 32-bit encoding.
    CharDevice(u32),
    /// Block device, in the kernel's 32-bit encoding.
    BlockDevice(u32),
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
    /// Any other type flag; its contents have been read and dropped.
    Other(u8),
}

/// Why bytes are not a tar archive that is understood.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("tar header at byte {offset}: {kind}")]
pub struct FormatError {
    /// Where the header starts in the archive.
    pub offset: u64,
    /// What is wrong with it.
    pub kind: FormatErrorKind,
}

/// What can be wrong with a tar header.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatErrorKind {
    /// The sum of the header's bytes is not the one it states.
    #[error("the header checksum is wrong")]
    Checksum,
    /// The archive ends inside an entry.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// The archive ends after one of the two blocks of zeros that mark its end.
    #[error("the archive ends in the middle of its end marker")]
    TruncatedEnd,
    /// A numeric field holds something else, or too large a number.
    #[error("the {0} field is not a number in range")]
    Number(&'static str),
    /// PAX records are malformed.
    #[error("the PAX record {0} is malformed")]
    Pax(PaxField),
    /// An extension header came twice before one entry.
    #[error("a second {0} header for the same entry")]
    Duplicate(&'static str),
    /// More than [`EXTENSION_BYTES_MAX`] or [`PENDING_EXTENSIONS_MAX`].
    #[error("more extension headers than any file needs")]
    ExtensionsTooLarge,
    /// The archive ends after an extension header.
    #[error("the archive ends after an extension header")]
    ExtensionWithoutEntry,
    /// No name.
    #[error("the entry has no name")]
    EmptyName,
    /// The description of a sparse file is malformed, or of a form that is not known.
    #[error("{path:?} is a sparse file with a malformed map: {problem}")]
    Sparse {
        /// The file.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// More than [`HOLE_BYTES_MAX`].
    #[error(
        "{path:?} is a sparse file of {size} bytes, with which the holes in the archive have more than \
         {HOLE_BYTES_MAX} bytes; truncate it when building the layer"
    )]
    Holes {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
    },
    /// Something without contents has a size; readers do not agree on what follows it.
    #[error("{path:?} is no regular file but states {size} bytes of contents")]
    UnexpectedContents {
        /// The entry.
        path: String,
        /// Its stated size.
        size: u64,
    },
}

/// Names the PAX record that is malformed.
#[derive(Debug, PartialEq, Eq)]
pub enum PaxField {
    /// The n-th record, from 1: its length or form is wrong.
    Record(usize),
    /// The value of this key is wrong.
    Key(&'static str),
}

impl fmt::Display for PaxField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(number) => write!(f, "number {number}"),
            Self::Key(key) => write!(f, "{key:?}"),
        }
    }
}

/// What extension headers said about the entry that follows them.
#[derive(Debug, Default)]
struct Extensions {
    count: usize,
    size_bytes: u64,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<pax::Records>,
}

/// Reads the entries of an archive one after another.
#[derive(Debug)]
pub struct Reader<I> {
    input: I,
    offset: u64,
    header_offset: u64,
    at_end: bool,
    hole_bytes: u64,
}

impl<I: Input> Reader<I> {
    /// A reader at the first byte of an archive.
    pub fn new(input: I) -> Self {
        Self { input, offset: 0, header_offset: 0, at_end: false, hole_bytes: 0 }
    }

    /// The next entry with its contents; `None` after the end marker or where the archive ends without one.
    ///
    /// # Errors
    /// When the archive is malformed or ends early, or when the input fails. The reader is of no use afterwards.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, I::Error> {
        let mut extensions = Extensions::default();
        while let Some(header) = self.next_header()? {
            match header.typeflag {
                b'L' | b'K' => {
                    let mut value = self.extension(&header, &mut extensions)?;
                    if value.last() == Some(&0) {
                        value.pop();
                    }
                    let (slot, what) = match header.typeflag {
                        b'L' => (&mut extensions.long_name, "long name"),
                        _ => (&mut extensions.long_link, "long link"),
                    };
                    if slot.replace(value).is_some() {
                        return Err(self.error(FormatErrorKind::Duplicate(what)).into());
                    }
                }
                b'x' => {
                    let body = self.extension(&header, &mut extensions)?;
                    let records = pax::parse(&body).map_err(|kind| self.error(kind))?;
                    if extensions.pax.replace(records).is_some() {
                        return Err(self.error(FormatErrorKind::Duplicate("PAX")).into());
                    }
                }
                b'g' => {
                    self.extension(&header, &mut extensions)?;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
        if extensions.long_name.is_some() || extensions.long_link.is_some() || extensions.pax.is_some() {
            return Err(self.error(FormatErrorKind::ExtensionWithoutEntry).into());
        }
        Ok(None)
    }

    /// The input, wherever it is.
    pub fn input(&self) -> &I {
        &self.input
    }

    /// Reads whatever follows the end marker and gives the input back.
    ///
    /// # Errors
    /// When the input fails.
    pub fn finish(mut self) -> Result<I, I::Error> {
        let mut buffer = [0; 16 * BLOCK_LEN];
        while self.input.read(&mut buffer)? == buffer.len() {}
        Ok(self.input)
    }

    /// The next header that is not zeros; a single block of zeros between entries is passed over.
    fn next_header(&mut self) -> Result<Option<Header>, I::Error> {
        if self.at_end {
            return Ok(None);
        }
        let mut zeros = false;
        loop {
            self.header_offset = self.offset;
            let mut block = [0; BLOCK_LEN];
            match self.input.read(&mut block)? {
                0 if zeros => return Err(self.error(FormatErrorKind::TruncatedEnd).into()),
                0 => {
                    self.at_end = true;
                    return Ok(None);
                }
                BLOCK_LEN => self.offset += BLOCK_LEN as u64,
                _ => return Err(self.error(FormatErrorKind::Truncated).into()),
            }
            if block.iter().any(|byte| *byte != 0) {
                return Ok(Some(Header::parse(&block).map_err(|kind| self.error(kind))?));
            }
            if zeros {
                self.at_end = true;
                return Ok(None);
            }
            zeros = true;
        }
    }

    /// Reads the body of an extension header.
    fn extension(&mut self, header: &Header, extensions: &mut Extensions) -> Result<Vec<u8>, I::Error> {
        extensions.count += 1;
        extensions.size_bytes = extensions.size_bytes.saturating_add(header.size);
        if extensions.count > PENDING_EXTENSIONS_MAX || extensions.size_bytes > EXTENSION_BYTES_MAX {
            return Err(self.error(FormatErrorKind::ExtensionsTooLarge).into());
        }
        let body = self.small_body(header.size)?;
        self.padding(header.size)?;
        Ok(body)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, I::Error> {
        let mut pax = extensions.pax.unwrap_or_default();
        let is_regular = matches!(header.typeflag, 0 | b'0' | b'7');
        let sparse = pax.sparse.take().filter(|_| is_regular);
        let sparse_name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let path = sparse_name.or(pax.path).or(extensions.long_name).unwrap_or_else(|| header.name());
        let link = pax.linkpath.or(extensions.long_link).unwrap_or_else(|| header.link_name.clone());
        let size = pax.size.unwrap_or(header.size);
        if path.is_empty() {
            return Err(self.error(FormatErrorKind::EmptyName).into());
        }
        let (mtime_secs, mtime_nanos) = pax.mtime.unwrap_or((header.mtime_secs, 0));
        let stat = Stat {
            mode: header.mode,
            // Larger numbers are cut to what a file system can hold, as other tools do; -2 in base-256 means nobody.
            uid: pax.uid.unwrap_or(header.uid) as u32,
            gid: pax.gid.unwrap_or(header.gid) as u32,
            mtime_secs,
            mtime_nanos,
            xattrs: pax.xattrs,
        };
        // Before there was a type flag for directories, names told them.
        let is_directory = header.typeflag == b'5' || header.typeflag == 0 && path.ends_with(b"/");
        if (is_directory || matches!(header.typeflag, b'1'..=b'6')) && size != 0 {
            let path = printable(&path);
            return Err(self.error(FormatErrorKind::UnexpectedContents { path, size }).into());
        }
        let kind = match header.typeflag {
            _ if is_directory => EntryKind::Directory,
            b'S' => EntryKind::Regular(self.gnu_sparse(&path, header, size)?),
            0 | b'0' | b'7' => EntryKind::Regular(match sparse {
                Some(sparse) => self.pax_sparse(&path, sparse, size)?,
                None => self.contents(size)?,
            }),
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => EntryKind::CharDevice(header.device().map_err(|kind| self.error(kind))?),
            b'4' => EntryKind::BlockDevice(header.device().map_err(|kind| self.error(kind))?),
            b'6' => EntryKind::Fifo,
            other => {
                self.drop_body(size)?;
                self.padding(size)?;
                EntryKind::Other(other)
            }
        };
        Ok(Entry { path, stat, kind })
    }

    /// The contents of a file of type `S`: the list of extents may go on in blocks after the header.
    fn gnu_sparse(&mut self, path: &[u8], header: &Header, size: u64) -> Result<Content, I::Error> {
        let Some(sparse) = &header.sparse else {
            return Err(self.sparse_error(path, "it is not in GNU's form").into());
        };
        let mut list = sparse.extents.list.clone();
        let mut continued = sparse.extents.continued;
        while continued {
            let mut block = [0; BLOCK_LEN];
            self.fill(&mut block)?;
            let extents = Extents::parse(&block).map_err(|kind| self.error(kind))?;
            continued = extents.continued;
            list.extend(extents.list);
            if list.len() > EXTENTS_MAX {
                return Err(self.sparse_error(path, TOO_MANY).into());
            }
        }
        self.sparse(path, sparse.real_size, list, size)
    }

    /// The contents of a file with PAX records about its holes.
    fn pax_sparse(&mut self, path: &[u8], sparse: pax::Sparse, size: u64) -> Result<Content, I::Error> {
        let Some(real_size) = sparse.real_size else {
            return Err(self.sparse_error(path, "its size is missing").into());
        };
        let (numbers, data_bytes) = match sparse.version {
            Some((1, 0)) => self.leading_map(path, size)?,
            None | Some((0, _)) => {
                if sparse.count.is_some_and(|count| count.checked_mul(2) != Some(sparse.numbers.len() as u64)) {
                    return Err(self.sparse_error(path, "it is not as long as it says").into());
                }
                (sparse.numbers, size)
            }
            Some(_) => return Err(self.sparse_error(path, "its form is not known").into()),
        };
        let (pairs, []) = numbers.as_chunks() else {
            return Err(self.sparse_error(path, "an offset has no length").into());
        };
        let extents = pairs.iter().map(|[offset, len]| Extent { offset: *offset, len: *len }).collect();
        self.sparse(path, real_size, extents, data_bytes)
    }

    /// The map at the start of contents of `size` bytes: decimal numbers, each with a newline; first how many pairs of
    /// offset and length follow. Returns the numbers and how many bytes come after it. It is padded to whole blocks.
    fn leading_map(&mut self, path: &[u8], size: u64) -> Result<(Vec<u64>, u64), I::Error> {
        let mut numbers = Vec::new();
        let mut wanted = None;
        let mut line = Vec::new();
        let mut left = size;
        loop {
            let mut block = [0; BLOCK_LEN];
            left = left.checked_sub(BLOCK_LEN as u64).ok_or_else(|| self.sparse_error(path, "it does not end"))?;
            self.fill(&mut block)?;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    // The longest u64.
                    if line.len() > 20 {
                        return Err(self.sparse_error(path, "it has something else than numbers").into());
                    }
                    continue;
                }
                let number = pax::decimal(&line).ok_or_else(|| self.sparse_error(path, "a number is not one"))?;
                line.clear();
                match wanted {
                    None if number > EXTENTS_MAX as u64 => return Err(self.sparse_error(path, TOO_MANY).into()),
                    None => wanted = Some(number as usize * 2),
                    Some(_) => numbers.push(number),
                }
                if wanted == Some(numbers.len()) {
                    return Ok((numbers, left));
                }
            }
        }
    }

    /// Reads what the archive has of a sparse file and expands it.
    fn sparse(&mut self, path: &[u8], size: u64, list: Vec<Extent>, data_bytes: u64) -> Result<Content, I::Error> {
        let map = SparseMap::new(size, list, data_bytes).map_err(|problem| self.sparse_error(path, problem))?;
        self.hole_bytes = self.hole_bytes.saturating_add(size - data_bytes);
        if self.hole_bytes > HOLE_BYTES_MAX {
            return Err(self.error(FormatErrorKind::Holes { path: printable(path), size }).into());
        }
        let data = self.contents(data_bytes)?;
        match &data {
            _ if size == data_bytes => Ok(data),
            Content::Inline(bytes) if size <= INLINE_MAX => {
                let mut whole = Vec::new();
                map.expand(&mut &bytes[..], &mut whole).expect("memory can be read and written");
                Ok(Content::Inline(whole.into()))
            }
            _ => self.input.expand(data, &map),
        }
    }

    fn sparse_error(&self, path: &[u8], problem: &'static str) -> FormatError {
        self.error(FormatErrorKind::Sparse { path: printable(path), problem })
    }

    fn contents(&mut self, size: u64) -> Result<Content, I::Error> {
        let content = if size <= INLINE_MAX {
            Content::Inline(self.small_body(size)?.into())
        } else {
            let Some(content) = self.input.contents(size)? else {
                return Err(self.error(FormatErrorKind::Truncated).into());
            };
            self.offset = self.offset.saturating_add(size);
            content
        };
        self.padding(size)?;
        Ok(content)
    }

    /// Reads `size` bytes into memory; the caller has checked that they are few.
    fn small_body(&mut self, size: u64) -> Result<Vec<u8>, I::Error> {
        let mut body = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.fill(&mut body)?;
        Ok(body)
    }

    fn drop_body(&mut self, size: u64) -> Result<(), I::Error> {
        let mut buffer = [0; 16 * BLOCK_LEN];
        let mut left = size;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.fill(&mut buffer[..part])?;
            left -= part as u64;
        }
        Ok(())
    }

    fn padding(&mut self, size: u64) -> Result<(), I::Error> {
        let over = (size % BLOCK_LEN as u64) as usize;
        if over > 0 {
            self.fill(&mut [0; BLOCK_LEN][over..])?;
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), I::Error> {
        if self.input.read(buffer)? != buffer.len() {
            return Err(self.error(FormatErrorKind::Truncated).into());
        }
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn error(&self, kind: FormatErrorKind) -> FormatError {
        FormatError { offset: self.header_offset, kind }
    }
}

/// What is wrong with a map of more than [`EXTENTS_MAX`] extents.
const TOO_MANY: &str = "it has too many parts";

/// A name as text for messages, however strange its bytes are.
fn printable(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
