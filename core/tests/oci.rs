//! Images pulled from OCI layouts, against the answers of cfsctl 0.9; see `vectors/oci/README.md`.

mod oci_fixture;

use oci_fixture::{Fixture, repository};
use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{PullOptions, open_image, pull, verify_images};

const IMG1_MANIFEST: &str = "sha256:4f7366e35e1c481169676ad49dfb62b6c1bc11e508bef14e7c7947ccf2302f21";
const IMG1_CONFIG: &str = "sha256:ff33a41b4314a065ed6cffb7f76ea65025ed5b241f0717e2d869758a5c31347f";
const IMG1_IMAGE: &str = "a170e0f302285b60dd5bbca090e7928a8ed108a0095eff9afb00894eedc6b1a3e0c07b3b83ba75ee089c5dc51d051fc7fe80bac2720a3928f1557621a6b6d80d";

#[test]
fn image_has_the_known_digests() {
    let img1 = Fixture::unpack("img1.tar");
    let (_dir, repository) = repository(Algorithm::Sha512);
    let options = PullOptions { tag: Some("img1"), ..PullOptions::default() };
    let image = pull(&repository, &img1.layout("img1"), &options, &Silent).unwrap();
    assert_eq!(image.manifest_digest.to_string(), IMG1_MANIFEST);
    assert_eq!(image.config_digest.to_string(), IMG1_CONFIG);
    assert_eq!(image.image.unwrap().to_string(), IMG1_IMAGE);
    assert_eq!(image.boot_image, None);
    assert_eq!(open_image(&repository, "img1").unwrap().image, image.image);
    assert_eq!(verify_images(&repository).unwrap(), []);
}

#[test]
fn bootable_image_has_the_known_digests() {
    let fixture = Fixture::unpack("bootable.tar");
    let (_dir, repository) = repository(Algorithm::Sha512);
    let options = PullOptions { bootable: true, ..PullOptions::default() };
    let image = pull(&repository, &fixture.layout("bA"), &options, &Silent).unwrap();
    let (plain, boot) = (image.image.unwrap().to_string(), image.boot_image.unwrap().to_string());
    assert!(plain.starts_with("fd0f690f") && plain.ends_with("1660"), "{plain}");
    assert!(boot.starts_with("d82b7b2f") && boot.ends_with("7cef"), "{boot}");
}
