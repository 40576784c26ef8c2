//! The section `.hwids`: which hardware a device tree is for.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;

/// Size of an entry: descriptor (u32: type and size), hardware id (GUID), offsets of name and compatible (u32 each).
const ENTRY_BYTES: u32 = 4 + 16 + 4 + 4;
/// Of the type in a descriptor.
const TYPE_SHIFT: u32 = 28;
/// The type of devices that get a device tree.
const DEVICE_TREE: u32 = 1;

/// Why a description of hardware is not accepted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParseDeviceError {
    /// It is not JSON of the right form.
    #[error("it is not JSON of the form {{\"name\", \"compatible\", \"hwids\"}}")]
    Form(#[source] serde_json::Error),
    /// It is for something else than a device tree.
    #[error("it describes hardware of type {0:?}, and not \"devicetree\"")]
    Type(String),
    /// A hardware id is not a GUID.
    #[error("{0:?} is no hardware id: it has 32 hex digits, with hyphens between them")]
    Id(String),
    /// A text has a NUL in it.
    #[error("{0:?} has a NUL in it")]
    Nul(String),
}

/// A description of hardware: its name, what its device tree is compatible with, and the ids that its firmware may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    name: String,
    compatible: String,
    /// As numbers, most significant byte first.
    ids: BTreeSet<[u8; 16]>,
}

#[derive(Deserialize)]
struct Json {
    /// Not in those for systemd 257, which knows of nothing else.
    #[serde(default = "device_tree")]
    r#type: String,
    name: String,
    compatible: String,
    hwids: Vec<String>,
}

impl FromStr for Device {
    type Err = ParseDeviceError;

    /// Parses JSON.
    fn from_str(json: &str) -> Result<Self, Self::Err> {
        let json: Json = serde_json::from_str(json).map_err(ParseDeviceError::Form)?;
        if json.r#type != device_tree() {
            return Err(ParseDeviceError::Type(json.r#type));
        }
        if let Some(text) = [&json.name, &json.compatible].into_iter().find(|text| text.contains('\0')) {
            return Err(ParseDeviceError::Nul(text.clone()));
        }
        let ids = json.hwids.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?;
        Ok(Self { name: json.name, compatible: json.compatible, ids })
    }
}

fn device_tree() -> String {
    "devicetree".to_owned()
}

fn parse_id(text: &str) -> Result<[u8; 16], ParseDeviceError> {
    let digits: String = text.trim_matches(['{', '}']).chars().filter(|c| *c != '-').collect();
    let is_id = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| is_id);
    number.map(u128::to_be_bytes).ok_or_else(|| ParseDeviceError::Id(text.to_owned()))
}

/// The section: an entry for each hardware id, an empty one, and the texts that they name. Devices that are given several times
/// are one with all ids.
///
/// # Panics
/// When the texts have more than 4 GiB.
#[must_use]
pub fn table(devices: &[Device]) -> Vec<u8> {
    let mut merged: Vec<Device> = Vec::new();
    for device in devices {
        let same = |other: &&mut Device| other.name == device.name && other.compatible == device.compatible;
        match merged.iter_mut().find(same) {
            Some(other) => other.ids.extend(&device.ids),
            None => merged.push(device.clone()),
        }
    }
    let number = |value: usize| u32::try_from(value).expect("less than 4 GiB of texts");
    let entries: usize = merged.iter().map(|device| device.ids.len()).sum::<usize>() + 1;
    let base = entries * ENTRY_BYTES as usize;
    let texts: BTreeSet<&str> = merged.iter().flat_map(|device| [&*device.name, &*device.compatible]).collect();
    let mut offsets = BTreeMap::new();
    let mut blob = Vec::new();
    for text in texts {
        offsets.insert(text, number(base + blob.len()));
        blob.extend(text.as_bytes());
        blob.push(0);
    }
    let mut table = Vec::with_capacity(base + blob.len());
    for device in &merged {
        for id in &device.ids {
            table.extend((DEVICE_TREE << TYPE_SHIFT | ENTRY_BYTES).to_le_bytes());
            table.extend(little_endian(*id));
            table.extend(offsets[&*device.name].to_le_bytes());
            table.extend(offsets[&*device.compatible].to_le_bytes());
        }
    }
    table.resize(base, 0);
    table.extend(blob);
    table
}

/// As UEFI stores GUIDs: the first three groups with the least significant byte first.
fn little_endian(mut id: [u8; 16]) -> [u8; 16] {
    id[..4].reverse();
    id[4..6].reverse();
    id[6..8].reverse();
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_texts_by_their_offsets() {
        let device: Device = r#"{"type": "devicetree", "name": "Maker Thing", "compatible": "maker,thing",
            "hwids": ["ffffffff-0000-0000-0000-000000000001", "{00112233-4455-6677-8899-AABBCCDDEEFF}"]}"#
            .parse()
            .unwrap();
        let table = table(&[device.clone(), device]);
        let texts = 3 * 28;
        assert_eq!(&table[..4], [0x1C, 0, 0, 0x10]);
        let id = [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF];
        assert_eq!(table[4..20], id, "the smaller id is first");
        assert_eq!(table[20..24], u32::try_from(texts).unwrap().to_le_bytes());
        assert_eq!(table[24..28], u32::try_from(texts + 12).unwrap().to_le_bytes());
        assert_eq!(table[28 + 4..28 + 8], [0xFF; 4]);
        assert_eq!(table[56..84], [0; 28]);
        assert_eq!(&table[texts..], b"Maker Thing\0maker,thing\0");
    }

    #[test]
    fn what_describes_no_hardware_is_refused() {
        let refused = |json: &str| json.parse::<Device>().unwrap_err().to_string();
        assert!(refused("{}").contains("not JSON of the form"));
        assert!(r#"{"name": "a", "compatible": "b", "hwids": []}"#.parse::<Device>().is_ok());
        assert!(refused(r#"{"type": "uefi-fw", "name": "a", "compatible": "b", "hwids": []}"#).contains("uefi-fw"));
        assert!(
            refused(r#"{"type": "devicetree", "name": "a", "compatible": "b", "hwids": ["+1"]}"#).contains("\"+1\"")
        );
        assert!(
            refused(r#"{"type": "devicetree", "name": "a\u0000", "compatible": "b", "hwids": []}"#).contains("NUL")
        );
    }
}
