//! Artifacts, and what belongs to an image.

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    ContentDigest, ImageFindingKind, PullError, PullOptions, add_referrer, clean_referrers, is_artifact, list,
    open_artifact, open_image, pull, pull_artifact, referrers, remove_referrer, untag, verify_images,
};
use osupdate_core::repository::{GcOptions, Namespace, Repository};

use crate::fixture::{Image, layer, merged, repository};

fn collect(repository: &mut Repository) -> u64 {
    repository.gc(&GcOptions::default(), &Silent).unwrap().objects_removed
}

fn pull_image(repository: &Repository, tag: &str) -> ContentDigest {
    let image = Image::new(&[layer(&[("usr/a", 100)])]);
    pull(repository, &image, &PullOptions { tag: Some(tag), ..PullOptions::default() }, &Silent)
        .unwrap()
        .manifest_digest
}

#[test]
fn artifacts_are_stored_as_they_come() {
    let (_dir, mut repository) = repository(Algorithm::Sha512);
    let large = vec![b'x'; 3_000_000];
    let artifact = Image::artifact(&[b"short", &large], None);
    assert!(is_artifact(&artifact.manifest));
    assert!(!is_artifact(&Image::new(&[]).manifest));
    let stored = pull_artifact(&repository, &artifact, Some("a/b"), &Silent).unwrap();
    assert_eq!(artifact.take_fetched(), [artifact.config_digest, artifact.layers[0], artifact.layers[1]]);
    assert_eq!(stored.artifact_type, "application/vnd.example.packages");
    assert_eq!(stored.subject, None);
    assert_eq!(collect(&mut repository), 0);
    let opened = open_artifact(&repository, "a/b").unwrap();
    assert_eq!(opened.manifest_digest, artifact.manifest_digest());
    let blobs: Vec<_> = opened.layers.iter().map(|(_, stream)| merged(&repository, stream)).collect();
    assert_eq!(blobs, [b"short".to_vec(), large]);
    assert_eq!(list(&repository).unwrap(), [("a/b".to_owned(), artifact.manifest_digest())]);
    assert_eq!(verify_images(&repository).unwrap(), []);
    // Nothing of it is fetched or written twice, nor the configuration that all artifacts share.
    pull_artifact(&repository, &artifact, Some("a/b"), &Silent).unwrap();
    let other = Image::artifact(&[b"short"], None);
    pull_artifact(&repository, &other, None, &Silent).unwrap();
    assert_eq!((artifact.take_fetched(), other.take_fetched()), (vec![], vec![]));
}

#[test]
fn an_artifact_is_no_image() {
    let (_dir, repository) = repository(Algorithm::Sha512);
    let artifact = Image::artifact(&[b"x"], None);
    let error = pull(&repository, &artifact, &PullOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, PullError::Manifest(_)), "{error}");
    pull_artifact(&repository, &artifact, Some("x"), &Silent).unwrap();
    assert!(open_image(&repository, "x").is_err());
}

#[test]
fn damaged_blobs_of_artifacts_are_refused() {
    for (blob, expected) in [(&b"abX"[..], "damaged"), (b"ab", "ended after 2 of 3"), (b"abcd", "more than the 3")] {
        let (_dir, repository) = repository(Algorithm::Sha512);
        let mut artifact = Image::artifact(&[b"abc"], None);
        artifact.blobs.insert(artifact.layers[0], blob.to_vec());
        let error = pull_artifact(&repository, &artifact, Some("x"), &Silent).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(expected), "{cause}");
        assert!(repository.stream_names().unwrap().is_empty());
        assert!(list(&repository).unwrap().is_empty());
    }
}

