//! Finds out the version of a kernel.

use std::io::Read;

/// Offset of the mark of x86 kernels, and of the place that says where their version is.
const X86_MARK_OFFSET: usize = 0x202;
const X86_MARK: &[u8] = b"HdrS";
const X86_VERSION_OFFSET: usize = 0x20E;
/// That place counts from here.
const X86_VERSION_BASE: usize = 0x200;
/// Marks EFI kernels that decompress themselves, at offset 4; then come offset and size of the rest, and its compression.
const ZBOOT_MARK: &[u8] = b"zimg";
const ZBOOT_COMPRESSION_OFFSET: usize = 0x18;
/// A kernel is not larger than this when it is decompressed.
const KERNEL_MAX_BYTES: u64 = 512 << 20;
/// Comes before the version in every kernel.
const BANNER: &[u8] = b"Linux version ";
const VERSION_MAX_BYTES: usize = 128;

/// The version of a kernel, as `uname -r` prints it, if it can be found in the file: that of x86 has it at a fixed place, others
/// somewhere in their data, also when they are compressed with gzip or zstd.
#[must_use]
pub fn kernel_version(kernel: &[u8]) -> Option<String> {
    x86(kernel).or_else(|| in_banner(kernel)).or_else(|| in_banner(&decompressed(kernel)?))
}

/// `6.12.57-amd64 (builder@host) #1 SMP …`, up to a NUL.
fn x86(kernel: &[u8]) -> Option<String> {
    if !kernel.get(X86_MARK_OFFSET..)?.starts_with(X86_MARK) {
        return None;
    }
    let offset = kernel.get(X86_VERSION_OFFSET..)?.first_chunk::<2>()?;
    version(kernel.get(X86_VERSION_BASE + usize::from(u16::from_le_bytes(*offset))..)?)
}

/// `Linux version 6.12.57-arm64 (builder@host) …`
fn in_banner(kernel: &[u8]) -> Option<String> {
    let mut rest = kernel;
    loop {
        // The first byte alone is found quickly.
        let at = rest.iter().position(|byte| *byte == BANNER[0])?;
        rest = &rest[at..];
        match rest.strip_prefix(BANNER) {
            Some(text) if text.first().is_some_and(u8::is_ascii_digit) && version(text).is_some() => {
                return version(text);
            }
            _ => rest = &rest[1..],
        }
    }
}

/// A version with ` (` behind it.
fn version(text: &[u8]) -> Option<String> {
    let text = &text[..text.len().min(VERSION_MAX_BYTES)];
    let end = text.windows(2).position(|window| window == b" (")?;
    let version = std::str::from_utf8(&text[..end]).ok()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '~');
    (!version.is_empty() && version.chars().all(is_plain)).then(|| version.to_owned())
}

/// What the file contains in compressed form; as much of it as can be read.
fn decompressed(kernel: &[u8]) -> Option<Vec<u8>> {
    let compressed = match kernel.get(4..)?.strip_prefix(ZBOOT_MARK) {
        Some(fields) => {
            let field = |at: usize| Some(u32::from_le_bytes(*fields.get(at..)?.first_chunk()?) as usize);
            let (start, size) = (field(0)?, field(4)?);
            kernel.get(ZBOOT_COMPRESSION_OFFSET..)?;
            kernel.get(start..start.checked_add(size)?)?
        }
        None => kernel,
    };
    let mut plain = Vec::new();
    let outcome = if compressed.starts_with(&[0x1F, 0x8B]) {
        flate2::read::GzDecoder::new(compressed).take(KERNEL_MAX_BYTES).read_to_end(&mut plain)
    } else if compressed.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        zstd::Decoder::new(compressed).ok()?.take(KERNEL_MAX_BYTES).read_to_end(&mut plain)
    } else {
        return None;
    };
    if let Err(error) = outcome {
        tracing::debug!("cannot decompress the kernel to the end, ignoring: {error}");
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const BANNER_OF_ARM: &[u8] = b"\0L\0Linux version %s (x)\0Linux version 6.12.57+deb13-arm64 (a@b) (gcc) #1 SMP\0";

    #[test]
    fn x86_kernels_have_it_at_a_fixed_place() {
        let mut kernel = vec![0; 0x400];
        kernel[X86_MARK_OFFSET..][..4].copy_from_slice(X86_MARK);
        kernel[X86_VERSION_OFFSET..][..2].copy_from_slice(&0x100_u16.to_le_bytes());
        assert_eq!(kernel_version(&kernel), None);
        kernel[0x300..0x31D].copy_from_slice(b"6.12.57+deb13-amd64 (a@b) #1 ");
        assert_eq!(kernel_version(&kernel).as_deref(), Some("6.12.57+deb13-amd64"));
        kernel[X86_VERSION_OFFSET..][..2].copy_from_slice(&0xFFFF_u16.to_le_bytes());
        assert_eq!(kernel_version(&kernel), None);
    }

    #[test]
    fn other_kernels_have_it_somewhere() {
        assert_eq!(kernel_version(BANNER_OF_ARM).as_deref(), Some("6.12.57+deb13-arm64"));
        assert_eq!(kernel_version(b"Linux version "), None);
        assert_eq!(kernel_version(b""), None);
    }

    #[test]
    fn compressed_kernels_are_looked_into() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(BANNER_OF_ARM).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(kernel_version(&gzip).as_deref(), Some("6.12.57+deb13-arm64"));
        let zstd = zstd::encode_all(BANNER_OF_ARM, 1).unwrap();
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(64_u32.to_le_bytes());
        zboot.extend(u32::try_from(zstd.len()).unwrap().to_le_bytes());
        zboot.resize(64, 0);
        zboot.extend(&zstd);
        zboot.extend(b"more");
        assert_eq!(kernel_version(&zboot).as_deref(), Some("6.12.57+deb13-arm64"));
        zboot[12] = 0xFF;
        assert_eq!(kernel_version(&zboot), None, "a size beyond the file");
    }
}
