//! Images from published trees: what is fetched, and what is refused.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use osupdate::transport::registry::TreeOptions;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{ContentDigest, Offer, Platform, PullError, PullOptions, StoredImage, pull};
use osupdate_core::published::{AttachedBlob, Attachment, Index};
use osupdate_core::repository::{FsckOptions, Repository, SeenSerial};

use serde_json::json;

use crate::docker_registry::have;
use crate::layout::Layout;
use crate::place::Place;
use crate::published_tree::{Tree, image, new_repository, pull_from};
use crate::server::{Server, reply, truncated_reply};

/// Contents that zstd can compress, others for each number.
fn text(number: usize) -> Vec<u8> {
    format!("line {number} of a file\n").repeat(400).into_bytes()
}

/// Contents that nothing compresses.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// A tree with image 1 of many files, and 2 in which one of them is another.
fn two_images() -> Tree {
    let mut tree = Tree::new();
    for tag in ["1", "2"] {
        let mut files: Vec<(String, Vec<u8>)> = (0..300).map(|i| (format!("usr/share/{i}"), text(i))).collect();
        files.push(("usr/noise".to_owned(), noise(1, 3000)));
        if tag == "2" {
            files[150].1 = text(1000);
            files.push(("usr/new".to_owned(), noise(2, 5000)));
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
        tree.publish(tag, &[&files, &[("etc/tag", tag.as_bytes())]]);
    }
    tree
}

fn paths(server: &Server) -> Vec<String> {
    server.requests().into_iter().map(|request| request.path).collect()
}

fn count(paths: &[String], part: &str) -> usize {
    paths.iter().filter(|path| path.contains(part)).count()
}

fn repository() -> (tempfile::TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repo"));
    (dir, repository)
}

/// The error with all of its reasons.
fn chain(error: &dyn Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Pulls image 1 of a server that must be refused, and that leaves nothing that is wrong.
fn refused(server: &Server) -> String {
    let (_dir, repository) = repository();
    let error = pull_from(server, "1", &repository).unwrap_err();
    assert_eq!(repository.stream_names().unwrap(), [""; 0]);
    let report = repository.fsck(&FsckOptions::default(), &Silent).unwrap();
    assert_eq!(report.findings, []);
    chain(&error)
}

#[test]
fn an_image_is_rebuilt_and_an_update_costs_what_changed() {
    let tree = two_images();
    let server = tree.serve();
    let (_dir, repository) = repository();
    let first = pull_from(&server, "1", &repository).unwrap();
    assert_eq!(first.manifest_digest, tree.summary.images[0].manifest);
    let before = paths(&server).len();
    let second = pull_from(&server, "2", &repository).unwrap();
    assert_eq!(second.manifest_digest, tree.summary.images[1].manifest);
    assert_ne!(first.image, second.image);
    let asked = paths(&server)[before..].to_vec();
    assert_eq!((count(&asked, "/summary.json"), count(&asked, "/indexes/"), count(&asked, "/objects/")), (1, 1, 2));
    assert!((1..=8).contains(&count(&asked, "/chunks/")), "{asked:#?}");

    // Nothing at all that is here already.
    let before = paths(&server).len();
    pull_from(&server, "2", &repository).unwrap();
    assert_eq!(paths(&server).len() - before, 2);
    assert_eq!(repository.fsck(&FsckOptions::default(), &Silent).unwrap().findings, []);
}

#[test]
fn what_a_pull_costs_is_told_exactly_before() {
    let tree = two_images();
    let server = tree.serve();
    let (_dir, repository) = repository();
    pull_from(&server, "1", &repository).unwrap();
    let image = image(&format!("http://{}/team/os:2", server.address), None, TreeOptions::default()).unwrap();
    let offer = Offer::fetch(&image, &Platform::host()).unwrap();
    let forecast = offer.forecast(&repository).unwrap();
    let new = text(1000);
    let new = zstd::encode_all(&new[..], 3).unwrap().len() as u64;
    assert_eq!(forecast.fetch_bytes.known(), Some(new + 5000));
    let before = paths(&server).len();
    pull(&repository, &offer, &PullOptions::default(), &Silent).unwrap();
    assert_eq!(count(&paths(&server)[before..], "/objects/"), 2);
}

#[test]
fn users_name_a_tree_by_its_address() {
    let tree = two_images();
    let server = tree.serve();
    let place = Place::with_repository();
    let reference = format!("http://{}/team/os:1", server.address);
    let pull = |arguments: &[&str]| place.run(&[&["image", "pull"][..], arguments].concat());
    let error = pull(&[&reference]).failed(1);
    assert!(error.contains("is without TLS") && error.contains("--plain-http"), "{error}");
    let json = pull(&[&reference, "--plain-http", "--json"]).json();
    assert_eq!(json["tag"], *reference);
    let error = pull(&[&reference.replace(":1", ":3"), "--plain-http"]).failed(1);
    assert!(error.contains("the tree has no image") && error.contains("tags that it has: 1, 2"), "{error}");
    let error = pull(&[&reference.replace("team", "nowhere"), "--plain-http"]).failed(1);
    assert!(error.contains("summary.json"), "{error}");
}

#[test]
fn wrong_bytes_are_refused_in_every_file() {
    let tree = two_images();
    for (part, expected) in [
        ("/summary.json", "cannot read the envelope of the summary"),
        ("/indexes/", "has the digest sha256:"),
        ("/chunks/", "chunk sha256:"),
        (".zst", "cannot fetch object"),
        ("/objects/", "another one"),
    ] {
        let server = tree.serve_changed(move |request, mut bytes| {
            if request.path.contains(part) && part == "/summary.json" {
                bytes.pop();
            } else if request.path.contains(part) && (part != "/objects/" || !request.path.ends_with(".zst")) {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            reply("200 OK", &[], &bytes)
        });
        let error = refused(&server);
        let expected = if part == ".zst" { "another one" } else { expected };
        assert!(error.contains(expected), "{part}: {error}");
    }
    // Too long, too short.
    let server = tree.serve_changed(|request, mut bytes| {
        if request.path.contains("/objects/") {
            bytes.push(0);
        }
        reply("200 OK", &[], &bytes)
    });
    assert!(refused(&server).contains("bytes, the manifest states"), "{}", refused(&server));
    let server = tree.serve_changed(|request, bytes| match request.path.contains("/objects/") {
        true => truncated_reply("200 OK", &[], &bytes[..bytes.len() / 2], bytes.len()),
        false => reply("200 OK", &[], &bytes),
    });
    let error = refused(&server);
    assert!(error.contains("cannot fetch object"), "{error}");
}

/// A tree whose image 1 has an index that was changed.
fn changed_index(change: impl FnOnce(&mut Index)) -> Tree {
    let mut tree = Tree::new();
    let (text, noise) = (text(1), noise(1, 4000));
    let mut index = tree.publish("1", &[&[("usr/text", &text), ("usr/noise", &noise)]]);
    change(&mut index);
    tree.add("1", &index);
    tree
}

#[test]
fn an_index_must_name_what_the_image_needs_and_nothing_else() {
    let tree = changed_index(|index| index.objects.push(0));
    assert!(refused(&tree.serve()).contains("the index names 3 objects"));
    let tree = changed_index(|index| index.objects.truncate(1));
    assert!(refused(&tree.serve()).contains("the index names 1 objects"));
    let tree = changed_index(|index| index.layers.clear());
    assert!(refused(&tree.serve()).contains("other layers than the configuration"));
    let tree = changed_index(|index| index.config = "{}".to_owned());
    assert!(refused(&tree.serve()).contains("does not have blob"));
    let tree = changed_index(|index| index.manifest = index.manifest.replace("layers", "sreyal"));
    assert!(refused(&tree.serve()).contains("the image cannot be used"));
    // A chunk too many.
    let tree = changed_index(|index| {
        let chunks = &mut index.layers[0].chunks;
        chunks.push(chunks[0]);
    });
    let error = refused(&tree.serve());
    assert!(error.contains("cannot import layer"), "{error}");
}

#[test]
fn an_index_does_not_make_a_download_longer_than_the_object() {
    for longer in [text(1).len() as u64, 1 << 40, u64::MAX] {
        let tree = changed_index(|index| {
            let compressed = index.objects.iter_mut().find(|size| **size > 0).unwrap();
            *compressed = longer;
        });
        let server = tree.serve();
        let error = refused(&server);
        assert!(error.contains(&format!("is {longer} bytes long when it is compressed")), "{error}");
        assert_eq!(count(&paths(&server), "/objects/"), 0);
    }
}

#[test]
fn a_chunk_that_unpacks_to_much_more_is_refused() {
    let bomb = zstd::encode_all(&vec![0; 20 << 20][..], 3).unwrap();
    let tree = changed_index(|_| {});
    let server = tree.serve_changed(move |request, bytes| {
        let bytes = if request.path.contains("/chunks/") { bomb.clone() } else { bytes };
        reply("200 OK", &[], &bytes)
    });
    let error = refused(&server);
    assert!(error.contains("has more than"), "{error}");
}

#[test]
fn summaries_that_are_over_or_old_are_refused() {
    let mut tree = two_images();
    let old = fs::read(tree.path("summary.json")).unwrap();
    tree.summary.expires = Some("2026-01-02T00:00:00Z".to_owned());
    tree.write_summary();
    assert!(refused(&tree.serve()).contains("its time ended at 2026-01-02T00:00:00Z"));
    tree.summary.expires = Some("soon".to_owned());
    tree.write_summary();
    assert!(refused(&tree.serve()).contains("is not a time"));
    tree.summary.expires = Some("2999-01-02T00:00:00Z".to_owned());
    tree.summary.serial = 10;
    tree.write_summary();
    let server = tree.serve();
    let (_dir, repository) = repository();
    pull_from(&server, "1", &repository).unwrap();
    tree.write("summary.json", &old);
    let error = pull_from(&server, "1", &repository).unwrap_err();
    assert!(chain(&error).contains("serial 2, and one with serial 10 was seen before"), "{}", chain(&error));
    assert!(matches!(error, PullError::FetchManifest(_)));
}

/// A key pair: the file with the private key, and with the public one.
struct Pair {
    dir: tempfile::TempDir,
}

impl Pair {
    fn make() -> Self {
        let pair = Self { dir: tempfile::tempdir().unwrap() };
        pair.openssl(&["genpkey", "-quiet", "-algorithm", "ED25519", "-out", "key"]);
        pair.openssl(&["pkey", "-in", "key", "-pubout", "-out", "pub"]);
        pair
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        fs::write(self.dir.path().join("signed"), bytes).unwrap();
        self.openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in", "signed", "-out", "signature"]);
        fs::read(self.dir.path().join("signature")).unwrap()
    }

    fn public(&self) -> PathBuf {
        self.dir.path().join("pub")
    }
}

#[test]
fn with_a_key_a_summary_must_be_signed_by_it() {
    if !have(&["openssl"]) {
        return;
    }
    let tree = two_images();
    let server = tree.serve();
    let (ours, other) = (Pair::make(), Pair::make());
    let place = Place::with_repository();
    let reference = format!("http://{}/team/os:1", server.address);
    let key = ours.public();
    let pull = || place.run(&["image", "pull", &reference, "--plain-http", "--summary-key", key.to_str().unwrap()]);
    let error = pull().failed(1);
    assert!(error.contains("summary.json") && error.contains("it is not signed"), "{error}");
    tree.write_envelope(|bytes| vec![other.sign(bytes)]);
    let error = pull().failed(1);
    assert!(error.contains("not by the key that is trusted"), "{error}");
    tree.write_envelope(|bytes| vec![ours.sign(&bytes[1..])]);
    assert!(pull().failed(1).contains("not by the key that is trusted"));
    tree.write_envelope(|bytes| vec![other.sign(bytes), ours.sign(bytes)]);
    drop(pull().done());
    let error = place.run(&["image", "pull", "oci:x", "--summary-key", key.to_str().unwrap()]).failed(1);
    assert!(error.contains("has no summary"), "{error}");
}

#[test]
fn a_summary_that_nobody_has_signed_keeps_no_machine_from_signed_ones() {
    if !have(&["openssl"]) {
        return;
    }
    let mut tree = two_images();
    let (pair, place) = (Pair::make(), Place::with_repository());
    let server = tree.serve();
    let reference = format!("http://{}/team/os:1", server.address);
    let key = pair.public();
    let pull = |more: &[&str]| place.run(&[&["image", "pull", &reference, "--plain-http"][..], more].concat());
    let with_key = ["--summary-key", key.to_str().unwrap()];
    let mut signed = |serial| {
        tree.summary.serial = serial;
        tree.write_envelope(|bytes| if serial < 100 { vec![pair.sign(bytes)] } else { Vec::new() });
    };
    signed(5);
    drop(pull(&with_key).done());
    signed(u64::MAX);
    // A repair remembers nothing, also where the image itself is made again.
    drop(place.run(&["repo", "fsck", "--repair", &reference, "--plain-http"]).done());
    let link = fs::read_dir(place.path().join("repo/images")).unwrap().map(|entry| entry.unwrap().path());
    let link = link.into_iter().find(|path| path.is_symlink()).unwrap();
    fs::remove_file(link.parent().unwrap().join(fs::read_link(&link).unwrap())).unwrap();
    drop(place.run(&["repo", "fsck", "--repair", &reference, "--plain-http"]).done());
    signed(6);
    drop(pull(&[]).done());
    signed(u64::MAX);
    drop(pull(&[]).done());
    signed(7);
    drop(pull(&with_key).done());
    signed(6);
    let error = pull(&with_key).failed(1);
    assert!(error.contains("serial 6, and one with serial 7 was seen before"), "{error}");
    // Without a key, everything is believed, and there is a way back.
    let error = pull(&[]).failed(1);
    let file = error.split_once("wrong, remove ").unwrap().1.split_once(", which").unwrap().0.to_owned();
    fs::remove_file(place.path().join(file)).unwrap();
    drop(pull(&[]).done());
}

#[test]
fn a_policy_that_wants_signatures_finds_those_that_were_published() {
    if !have(&["openssl"]) {
        return;
    }
    let mut tree = two_images();
    let server = tree.serve();
    let (place, pair) = (Place::with_repository(), Pair::make());
    let name = format!("{}/team/os:1", server.address);
    let policy = place.path().join("policy.json");
    let requirement = json!([{"type": "sigstoreSigned", "keyPath": pair.public()}]);
    let scope = name.trim_end_matches("/os:1");
    let rules = json!({"default": [{"type": "reject"}], "transports": {"docker": {scope: requirement}}});
    fs::write(&policy, rules.to_string()).unwrap();
    let registries_d = place.path().join("registries.d");
    fs::create_dir(&registries_d).unwrap();
    let (reference, policy) = (format!("http://{name}"), policy.to_str().unwrap().to_owned());
    let trust = ["--plain-http", "--policy", &policy, "--registries-d", registries_d.to_str().unwrap()];
    let pull = || place.run(&[&["image", "pull", &reference, "--json"][..], &trust].concat());
    let error = pull().failed(1);
    assert!(error.contains("sigstore") && error.contains("published again with its signatures"), "{error}");

    let mut index = tree.publish("1", &[&[("usr/file", b"of a signed image")]]);
    let digest = ContentDigest::sha256(index.manifest.as_bytes());
    let attach = |identity: &str| {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": identity},
                "image": {"docker-manifest-digest": digest.to_string()},
                "type": "cosign container image signature"
            },
            "optional": null
        });
        let payload = payload.to_string().into_bytes();
        let signature = STANDARD.encode(pair.sign(&payload));
        let blob = ContentDigest::sha256(&payload);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": ContentDigest::sha256(b"{}").to_string(),
                "size": 2
            },
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": blob.to_string(),
                "size": payload.len(),
                "annotations": {"dev.cosignproject.cosign/signature": signature}
            }]
        });
        Attachment {
            tag: Some(format!("sha256-{}.sig", digest.hex())),
            manifest: manifest.to_string(),
            blobs: vec![AttachedBlob { digest: blob, data: payload }],
        }
    };
    index.attachments = vec![attach("another.example/os:1")];
    tree.add("1", &index);
    let error = pull().failed(1);
    assert!(error.contains("another.example/os:1"), "{error}");
    index.attachments = vec![attach(&name)];
    tree.add("1", &index);
    let json = pull().json();
    assert_eq!(json["signatures"][0]["identity"], *name);
}

