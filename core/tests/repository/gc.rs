use std::error::Error;
use std::os::unix::fs::symlink;
use std::time::Duration;
use std::{fs, io};

use osupdate_core::Digest;
use osupdate_core::observer::Silent;
use osupdate_core::repository::{
    FsckOptions, GcError, GcOptions, GcReport, Namespace, OpenError, OpenOptions, Repository, Root,
};
use osupdate_core::splitstream::{ContentType, Writer};
use rustix::fs::CWD;

use crate::fixture::{Recorder, Temporary, empty, files, of_cfsctl, put_image, put_stream};

fn gc(temporary: &mut Temporary) -> GcReport {
    let dry = GcOptions { dry_run: true, ..GcOptions::default() };
    let before = files(&temporary.path);
    let mut expected = temporary.repository.gc(&dry, &Silent).unwrap();
    assert_eq!(files(&temporary.path), before);
    let report = temporary.repository.gc(&GcOptions::default(), &Silent).unwrap();
    expected.temporary_files_removed = report.temporary_files_removed;
    assert_eq!(report, expected);
    // Nothing is left to be done, and nothing that is kept was harmed.
    let again = temporary.repository.gc(&GcOptions::default(), &Silent).unwrap();
    assert_eq!((again.objects_removed, again.objects_kept), (0, report.objects_kept));
    assert!(temporary.repository.fsck(&FsckOptions::default(), &Silent).unwrap().is_clean());
    report
}

fn has(repository: &Repository, document: &[u8]) -> bool {
    repository.has_object(&osupdate_core::fsverity::digest(repository.algorithm(), document)).unwrap()
}

#[test]
fn what_cfsctl_keeps_is_kept() {
    let mut temporary = of_cfsctl();
    let before = files(&temporary.path);
    let report = gc(&mut temporary);
    assert_eq!((report.objects_removed, report.freed_bytes, report.streams_pruned, report.images_pruned), (0, 0, 0, 0));
    let objects = before.iter().filter(|path| path.starts_with("objects/")).count();
    assert_eq!(report.objects_kept, objects as u64);
    assert_eq!(files(&temporary.path), before);
}

#[test]
fn what_no_ref_leads_to_is_removed_with_its_names() {
    let mut temporary = of_cfsctl();
    assert!(temporary.repository.remove_ref(Namespace::Streams, "oci/foo%2Fbar").unwrap());
    let objects = files(&temporary.path).iter().filter(|path| path.starts_with("objects/")).count() as u64;
    let report = gc(&mut temporary);
    assert_eq!((report.objects_removed, report.objects_kept), (objects, 0));
    assert_eq!((report.streams_pruned, report.images_pruned), (4, 1));
    assert_eq!(files(&temporary.path), ["meta.json"]);
}

#[test]
fn refs_keep_what_they_lead_to_through_streams_and_images() {
    let mut temporary = empty();
    let repository = &temporary.repository;
    let image = put_image(repository, b"a file that only the image has, and that is not small enough for it to hold");
    let config = put_stream(repository, "config", b"the config", &[("composefs.image.v1", image)]);
    put_stream(repository, "manifest", b"the manifest", &[("config:x", config)]);
    put_stream(repository, "other", b"another", &[]);
    put_image(repository, b"a file of an image without any ref, which goes although it has a name, of course");
    repository.set_ref(Namespace::Streams, "osupdate/deploy/00", "manifest").unwrap();
    let tagged =
        put_image(repository, b"a file of an image with a ref of its own, which is kept because of that, alone");
    repository.set_ref(Namespace::Images, "mine", &tagged.to_string()).unwrap();

    let report = gc(&mut temporary);
    assert_eq!((report.streams_pruned, report.images_pruned, report.objects_removed), (1, 1, 4));
    // Two streams with a document each, two images with a file each.
    assert_eq!(report.objects_kept, 8);
    assert!(has(&temporary.repository, b"the config") && !has(&temporary.repository, b"another"));
    assert!(report.freed_bytes > 4096);
}

/// The reference loses the children of an object whose name was given to another one.
#[test]
fn a_stream_that_lost_its_name_keeps_its_children() {
    let mut temporary = empty();
    let repository = &temporary.repository;
    let old = put_stream(repository, "config", b"the old config", &[]);
    put_stream(repository, "first", b"the first manifest", &[("config:x", old)]);
    let new = put_stream(repository, "config", b"the new config", &[]);
    put_stream(repository, "second", b"the second manifest", &[("config:x", new)]);
    repository.set_ref(Namespace::Streams, "tag", "first").unwrap();
    gc(&mut temporary);
    assert!(has(&temporary.repository, b"the old config"));
    assert!(!has(&temporary.repository, b"the new config"));
    assert_eq!(temporary.repository.stream("config").unwrap(), None);
}

