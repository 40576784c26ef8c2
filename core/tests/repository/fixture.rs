//! Repositories to test with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use osupdate_core::erofs::Format;
use osupdate_core::repository::{InitOutcome, Repository, Verity};
use osupdate_core::splitstream::{ContentType, Writer};
use osupdate_core::tree::{Content, Entry, Leaf, LeafKind, Stat, Tree};
use osupdate_core::{Algorithm, Digest, Event, Observer};

/// A repository in a directory that is removed with it.
pub(crate) struct Temporary {
    pub(crate) repository: Repository,
    pub(crate) path: PathBuf,
    _dir: tempfile::TempDir,
}

/// An empty repository.
pub(crate) fn empty() -> Temporary {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repository");
    let outcome = Repository::init(&path, Algorithm::Sha512, Verity::Unverified).unwrap();
    assert_eq!(outcome, InitOutcome::Created);
    Temporary { repository: Repository::open(&path).unwrap(), path, _dir: dir }
}

/// What cfsctl 0.9 left after it pulled a small image twice and collected: see `vectors/repository/README.md`.
pub(crate) fn of_cfsctl() -> Temporary {
    let dir = tempfile::tempdir().unwrap();
    let tar = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/repository/r1.tar");
    let status = Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(dir.path()).status().unwrap();
    assert!(status.success());
    let path = dir.path().join("r1");
    Temporary { repository: Repository::open(&path).unwrap(), path, _dir: dir }
}

/// Collects the events that are for people.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Recorder {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

/// Stores a document as a split stream of one object, with named refs, and names it.
pub(crate) fn put_stream(repository: &Repository, name: &str, document: &[u8], refs: &[(&str, Digest)]) -> Digest {
    let object = repository.put_object(document).unwrap();
    let mut writer = Writer::new(repository.algorithm(), ContentType::Manifest).unwrap();
    writer.external(object.digest, object.size_bytes).unwrap();
    for (label, digest) in refs {
        writer.named_ref(label, *digest);
    }
    let stream = repository.put_object(&writer.finish().unwrap()).unwrap().digest;
    repository.publish_streams(&[(name.to_owned(), stream)]).unwrap();
    stream
}

/// An image with one file of these contents, which are stored as an object.
pub(crate) fn put_image(repository: &Repository, contents: &[u8]) -> Digest {
    let object = repository.put_object(contents).unwrap();
    let mut tree = Tree::default();
    let content = Content::object(object.digest, object.size_bytes);
    let id = tree.push_leaf(Leaf::new(Stat { mode: 0o644, ..Stat::default() }, LeafKind::Regular(content)));
    tree.root.stat.mode = 0o755;
    tree.root.entries.insert(b"file".as_slice().into(), Entry::Leaf(id));
    repository.put_image(&osupdate_core::erofs::write(&tree, Format::V1).unwrap()).unwrap()
}

/// All files and symlinks below a directory, as sorted relative paths.
pub(crate) fn files(path: &Path) -> Vec<String> {
    fn visit(path: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                visit(&entry.path(), &format!("{name}/"), found);
            } else {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    visit(path, "", &mut found);
    found.sort();
    found
}