/// A `registries.conf` for `tree.test/team`.
fn mirrored(location: &str, mirrors: &[&str]) -> String {
    let mut table = format!("[[registry]]\nprefix = 'tree.test/team'\nlocation = '{location}/team'\ninsecure = true\n");
    for mirror in mirrors {
        table.push_str(&format!("[[registry.mirror]]\nlocation = '{mirror}/team'\ninsecure = true\n"));
    }
    table
}

fn pull_mirrored(
    location: &Server,
    mirrors: &[&str],
    seen_serial: Option<u64>,
    repository: &Repository,
) -> Result<StoredImage, PullError> {
    let registries = mirrored(&location.address, mirrors);
    let seen = seen_serial.map(|serial| SeenSerial { serial, file: PathBuf::from("published") });
    let options = TreeOptions { seen, ..TreeOptions::default() };
    let image = image("https://tree.test/team/os:1", Some(&registries), options).unwrap();
    pull(repository, &image, &PullOptions::default(), &Silent)
}

fn gets(server: &Server, part: &str) -> usize {
    server.requests().iter().filter(|request| request.method == "GET" && request.path.contains(part)).count()
}

#[test]
fn a_mirror_that_is_dead_behind_or_lies_is_passed_over() {
    let tree = two_images();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut behind = two_images();
    behind.summary.serial = 1;
    behind.write_summary();
    let (real, behind) = (tree.serve(), behind.serve());
    // Its index came before the chunks.
    let lacks = tree.serve_changed(|request, bytes| match request.path.contains("/chunks/") {
        true => reply("404 Not Found", &[], b""),
        false => reply("200 OK", &[], &bytes),
    });
    let liar = lying(&tree);
    let (_dir, repository) = repository();
    let mirrors = [&nobody, &behind.address, &lacks.address, &liar.address];
    let pulled = pull_mirrored(&real, &mirrors.map(String::as_str), Some(2), &repository).unwrap();
    assert_eq!(pulled.manifest_digest, tree.summary.images[0].manifest);
    assert_eq!(repository.fsck(&FsckOptions::default(), &Silent).unwrap().findings, []);
    assert_eq!((gets(&behind, "/summary.json"), gets(&behind, "/")), (1, 1));
    let asked = |part| [&lacks, &liar, &real].map(|server| gets(server, part));
    assert_eq!(asked("/summary.json"), [1, 0, 0]);
    assert!(asked("/chunks/")[1] > 20, "{:?}", asked("/chunks/"));
    // Once it is known to lie it is not asked first.
    let [others, lies, truths] = asked("/objects/");
    assert!((1..100).contains(&lies) && others + truths > 250, "{others}, {lies}, {truths}");
}