#[test]
fn an_image_without_a_name_is_kept_with_its_files_by_a_stream() {
    let mut temporary = empty();
    let repository = &temporary.repository;
    let file = b"a file of an image that lost its name, which the stream still needs, large enough";
    let image = put_image(repository, file);
    put_stream(repository, "config", b"the config", &[("composefs.image.boot.v1", image)]);
    repository.set_ref(Namespace::Streams, "tag", "config").unwrap();
    fs::remove_file(temporary.path.join(format!("images/{image}"))).unwrap();
    gc(&mut temporary);
    assert!(has(&temporary.repository, file));
}

#[test]
fn extra_roots_are_looked_for_when_nobody_else_can_make_any() {
    let mut temporary = empty();
    let object = temporary.repository.put_object(b"an object").unwrap().digest;
    let path = temporary.repository.path().to_owned();
    let roots = |repository: &Repository| -> Result<_, Box<dyn Error>> {
        let options = OpenOptions { lock_timeout: Duration::ZERO };
        assert!(matches!(Repository::open_with(CWD, &path, &options), Err(OpenError::Busy { .. })));
        assert!(repository.has_object(&object).unwrap());
        Ok(vec![Root { name: object.to_string(), reason: "the test".to_owned() }])
    };
    let report = temporary.repository.gc_with(false, roots, &Silent).unwrap();
    assert_eq!((report.objects_kept, report.objects_removed), (1, 0));
    // Whoever cannot tell what is needed loses nothing.
    let roots = |_: &Repository| -> Result<_, Box<dyn Error>> { Err(io::Error::other("cannot look").into()) };
    let failed = temporary.repository.gc_with(false, roots, &Silent);
    assert_eq!(failed.unwrap_err().downcast::<io::Error>().unwrap().to_string(), "cannot look");
    assert!(temporary.repository.has_object(&object).unwrap());
    drop(Repository::open_with(CWD, &path, &OpenOptions { lock_timeout: Duration::ZERO }).unwrap());
}

#[test]
fn extra_roots_are_streams_images_or_objects() {
    let mut temporary = empty();
    let repository = &temporary.repository;
    put_stream(repository, "kept", b"kept", &[]);
    let image =
        put_image(repository, b"a file that is far too large to be in the image, by policy, at least 64 bytes.");
    let object = repository.put_object(b"an object").unwrap().digest;
    put_stream(repository, "lost", b"lost", &[]);
    let missing = osupdate_core::fsverity::digest(repository.algorithm(), b"missing");
    let names = ["kept".to_owned(), image.to_string(), object.to_string(), missing.to_string()];
    let root = |name: String| Root { name, reason: "the test".to_owned() };
    let extra_roots = names.into_iter().map(root).collect();
    let recorder = Recorder::default();
    let options = GcOptions { dry_run: false, extra_roots };
    let report = temporary.repository.gc(&options, &recorder).unwrap();
    assert_eq!((report.objects_kept, report.objects_removed), (5, 2));
    let warnings = recorder.warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0], format!("the test needs {missing}, which is not in the repository"));
}

#[test]
fn a_ref_to_nothing_is_pruned_and_stops_nobody() {
    let mut temporary = empty();
    put_stream(&temporary.repository, "good", b"good", &[]);
    temporary.repository.set_ref(Namespace::Streams, "good", "good").unwrap();
    symlink("../oci-manifest-sha256:gone", temporary.path.join("streams/refs/dangling")).unwrap();
    let recorder = Recorder::default();
    let report = temporary.repository.gc(&GcOptions::default(), &recorder).unwrap();
    assert_eq!((report.refs_pruned, report.objects_kept, report.objects_removed), (1, 2, 0));
    assert!(recorder.warnings()[0].contains("streams/refs/dangling"));
    assert_eq!(temporary.repository.refs(Namespace::Streams).unwrap(), [("good".to_owned(), "good".to_owned())]);
}

