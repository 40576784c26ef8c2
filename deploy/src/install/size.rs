//! Whether an image can fit on a disk, from its manifest alone.

use thiserror::Error;

use super::partition::ALIGNMENT_BYTES;

/// What the file system, the repository's directories and the state need besides the layers.
const MARGIN_BYTES: u64 = 256 << 20;

/// Smallest ESP: FAT32 needs 65525 clusters, and there must be room for two kernels.
pub(super) const ESP_MIN_BYTES: u64 = 128 << 20;

/// Why a layout is not possible.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// The disk cannot hold the image.
    #[error(
        "the disk is too small: it has {}, the image needs at least {} ({} of compressed layers, {} for the ESP)",
        mib(*disk_bytes), mib(*needed_bytes), mib(*layer_bytes), mib(*esp_bytes)
    )]
    DiskTooSmall {
        /// Size of the disk.
        disk_bytes: u64,
        /// Lower bound of what is needed.
        needed_bytes: u64,
        /// Sum of the compressed layers.
        layer_bytes: u64,
        /// Size of the ESP.
        esp_bytes: u64,
    },
    /// The ESP cannot hold two kernels.
    #[error("an ESP of {} is too small, the least is {}", mib(*esp_bytes), mib(ESP_MIN_BYTES))]
    EspTooSmall {
        /// The size asked for.
        esp_bytes: u64,
    },
}

/// Whole MiB, rounded up, for messages.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Fails if an image with these compressed layers cannot fit.
///
/// This is a lower bound: unpacked layers are larger, how much is not known before they are fetched.
pub(super) fn check(disk_bytes: u64, esp_bytes: u64, layer_bytes: u64) -> Result<(), SizeError> {
    if esp_bytes < ESP_MIN_BYTES {
        return Err(SizeError::EspTooSmall { esp_bytes });
    }
    // One unit of alignment before the first partition, one for the copy of the table at the end.
    let fixed = esp_bytes.saturating_add(MARGIN_BYTES + 2 * ALIGNMENT_BYTES);
    let needed_bytes = fixed.saturating_add(layer_bytes);
    if disk_bytes < needed_bytes {
        return Err(SizeError::DiskTooSmall { disk_bytes, needed_bytes, layer_bytes, esp_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_small_disks_are_refused_with_figures() {
        let err = check(2 << 30, 1 << 30, 900 << 20).unwrap_err().to_string();
        assert_eq!(
            err,
            "the disk is too small: it has 2048 MiB, the image needs at least 2182 MiB \
             (900 MiB of compressed layers, 1024 MiB for the ESP)"
        );
        assert_eq!(check(2182 << 20, 1 << 30, 900 << 20), Ok(()));
        assert!(check((2182 << 20) - 1, 1 << 30, 900 << 20).is_err());
        assert!(check(u64::MAX, u64::MAX, u64::MAX).is_ok());
        assert_eq!(check(1 << 40, 33 << 20, 0), Err(SizeError::EspTooSmall { esp_bytes: 33 << 20 }));
    }
}
