//! A repository of cfsctl: see `vectors/repository/README.md`.

use osupdate_core::repository::{Namespace, Verity};
use osupdate_core::splitstream::{Chunk, ContentType, Writer};
use osupdate_core::{Algorithm, Digest};

use crate::fixture::of_cfsctl;

const MANIFEST: &str = "oci-manifest-sha256:4f7366e35e1c481169676ad49dfb62b6c1bc11e508bef14e7c7947ccf2302f21";
const CONFIG: &str = "oci-config-sha256:ff33a41b4314a065ed6cffb7f76ea65025ed5b241f0717e2d869758a5c31347f";
const LAYERS: [&str; 2] = [
    "sha256:9db763cdb7dd96ffc1b62146b307bab6c5984d14263c6865232810fde160610e",
    "sha256:527645c55eb1f0e171c0b60ff3d7f933a8513c1f0c768bf0d4f743368fb9b430",
];
const IMAGE: &str = "a170e0f302285b60dd5bbca090e7928a8ed108a0095eff9afb00894eedc6b1a3e0c07b3b83ba75ee089c5dc51d051fc7fe80bac2720a3928f1557621a6b6d80d";

#[test]
fn it_is_opened_and_its_names_are_found() {
    let temporary = of_cfsctl();
    let repository = &temporary.repository;
    assert_eq!((repository.algorithm(), repository.verity()), (Algorithm::Sha512, Verity::Unverified));
    assert_eq!(repository.refs(Namespace::Streams).unwrap(), [("oci/foo%2Fbar".to_owned(), MANIFEST.to_owned())]);
    let image: Digest = IMAGE.parse().unwrap();
    assert_eq!(repository.image(IMAGE).unwrap(), Some(image));
    assert!(repository.read_image(&image).unwrap().len() >= 4096);
}

#[test]
fn its_streams_lead_from_the_manifest_to_the_layers() {
    let temporary = of_cfsctl();
    let repository = &temporary.repository;
    let manifest = repository.stream(MANIFEST).unwrap().unwrap();
    let manifest = repository.open_stream(&manifest, Some(ContentType::Manifest)).unwrap();
    let label = CONFIG.replace("oci-config-", "config:");
    let config = repository.open_stream(&manifest.named_refs()[&label], Some(ContentType::Config)).unwrap();
    assert_eq!(config.named_refs()["composefs.image.v1"], IMAGE.parse().unwrap());
    for layer in LAYERS {
        let layer = repository.open_stream(&config.named_refs()[layer], Some(ContentType::Layer)).unwrap();
        let mut merged = Vec::new();
        for chunk in layer.chunks() {
            match chunk.unwrap() {
                Chunk::Inline(bytes) => merged.extend(bytes),
                Chunk::External(digest) => merged.extend(repository.read_object(&digest).unwrap()),
            }
        }
        assert_eq!(merged.len() as u64, layer.merged_size());
        assert_eq!(&merged[257..262], b"ustar");
    }
}

/// As long as this holds, two tools in one repository do not re-point each other's configurations.
#[test]
fn our_configuration_stream_has_the_same_bytes() {
    let temporary = of_cfsctl();
    let repository = &temporary.repository;
    let digest = repository.stream(CONFIG).unwrap().unwrap();
    let theirs = repository.open_stream(&digest, Some(ContentType::Config)).unwrap();
    let document = theirs.object_refs()[0];
    let mut ours = Writer::new(Algorithm::Sha512, ContentType::Config).unwrap();
    ours.external(document, repository.read_object(&document).unwrap().len() as u64).unwrap();
    for label in [LAYERS[0], LAYERS[1], "composefs.image.v1"] {
        ours.named_ref(label, theirs.named_refs()[label]);
    }
    assert_eq!(ours.finish().unwrap(), repository.read_object(&digest).unwrap());
}
