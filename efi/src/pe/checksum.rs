//! The checksum of PE files. Firmware does not look at it; Windows and some tools do.

/// The checksum of a file whose checksum is at this offset ([`super::Pe::checksum_offset`]): the sum of its words of 16 bits with
/// the carries, without the old checksum, and its length.
///
/// Source: what `CheckSumMappedFile` of Windows computes.
#[must_use]
pub fn checksum(bytes: &[u8], offset: usize) -> u32 {
    let mut sum = words(bytes);
    if let Some(old) = bytes.get(offset..offset.saturating_add(4)) {
        // The field begins at an even offset in any file that has been made by a linker; where not, its bytes swap places.
        let old = if offset.is_multiple_of(2) { words(old) } else { words(&[0, old[0], old[1], old[2], old[3], 0]) };
        sum -= old;
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    // Files of the format are smaller than 4 GiB.
    #[allow(clippy::cast_possible_truncation)]
    (sum as u32).wrapping_add(bytes.len() as u32)
}

/// The plain sum of all words; the last byte of an odd number counts as a word.
fn words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum: u64 = words.iter().map(|word| u64::from(u16::from_le_bytes(*word))).sum();
    sum + rest.first().map_or(0, |byte| u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_added_with_their_carries_and_the_length() {
        assert_eq!(checksum(&[1, 2, 9, 9, 9, 9], 2), 0x0201 + 6);
        assert_eq!(checksum(&[0xFF, 0xFF, 2, 0, 0, 0, 0, 0, 5], 4), 7 + 9);
        assert_eq!(checksum(&[1, 0, 0, 8, 8, 8, 8, 0], 3), 1 + 8);
    }

    #[test]
    fn the_old_checksum_does_not_count() {
        let mut bytes: Vec<u8> = (0..=255).collect();
        let first = checksum(&bytes, 100);
        bytes[100..104].copy_from_slice(&first.to_le_bytes());
        assert_eq!(checksum(&bytes, 100), first);
        bytes[104] ^= 1;
        assert_ne!(checksum(&bytes, 100), first);
    }
}
