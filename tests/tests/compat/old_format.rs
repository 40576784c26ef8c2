//! Repositories as bootc up to 1.15 left them: no `meta.json`, split streams with the old header.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use osupdate_core::oci::{open_image, verify_images};
use osupdate_core::repository::{FsckOptions, GcError, GcOptions, NotWritable, Repository};
use osupdate_core::{Digest, fsverity, observer::Silent};

use crate::cfsctl::Cfsctl;
use crate::fixture::{KINDS, Kind, Place, algorithm, objects};
use crate::ours;

/// Makes an old repository of a new one: every stream gets the old header, and so another digest, by which those that
/// refer to it name it.
fn make_old(repository: &Path, kind: Kind) {
    let mut renamed: BTreeMap<Digest, Digest> = BTreeMap::new();
    let mut names = ours::open(repository).stream_names().unwrap();
    // Layers, then configurations, then manifests.
    names
        .sort_by_key(|name| ["oci-layer", "oci-config", "oci-manifest"].iter().position(|kind| name.starts_with(kind)));
    for name in names {
        let digest = ours::open(repository).stream(&name).unwrap().unwrap();
        let object = repository.join("objects").join(digest.object_path());
        let mut stream = fs::read(&object).unwrap();
        // Info block: the first range is that of the digests of other streams.
        let number = |place: usize| u64::from_le_bytes(stream[place..place + 8].try_into().unwrap()) as usize;
        let info = number(16);
        let refs = number(info)..number(info + 8);
        for named in stream[refs].chunks_exact_mut(digest.as_bytes().len()) {
            let its: Digest = hex(named).parse().unwrap();
            if let Some(new) = renamed.get(&its) {
                named.copy_from_slice(new.as_bytes());
            }
        }
        let header: [u8; 32] = stream[..32].try_into().unwrap();
        let (magic_and_version, flags, hash_and_block, info) =
            (&header[..12], &header[12..14], &header[14..16], &header[16..]);
        stream[..32].copy_from_slice(&[info, flags, magic_and_version, hash_and_block].concat());
        fs::remove_file(&object).unwrap();
        let new = fsverity::digest(algorithm(kind), &stream);
        let path = repository.join("objects").join(new.object_path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, stream).unwrap();
        let link = repository.join("streams").join(&name);
        fs::remove_file(&link).unwrap();
        symlink(format!("../objects/{}", new.object_path()), link).unwrap();
        renamed.insert(digest, new);
    }
    fs::remove_file(repository.join("meta.json")).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Old repositories hold images of format 2.
fn in_every_kind(test: impl Fn(&Cfsctl, &Path, Kind)) {
    let Some(cfsctl) = Cfsctl::find() else { return };
    for kind in [KINDS[2], KINDS[3]] {
        let place = Place::new();
        let repository = place.repository(&cfsctl, "r", kind);
        ours::pull(&repository, &place.image_a(), "a", true);
        make_old(&repository, kind);
        test(&cfsctl, &repository, kind);
    }
}

#[test]
fn they_are_read_and_not_changed() {
    in_every_kind(|cfsctl, repository, kind| {
        let before = objects(repository);
        let handle = Repository::open(repository).unwrap();
        assert_eq!(handle.algorithm(), algorithm(kind));
        let report = handle.fsck(&FsckOptions::default(), &Silent).unwrap();
        assert!(report.is_clean() && !report.has_metadata, "{:#?}", report.findings);
        assert_eq!(verify_images(&handle).unwrap(), []);
        let image = open_image(&handle, "a").unwrap();
        let report = { handle }.gc(&GcOptions { dry_run: true, ..GcOptions::default() }, &Silent).unwrap();
        assert_eq!(report.objects_removed, 0);
        ours::assert_complete(repository, "a");
        assert!(!repository.join("meta.json").exists(), "reading wrote a meta.json");
        assert_eq!(objects(repository), before);

        // The peer reads what the recipe above makes, and agrees.
        cfsctl.assert_clean(repository);
        assert_eq!(cfsctl.garbage(repository), (0, 0));
        let id = cfsctl.text(repository, &["--erofs-version", "2", "oci", "compute-id", "a"]);
        assert_eq!(id, image.image.unwrap().to_string(), "{kind:?}");
    });
}

/// cfsctl writes the `meta.json` that is missing, and says in it that images are of format 1, whatever the repository has.
#[test]
fn collections_keep_what_old_streams_lead_to() {
    in_every_kind(|cfsctl, repository, kind| {
        let refused = ours::open(repository).gc(&GcOptions::default(), &Silent).unwrap_err();
        assert!(matches!(refused, GcError::NotWritable(NotWritable::NoMetadata { .. })), "{refused}");
        cfsctl.assert_clean(repository);
        assert!(repository.join("meta.json").exists());
        assert_eq!(ours::gc(repository).objects_removed, 0, "{kind:?}");
        ours::assert_complete(repository, "a");
        cfsctl.assert_clean(repository);
        cfsctl.run(repository, &["gc"]);
        ours::assert_complete(repository, "a");
    });
}
