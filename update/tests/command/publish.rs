//! `repo publish`: what is written, what is not, and what readers find whenever it stops.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use osupdate::trust::SummaryKeys;
use osupdate_core::oci::{ContentDigest, Platform, open_image, open_layer};
use osupdate_core::published::{Envelope, EnvelopeSignature, Index, index_path, object_path};
use osupdate_core::repository::Repository;
use osupdate_core::splitstream::Reader;
use rustix::fs::{FlockOperation, flock};

use crate::docker_registry::have;
use crate::faulty_proxy::Random;
use crate::layout::Layout;
use crate::place::{Place, Run};
use crate::server::{Server, reply};
use crate::whole_tree::whole;

/// A repository with an image, of which a second one, `2`, has few files that differ.
struct Lab {
    place: Place,
}

/// Contents of file number `number`, which can be compressed.
fn text(number: usize, edition: &str) -> Vec<u8> {
    format!("{edition} line {number}\n").repeat(60).into_bytes()
}

impl Lab {
    /// With so many files, one in a hundred of which is another one in image 2; none where `tar` and `gzip` are missing.
    fn new(number: usize) -> Option<Self> {
        if !have(&["tar", "gzip"]) {
            return None;
        }
        let lab = Self { place: Place::with_repository() };
        let mut layout = Layout::create(&lab.place.path().join("os"));
        let noise = Random::new(1).bytes(5000);
        for (tag, changed) in [("1", "old"), ("2", "new")] {
            let contents =
                (0..number).map(|i| (format!("usr/share/{i}"), text(i, if i % 100 == 7 { changed } else { "old" })));
            let mut contents: Vec<(String, Vec<u8>)> = contents.collect();
            contents.push(("usr/noise".to_owned(), noise.clone()));
            let contents: Vec<(&str, &[u8])> = contents.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
            let image = layout.image(&Platform::host().architecture, &[&[("usr/base", b"base")], &contents]);
            layout.tag(tag, &image);
            drop(lab.run(&["image", "pull", &format!("oci:os:{tag}"), "--tag", tag]).done());
        }
        Some(lab)
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.place.run(arguments)
    }

    fn publish(&self, arguments: &[&str]) -> Run {
        self.run(&[&["repo", "publish", "www"][..], arguments].concat())
    }

    fn tree(&self) -> PathBuf {
        self.place.path().join("www")
    }

    fn repository(&self) -> Repository {
        Repository::open(&self.place.path().join("repo")).unwrap()
    }

    fn key(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let (private, public) = (self.place.path().join(name), self.place.path().join(format!("{name}.pub")));
        let run = |arguments: &[&str]| drop(Run::of(Command::new("openssl").args(arguments)).done());
        run(&[&["genpkey", "-quiet", "-out", private.to_str().unwrap()], arguments].concat());
        run(&["pkey", "-in", private.to_str().unwrap(), "-pubout", "-out", public.to_str().unwrap()]);
        public
    }
}

