//! Streams that another program has stored under a name are not believed.

use osupdate_core::Digest;
use osupdate_core::digest::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{ImageFindingKind, PullOptions, StoredImage, pull, verify_images};
use osupdate_core::repository::Repository;
use osupdate_core::splitstream::{ContentType, Writer};

use crate::fixture::{Image, layer, merged, repository};

const OPTIONS: fn() -> PullOptions<'static> = || PullOptions { tag: Some("x"), ..PullOptions::default() };

/// Stores a layer under whatever name, as programs do that do not verify.
fn store_layer(repository: &Repository, tar: &[u8], name: &str) -> Digest {
    let mut stream = Writer::new(repository.algorithm(), ContentType::Layer).unwrap();
    // One file above 64 bytes, after the directory and its own header.
    let (before, rest) = tar.split_at(1024);
    let (file, after) = rest.split_at(100);
    stream.inline(before);
    stream.external(repository.put_object(file).unwrap().digest, 100).unwrap();
    stream.inline(after);
    let stream = repository.put_object(&stream.finish().unwrap()).unwrap().digest;
    repository.publish_streams(&[(name.to_owned(), stream)]).unwrap();
    stream
}

fn layer_of(repository: &Repository, image: &StoredImage) -> Vec<u8> {
    merged(repository, &image.layers[0].1)
}

#[test]
fn a_layer_under_a_wrong_diff_id_is_fetched_again() {
    let (_dir, repository) = repository(Algorithm::Sha512);
    let good = layer(&[("usr/good", 100)]);
    let image = Image::new(std::slice::from_ref(&good));
    store_layer(&repository, &layer(&[("usr/evil", 100)]), &format!("oci-layer-{}", image.diff_ids[0]));
    let stored = pull(&repository, &image, &OPTIONS(), &Silent).unwrap();
    assert_eq!(image.take_fetched(), [image.config_digest, image.layers[0]]);
    assert_eq!(layer_of(&repository, &stored), good);
    assert_eq!(verify_images(&repository).unwrap(), []);
}

#[test]
fn a_layer_of_another_program_is_used_once_it_is_verified() {
    let (dir, repository) = repository(Algorithm::Sha512);
    let good = layer(&[("usr/good", 100)]);
    let image = Image::new(std::slice::from_ref(&good));
    let stream = store_layer(&repository, &good, &format!("oci-layer-{}", image.diff_ids[0]));
    let stored = pull(&repository, &image, &OPTIONS(), &Silent).unwrap();
    assert_eq!(image.take_fetched(), [image.config_digest]);
    assert_eq!(stored.layers[0].1, stream);

    // It is remembered: a part that changes afterwards is for a check of the repository to find.
    let object = repository.open_stream(&stream, None).unwrap().object_refs()[0];
    let path = dir.path().join("objects").join(object.object_path());
    std::fs::write(&path, [b'x'; 100]).unwrap();
    pull(&repository, &image, &OPTIONS(), &Silent).unwrap();
    assert_eq!(image.take_fetched(), []);
}

#[test]
fn a_layer_with_parts_that_are_not_what_their_names_say_is_fetched_again() {
    let (dir, repository) = repository(Algorithm::Sha512);
    let good = layer(&[("usr/good", 100)]);
    let image = Image::new(std::slice::from_ref(&good));
    let name = format!("oci-layer-{}", image.diff_ids[0]);
    // The merged stream has the right digest, but the name of its part does not: it would be mounted as another file.
    let other = repository.put_object(&[b'o'; 100]).unwrap().digest;
    std::fs::write(dir.path().join("objects").join(other.object_path()), &good[1024..1124]).unwrap();
    let mut stream = Writer::new(repository.algorithm(), ContentType::Layer).unwrap();
    stream.inline(&good[..1024]);
    stream.external(other, 100).unwrap();
    stream.inline(&good[1124..]);
    let stream = repository.put_object(&stream.finish().unwrap()).unwrap().digest;
    assert_eq!(merged_unchecked(dir.path(), &repository, &stream), good);
    repository.publish_streams(&[(name, stream)]).unwrap();
    pull(&repository, &image, &OPTIONS(), &Silent).unwrap();
    assert_eq!(image.take_fetched(), [image.config_digest, image.layers[0]]);
}

