//! `meta.json`, and manifests, configurations and indexes of images.

use osupdate_core::fuzz::{config, manifest, metadata};
use osupdate_core::oci::{ImageConfiguration, ImageManifest, Platform, parse_index};

pub(crate) fn meta(json: &[u8]) {
    if let Some(written) = metadata(json) {
        assert_eq!(metadata(&written).expect("meta.json of our own can be read"), written);
    }
}

pub(crate) fn oci(input: &[u8]) {
    let Some((layers, json)) = input.split_first() else { return };
    if manifest(json) {
        let document: ImageManifest = serde_json::from_slice(json).expect("it was accepted");
        assert!(manifest(&serde_json::to_vec(&document).expect("it has a form in JSON")), "written again, refused");
    }
    if config(json, usize::from(*layers)) {
        let document: ImageConfiguration = serde_json::from_slice(json).expect("it was accepted");
        let written = serde_json::to_vec(&document).expect("it has a form in JSON");
        assert!(config(&written, usize::from(*layers)), "written again, refused");
    }
    if let Ok(index) = parse_index(json)
        && let Ok(selected) = Platform::host().select(index.manifests())
    {
        assert!(index.manifests().contains(selected));
    }
}