#[test]
fn nothing_is_removed_while_a_root_cannot_be_read() {
    type Damage = fn(&Temporary, &Digest, &Digest);
    let damages: [Damage; 5] = [
        // The stream of the ref is gone.
        |temporary, _, parent| fs::remove_file(object(temporary, parent)).unwrap(),
        // A stream that it names is gone.
        |temporary, child, _| fs::remove_file(object(temporary, child)).unwrap(),
        // It is damaged.
        |temporary, child, _| fs::write(object(temporary, child), b"SplitStream").unwrap(),
        // Something is among the refs that may be a root.
        |temporary, _, _| fs::write(temporary.path.join("streams/refs/file"), b"").unwrap(),
        // The name that a ref stands for cannot be understood.
        |temporary, _, _| {
            fs::remove_file(temporary.path.join("streams/parent")).unwrap();
            symlink("nonsense", temporary.path.join("streams/parent")).unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let mut temporary = empty();
        let repository = &temporary.repository;
        let child = put_stream(repository, "child", b"child", &[]);
        let parent = put_stream(repository, "parent", b"parent", &[("label", child)]);
        repository.set_ref(Namespace::Streams, "tag", "parent").unwrap();
        put_stream(repository, "unused", b"unused", &[]);
        damage(&temporary, &child, &parent);
        let before = files(&temporary.path);
        let error = temporary.repository.gc(&GcOptions::default(), &Silent).unwrap_err();
        assert_eq!(files(&temporary.path), before, "{number}");
        let expected = match number {
            0 => "cannot read streams/refs/tag, so nothing was removed",
            1 | 2 => "cannot read streams/refs/tag: label, so nothing was removed",
            _ => continue,
        };
        assert!(matches!(&error, GcError::Root { .. }) && error.to_string() == expected, "{number}: {error}");
    }
}

fn object(temporary: &Temporary, digest: &Digest) -> std::path::PathBuf {
    temporary.path.join("objects").join(digest.object_path())
}

#[test]
fn remains_of_crashes_are_removed_and_strange_files_are_not() {
    let mut temporary = empty();
    let digest = temporary.repository.put_object(b"unnamed").unwrap().digest;
    let prefix = digest.object_path()[..2].to_owned();
    fs::write(temporary.path.join("objects/.tmp-object-abcdefghijkl"), b"x").unwrap();
    symlink("anything", temporary.path.join(".symlink-abcdefghijkl")).unwrap();
    let strange =
        ["objects/lost+found", &format!("objects/{prefix}/README"), "streams-of-mine", "objects/zz"].map(str::to_owned);
    for path in &strange {
        fs::write(temporary.path.join(path), b"x").unwrap();
    }
    let recorder = Recorder::default();
    let report = temporary.repository.gc(&GcOptions::default(), &recorder).unwrap();
    assert_eq!((report.temporary_files_removed, report.objects_removed), (2, 1));
    assert_eq!(recorder.warnings().len(), 1);
    let mut expected = [&strange[..], &["meta.json".to_owned()]].concat();
    expected.sort();
    assert_eq!(files(&temporary.path), expected);
}

#[test]
fn names_of_what_is_gone_are_pruned() {
    let mut temporary = empty();
    let stream = put_stream(&temporary.repository, "broken", b"x", &[]);
    fs::remove_file(object(&temporary, &stream)).unwrap();
    let report = temporary.repository.gc(&GcOptions::default(), &Silent).unwrap();
    assert_eq!((report.streams_pruned, report.objects_removed), (1, 1));
    assert_eq!(files(&temporary.path), ["meta.json"]);
}

#[test]
fn the_handle_is_usable_after_a_collection() {
    let mut temporary = empty();
    gc(&mut temporary);
    put_stream(&temporary.repository, "later", b"later", &[]);
    let other = Repository::open(&temporary.path).unwrap();
    assert!(other.stream("later").unwrap().is_some());
}

/// A split stream as bootc up to 1.15 wrote it: the same with another order of the header.
fn with_old_header(stream: &[u8]) -> Vec<u8> {
    let (magic_and_version, flags, kind, info) = (&stream[..12], &stream[12..14], &stream[14..16], &stream[16..32]);
    [info, flags, magic_and_version, kind, &stream[32..]].concat()
}

#[test]
fn streams_of_other_programs_keep_their_children() {
    let mut temporary = empty();
    let repository = &temporary.repository;
    let make = |name: &str, content_type, old: bool| {
        let document = repository.put_object(format!("document of {name}").as_bytes()).unwrap();
        let further = repository.put_object(format!("further object of {name}").as_bytes()).unwrap();
        let child = put_stream(repository, &format!("child-of-{name}"), format!("child of {name}").as_bytes(), &[]);
        let mut writer = Writer::new(repository.algorithm(), content_type).unwrap();
        writer.external(document.digest, document.size_bytes).unwrap();
        writer.object_ref(further.digest);
        writer.named_ref("parent", child);
        let stream = writer.finish().unwrap();
        let stream = if old { with_old_header(&stream) } else { stream };
        let digest = repository.put_object(&stream).unwrap().digest;
        repository.publish_streams(&[(name.to_owned(), digest)]).unwrap();
        repository.set_ref(Namespace::Streams, name, name).unwrap();
    };
    make("old", ContentType::Config, true);
    make("ostree", ContentType::Other(u64::from_le_bytes(*b"ostreecm")), false);
    make("unknown", ContentType::Other(7), true);
    let report = gc(&mut temporary);
    assert_eq!((report.objects_removed, report.streams_pruned), (0, 0));
    // Each: itself, document, further object, child, document of the child.
    assert_eq!(report.objects_kept, 15);
}
