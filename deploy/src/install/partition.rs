//! The partition table of a new system: an ESP and a root, with the types of the Discoverable Partitions Specification.
//!
//! Source: UAPI.2, <https://uapi-group.org/specifications/specs/discoverable_partitions_specification/>

/// Type of the EFI system partition.
const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// Name of the EFI system partition in the table.
const ESP_NAME: &str = "EFI-SYSTEM";

/// Name of the root partition in the table.
const ROOT_NAME: &str = "root";

/// Where the first partition begins and how partitions are aligned.
pub(super) const ALIGNMENT_BYTES: u64 = 1 << 20;

/// Number of the ESP in the table.
pub(super) const ESP_NUMBER: u32 = 1;

/// Number of the root partition in the table.
pub(super) const ROOT_NUMBER: u32 = 2;

/// Type of the root partition for an architecture, named as in [`std::env::consts::ARCH`].
///
/// systemd-gpt-auto-generator finds the root by it; `None` for architectures that have none there.
pub(super) fn root_type(architecture: &str) -> Option<&'static str> {
    Some(match architecture {
        "x86_64" => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "x86" => "44479540-f297-41b2-9af7-d131d5f0458a",
        "aarch64" => "b921b045-1df0-41c3-af44-4c6f280d3fae",
        "arm" => "69dad710-2ce4-4e3c-b16c-21a1d49abed3",
        "riscv64" => "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
        "loongarch64" => "77055800-792c-4f94-b39a-98c91b762bb6",
        _ => return None,
    })
}

/// The table as input for sfdisk: an ESP of this size, and the root in all the rest.
pub(super) fn script(esp_bytes: u64, root_type: &str) -> String {
    format!(
        "label: gpt\n\
         size={}KiB, type={ESP_TYPE}, name={ESP_NAME}\n\
         type={root_type}, name={ROOT_NAME}\n",
        esp_bytes / 1024
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_has_an_esp_and_a_root_of_this_architecture() {
        assert_eq!(
            script(1 << 30, root_type("x86_64").unwrap()),
            "label: gpt\n\
             size=1048576KiB, type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b, name=EFI-SYSTEM\n\
             type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709, name=root\n"
        );
        assert_eq!(root_type("pdp11"), None);
    }
}