/// Serves a tree with wrong objects.
fn lying(tree: &Tree) -> Server {
    tree.serve_changed(|request, mut bytes| {
        if request.path.contains("/objects/") {
            bytes[0] ^= 1;
        }
        reply("200 OK", &[], &bytes)
    })
}

#[test]
fn where_all_places_lie_each_is_named() {
    let tree = two_images();
    let (one, two) = (lying(&tree), lying(&tree));
    let (_dir, repository) = repository();
    let error = pull_mirrored(&one, &[&two.address], None, &repository).unwrap_err();
    assert!(chain(&error).contains("another one"), "{}", chain(&error));
    assert_eq!(repository.stream_names().unwrap(), [""; 0]);
}

#[test]
fn a_file_that_changes_while_it_is_fetched_is_refused_and_then_fetched_anew() {
    let mut tree = Tree::new();
    let large = noise(3, 3 << 20);
    tree.publish("1", &[&[("usr/large", &large)]]);
    let tries = AtomicUsize::new(0);
    // The first half of one file, and the rest of another.
    let server = tree.serve_changed(move |request, mut bytes| {
        if !request.path.contains("/objects/") {
            return reply("200 OK", &[], &bytes);
        }
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => truncated_reply("200 OK", &[], &bytes[..bytes.len() / 2], bytes.len()),
            1 => {
                let from = request.header("range").unwrap().strip_prefix("bytes=").unwrap().trim_end_matches('-');
                let (from, end) = (from.parse::<usize>().unwrap(), bytes.len());
                bytes[end - 1] ^= 1;
                let range = format!("Content-Range: bytes {from}-{}/{end}", end - 1);
                reply("206 Partial Content", &[&range], &bytes[from..])
            }
            _ => reply("200 OK", &[], &bytes),
        }
    });
    let (_dir, repository) = repository();
    let error = pull_from(&server, "1", &repository).unwrap_err();
    assert!(chain(&error).contains("another one"), "{}", chain(&error));
    assert_eq!(repository.stream_names().unwrap(), [""; 0]);
    pull_from(&server, "1", &repository).unwrap();
    assert_eq!(repository.fsck(&FsckOptions::default(), &Silent).unwrap().findings, []);
}

