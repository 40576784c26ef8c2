//! `image list --all`: what has no tag, and EROFS images.

use serde_json::json;

use crate::docker_registry::have;
use crate::place::Place;

#[test]
fn images_without_a_tag_and_erofs_images_are_listed_on_request() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let pulled = place.run(&["image", "pull", "oci:image", "--tag", "test", "--bootable", "--json"]).json();
    let all = place.run(&["image", "list", "--all", "--json"]).json();
    assert_eq!(all["images"].as_array().unwrap().len(), 1);
    let mut made: Vec<_> = ["image_digest", "boot_image_digest"].map(|field| pulled[field].clone()).to_vec();
    made.sort_by_key(ToString::to_string);
    let listed: Vec<_> =
        all["erofs_images"].as_array().unwrap().iter().map(|image| image["image_digest"].clone()).collect();
    assert_eq!(listed, made);
    for image in all["erofs_images"].as_array().unwrap() {
        assert_eq!((&image["refs"], &image["manifest_digests"]), (&json!([]), &json!([pulled["manifest_digest"]])));
    }
    assert_eq!(place.run(&["image", "list", "--json"]).json()["erofs_images"], json!(null));

    drop(place.run(&["image", "untag", "test"]).done());
    assert_eq!(place.run(&["image", "list"]).done(), "no images\n");
    let all = place.run(&["image", "list", "--all", "--json"]).json();
    assert_eq!(all["images"][0]["tag"], json!(null));
    assert_eq!(all["images"][0]["manifest_digest"], pulled["manifest_digest"]);
    let text = place.run(&["image", "list", "--all"]).done();
    assert!(text.contains("\nEROFS IMAGE   NAMES  OF MANIFESTS\n"), "{text}");
    // What is listed can be named: an image by its EROFS image, and it gets a tag again.
    let erofs = pulled["boot_image_digest"].as_str().unwrap();
    let inspected = place.run(&["image", "inspect", erofs, "--json"]).json();
    assert_eq!(inspected["manifest_digest"], pulled["manifest_digest"]);
    assert_eq!(inspected["erofs_images"]["composefs.image.boot.v1"], pulled["boot_image_digest"]);
    drop(place.run(&["image", "tag", pulled["manifest_digest"].as_str().unwrap(), "again"]).done());
    assert!(place.run(&["image", "list"]).done().contains("\nagain  "));
    // Only what is there gets a tag.
    let nothing = format!("sha256:{}", "0".repeat(64));
    let message = place.run(&["image", "tag", &nothing, "x"]).failed(1);
    assert!(message.starts_with(&format!("error: there is no image \"{nothing}\"")), "{message}");
}
