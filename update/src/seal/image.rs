//! What is added to an image when it is sealed: a layer with the UKI, and what the documents say of it.

use osupdate_core::oci::ContentDigest;
use serde_json::{Value, json};
use thiserror::Error;

use super::{DIRECTORY, SealedUki};

/// Names the tool in the history of an image.
const CREATED_BY: &str = "osupdate image seal";

/// Why a configuration cannot be changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not JSON.
    #[error("the configuration of the image is not JSON")]
    Json(#[from] serde_json::Error),
    /// It does not describe layers.
    #[error("the configuration of the image has no rootfs.diff_ids")]
    Form,
    /// The layer cannot be written.
    #[error("cannot make the layer with the UKI")]
    Layer(#[from] std::io::Error),
}

/// The layer with a UKI.
#[derive(Debug)]
pub struct SealedLayer {
    /// The archive, not compressed.
    pub tar: Vec<u8>,
    /// Its digest.
    pub diff_id: ContentDigest,
}

impl SealedLayer {
    /// Makes the layer. It states `/boot` as the image has it, so that nothing of what is booted changes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(uki: &SealedUki) -> Result<Self, ConfigError> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut path = String::new();
        for name in DIRECTORY.split('/') {
            path.push_str(name);
            path.push('/');
            let mut header = header(uki, tar::EntryType::Directory, 0o755, 0);
            if path == "boot/" {
                header.set_mode(uki.boot.mode.into());
                header.set_uid(uki.boot.uid.into());
                header.set_gid(uki.boot.gid.into());
            }
            archive.append_data(&mut header, &path, std::io::empty())?;
        }
        let mut header = header(uki, tar::EntryType::Regular, 0o644, uki.bytes.len() as u64);
        archive.append_data(&mut header, format!("{path}{}", uki.name), &uki.bytes[..])?;
        let tar = archive.into_inner()?;
        Ok(Self { diff_id: ContentDigest::sha256(&tar), tar })
    }

    /// The configuration of the image with the layer on top; what else is in it stays.
    ///
    /// # Errors
    /// When it is not one.
    pub fn add_to_config(&self, config: &[u8]) -> Result<Vec<u8>, ConfigError> {
        let mut config: Value = serde_json::from_slice(config)?;
        let diff_ids = config.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut).ok_or(ConfigError::Form)?;
        diff_ids.push(json!(self.diff_id));
        let mut entry = json!({"created_by": CREATED_BY});
        if let Some(created) = config.get("created") {
            entry["created"] = created.clone();
        }
        // Without a history, one with a single entry would not fit the layers.
        if let Some(history) = config.get_mut("history").and_then(Value::as_array_mut).filter(|all| !all.is_empty()) {
            history.push(entry);
        }
        Ok(config.to_string().into_bytes())
    }
}

fn header(uki: &SealedUki, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    // Archives of this form have no times before 1970.
    header.set_mtime(u64::try_from(uki.boot.mtime_secs).unwrap_or(0));
    header
}

#[cfg(test)]
mod tests {
    use osupdate_core::tree::Stat;
    use osupdate_core::{Algorithm, Digest};

    use super::*;

    fn uki() -> SealedUki {
        SealedUki {
            name: "os-1.efi".to_owned(),
            bytes: vec![7; 1000],
            image: Digest::new(Algorithm::Sha512, &[1; 64]).unwrap(),
            command_line: String::new(),
            boot: Stat { mode: 0o700, uid: 1, gid: 3_000_000, mtime_secs: 77, ..Stat::default() },
        }
    }

    #[test]
    fn the_layer_has_the_uki_and_leaves_boot_as_it_is() {
        let layer = SealedLayer::new(&uki()).unwrap();
        assert_eq!(layer.tar, SealedLayer::new(&uki()).unwrap().tar);
        let mut archive = tar::Archive::new(&layer.tar[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let (mode, uid, gid) = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
                assert_eq!(header.mtime().unwrap(), 77);
                (entry.path().unwrap().display().to_string(), mode, uid, gid, entry.size())
            })
            .collect();
        let expected = [
            ("boot/", 0o700, 1, 3_000_000, 0),
            ("boot/EFI/", 0o755, 0, 0, 0),
            ("boot/EFI/Linux/", 0o755, 0, 0, 0),
            ("boot/EFI/Linux/os-1.efi", 0o644, 0, 0, 1000),
        ];
        assert_eq!(entries, expected.map(|(path, mode, uid, gid, size)| (path.to_owned(), mode, uid, gid, size)));
    }

    #[test]
    fn the_configuration_describes_one_layer_more() {
        let layer = SealedLayer::new(&uki()).unwrap();
        let add = |config: Value| -> Value {
            serde_json::from_slice(&layer.add_to_config(config.to_string().as_bytes()).unwrap()).unwrap()
        };
        let with_history =
            add(json!({"created": "x", "rootfs": {"diff_ids": ["a"]}, "history": [{}], "config": {"b": 1}}));
        assert_eq!(with_history["rootfs"]["diff_ids"], json!(["a", layer.diff_id]));
        assert_eq!(with_history["history"], json!([{}, {"created": "x", "created_by": CREATED_BY}]));
        assert_eq!(with_history["config"], json!({"b": 1}));
        assert_eq!(add(json!({"rootfs": {"diff_ids": []}})).get("history"), None);
        assert!(matches!(layer.add_to_config(b"{}"), Err(ConfigError::Form)));
        assert!(matches!(layer.add_to_config(b"x"), Err(ConfigError::Json(_))));
    }
}