#[test]
fn an_object_that_a_power_cut_has_emptied_is_fetched_again() {
    let tree = two_images();
    let server = tree.serve();
    let (dir, repository) = repository();
    pull_from(&server, "1", &repository).unwrap();
    let digest = osupdate_core::fsverity::digest(repository.algorithm(), &text(7));
    let path = dir.path().join("repo/objects").join(digest.object_path());
    let length = fs::metadata(&path).unwrap().len();
    fs::write(&path, vec![0; usize::try_from(length).unwrap()]).unwrap();
    pull_from(&server, "2", &repository).unwrap();
    assert_eq!(repository.fsck(&FsckOptions::default(), &Silent).unwrap().findings, []);
}

#[test]
fn what_is_published_is_pulled_and_followed() {
    if !have(&["openssl", "tar", "gzip"]) {
        return;
    }
    let (publisher, machine, pair) = (Place::with_repository(), Place::with_repository(), Pair::make());
    let mut layout = Layout::create(&publisher.path().join("os"));
    let tree = publisher.path().join("www/team");
    let root = publisher.path().join("www");
    let server = Server::start(move |request, _| match fs::read(root.join(request.path.trim_start_matches('/'))) {
        Ok(bytes) => reply("200 OK", &[], &bytes),
        Err(_) => reply("404 Not Found", &[], b""),
    });
    let reference = format!("http://{}/team/os:stable", server.address);
    let (private, public) = (pair.dir.path().join("key"), pair.public());
    let mut images = Vec::new();
    for version in ["1", "2"] {
        let (text, noise) = (text(1).repeat(30), noise(1, 9000));
        let files: &[(&str, &[u8])] =
            &[("usr/text", &text), ("usr/lib/os-release", version.as_bytes()), ("usr/noise", &noise)];
        let image = layout.image(&Platform::host().architecture, &[files]);
        layout.tag(version, &image);
        drop(publisher.run(&["image", "pull", &format!("oci:os:{version}"), "--tag", version]).done());
        let name = format!("{version}=os:stable");
        let (tree, key) = (tree.to_str().unwrap(), private.to_str().unwrap());
        drop(publisher.run(&["repo", "publish", tree, &name, "--sign-key", key, "--expires", "1d"]).done());
        let key = public.to_str().unwrap();
        let pulled = machine.run(&["image", "pull", &reference, "--plain-http", "--summary-key", key, "--json"]).json();
        assert_eq!(pulled["manifest_digest"], image["digest"]);
        images.push(pulled["image_digest"].clone());
        drop(machine.run(&["repo", "fsck"]).done());
    }
    assert_ne!(images[0], images[1]);
    let objects = server.requests().iter().filter(|request| request.path.contains("/objects/")).count();
    assert_eq!(objects, 2, "what is there is not fetched again");
}

