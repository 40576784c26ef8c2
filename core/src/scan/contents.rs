//! What is done with the contents of files.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};

use crate::digest::{Algorithm, Digest};
use crate::fsverity::{self, Hasher};
use crate::repository::Repository;

/// Why contents were not taken.
pub type ContentsError = Box<dyn Error + Send + Sync>;

/// Pieces in which a large file is read: little enough to stay in the cache between reading and hashing.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Takes the contents of files, from several threads.
pub trait Contents: Sync {
    /// Takes all of a small file.
    fn take_bytes(&self, bytes: &[u8]) -> Result<Digest, ContentsError>;

    /// Takes a larger file, from its beginning; returns also how many bytes that were.
    fn take_file(&self, file: &File) -> Result<(Digest, u64), ContentsError>;
}

/// Computes digests and keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct HashOnly(pub Algorithm);

impl Contents for HashOnly {
    fn take_bytes(&self, bytes: &[u8]) -> Result<Digest, ContentsError> {
        Ok(fsverity::digest(self.0, bytes))
    }

    fn take_file(&self, file: &File) -> Result<(Digest, u64), ContentsError> {
        let mut hasher = Hasher::new(self.0);
        let size = read_pieces(file, &mut |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        Ok((hasher.finish(), size))
    }
}

/// Stores objects.
impl Contents for Repository {
    fn take_bytes(&self, bytes: &[u8]) -> Result<Digest, ContentsError> {
        Ok(self.put_object(bytes)?.digest)
    }

    fn take_file(&self, file: &File) -> Result<(Digest, u64), ContentsError> {
        let mut writer = self.new_object()?;
        read_pieces(file, &mut |piece| writer.write_all(piece))?;
        let stored = writer.finish()?;
        Ok((stored.digest, stored.size_bytes))
    }
}

/// Hands on a file piece by piece; returns its size.
fn read_pieces(mut file: &File, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(n) => {
                size += n as u64;
                sink(&buffer[..n])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
