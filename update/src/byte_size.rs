//! Numbers of bytes as users write them.

use std::num::NonZeroU64;

/// Parses a size: bytes, or a number with K, M or G for powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is not a size; write bytes, or a number with K, M or G");
    let (number, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).ok_or_else(error)
}

/// Parses a size that cannot be nothing.
pub(crate) fn parse_positive(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(parse(text)?).ok_or_else(|| "it must be more than 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("1G"), Ok(1 << 30));
        assert_eq!(parse("4096"), Ok(4096));
        for text in ["", "G", "1T", "-1M", "1.5G", "99999999999G", "1é"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse_positive("2K").map(NonZeroU64::get), Ok(2 << 10));
        assert!(parse_positive("0").is_err());
    }
}
