//! Pulls from far away that are interrupted, and go on with what has arrived.

use std::fs;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageSource, Offer, Platform, PullError, PullOptions, RemoteSource, SourceError,
    pull, pull_artifact,
};
use osupdate_core::repository::{FsckOptions, GcOptions, Repository};

use crate::fixture::{Image, Record, chain, layer, repository, snapshot};

/// An image far away, whose layers come over a line that breaks after some bytes.
struct Remote<'a> {
    image: &'a Image,
    breaks_after_bytes: usize,
    /// What was asked for: the blob, and from where on.
    asked: Mutex<Vec<(ContentDigest, u64)>>,
}

impl<'a> Remote<'a> {
    fn new(image: &'a Image, breaks_after_bytes: usize) -> Self {
        Self { image, breaks_after_bytes, asked: Mutex::default() }
    }

    fn asked(&self) -> Vec<(ContentDigest, u64)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl ImageSource for Remote<'_> {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        self.image.manifest()
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.image.blob(descriptor)
    }

    fn remote(&self) -> Option<&dyn RemoteSource> {
        Some(self)
    }
}

impl RemoteSource for Remote<'_> {
    fn blob_from(&self, descriptor: &BlobDescriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.asked.lock().unwrap().push((descriptor.digest, offset));
        let rest = &self.image.blobs[&descriptor.digest][usize::try_from(offset).unwrap()..];
        let arrives = rest.len().min(self.breaks_after_bytes);
        let broken = if arrives < rest.len() { Some(Broken) } else { None };
        Ok(Box::new(rest[..arrives].chain(MaybeBroken(broken))))
    }

    fn connections(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(1)
    }
}

struct Broken;
struct MaybeBroken(Option<Broken>);

impl Read for MaybeBroken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {
            Some(Broken) => Err(io::Error::other("the line is broken")),
            None => Ok(0),
        }
    }
}

/// Files that are kept: digest and size.
fn kept(dir: &Path) -> Vec<(String, u64)> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut kept: Vec<_> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().unwrap();
            Some((name.strip_prefix(".blob-")?.to_owned(), file.metadata().unwrap().len()))
        })
        .collect();
    kept.sort();
    kept
}

fn options() -> PullOptions<'static> {
    PullOptions { tag: Some("x"), ..PullOptions::default() }
}

fn assert_clean(repository: &Repository) {
    assert_eq!(repository.fsck(&FsckOptions::default(), &Silent).unwrap().findings, []);
}

/// What a pull leaves that nothing happens to.
fn undisturbed(image: &Image) -> Vec<String> {
    let (dir, repository) = repository(Algorithm::Sha512);
    pull(&repository, image, &options(), &Silent).unwrap();
    names(dir.path())
}

fn names(dir: &Path) -> Vec<String> {
    let found = snapshot(dir);
    found.iter().map(|(path, is)| format!("{} {is}", path.strip_prefix(dir).unwrap().display())).collect()
}

#[test]
fn each_pull_goes_on_where_the_line_broke_and_nothing_is_left_in_the_end() {
    let image = Image::new(&[layer(&[("usr/a", 250_000)])]);
    let digest = image.layers[0];
    let (dir, repository) = repository(Algorithm::Sha512);
    let remote = Remote::new(&image, 100_000);
    for attempt in 1..=2 {
        let error = pull(&repository, &remote, &options(), &Silent).unwrap_err();
        assert_eq!(chain(&error)[1..], ["the transfer failed", "the line is broken"]);
        assert_eq!(kept(dir.path()), [(digest.to_string(), attempt * 100_000)]);
        assert_clean(&repository);
        let offer = Offer::fetch(&remote, &Platform::host()).unwrap();
        let missing = image.blobs[&digest].len() as u64 - attempt * 100_000;
        assert_eq!(offer.missing_bytes(&repository).unwrap(), missing);
    }
    let record = Record::default();
    pull(&repository, &remote, &options(), &record).unwrap();
    assert_eq!(remote.asked(), [(digest, 0), (digest, 100_000), (digest, 200_000)]);
    let events = record.0.into_inner().unwrap();
    assert!(events[1].starts_with("Resumed {") && events[1].ends_with("done_bytes: 200000 }"), "{events:?}");
    assert!(!events.iter().any(|event| event.starts_with("Progress")), "nothing is done twice: {events:?}");
    assert_eq!(names(dir.path()), undisturbed(&image));
}

