//! What is in an initramfs: cpio archives one after the other, the later ones compressed as a whole.
//!
//! Only looked through, never unpacked. zstd, gzip and no compression are known.

use std::io::{self, BufRead, BufReader, Read};

/// Begins every entry of a cpio archive that the kernel takes.
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
const HEADER_LEN: usize = 110;
/// Ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// The kernel's `PATH_MAX`: longer names are not unpacked.
const NAME_MAX_BYTES: u64 = 4096;
/// Most bytes that are looked through; those of distributions have some hundred mebibytes.
const SIZE_MAX_BYTES: u64 = 8 << 30;
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// What looking for a file gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitramfsSearch {
    /// It is there.
    Found,
    /// It is not.
    Absent,
    /// The initramfs, or a part of it, cannot be looked into: it is compressed otherwise, or damaged.
    Unknown,
}

/// Looks for a file in an initramfs; `path` has no slash at its beginning.
///
/// # Errors
/// When it cannot be read.
pub fn search_initramfs(initramfs: impl Read, path: &str) -> io::Result<InitramfsSearch> {
    match search(&mut BufReader::new(initramfs), path.as_bytes(), true) {
        Ok(result) => Ok(result),
        // That of a decoder, or of an archive that is cut.
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
            Ok(InitramfsSearch::Unknown)
        }
        Err(error) => Err(error),
    }
}

fn search(input: &mut dyn BufRead, path: &[u8], may_be_compressed: bool) -> io::Result<InitramfsSearch> {
    let mut input = input.take(SIZE_MAX_BYTES);
    loop {
        // Archives are padded with zeros.
        let bytes = input.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 {
            input.consume(zeros);
            continue;
        }
        if bytes.is_empty() {
            return Ok(if input.limit() > 0 { InitramfsSearch::Absent } else { InitramfsSearch::Unknown });
        }
        let mut magic = [0; 6];
        input.read_exact(&mut magic)?;
        if MAGICS.contains(&&magic[..]) {
            if archive(&mut input, magic, path)? {
                return Ok(InitramfsSearch::Found);
            }
            continue;
        }
        let rest = (&magic[..]).chain(&mut input);
        if may_be_compressed && magic.starts_with(ZSTD_MAGIC) {
            let decoder = zstd::stream::read::Decoder::new(rest).map_err(invalid)?;
            return search(&mut BufReader::new(Decoded(decoder)), path, false);
        }
        if may_be_compressed && magic.starts_with(GZIP_MAGIC) {
            let decoder = flate2::read::MultiGzDecoder::new(rest);
            return search(&mut BufReader::new(Decoded(decoder)), path, false);
        }
        return Ok(InitramfsSearch::Unknown);
    }
}

/// Looks through one archive, of which the first magic number was read.
fn archive(input: &mut dyn BufRead, magic: [u8; 6], path: &[u8]) -> io::Result<bool> {
    let mut found = false;
    let mut read_magic = Some(magic);
    loop {
        let mut header = [0; HEADER_LEN];
        let read = match read_magic.take() {
            Some(magic) => {
                header[..magic.len()].copy_from_slice(&magic);
                magic.len()
            }
            None => 0,
        };
        input.read_exact(&mut header[read..])?;
        if !MAGICS.contains(&&header[..6]) {
            return Err(invalid("no cpio header"));
        }
        let field = |number: usize| {
            let digits = &header[6 + 8 * number..][..8];
            let digits = std::str::from_utf8(digits).map_err(invalid)?;
            u64::from_str_radix(digits, 16).map_err(invalid)
        };
        let (size, name_size) = (field(6)?, field(11)?);
        if name_size == 0 || name_size > NAME_MAX_BYTES {
            return Err(invalid("a name that is too long"));
        }
        let mut name = Vec::new();
        (&mut *input).take(name_size).read_to_end(&mut name)?;
        let name = name.strip_suffix(b"\0").ok_or_else(|| invalid("a name without an end"))?;
        skip(input, padding(HEADER_LEN as u64 + name_size))?;
        if name == TRAILER {
            return Ok(found);
        }
        let name = name.strip_prefix(b"./").or(name.strip_prefix(b"/")).unwrap_or(name);
        found |= name == path;
        skip(input, size + padding(size))?;
    }
}

/// Everything begins at a multiple of four.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(4) - size
}

fn skip(input: &mut dyn BufRead, bytes: u64) -> io::Result<()> {
    match io::copy(&mut (&mut *input).take(bytes), &mut io::sink())? {
        skipped if skipped == bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A decoder whose errors are about what it reads.
struct Decoded<R>(R);

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::InitramfsSearch::{Absent, Found, Unknown};
    use super::*;

    const PATH: &str = "usr/lib/tool";

    fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, contents) in files.iter().chain([&("TRAILER!!!", &b""[..])]) {
            out.extend(
                format!("070701{:048x}{:08x}{:032x}{:08x}{:08x}", 0, contents.len(), 0, name.len() + 1, 0).bytes(),
            );
            out.extend(name.bytes().chain([0]));
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(contents);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn look(bytes: &[u8]) -> InitramfsSearch {
        search_initramfs(bytes, PATH).unwrap()
    }

    #[test]
    fn files_are_found_in_all_parts() {
        let microcode = cpio(&[("kernel/x86/microcode.bin", &[1; 777])]);
        let (with, without) = (cpio(&[("etc/a", b"abc"), (PATH, b"elf")]), cpio(&[("etc/a", b"abc")]));
        let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 1).unwrap();
        assert_eq!((look(&with), look(&without)), (Found, Absent));
        for compress in [&zstd as &dyn Fn(&[u8]) -> Vec<u8>, &gzip] {
            assert_eq!((look(&compress(&with)), look(&compress(&without))), (Found, Absent));
            assert_eq!(look(&[microcode.clone(), compress(&with)].concat()), Found);
            assert_eq!(look(&[microcode.clone(), compress(&without)].concat()), Absent);
        }
        assert_eq!(look(&[microcode, without, with].concat()), Found);
        assert_eq!(look(&cpio(&[("./usr/lib/tool", b"")])), Found);
        assert_eq!(look(&cpio(&[("usr/lib/tool2", b""), ("lib/tool", b"")])), Absent);
    }

    #[test]
    fn what_cannot_be_looked_into_is_not_said_to_lack_the_file() {
        let without = cpio(&[("etc/a", b"abc")]);
        assert_eq!(look(b"\xfd7zXZ\0 and so on"), Unknown);
        assert_eq!(look(b"0707"), Unknown);
        for cut in 1..200 {
            assert_eq!(look(&without[..cut]), Unknown, "{cut}");
            assert_eq!(look(&gzip(&without)[..cut.min(40)]), Unknown, "{cut}");
        }
        // An archive within the compressed part is the end of it.
        assert_eq!(look(&gzip(&gzip(&without))), Unknown);
    }
}