fn merged_unchecked(dir: &std::path::Path, repository: &Repository, stream: &Digest) -> Vec<u8> {
    use osupdate_core::splitstream::Chunk;
    let stream = repository.open_stream(stream, None).unwrap();
    let part = |chunk: Chunk| match chunk {
        Chunk::Inline(bytes) => bytes,
        Chunk::External(digest) => std::fs::read(dir.join("objects").join(digest.object_path())).unwrap(),
    };
    stream.chunks().flat_map(|chunk| part(chunk.unwrap())).collect()
}

/// A program that had a wrong layer has also made a wrong image of it, and named that in the configuration.
#[test]
fn an_image_of_another_program_is_made_again() {
    let (_dir, repository) = repository(Algorithm::Sha512);
    let image = Image::new(&[layer(&[("usr/good", 100)])]);
    let evil = Image::new(&[layer(&[("usr/evil", 100)])]);
    let wrong = pull(&repository, &evil, &PullOptions::default(), &Silent).unwrap().image.unwrap();
    let config = &image.blobs[&image.config_digest];
    let document = repository.put_object(config).unwrap();
    let mut stream = Writer::new(repository.algorithm(), ContentType::Config).unwrap();
    stream.named_ref("composefs.image.v1", wrong);
    stream.named_ref("composefs.image.boot.v1", wrong);
    stream.external(document.digest, document.size_bytes).unwrap();
    let stream = repository.put_object(&stream.finish().unwrap()).unwrap().digest;
    repository.publish_streams(&[(format!("oci-config-{}", image.config_digest), stream)]).unwrap();

    let stored = pull(&repository, &image, &OPTIONS(), &Silent).unwrap();
    assert_ne!(stored.image, Some(wrong));
    // Nobody wanted a boot image of us, and somebody may need the other one: it stays until one is wanted.
    assert_eq!(stored.boot_image, Some(wrong));

    let (_dir, fresh) = crate::fixture::repository(Algorithm::Sha512);
    assert_eq!(stored.image, pull(&fresh, &image, &OPTIONS(), &Silent).unwrap().image);
}

#[test]
fn a_check_finds_a_layer_under_a_wrong_diff_id() {
    let (_dir, repository) = repository(Algorithm::Sha512);
    let (good, evil) = (layer(&[("usr/good", 100)]), layer(&[("usr/evil", 100)]));
    let image = Image::new(&[good]);
    let diff_id = image.diff_ids[0];
    let evil = store_layer(&repository, &evil, &format!("oci-layer-{diff_id}"));
    // What cfsctl leaves behind after it has pulled the image.
    let put = |kind, json: &[u8], refs: &[(String, Digest)]| {
        let document = repository.put_object(json).unwrap();
        let mut stream = Writer::new(repository.algorithm(), kind).unwrap();
        refs.iter().for_each(|(label, digest)| stream.named_ref(label, *digest));
        stream.external(document.digest, document.size_bytes).unwrap();
        repository.put_object(&stream.finish().unwrap()).unwrap().digest
    };
    let layer_ref = (diff_id.to_string(), evil);
    let config = put(ContentType::Config, &image.blobs[&image.config_digest], std::slice::from_ref(&layer_ref));
    let config_ref = (format!("config:{}", image.config_digest), config);
    let manifest = put(ContentType::Manifest, &image.manifest, &[config_ref, layer_ref]);
    let manifest_name = format!("oci-manifest-{}", image.manifest_digest());
    let names = [(format!("oci-config-{}", image.config_digest), config), (manifest_name, manifest)];
    repository.publish_streams(&names).unwrap();
    osupdate_core::oci::tag(&repository, &image.manifest_digest(), "x").unwrap();
    let kinds = || -> Vec<_> { verify_images(&repository).unwrap().into_iter().map(|finding| finding.kind).collect() };
    assert_eq!(kinds(), [ImageFindingKind::LayerContentsMismatch]);
    pull(&repository, &image, &OPTIONS(), &Silent).unwrap();
    assert_eq!(kinds(), []);
}