#[test]
fn layers_that_were_complete_are_not_asked_for_again() {
    let image = Image::new(&[layer(&[("usr/a", 50_000)]), layer(&[("usr/b", 60_000)]), layer(&[("usr/c", 300_000)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let remote = Remote::new(&image, 200_000);
    // The largest first, and alone.
    pull(&repository, &remote, &options(), &Silent).unwrap_err();
    assert_eq!(remote.asked().len(), 1);
    pull(&repository, &remote, &options(), &Silent).unwrap();
    assert_eq!(remote.asked(), [(image.layers[2], 200_000), (image.layers[1], 0), (image.layers[0], 0)]);
    assert_eq!(names(dir.path()), undisturbed(&image));

    // The large one complete, another one broken.
    let (dir, repository) = self::repository(Algorithm::Sha512);
    let mut damaged = Image::new(&[layer(&[("usr/a", 50_000)]), layer(&[("usr/c", 300_000)])]);
    let good = damaged.blobs[&damaged.layers[0]].clone();
    damaged.blobs.get_mut(&damaged.layers[0]).unwrap()[700] ^= 1;
    let error = pull(&repository, &Remote::new(&damaged, usize::MAX), &options(), &Silent).unwrap_err();
    assert!(matches!(error, PullError::Layer { .. }), "{error}");
    // It has its name, and nothing need be kept of it; nothing that is wrong is kept either.
    assert_eq!(repository.stream_names().unwrap(), [format!("oci-layer-{}", damaged.diff_ids[1])]);
    assert_eq!(kept(dir.path()), []);
    damaged.blobs.insert(damaged.layers[0], good);
    let remote = Remote::new(&damaged, usize::MAX);
    pull(&repository, &remote, &options(), &Silent).unwrap();
    assert_eq!(remote.asked(), [(damaged.layers[0], 0)]);
}

#[test]
fn what_had_arrived_whole_is_not_asked_for() {
    let image = Image::new(&[layer(&[("usr/a", 250_000)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let path = dir.path().join(format!(".blob-{}", image.layers[0]));
    fs::write(path, &image.blobs[&image.layers[0]]).unwrap();
    let remote = Remote::new(&image, 0);
    pull(&repository, &remote, &options(), &Silent).unwrap();
    assert_eq!(remote.asked(), []);
    assert_eq!(names(dir.path()), undisturbed(&image));
}

#[test]
fn what_is_left_of_a_layer_that_has_a_name_goes_with_the_next_pull() {
    let image = Image::new(&[layer(&[("usr/a", 250_000)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let remote = Remote::new(&image, usize::MAX);
    pull(&repository, &remote, &options(), &Silent).unwrap();
    let before = names(dir.path());
    fs::write(dir.path().join(format!(".blob-{}", image.layers[0])), b"left when the process was killed").unwrap();
    pull(&repository, &remote, &options(), &Silent).unwrap();
    assert_eq!(names(dir.path()), before);
}

#[test]
fn damage_to_what_was_kept_is_said_and_fetched_again_once() {
    let plain = layer(&[("usr/a", 250_000)]);
    let compressed = zstd::stream::encode_all(&plain[..], 0).unwrap();
    for (form, blob) in [("tar", plain.clone()), ("tar+zstd", compressed)] {
        let image = Image::compressed(&[(form, plain.clone(), blob.clone())]);
        let digest = image.layers[0];
        for damaged in
            [vec![0; blob.len() / 2], [&blob[..100], &vec![0; blob.len() - 100]].concat(), blob[1..].to_vec()]
        {
            let (dir, repository) = repository(Algorithm::Sha512);
            let path = dir.path().join(format!(".blob-{digest}"));
            fs::write(&path, &damaged).unwrap();
            let (remote, record) = (Remote::new(&image, usize::MAX), Record::default());
            pull(&repository, &remote, &options(), &record).unwrap();
            assert_eq!(remote.asked().last(), Some(&(digest, 0)), "{form}");
            let events = record.0.into_inner().unwrap();
            let warnings: Vec<_> = events.iter().filter(|event| event.starts_with("Warning")).collect();
            assert_eq!(warnings.len(), 1, "{form}: {events:?}");
            assert!(warnings[0].contains("is damaged, fetching it again"), "{warnings:?}");
            assert_eq!(kept(dir.path()), []);
        }
    }
}

#[test]
fn a_source_with_wrong_bytes_is_not_asked_for_ever() {
    let mut image = Image::new(&[layer(&[("usr/a", 250_000)])]);
    let digest = image.layers[0];
    image.blobs.get_mut(&digest).unwrap()[200_000] ^= 1;
    let (dir, repository) = repository(Algorithm::Sha512);
    let broken = Remote::new(&image, 100_000);
    pull(&repository, &broken, &options(), &Silent).unwrap_err();
    let remote = Remote::new(&image, usize::MAX);
    let error = pull(&repository, &remote, &options(), &Silent).unwrap_err();
    assert!(chain(&error)[1].starts_with("the blob is damaged: its digest is"), "{error:?}");
    assert_eq!(remote.asked(), [(digest, 100_000), (digest, 0)]);
    assert_eq!(kept(dir.path()), []);
}

/// An image in two places, of which the first one has wrong bytes, and the second one maybe, too.
struct TwoPlaces<'a> {
    first: Remote<'a>,
    second: Remote<'a>,
    blamed: Mutex<Vec<ContentDigest>>,
}

impl TwoPlaces<'_> {
    fn blamed(&self) -> Vec<ContentDigest> {
        self.blamed.lock().unwrap().clone()
    }

    fn place(&self) -> &Remote<'_> {
        if self.blamed().is_empty() { &self.first } else { &self.second }
    }
}

impl ImageSource for TwoPlaces<'_> {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        self.second.manifest()
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.place().blob(descriptor)
    }

    fn remote(&self) -> Option<&dyn RemoteSource> {
        Some(self)
    }
}

impl RemoteSource for TwoPlaces<'_> {
    fn blob_from(&self, descriptor: &BlobDescriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.place().blob_from(descriptor, offset)
    }

    fn blame(&self, descriptor: &BlobDescriptor) -> bool {
        let mut blamed = self.blamed.lock().unwrap();
        blamed.push(descriptor.digest);
        blamed.len() == 1
    }
}

#[test]
fn a_wrong_blob_is_fetched_again_if_there_is_another_place_for_it() {
    let plain = layer(&[("usr/a", 250_000)]);
    let compressed = zstd::stream::encode_all(&plain[..], 0).unwrap();
    for (form, blob) in [("tar", plain.clone()), ("tar+zstd", compressed)] {
        let image = Image::compressed(&[(form, plain.clone(), blob.clone())]);
        let mut wrong = Image::compressed(&[(form, plain.clone(), blob.clone())]);
        let (digest, config) = (image.layers[0], image.config_digest);
        wrong.blobs.get_mut(&digest).unwrap()[blob.len() / 2] ^= 1;
        let two = |second| TwoPlaces {
            first: Remote::new(&wrong, usize::MAX),
            second: Remote::new(second, usize::MAX),
            blamed: Mutex::default(),
        };

        let (dir, repository) = repository(Algorithm::Sha512);
        let (source, record) = (two(&image), Record::default());
        pull(&repository, &source, &options(), &record).unwrap();
        assert_eq!((source.first.asked(), source.second.asked()), (vec![(digest, 0)], vec![(digest, 0)]), "{form}");
        assert_eq!(source.blamed(), [digest]);
        let events = record.0.into_inner().unwrap();
        assert!(!events.iter().any(|event| event.starts_with("Warning")), "nothing was kept: {events:?}");
        assert_eq!(kept(dir.path()), []);
        assert_clean(&repository);

        let (dir, repository) = self::repository(Algorithm::Sha512);
        let source = two(&wrong);
        let error = pull(&repository, &source, &options(), &Silent).unwrap_err();
        assert!(matches!(error, PullError::Layer { .. }), "{error}");
        assert_eq!(source.blamed(), [digest, digest], "{form}");
        assert_eq!(kept(dir.path()), []);

        // The configuration.
        let good = wrong.blobs.get_mut(&digest).unwrap();
        good[blob.len() / 2] ^= 1;
        wrong.blobs.get_mut(&config).unwrap()[10] ^= 1;
        let source = TwoPlaces {
            first: Remote::new(&wrong, usize::MAX),
            second: Remote::new(&image, usize::MAX),
            blamed: Mutex::default(),
        };
        pull(&repository, &source, &options(), &Silent).unwrap();
        assert_eq!(source.blamed(), [config]);
    }
}

#[test]
fn where_nothing_can_be_kept_it_is_fetched_all_the_same() {
    let image = Image::new(&[layer(&[("usr/a", 250_000)])]);
    let (dir, repository) = repository(Algorithm::Sha512);
    let in_the_way = dir.path().join(format!(".blob-{}", image.layers[0]));
    fs::create_dir(&in_the_way).unwrap();
    pull(&repository, &Remote::new(&image, usize::MAX), &options(), &Silent).unwrap();
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(names(dir.path()), undisturbed(&image));
}

#[test]
fn a_collection_takes_what_was_kept_and_counts_it() {
    let image = Image::new(&[layer(&[("usr/a", 250_000)])]);
    let (dir, mut repository) = repository(Algorithm::Sha512);
    pull(&repository, &Remote::new(&image, 100_000), &options(), &Silent).unwrap_err();
    let check = repository.fsck(&FsckOptions::default(), &Silent).unwrap();
    assert_eq!(check.temporary_files, [format!(".blob-{}", image.layers[0])]);
    let report = repository.gc(&GcOptions::default(), &Silent).unwrap();
    assert_eq!((report.temporary_files_removed, report.freed_bytes), (1, 100_000));
    assert_eq!(kept(dir.path()), []);
}

#[test]
fn artifacts_go_on_as_well() {
    let blob = vec![7; 250_000];
    let artifact = Image::artifact(&[&blob], None);
    let digest = artifact.layers[0];
    let (dir, repository) = repository(Algorithm::Sha512);
    let remote = Remote::new(&artifact, 150_000);
    pull_artifact(&repository, &remote, Some("x"), &Silent).unwrap_err();
    assert_eq!(kept(dir.path()), [(digest.to_string(), 150_000)]);
    pull_artifact(&repository, &remote, Some("x"), &Silent).unwrap();
    assert_eq!(remote.asked(), [(digest, 0), (digest, 150_000)]);
    assert_eq!(kept(dir.path()), []);
    assert_clean(&repository);
}
