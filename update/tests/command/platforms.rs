//! Images for several platforms.

use osupdate_core::oci::Platform;

use crate::docker_registry::have;
use crate::layout::Layout;
use crate::place::Place;

#[test]
fn the_image_for_another_platform_is_pulled_if_asked_for() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let mut layout = Layout::create(&place.path().join("several"));
    let host = Platform::host().architecture;
    let files: &[(&str, &[u8])] = &[("usr/lib/os-release", b"ID=test\n")];
    let images = [&host, "s390x"].map(|architecture| layout.image(architecture, &[files]));
    layout.tag("1", &layout.list(&[&images[0], &images[1]]));
    let pull = |arguments: &[&str]| place.run(&[&["image", "pull", "oci:several:1", "--json"], arguments].concat());
    assert_eq!(pull(&[]).json()["architecture"], host);
    assert_eq!(pull(&["--platform", "linux/s390x", "--tag", "other"]).json()["architecture"], "s390x");
    let message = pull(&["--platform", "linux/pdp11"]).failed(1);
    assert!(
        message.contains(&format!("there is no image for linux/pdp11, only for linux/{host}, linux/s390x")),
        "{message}"
    );
    let message = pull(&["--platform", "s390x"]).failed(2);
    assert!(message.contains("expected OS/ARCHITECTURE[/VARIANT]"), "{message}");
    let digest = |arguments: &[&str]| {
        place.run(&[&["image", "digest", "--source", "oci:several:1", "--json"], arguments].concat()).json()
    };
    assert_eq!(digest(&[])["manifest_digest"], images[0]["digest"]);
    assert_eq!(digest(&["--platform", "linux/s390x"])["manifest_digest"], images[1]["digest"]);
}