#[test]
fn an_index_of_another_image_is_refused_and_a_digest_decides() {
    let mut tree = two_images();
    let digest = tree.summary.images[1].manifest;
    let server = tree.serve();
    let fetch = |tail: &str| {
        let image = image(&format!("http://{}/team/os{tail}", server.address), None, TreeOptions::default()).unwrap();
        Offer::fetch(&image, &Platform::host()).map(|offer| *offer.manifest_digest())
    };
    assert_eq!(fetch(&format!("@{digest}")).unwrap(), digest);
    assert_eq!(fetch(&format!(":1@{digest}")).unwrap(), digest);
    let error = fetch(&format!("@{}", ContentDigest::sha256(b"another"))).unwrap_err();
    assert!(chain(&error).contains("the tree has no image"), "{}", chain(&error));
    tree.summary.images[0].platform = "linux/sparc64".to_owned();
    tree.summary.images[1].index = tree.summary.images[0].index.clone();
    tree.write_summary();
    assert!(chain(&fetch(":2").unwrap_err()).contains("it has another manifest than"));
    assert!(chain(&fetch(":1").unwrap_err()).contains("for linux/sparc64, not for"));
}

#[test]
fn a_limit_of_bytes_ends_a_pull_that_goes_on_later() {
    let tree = two_images();
    let server = tree.serve();
    let place = Place::with_repository();
    let reference = format!("http://{}/team/os:1", server.address);
    let pull = |more: &[&str]| place.run(&[&["image", "pull", &reference, "--plain-http"][..], more].concat());
    let said = pull(&["--max-bytes", "4K"]).failed(3);
    assert!(said.contains("4.00 KiB were fetched"), "{said}");
    let before = count(&paths(&server), "/objects/");
    drop(pull(&[]).done());
    let after = count(&paths(&server), "/objects/") - before;
    assert!((1..301).contains(&after), "{after}");
}

