//! Sparse files: an archive holds only what is between the holes.
//!
//! Four forms are in use: GNU's own (type flag `S`, the list of extents in the header and in blocks after it) and three
//! in PAX records (0.0 and 0.1 in the records themselves, 1.0 at the start of the contents). All say the same: the size of
//! the file, and which parts of it follow one after another as the entry's contents. Everything else is zeros.

use std::io::{self, Read, Write};

use crate::fsverity::Hasher;

/// Most extents of one file.
pub(super) const EXTENTS_MAX: usize = 1 << 20;
/// Zeros written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What can be written to with holes.
pub trait HoleWrite: Write {
    /// Writes zeros.
    ///
    /// # Errors
    /// When they cannot be written.
    fn hole(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let part = usize::try_from(bytes).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write_all(&ZEROS[..part])?;
            bytes -= part as u64;
        }
        Ok(())
    }
}

impl HoleWrite for Vec<u8> {}

impl HoleWrite for Hasher {}

/// A part of a sparse file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Where the parts of a sparse file belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseMap {
    size: u64,
    /// In order, without overlap, within the size.
    extents: Vec<Extent>,
}

impl SparseMap {
    /// Checks the list; `data_bytes` is what the archive has. `Err` is what is wrong with it.
    pub(super) fn new(size: u64, extents: Vec<Extent>, data_bytes: u64) -> Result<Self, &'static str> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for extent in &extents {
            if extent.offset < end {
                return Err("parts overlap or are not in order");
            }
            end = extent.offset.checked_add(extent.len).filter(|end| *end <= size).ok_or("a part is beyond the end")?;
            sum += extent.len;
        }
        if sum != data_bytes {
            return Err("the parts are not as long as the contents");
        }
        Ok(Self { size, extents })
    }

    /// Size of the whole file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the file that are in the archive.
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Writes the whole file, given what the archive has of it.
    ///
    /// # Errors
    /// When `data` ends early, or something cannot be read or written.
    pub fn expand(&self, data: &mut dyn Read, out: &mut dyn HoleWrite) -> io::Result<()> {
        let mut at = 0;
        for extent in &self.extents {
            out.hole(extent.offset - at)?;
            let copied = io::copy(&mut data.take(extent.len), out)?;
            if copied != extent.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at = extent.offset + extent.len;
        }
        out.hole(self.size - at)
    }
}