#[test]
fn a_referrer_is_kept_as_long_as_its_subject() {
    let (_dir, mut repository) = repository(Algorithm::Sha512);
    let image = pull_image(&repository, "image");
    let sbom = Image::artifact(&[b"packages"], Some(&image));
    let signature = Image::artifact(&[b"signature"], Some(&sbom.manifest_digest()));
    for artifact in [&signature, &sbom] {
        pull_artifact(&repository, artifact, None, &Silent).unwrap();
    }
    let name = format!("oci-referrers/{image}/{}", sbom.manifest_digest());
    let target = format!("oci-manifest-{}", sbom.manifest_digest());
    assert_eq!(repository.ref_target(Namespace::Streams, &name).unwrap(), Some(target));
    assert_eq!(collect(&mut repository), 0);
    assert_eq!(referrers(&repository, &image).unwrap(), [sbom.manifest_digest()]);
    assert_eq!(referrers(&repository, &sbom.manifest_digest()).unwrap(), [signature.manifest_digest()]);
    assert_eq!(clean_referrers(&repository).unwrap(), []);
    let why = |digest| repository.why(&repository.stream(&format!("oci-manifest-{digest}")).unwrap().unwrap(), &[]);
    let steps = why(signature.manifest_digest()).unwrap().steps;
    let labels: Vec<_> = steps.iter().filter_map(|step| step.label.as_deref()).collect();
    assert_eq!(labels[0], "streams/refs/oci/image");
    assert!(labels.last().unwrap().starts_with("streams/refs/oci-referrers/"), "{labels:?}");

    // One collection removes the image and all that belongs to it.
    untag(&repository, "image").unwrap();
    collect(&mut repository);
    assert_eq!(repository.refs(Namespace::Streams).unwrap(), []);
    assert_eq!(repository.stream_names().unwrap(), [""; 0]);
}

#[test]
fn a_tagged_artifact_outlives_its_subject() {
    let (_dir, mut repository) = repository(Algorithm::Sha512);
    let image = pull_image(&repository, "image");
    let sbom = Image::artifact(&[b"packages"], Some(&image));
    pull_artifact(&repository, &sbom, Some("sbom"), &Silent).unwrap();
    untag(&repository, "image").unwrap();
    collect(&mut repository);
    assert_eq!(referrers(&repository, &image).unwrap(), []);
    assert_eq!(open_artifact(&repository, "sbom").unwrap().subject, Some(image));
    // The subject comes back: the artifact can be kept with it again.
    pull_image(&repository, "image");
    assert_eq!(add_referrer(&repository, &sbom.manifest_digest()).unwrap(), image);
    assert_eq!(referrers(&repository, &image).unwrap(), [sbom.manifest_digest()]);
    assert!(remove_referrer(&repository, &image, &sbom.manifest_digest()).unwrap());
    assert!(!remove_referrer(&repository, &image, &sbom.manifest_digest()).unwrap());
}

#[test]
fn referrers_of_nothing_are_cleaned() {
    let (_dir, repository) = repository(Algorithm::Sha512);
    let nothing = ContentDigest::sha256(b"nothing");
    let orphan = Image::artifact(&[b"packages"], Some(&nothing));
    pull_artifact(&repository, &orphan, None, &Silent).unwrap();
    assert_eq!(clean_referrers(&repository).unwrap(), [(nothing, orphan.manifest_digest())]);
    assert_eq!(repository.refs(Namespace::Streams).unwrap(), []);
    let alone = Image::artifact(&[b"alone"], None);
    pull_artifact(&repository, &alone, None, &Silent).unwrap();
    assert!(add_referrer(&repository, &alone.manifest_digest()).is_err());
}

#[test]
fn damage_to_artifacts_is_found() {
    let (dir, repository) = repository(Algorithm::Sha512);
    let artifact = Image::artifact(&[b"packages"], None);
    let stored = pull_artifact(&repository, &artifact, Some("x"), &Silent).unwrap();
    let object = repository.open_stream(&stored.layers[0].1, None).unwrap().object_refs()[0];
    let path = dir.path().join("objects").join(object.object_path());
    std::fs::write(&path, b"something").unwrap();
    let kinds = || -> Vec<_> { verify_images(&repository).unwrap().into_iter().map(|finding| finding.kind).collect() };
    assert_eq!(kinds(), [ImageFindingKind::ArtifactLayerObjectMissing]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kinds(), [ImageFindingKind::ArtifactLayerObjectMissing]);
    pull_artifact(&repository, &artifact, Some("x"), &Silent).unwrap();
    assert_eq!(kinds(), []);
}