#[test]
fn with_a_limit_below_every_file_a_pull_comes_to_its_end() {
    let mut tree = Tree::new();
    let contents: Vec<_> = (0..20).map(|seed| (format!("usr/{seed}"), noise(seed, 20_000))).collect();
    let files: Vec<(&str, &[u8])> = contents.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    tree.publish("1", &[&files]);
    let server = tree.serve_changed(|request, bytes| match request.header("range") {
        Some(range) => {
            let from: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
            let content = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            reply("206 Partial Content", &[&content], &bytes[from..])
        }
        None => reply("200 OK", &[], &bytes),
    });
    let place = Place::with_repository();
    let reference = format!("http://{}/team/os:1", server.address);
    let pull = || place.run(&["image", "pull", &reference, "--plain-http", "--max-bytes", "15K"]);
    let runs = (1..100).find(|_| {
        let run = pull();
        assert!([0, 3].contains(&run.status), "{}", run.stderr);
        run.status == 0
    });
    // 400,000 bytes, 15,360 at a time.
    assert!(runs.is_some_and(|runs| (27..35).contains(&runs)), "{runs:?}");
    let kept = fs::read_dir(place.path().join("repo")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(kept.filter(|name| name.to_string_lossy().starts_with(".blob-")).count(), 0);

    // What a limit has left is used without one, too, and gone then.
    let place = Place::with_repository();
    let pull = |more: &[&str]| place.run(&[&["image", "pull", &reference, "--plain-http"][..], more].concat());
    drop(pull(&["--max-bytes", "15K"]).failed(3));
    let before = server.requests().len();
    drop(pull(&[]).done());
    assert!(server.requests()[before..].iter().any(|request| request.header("range").is_some()));
    let kept = fs::read_dir(place.path().join("repo")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(kept.filter(|name| name.to_string_lossy().starts_with(".blob-objects")).count(), 0);
}

#[test]
fn a_repository_is_repaired_from_a_tree() {
    let tree = two_images();
    let server = tree.serve();
    let place = Place::with_repository();
    let reference = format!("http://{}/team/os:1", server.address);
    drop(place.run(&["image", "pull", &reference, "--plain-http"]).done());
    let objects = place.path().join("repo/objects");
    let path = |number| {
        objects.join(osupdate_core::fsverity::digest(osupdate_core::Algorithm::Sha512, &text(number)).object_path())
    };
    fs::write(path(7), text(8)).unwrap();
    fs::remove_file(path(9)).unwrap();
    let before = count(&paths(&server), "/objects/");
    drop(place.run(&["repo", "fsck", "--repair", &reference, "--plain-http"]).done());
    assert_eq!(count(&paths(&server), "/objects/") - before, 2);
    drop(place.run(&["repo", "fsck"]).done());
}
