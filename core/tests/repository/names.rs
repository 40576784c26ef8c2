use std::fs;
use std::path::Path;

use osupdate_core::Digest;
use osupdate_core::repository::{ImageError, Namespace, PublishError, RefError, Repository, StreamError};
use osupdate_core::splitstream::{ContentType, Writer};

use crate::fixture::{Temporary, empty, files};

fn put_stream(repository: &Repository, document: &[u8]) -> Digest {
    let object = repository.put_object(document).unwrap();
    let mut writer = Writer::new(repository.algorithm(), ContentType::Manifest).unwrap();
    writer.external(object.digest, object.size_bytes).unwrap();
    repository.put_object(&writer.finish().unwrap()).unwrap().digest
}

fn target(temporary: &Temporary, path: &str) -> String {
    fs::read_link(temporary.path.join(path)).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_stream_has_a_name_that_can_be_re_pointed() {
    let temporary = empty();
    let repository = &temporary.repository;
    let (first, second) = (put_stream(repository, b"one"), put_stream(repository, b"two"));
    assert_eq!(repository.stream("oci-manifest-sha256:00").unwrap(), None);
    let publish = |digest| repository.publish_streams(&[("oci-manifest-sha256:00".to_owned(), digest)]).unwrap();
    publish(first);
    assert_eq!(target(&temporary, "streams/oci-manifest-sha256:00"), format!("../objects/{}", first.object_path()));
    assert_eq!(repository.stream("oci-manifest-sha256:00").unwrap(), Some(first));
    publish(first);
    publish(second);
    assert_eq!(repository.stream("oci-manifest-sha256:00").unwrap(), Some(second));
    assert!(!files(&temporary.path).iter().any(|path| path.contains(".symlink-")));

    let reader = repository.open_stream(&second, Some(ContentType::Manifest)).unwrap();
    assert_eq!(reader.merged_size(), 3);
    let wrong = repository.open_stream(&second, Some(ContentType::Config));
    assert!(matches!(wrong, Err(StreamError::Parse { .. })), "{wrong:?}");
    let not_a_stream = repository.put_object(b"one").unwrap().digest;
    assert!(repository.open_stream(&not_a_stream, None).is_err());
}

#[test]
fn nothing_is_published_that_is_not_there() {
    let temporary = empty();
    let repository = &temporary.repository;
    let stream = put_stream(repository, b"one");
    let missing = osupdate_core::fsverity::digest(repository.algorithm(), b"missing");
    let error = repository.publish_streams(&[("good".to_owned(), stream), ("bad".to_owned(), missing)]).unwrap_err();
    assert!(matches!(&error, PublishError::Object { name, .. } if name == "bad"), "{error}");
    assert_eq!(repository.stream("good").unwrap(), None);
    for name in ["", ".", "..", "refs", "a/b", "../escape", "/absolute", "nul\0"] {
        let error = repository.publish_streams(&[(name.to_owned(), stream)]).unwrap_err();
        assert!(matches!(error, PublishError::Name { .. }), "{name}: {error}");
        assert_eq!(repository.stream(name).unwrap(), None);
    }
}

#[test]
fn refs_are_relative_symlinks_at_any_depth() {
    let temporary = empty();
    let repository = &temporary.repository;
    let stream = put_stream(repository, b"one");
    let names = ["oci-manifest-sha256:00", "oci-manifest-sha256:01"];
    repository.publish_streams(&names.map(|name| (name.to_owned(), stream))).unwrap();
    let set = |name: &str, target: &str| repository.set_ref(Namespace::Streams, name, target);
    set("oci/foo%2Fbar", names[0]).unwrap();
    set("osupdate/deploy/00ff", names[0]).unwrap();
    set("top", names[0]).unwrap();
    assert_eq!(target(&temporary, "streams/refs/oci/foo%2Fbar"), "../../oci-manifest-sha256:00");
    assert_eq!(target(&temporary, "streams/refs/osupdate/deploy/00ff"), "../../../oci-manifest-sha256:00");
    assert_eq!(target(&temporary, "streams/refs/top"), "../oci-manifest-sha256:00");
    assert!(temporary.path.join("streams/refs/osupdate/deploy/00ff").is_file());

    set("top", names[1]).unwrap();
    let expected = [("oci/foo%2Fbar", names[0]), ("osupdate/deploy/00ff", names[0]), ("top", names[1])]
        .map(|(name, target)| (name.to_owned(), target.to_owned()));
    assert_eq!(repository.refs(Namespace::Streams).unwrap(), expected);
    assert_eq!(repository.refs(Namespace::Images).unwrap(), []);
    assert_eq!(repository.ref_target(Namespace::Streams, "top").unwrap().as_deref(), Some(names[1]));
    assert_eq!(repository.ref_target(Namespace::Streams, "oci").unwrap(), None);
    assert_eq!(repository.ref_target(Namespace::Streams, "top/below").unwrap(), None);

    assert!(repository.remove_ref(Namespace::Streams, "top").unwrap());
    assert!(!repository.remove_ref(Namespace::Streams, "top").unwrap());
    assert!(!repository.remove_ref(Namespace::Streams, "never/was").unwrap());
    assert_eq!(repository.refs(Namespace::Streams).unwrap().len(), 2);
}

#[test]
fn bad_refs_are_refused() {
    let temporary = empty();
    let repository = &temporary.repository;
    let stream = put_stream(repository, b"one");
    repository.publish_streams(&[("name".to_owned(), stream)]).unwrap();
    let deep = "d/".repeat(64) + "d";
    for name in ["", "/", "/abs", "a//b", "a/", "../up", "a/../b", ".", "a/./b", "nul\0", &deep] {
        for error in [
            repository.set_ref(Namespace::Streams, name, "name").unwrap_err(),
            repository.remove_ref(Namespace::Streams, name).unwrap_err(),
        ] {
            assert!(matches!(error, RefError::Name { .. }), "{name}: {error}");
        }
    }
    for missing in ["other", "../streams/name", "refs", ""] {
        let error = repository.set_ref(Namespace::Streams, "ref", missing).unwrap_err();
        assert!(matches!(error, RefError::NoTarget { .. }), "{missing}: {error}");
    }
    assert!(!temporary.path.join("streams/refs").exists());
}

#[test]
fn what_is_no_ref_is_not_taken_for_one() {
    let temporary = empty();
    let repository = &temporary.repository;
    fs::create_dir_all(temporary.path.join("streams/refs/dir")).unwrap();
    fs::write(temporary.path.join("streams/refs/dir/file"), "x").unwrap();
    let error = repository.refs(Namespace::Streams).unwrap_err();
    assert!(matches!(&error, RefError::Unexpected { path } if path == "streams/refs/dir/file"), "{error}");
    fs::remove_file(temporary.path.join("streams/refs/dir/file")).unwrap();
    std::os::unix::fs::symlink("../..", temporary.path.join("streams/refs/dir/link")).unwrap();
    assert!(matches!(repository.refs(Namespace::Streams), Err(RefError::Unexpected { .. })));
}

#[test]
fn an_image_is_found_by_digest_and_by_ref() {
    let temporary = empty();
    let repository = &temporary.repository;
    let image = repository.put_image(b"not an image, but that is not looked at here").unwrap();
    let hex = image.to_string();
    assert_eq!(target(&temporary, &format!("images/{hex}")), format!("../objects/{}", image.object_path()));
    repository.set_ref(Namespace::Images, "my/name", &hex).unwrap();
    repository.set_ref(Namespace::Images, "short", &hex).unwrap();
    assert_eq!(target(&temporary, "images/refs/my/name"), format!("../../{hex}"));
    for name in [hex.as_str(), "refs/my/name", "refs/short", "short"] {
        assert_eq!(repository.image(name).unwrap(), Some(image), "{name}");
    }
    for name in ["my/name", "ref/short", "other", "refs/other"] {
        assert_eq!(repository.image(name).unwrap(), None, "{name}");
    }
    assert!(repository.read_image(&image).unwrap().starts_with(b"not"));

    let object = repository.put_object(b"only an object").unwrap().digest;
    assert!(matches!(repository.open_image(&object), Err(ImageError::NotFound { .. })));
    fs::remove_file(temporary.path.join(format!("images/{hex}"))).unwrap();
    let other = Path::new("../objects").join(object.object_path());
    std::os::unix::fs::symlink(other, temporary.path.join(format!("images/{hex}"))).unwrap();
    assert!(matches!(repository.open_image(&image), Err(ImageError::Name { .. })));
}