/// All files of a tree but those at its top.
fn files(tree: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending = vec![tree.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if directory != tree {
                found.insert(path.strip_prefix(tree).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn what_is_published_can_be_installed_from_any_web_server() {
    let Some(lab) = Lab::new(300) else { return };
    let report = lab.publish(&["1=team-os:1", "--json"]).json();
    assert_eq!(report["images"][0]["name"], "team-os");
    assert_eq!(report["images"][0]["platform"], Platform::host().to_string());
    let (summary, needed) = whole(&lab.tree(), "published");
    assert_eq!(report["serial"], summary.serial);
    assert_eq!(files(&lab.tree()), needed, "nothing else is there");
    assert_eq!(report["new_files"], needed.len());

    let root = lab.place.path().to_owned();
    let server = Server::start(move |request, _| match fs::read(root.join(request.path.trim_start_matches('/'))) {
        Ok(bytes) => reply("200 OK", &[], &bytes),
        Err(_) => reply("404 Not Found", &[], b""),
    });
    drop(lab.run(&["repo", "init", "--unverified", "--repo", "other"]).done());
    let reference = format!("http://{}/www/team-os:1", server.address);
    let pull = |tag: &str| {
        lab.run(&["image", "pull", &reference.replace(":1", tag), "--plain-http", "--repo", "other", "--json"]).json()
    };
    let pulled = pull(":1");
    let original = lab.run(&["image", "inspect", "1", "--json"]).json();
    assert_eq!(pulled["manifest_digest"], original["manifest_digest"]);
    assert_eq!(pulled["image_digest"], original["image_digest"]);

    drop(lab.publish(&["2=team-os:2"]).done());
    let before = server.requests().len();
    let pulled = pull(":2");
    assert_eq!(pulled["image_digest"], lab.run(&["image", "inspect", "2", "--json"]).json()["image_digest"]);
    let objects = server.requests()[before..].iter().filter(|request| request.path.contains("/objects/")).count();
    assert_eq!(objects, 3, "those that are new");
}

#[test]
fn publishing_again_writes_only_what_is_new() {
    let Some(lab) = Lab::new(400) else { return };
    let first = lab.publish(&["1=os:1", "--json"]).json();
    let inodes = |names: &dyn Fn(&String) -> bool| -> Vec<_> {
        let found = files(&lab.tree()).into_iter().filter(names);
        found.map(|name| (fs::metadata(lab.tree().join(&name)).unwrap().ino(), name)).collect()
    };
    let before = inodes(&|_| true);
    let second = lab.publish(&["2=os:2", "--json"]).json();
    let names: Vec<_> = before.iter().map(|(_, name)| name.clone()).collect();
    assert_eq!(inodes(&|name| names.contains(name)), before, "no file was written again");
    let added: Vec<_> = files(&lab.tree()).into_iter().filter(|name| !names.contains(name)).collect();
    assert_eq!(second["new_files"], added.len());
    let count = |kind: &str| added.iter().filter(|name| name.starts_with(kind)).count();
    assert_eq!((count("objects/"), count("indexes/")), (4, 1), "{added:?}");
    assert!((1..=8).contains(&count("chunks/")), "{added:?}");
    assert!(second["serial"].as_u64() > first["serial"].as_u64());
    let (summary, _) = whole(&lab.tree(), "twice");
    let names: Vec<_> = summary.images.iter().map(|image| &*image.tag).collect();
    assert_eq!(names, ["1", "2"]);

    // Nothing new at all: the summary is made anew.
    let third = lab.publish(&["--expires", "14d", "--json"]).json();
    assert_eq!((&third["new_files"], third["images"].as_array().unwrap().len()), (&0.into(), 2));
    assert!(third["serial"].as_u64() > second["serial"].as_u64());
    assert!(third["expires"].as_str() > third["created"].as_str());
    let warned = lab.publish(&["1=os:1"]);
    assert!(warned.stderr.contains("this one has none"), "{}", warned.stderr);

    drop(lab.publish(&["2=os:1"]).done());
    assert_eq!(whole(&lab.tree(), "replaced").0.images[0].manifest, summary.images[1].manifest);
    drop(lab.publish(&["--remove", "os:2"]).done());
    assert_eq!(whole(&lab.tree(), "removed").0.images.len(), 1);
    assert!(lab.publish(&["--remove", "os:2"]).failed(1).contains("the tree has no image os:2"));
    drop(lab.publish(&["1=other", "--only"]).done());
    assert_eq!(whole(&lab.tree(), "only").0.images[0].name, "other");
}

#[test]
fn what_no_summary_names_goes_when_it_is_asked_for_and_nobody_can_read_it() {
    let Some(lab) = Lab::new(300) else { return };
    drop(lab.publish(&["1=os"]).done());
    let first = files(&lab.tree());
    fs::write(lab.tree().join("objects/README"), "of somebody else").unwrap();
    fs::write(lab.tree().join("objects/.leftover.tmp"), "of a publication that was killed").unwrap();
    drop(lab.publish(&["2=os"]).done());
    let report = lab.publish(&["--prune", "--json"]).json();
    assert_eq!(report["files_removed"], 1, "the leftover");
    assert!(first.is_subset(&files(&lab.tree())), "clients may still read them");
    let report = lab.publish(&["--prune", "--grace", "0", "--json"]).json();
    let (_, needed) = whole(&lab.tree(), "pruned");
    let mut left = files(&lab.tree());
    assert!(left.remove("objects/README"));
    assert_eq!(left, needed);
    assert_eq!(report["files_removed"], first.difference(&needed).count());
    assert!(report["freed_bytes"].as_u64() > Some(0));

    // What is needed cannot be known.
    let index = needed.iter().find(|name| name.starts_with("indexes/")).unwrap();
    fs::write(lab.tree().join(index), "damaged").unwrap();
    drop(lab.publish(&["1=os"]).done());
    let error = lab.publish(&["--prune", "--grace", "0"]);
    assert_eq!(error.status, 0, "nothing that is damaged is needed: {}", error.stderr);
    drop(lab.publish(&["2=os:2"]).done());
    let (_, needed) = whole(&lab.tree(), "again");
    let chunk = needed.iter().find(|name| name.starts_with("chunks/")).unwrap();
    fs::write(lab.tree().join(chunk), "damaged").unwrap();
    let error = lab.publish(&["--prune", "--grace", "0"]).failed(1);
    assert!(error.contains("cannot decompress chunk") && error.contains("hint: nothing was removed"), "{error}");
    assert!(error.contains("everything is published, but"), "{error}");
}

#[test]
fn a_summary_is_signed_and_nobody_elses_images_are_signed_for() {
    let Some(lab) = Lab::new(10) else { return };
    if !have(&["openssl"]) {
        return;
    }
    let mut signed_before = false;
    for (name, arguments) in [
        ("ed25519", &["-algorithm", "ED25519"][..]),
        ("p256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ] {
        let public = lab.key(name, arguments);
        if signed_before {
            let error = lab.publish(&["1=os:1", "--sign-key", name]).failed(1);
            assert!(error.contains("is not signed with this key") && error.contains("--only"), "{error}");
        }
        let report = lab.publish(&["1=os:1", "--sign-key", name, "--only", "--json"]).json();
        let envelope = Envelope::parse(&fs::read(lab.tree().join("summary.json")).unwrap()).unwrap();
        assert_eq!(report["key"], envelope.signatures[0].keyid);
        // By somebody else's program.
        let (message, signature) = (lab.place.path().join("message"), lab.place.path().join("signature"));
        let kind = "application/vnd.osupdate.summary+json";
        let head = format!("DSSEv1 {} {kind} {} ", kind.len(), envelope.payload.len());
        fs::write(&message, [head.as_bytes(), &envelope.payload].concat()).unwrap();
        fs::write(&signature, &envelope.signatures[0].sig).unwrap();
        let mut verify = Command::new("openssl");
        match name {
            "ed25519" => verify.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]).arg(&public).arg("-in"),
            _ => verify.args(["dgst", "-sha256", "-verify"]).arg(&public),
        };
        match name {
            "ed25519" => verify.arg(&message).arg("-sigfile").arg(&signature),
            _ => verify.arg("-signature").arg(&signature).arg(&message),
        };
        drop(Run::of(&mut verify).done());
        let keys = SummaryKeys::read(vec![public]).unwrap();
        assert_eq!(keys.verify(&envelope).unwrap(), envelope.signatures[0].keyid);
        let mut changed = envelope.clone();
        changed.payload.push(b' ');
        assert!(keys.verify(&changed).is_err());
        assert!(keys.verify(&Envelope { signatures: Vec::new(), ..envelope }).is_err());
        signed_before = true;
    }
    drop(lab.publish(&["2=os:2", "--sign-key", "p256"]).done());
    let error = lab.publish(&["1=os:1"]).failed(1);
    assert!(error.contains("is signed, and the new one would not be") && error.contains("--unsigned"), "{error}");
    assert_eq!(whole(&lab.tree(), "refused").0.images.len(), 2, "nothing was changed");
    drop(lab.publish(&["1=os:1", "--unsigned"]).done());
    // An image that somebody has put into the summary.
    let error = lab.publish(&["1=os:1", "--sign-key", "p256"]).failed(1);
    assert!(error.contains("is not signed with this key"), "{error}");
    let error = lab.publish(&["1=os:1", "--sign-key", "p256.pub"]).failed(1);
    assert!(error.contains("has no private key") && error.contains("openssl genpkey"), "{error}");
}

#[test]
fn an_old_summary_is_not_signed_anew() {
    let Some(lab) = Lab::new(10) else { return };
    if !have(&["openssl"]) {
        return;
    }
    lab.key("key", &["-algorithm", "ED25519"]);
    let summary = lab.tree().join("summary.json");
    let publish = |arguments: &[&str]| lab.publish(&[&["--sign-key", "key"], arguments].concat());
    let serial = || whole(&lab.tree(), "published").0.serial;
    drop(publish(&["1=os:old", "--expires", "14d"]).done());
    let old = fs::read(&summary).unwrap();
    drop(publish(&["2=os:new", "--only"]).done());
    let last = serial();
    fs::write(&summary, &old).unwrap();
    for arguments in [&[][..], &["--expires", "14d"], &["2=os:new"], &["--allow-expired"]] {
        let error = publish(arguments).failed(1);
        assert!(error.contains("somebody has put an old one there") && error.contains("--only"), "{error}");
        assert!(fs::read(&summary).unwrap() == old, "nothing was signed");
    }
    // By another name of the directory, too.
    std::os::unix::fs::symlink("www", lab.place.path().join("link")).unwrap();
    let error = lab.run(&["repo", "publish", "link", "--sign-key", "key"]).failed(1);
    assert!(error.contains("somebody has put an old one there"), "{error}");
    drop(publish(&["2=os:new", "--only"]).done());
    assert!(serial() > last, "clients have seen the one before");

    // Who has restored a backup.
    fs::write(&summary, &old).unwrap();
    let error = publish(&[]).failed(1);
    let file = error.split_once("yourself, remove ").unwrap().1.lines().next().unwrap().trim().to_owned();
    fs::remove_file(lab.place.path().join(file)).unwrap();
    drop(publish(&[]).done());
    assert_eq!(whole(&lab.tree(), "restored").0.images[0].tag, "old");
}

#[test]
fn a_summary_whose_time_is_over_is_published_anew_by_who_knows_that_it_is_the_last() {
    let Some(lab) = Lab::new(10) else { return };
    if !have(&["openssl"]) {
        return;
    }
    lab.key("key", &["-algorithm", "ED25519"]);
    drop(lab.publish(&["1=os:1", "--sign-key", "key", "--expires", "14d"]).done());
    // Signed as one that is over.
    let (mut summary, _) = whole(&lab.tree(), "first");
    summary.expires = Some("2026-01-02T00:00:00Z".to_owned());
    let mut envelope = Envelope { payload: serde_json::to_vec(&summary).unwrap(), signatures: Vec::new() };
    let message = lab.place.path().join("message");
    fs::write(&message, envelope.signed_bytes()).unwrap();
    let sign = ["pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in", "message", "-out", "signature"];
    drop(Run::of(Command::new("openssl").args(sign).current_dir(lab.place.path())).done());
    let sig = fs::read(lab.place.path().join("signature")).unwrap();
    envelope.signatures.push(EnvelopeSignature { keyid: String::new(), sig });
    let over = envelope.to_file().unwrap();
    let write = || fs::write(lab.tree().join("summary.json"), &over).unwrap();

    write();
    drop(lab.publish(&["--sign-key", "key", "--expires", "14d"]).done());
    // A repository that has not published it.
    drop(lab.run(&["repo", "init", "--unverified", "--repo", "other"]).done());
    let publish = |more: &[&str]| lab.publish(&[&["--sign-key", "key", "--repo", "other"], more].concat());
    write();
    let error = publish(&[]).failed(1);
    assert!(error.contains("ended at 2026-01-02T00:00:00Z") && error.contains("--allow-expired"), "{error}");
    drop(publish(&["--allow-expired"]).done());
    assert_eq!(whole(&lab.tree(), "anew").0.images.len(), 1);
}

#[test]
fn a_serial_that_leaves_no_higher_ones_is_not_gone_on_from() {
    let Some(lab) = Lab::new(10) else { return };
    if !have(&["openssl"]) {
        return;
    }
    lab.key("key", &["-algorithm", "ED25519"]);
    drop(lab.publish(&["1=os:1"]).done());
    let mut summary = whole(&lab.tree(), "first").0;
    for serial in [u64::MAX, 1 << 62] {
        summary.serial = serial;
        let envelope = Envelope { payload: serde_json::to_vec(&summary).unwrap(), signatures: Vec::new() };
        fs::write(lab.tree().join("summary.json"), envelope.to_file().unwrap()).unwrap();
        let error = lab.publish(&["1=os:1"]).failed(1);
        assert!(error.contains("no publication can have come to") && error.contains("hint: "), "{error}");
    }
    // What nobody has signed does not count for who signs.
    let report = lab.publish(&["1=os:1", "--only", "--sign-key", "key", "--json"]).json();
    assert!(report["serial"].as_u64() < Some(1 << 40), "{report}");
    // Nor does what the repository remembers of a day when the clock was wrong; that file is named then.
    let entries = fs::read_dir(lab.place.path().join("repo")).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let remembered = entries.into_iter().find(|path| name(path).starts_with("published-")).unwrap();
    let text = fs::read_to_string(&remembered).unwrap();
    let tree = text.split_once(' ').unwrap().1;
    fs::write(&remembered, format!("{} {tree}", u64::MAX)).unwrap();
    let again = ["1=os:1", "--only", "--sign-key", "key"];
    let error = lab.publish(&again).failed(1);
    assert!(error.contains("no publication can have come to") && error.contains(&name(&remembered)), "{error}");
    fs::remove_file(remembered).unwrap();
    drop(lab.publish(&again).done());
}

#[test]
fn signatures_and_lists_are_published_with_their_image() {
    let Some(lab) = Lab::new(10) else { return };
    let image = lab.run(&["image", "inspect", "1", "--json"]).json()["manifest_digest"].clone();
    let tag = image.as_str().unwrap().replace(':', "-") + ".sig";
    let mut layout = Layout::create(&lab.place.path().join("attached"));
    let large = Random::new(2).bytes(100_000);
    for (name, artifact) in [
        (&*tag, layout.signature(b"what is signed")),
        ("list", layout.artifact("application/vnd.example.packages", &image, b"bash 5.2")),
        ("large", layout.artifact("application/vnd.example.packages", &image, &large)),
    ] {
        layout.tag(name, &artifact);
        let tag = format!("registry.example.com/os:{name}");
        drop(lab.run(&["image", "pull", &format!("oci:attached:{name}"), "--tag", &tag]).done());
    }
    let run = lab.publish(&["1=os"]);
    assert!(run.stderr.contains("has 100000 bytes and is not published"), "{}", run.stderr);
    let (summary, _) = whole(&lab.tree(), "attached");
    let name = summary.images[0].index.digest;
    let index = Index::from_file(&fs::read(lab.tree().join(index_path(&name))).unwrap(), &name).unwrap();
    assert_eq!(index.attachments.len(), 2);
    let signature = index.tagged(&tag).unwrap();
    assert!(signature.manifest.contains("dev.cosignproject.cosign/signature"));
    assert_eq!(signature.blob(&ContentDigest::sha256(b"what is signed")), Some(&b"what is signed"[..]));
    let list = index.attachments.iter().find(|attachment| attachment.tag.is_none()).unwrap();
    assert_eq!(list.blob(&ContentDigest::sha256(b"bash 5.2")), Some(&b"bash 5.2"[..]));
    assert_eq!(list.blob(&ContentDigest::sha256(b"{}")), Some(&b"{}"[..]), "the configuration");
    let error = lab.publish(&["registry.example.com/os:list"]).failed(1);
    assert!(error.contains("is an artifact, not an image"), "{error}");
}

#[test]
fn nothing_is_published_that_no_client_would_accept() {
    let Some(lab) = Lab::new(10) else { return };
    let image = lab.run(&["image", "inspect", "1", "--json"]).json()["manifest_digest"].clone();
    let mut layout = Layout::create(&lab.place.path().join("attached"));
    let config = format!("{{\"a\": \"{}\"}}", "b".repeat(100_000));
    let blobs: Vec<_> = (0..800_u32).map(|number| number.to_le_bytes().repeat(16 << 10)).collect();
    let blobs: Vec<&[u8]> = blobs.iter().map(|blob| &blob[..]).collect();
    let kind = "application/vnd.example.packages";
    let mut attach = |name: &str, config: &[u8], blobs: &[&[u8]]| {
        let artifact = layout.artifact_of(kind, &image, config, blobs);
        layout.tag(name, &artifact);
        drop(lab.run(&["image", "pull", &format!("oci:attached:{name}"), "--tag", name]).done());
    };
    attach("config", config.as_bytes(), &[b"text"]);
    let run = lab.publish(&["1=os"]);
    assert_eq!(run.status, 0, "{}", run.stderr);
    assert!(run.stderr.contains("has 100009 bytes and is not published"), "{}", run.stderr);
    let before = whole(&lab.tree(), "without it").0;
    attach("many", b"{}", &blobs);
    let error = lab.publish(&["1=os"]).failed(1);
    assert!(error.contains("no client would accept the index of os:latest"), "{error}");
    assert!(error.contains("has more than 67108864 bytes") && error.contains("hint: "), "{error}");
    assert_eq!(whole(&lab.tree(), "refused").0, before);
    assert_eq!(files(&lab.tree()).iter().filter(|name| name.starts_with("indexes/")).count(), 1);
}

#[test]
fn clients_that_know_only_plain_objects_are_served_too() {
    let Some(lab) = Lab::new(50) else { return };
    drop(lab.publish(&["1=os"]).done());
    drop(lab.publish(&["1=os", "--plain-objects"]).done());
    let (_, needed) = whole(&lab.tree(), "plain");
    assert!(needed.iter().any(|name| name.ends_with(".zst")), "those that know more fetch less");
    let repository = lab.repository();
    for (diff_id, _) in open_image(&repository, "1").unwrap().layers {
        let body = fs::read(lab.tree().join(format!("streams/oci-layer-{diff_id}"))).unwrap();
        let stream = Reader::new(body, repository.algorithm()).unwrap();
        assert_eq!(stream.object_refs(), open_layer(&repository, &diff_id).unwrap().stream.object_refs());
        for object in stream.object_refs() {
            let file = fs::read(lab.tree().join(object_path(object, false))).unwrap();
            assert!(file == repository.read_object(object).unwrap(), "{object}");
        }
    }
    let all = files(&lab.tree());
    drop(lab.publish(&["--prune", "--grace", "0"]).done());
    assert_eq!(files(&lab.tree()), all);
}

#[test]
fn plain_objects_leave_what_indexes_of_other_images_state() {
    let Some(lab) = Lab::new(10) else { return };
    let mut layout = Layout::create(&lab.place.path().join("numbers"));
    // Of which the levels make files of different sizes.
    let numbers: String = (0..3000_u64).map(|number| format!("{}\n", number * number % 9973)).collect();
    let files_of = |tag: &'static str| vec![("usr/numbers", numbers.as_bytes()), ("usr/tag", tag.as_bytes())];
    for tag in ["1", "2"] {
        let image = layout.image(&Platform::host().architecture, &[&files_of(tag)]);
        layout.tag(tag, &image);
        drop(lab.run(&["image", "pull", &format!("oci:numbers:{tag}"), "--tag", &format!("n{tag}")]).done());
    }
    drop(lab.publish(&["n1=os:1", "--compression-level", "1"]).done());
    let compressed = |tree: &Path| -> Vec<_> {
        let names = files(tree).into_iter().filter(|name| name.ends_with(".zst"));
        names.map(|name| (fs::read(tree.join(&name)).unwrap(), name)).collect()
    };
    let before = compressed(&lab.tree());
    drop(lab.publish(&["n2=os:2", "--plain-objects", "--compression-level", "19"]).done());
    let (summary, _) = whole(&lab.tree(), "both");
    assert_eq!(summary.images.len(), 2);
    let after = compressed(&lab.tree());
    assert!(before.iter().all(|file| after.contains(file)), "a file that others state the size of was replaced");
    assert!(files(&lab.tree()).contains(before[0].1.trim_end_matches(".zst")));
}

#[test]
fn one_publishes_at_a_time() {
    let Some(lab) = Lab::new(300) else { return };
    let spawn = |image: &str| {
        let arguments = ["repo", "publish", "www", image, "--repo", "repo", "--progress", "none"];
        lab.place.command(&arguments).stdout(Stdio::null()).spawn().unwrap()
    };
    for mut child in [spawn("1=os:1"), spawn("2=os:2")] {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(whole(&lab.tree(), "both").0.images.len(), 2);
    let lock = fs::File::open(lab.tree().join(".lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let error = lab.publish(&["1=os:1", "--lock-timeout", "0"]).failed(1);
    assert!(error.contains("somebody else is publishing to www") && error.contains("--lock-timeout"), "{error}");
    assert!(!error.contains("waiting for"), "{error}");
    let error = lab.publish(&["1=os:1", "--lock-timeout", "1"]).failed(1);
    assert!(error.contains("waiting for somebody else who is publishing to www"), "{error}");
}

#[test]
fn a_publication_that_is_killed_leaves_what_was_there_and_goes_on() {
    let Some(lab) = Lab::new(1200) else { return };
    drop(lab.publish(&["1=os", "--only"]).done());
    let (before, _) = whole(&lab.tree(), "before");
    let other = lab.place.path().join("first-publication");
    let mut killed = 0;
    for step in 1..=3 {
        let arguments = ["repo", "publish", "first-publication", "2=os", "--repo", "repo", "--progress", "none"];
        let mut child = lab.place.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
        while !other.join("summary.json").exists() {
            if other.is_dir() && files(&other).len() >= step * 400 {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        if other.join("summary.json").exists() {
            break;
        }
        let mut update = lab.place.command(&["repo", "publish", "www", "2=os", "--repo", "repo"]);
        let mut child = update.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step as u64 * 40));
        child.kill().unwrap();
        child.wait().unwrap();
        let (now, _) = whole(&lab.tree(), "killed");
        assert!(now.images.len() == 1 && now.serial >= before.serial);
    }
    assert!(killed > 0);
    for tree in ["first-publication", "www"] {
        drop(lab.run(&["repo", "publish", tree, "2=os", "--prune", "--grace", "0"]).done());
        let tree = lab.place.path().join(tree);
        assert_eq!(files(&tree), whole(&tree, "in the end").1);
    }
}

#[test]
fn a_disk_that_gets_full_leaves_what_was_published_before() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting a file system needs root");
        return;
    }
    let Some(lab) = Lab::new(10) else { return };
    if !have(&["mount", "umount"]) {
        return;
    }
    let mut layout = Layout::create(&lab.place.path().join("large"));
    let noise: Vec<(String, Vec<u8>)> =
        (0..24).map(|number| (format!("usr/{number}"), Random::new(number).bytes(300_000))).collect();
    let noise: Vec<(&str, &[u8])> = noise.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    let image = layout.image(&Platform::host().architecture, &[&noise]);
    layout.tag("1", &image);
    drop(lab.run(&["image", "pull", "oci:large:1", "--tag", "large"]).done());
    fs::create_dir(lab.tree()).unwrap();
    drop(Run::of(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(lab.tree())).done());
    let result = std::panic::catch_unwind(|| {
        drop(lab.publish(&["1=os"]).done());
        let (before, there) = (whole(&lab.tree(), "before").0, files(&lab.tree()));
        let error = lab.publish(&["large"]).failed(1);
        assert!(error.contains("there is no room for www/") && error.contains("make room"), "{error}");
        assert!(!error.contains("repo gc"), "{error}");
        assert_eq!(whole(&lab.tree(), "full").0, before);
        assert_eq!(files(&lab.tree()), there, "what did not get its name is gone");
        drop(Run::of(Command::new("mount").args(["-o", "remount,size=64m"]).arg(lab.tree())).done());
        drop(lab.publish(&["large"]).done());
        assert_eq!(whole(&lab.tree(), "room").0.images.len(), 2);
    });
    drop(Run::of(Command::new("umount").arg(lab.tree())).done());
    result.unwrap();
}

#[test]
fn mistakes_are_told() {
    let Some(lab) = Lab::new(10) else { return };
    let error = lab.publish(&[]).failed(1);
    assert!(error.contains("nothing was published to www yet") && error.contains("--all"), "{error}");
    let error = lab.publish(&["3=os"]).failed(1);
    assert!(error.contains("there is no image \"3\"") && error.contains("osupdate image list"), "{error}");
    let error = lab.publish(&["sha256:0123"]).failed(2);
    assert!(error.contains("say what it is called in the tree: sha256:0123=NAME[:TAG]"), "{error}");
    assert!(lab.publish(&["1=os", "--expires", "soon"]).failed(2).contains("14d"));
    assert!(lab.publish(&["1=os", "--grace", "1h"]).failed(2).contains("--prune"));
    let error = lab.publish(&["1=os", "2=os"]).failed(1);
    assert!(error.contains("two images are to be os:latest") && error.contains("IMAGE=NAME[:TAG]"), "{error}");
    let error = lab.run(&["repo", "publish", "image", "1=os"]).failed(1);
    assert!(error.contains("has files, but nothing was published there"), "{error}");
    drop(lab.publish(&["--all"]).done());
    let names = whole(&lab.tree(), "all").0.images.into_iter().map(|image| image.name);
    assert_eq!(names.collect::<Vec<_>>(), ["1", "2"]);
    fs::write(lab.tree().join("summary.json"), "{}").unwrap();
    let error = lab.publish(&["1=os"]).failed(1);
    assert!(error.contains("cannot use www/summary.json") && error.contains("remove"), "{error}");
    drop(lab.run(&["repo", "init", "--unverified", "--digest", "sha256", "--repo", "other"]).done());
    drop(lab.run(&["image", "pull", "oci:os:1", "--tag", "1", "--repo", "other"]).done());
    fs::remove_file(lab.tree().join("summary.json")).unwrap();
    drop(lab.publish(&["1=os"]).done());
    let error = lab.publish(&["1=os", "--repo", "other"]).failed(1);
    assert!(error.contains("fsverity-sha512-12") && error.contains("a directory of its own"), "{error}");
}
