//! Names of images in the repository.

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{ContentDigest, PullOptions, StoreError, list, open_image, pull, tag, untag};

use crate::fixture::{Image, layer, repository};

#[test]
fn images_are_opened_by_tag_and_by_either_digest() {
    let image = Image::new(&[layer(&[("usr/a", 100)])]);
    let (_dir, repository) = repository(Algorithm::Sha512);
    let name = "docker://localhost:5000/os:latest";
    let stored =
        pull(&repository, &image, &PullOptions { tag: Some(name), ..PullOptions::default() }, &Silent).unwrap();
    let (manifest, config) = (stored.manifest_digest.to_string(), stored.config_digest.to_string());
    for name in [name, &manifest, &config, &format!("@{manifest}"), &format!("@{config}")] {
        assert_eq!(open_image(&repository, name).unwrap().manifest_digest, stored.manifest_digest, "{name}");
    }
    let none = ContentDigest::sha256(b"none").to_string();
    for name in ["latest", "docker://localhost:5000/os", &none] {
        assert!(matches!(open_image(&repository, name), Err(StoreError::NotFound { .. })), "{name}");
    }
}

#[test]
fn tags_are_made_moved_and_removed() {
    let (one, two) = (Image::new(&[layer(&[("usr/a", 100)])]), Image::new(&[layer(&[("usr/b", 100)])]));
    let (_dir, repository) = repository(Algorithm::Sha512);
    let one = pull(&repository, &one, &PullOptions::default(), &Silent).unwrap().manifest_digest;
    let two = pull(&repository, &two, &PullOptions::default(), &Silent).unwrap().manifest_digest;
    tag(&repository, &one, "a/b").unwrap();
    tag(&repository, &one, "100%").unwrap();
    assert_eq!(list(&repository).unwrap(), [("100%".to_owned(), one), ("a/b".to_owned(), one)]);
    tag(&repository, &two, "a/b").unwrap();
    assert!(untag(&repository, "100%").unwrap());
    assert!(!untag(&repository, "100%").unwrap());
    assert_eq!(list(&repository).unwrap(), [("a/b".to_owned(), two)]);
    let none = ContentDigest::sha256(b"none");
    assert!(matches!(tag(&repository, &none, "x"), Err(StoreError::NotFound { .. })));
    assert!(matches!(tag(&repository, &one, "@x"), Err(StoreError::Tag(_))));
    assert!(tag(&repository, &one, &"x".repeat(300)).is_err());
    assert!(matches!(open_image(&repository, &"x".repeat(300)), Err(StoreError::NotFound { .. })));
}
