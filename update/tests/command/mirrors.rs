//! `registries.conf`: mirrors, other locations, what is insecure and what is blocked.

use std::error::Error as _;
use std::fs;
use std::io::Read as _;

use osupdate::transport::registry::{AuthFiles, RegistriesFiles, RegistryError, RegistryImage};
use osupdate_core::oci::{ContentDigest, Platform};

use crate::faulty_proxy::Random;
use crate::layout::Layout;
use crate::place::Place;
use crate::server::{Request, Server, options, reply, truncated_reply};

const MANIFEST: &[u8] = br#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
const TYPE: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json";
const REGISTRY: &str = "Docker-Distribution-Api-Version: registry/2.0";

/// An image `registry.test/team/os`, as a `registries.conf` has it; with an auth file.
fn image(registries: &str, tail: &str, auth_file: &str) -> Result<RegistryImage, RegistryError> {
    let dir = tempfile::tempdir().unwrap();
    let (registries_file, auth) = (dir.path().join("registries.conf"), dir.path().join("auth.json"));
    fs::write(&registries_file, registries).unwrap();
    fs::write(&auth, auth_file).unwrap();
    let mut options = options(AuthFiles::only(auth));
    options.plain_http = false;
    options.registries = RegistriesFiles::only(Some(registries_file), Vec::new());
    RegistryImage::new(&format!("registry.test/team/os{tail}").parse().unwrap(), &options)
}

/// A table for `registry.test/team` with mirrors, of which each is insecure.
fn table(location: &str, mirrors: &[&str]) -> String {
    let mut table = format!("[[registry]]\nprefix = 'registry.test/team'\nlocation = '{location}'\ninsecure = true\n");
    for mirror in mirrors {
        table.push_str(&format!("[[registry.mirror]]\nlocation = '{mirror}'\ninsecure = true\n"));
    }
    table
}

fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn serves(body: &'static [u8]) -> Server {
    Server::start(move |_, _| reply("200 OK", &[TYPE], body))
}

fn lacks_everything() -> Server {
    Server::start(|_, _| reply("404 Not Found", &[REGISTRY], b""))
}

/// The requests that were understood: an insecure registry is asked by TLS first.
fn paths(server: &Server) -> Vec<String> {
    server.requests().into_iter().filter(|request| request.method == "GET").map(|request| request.path).collect()
}

#[test]
fn mirrors_are_asked_in_order_until_one_has_the_image() {
    let (empty, full, primary) = (lacks_everything(), serves(MANIFEST), serves(b"{}"));
    let empty_location = format!("{}/copies", empty.address);
    let config = table(&format!("{}/real", primary.address), &[&nobody(), &empty_location, &full.address]);
    let image = image(&config, ":1", "{}").unwrap();
    assert_eq!(image.manifest().unwrap(), MANIFEST);
    // Now it is known who answers.
    assert_eq!(image.manifest().unwrap(), MANIFEST);
    assert_eq!(paths(&empty), ["/v2/copies/os/manifests/1"]);
    assert_eq!(paths(&full), ["/v2/os/manifests/1", "/v2/os/manifests/1"]);
    assert_eq!(paths(&primary), [""; 0]);
}

#[test]
fn a_mirror_that_lies_or_lacks_a_blob_does_no_harm() {
    // The mirror has another image, and blobs for nobody.
    let mirror = Server::start(|request, _| match request.path.contains("/manifests/") {
        true => reply("200 OK", &[TYPE], br#"{"schemaVersion": 2, "config": {}, "layers": [], "x": 1}"#),
        false => reply("500 Internal Server Error", &[], b""),
    });
    let primary = Server::start(|request, _| match request.path.contains("/manifests/") {
        true => reply("200 OK", &[TYPE], MANIFEST),
        false => reply("200 OK", &[], b"0123456789"),
    });
    let config = table(&primary.address, &[&mirror.address]);
    let by_digest = image(&config, &format!("@{}", ContentDigest::sha256(MANIFEST)), "{}").unwrap();
    assert_eq!(by_digest.manifest().unwrap(), MANIFEST);

    let by_tag = image(&config, ":1", "{}").unwrap();
    assert_ne!(by_tag.manifest().unwrap(), MANIFEST);
    let mut bytes = Vec::new();
    by_tag.blob(&ContentDigest::sha256(b"0123456789"), 10).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"0123456789");
}

#[test]
fn what_every_place_said_is_in_the_error() {
    let (empty, nobody) = (lacks_everything(), nobody());
    let broken = Server::start(|_, _| reply("502 Bad Gateway", &[], b""));
    let config = table(&format!("{}/real", broken.address), &[&nobody, &empty.address]);
    let error = image(&config, ":1", "{}").unwrap().manifest().unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(
        lines[0],
        "none of the places of registry.test/team/os:1 could deliver manifest of registry.test/team/os:1:"
    );
    assert!(lines[1].starts_with(&format!("{nobody}/os (mirror): cannot reach server {nobody}")), "{text}");
    assert!(lines[1].ends_with("Connection refused (os error 111)"), "{text}");
    assert!(lines[2].starts_with(&format!("{}/os (mirror): server {} does not have", empty.address, empty.address)));
    assert!(lines[3].starts_with(&format!("{}/real/os: server {} answered 502", broken.address, broken.address)));
    assert!(!error.is_not_found());
    let config = table(&empty.address, &[&format!("{}/copies", empty.address)]);
    assert!(image(&config, ":1", "{}").unwrap().manifest().unwrap_err().is_not_found());
}

#[test]
fn each_place_is_told_its_own_password_only() {
    let wants_login = || {
        Server::start(|request, _| match request.header("authorization") {
            None => reply("401 Unauthorized", &["WWW-Authenticate: Basic realm=\"r\""], b""),
            Some("Basic bTpt") => reply("200 OK", &[TYPE], MANIFEST),
            Some(_) => reply("403 Forbidden", &[], b""),
        })
    };
    let (mirror, primary) = (wants_login(), wants_login());
    let config = table(&primary.address, &[&mirror.address]);
    // r:r is for the name in the reference, p:p for where it really is, m:m for the mirror.
    let entry = |host: &str, auth: &str| format!(r#""{host}": {{"auth": "{auth}"}}"#);
    let auth_file = |entries: &[String]| format!(r#"{{"auths": {{{}}}}}"#, entries.join(", "));
    let other = [entry("registry.test", "cjpy"), entry(&primary.address, "cDpw")];
    let image_error = image(&config, ":1", &auth_file(&other)).unwrap().manifest().unwrap_err();
    let RegistryError::Places { failures, .. } = image_error else { panic!("{image_error}") };
    assert!(matches!(failures[0].1, RegistryError::Denied { had_credentials: false, .. }), "{failures:?}");
    assert!(mirror.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(primary.requests().last().unwrap().header("authorization"), Some("Basic cDpw"));

    let all = [&other[..], &[entry(&mirror.address, "bTpt")]].concat();
    assert_eq!(image(&config, ":1", &auth_file(&all)).unwrap().manifest().unwrap(), MANIFEST);
}

#[test]
fn without_insecure_there_is_no_http() {
    let server = serves(MANIFEST);
    let config = format!("[[registry]]\nprefix = 'registry.test/team'\nlocation = '{}'\n", server.address);
    let error = image(&config, ":1", "{}").unwrap().manifest().unwrap_err();
    let RegistryError::Places { failures, .. } = &error else { panic!("{error}") };
    assert!(matches!(failures[0].1, RegistryError::NotTls { .. }), "{error}");
    assert!(paths(&server).is_empty());
}

#[test]
fn what_is_blocked_is_not_asked() {
    let error = image("[[registry]]\nlocation = 'registry.test'\nblocked = true", ":1", "{}").unwrap_err();
    let cause = error.source().unwrap().to_string();
    assert!(cause.starts_with("registry.test/team/os:1 is blocked by /") && cause.ends_with("(prefix registry.test)"));
    assert!(error.hint().unwrap().contains("containers-registries.conf"));
}

#[test]
fn a_blob_that_a_mirror_always_breaks_off_is_continued_by_the_registry() {
    let blob: Vec<u8> = (0..50_000_u32).map(|i| (i / 3) as u8).collect();
    let contents = blob.clone();
    let answer = move |request: &Request, end: usize| {
        if request.path.contains("/manifests/") {
            return reply("200 OK", &[TYPE], MANIFEST);
        }
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let start: usize = range.map_or(0, |start| start.parse().unwrap());
        let range = format!("Content-Range: bytes {start}-{}/{}", contents.len() - 1, contents.len());
        let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
        truncated_reply(status, &[&range], &contents[start..end.max(start)], contents.len() - start)
    };
    let primary_answer = answer.clone();
    let mirror = Server::start(move |request, _| answer(request, 20_000));
    let primary = Server::start(move |request, _| primary_answer(request, 50_000));
    let image = image(&table(&primary.address, &[&mirror.address]), ":1", "{}").unwrap();
    image.manifest().unwrap();
    let mut bytes = Vec::new();
    image.blob(&ContentDigest::sha256(&blob), blob.len() as u64).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, blob);
    let last = primary.requests().pop().unwrap();
    assert_eq!(last.header("range"), Some("bytes=20000-"));
}

#[test]
fn a_mirror_with_a_wrong_blob_is_named() {
    let answers = |blob: &'static [u8]| {
        Server::start(move |request, _| match request.path.contains("/manifests/") {
            true => reply("200 OK", &[TYPE], MANIFEST),
            false => reply("200 OK", &[], blob),
        })
    };
    let (mirror, primary) = (answers(b"9876543210"), answers(b"0123456789"));
    let image = image(&table(&primary.address, &[&mirror.address]), ":1", "{}").unwrap();
    image.manifest().unwrap();
    let digest = ContentDigest::sha256(b"0123456789");
    let read = || {
        let mut bytes = Vec::new();
        image.blob(&digest, 10).unwrap().read_to_end(&mut bytes).map(|_| bytes)
    };
    let error = read().unwrap_err().to_string();
    assert!(error.starts_with(&format!("what server {} sends as blob {digest}", mirror.address)), "{error}");
    // From now on the other one is asked.
    assert_eq!(read().unwrap(), b"0123456789");
}

#[test]
fn what_a_mirror_has_wrong_comes_from_the_registry() {
    let place = Place::with_repository();
    let mut layout = Layout::create(&place.path().join("big"));
    let large = Random::new(1).bytes(300_000);
    let files: [&[(&str, &[u8])]; 2] = [&[("usr/a", &large)], &[("usr/b", &large[1..])]];
    let descriptor = layout.image(&Platform::host().architecture, &files);
    layout.tag("1", &descriptor);
    let manifest = descriptor["digest"].as_str().unwrap();
    // Of the right size, so that nothing but the digest, or the decompression, tells.
    let at_end = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let halfway = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0);
    };
    let config = place.path().join("registries.conf");
    let pull = |place: &Place, mirror: &Server, primary: &Server| {
        let text = table(&primary.address, &[&mirror.address]);
        fs::write(&config, text).unwrap();
        let reference = "docker://registry.test/team/os:1";
        // One after the other: what arrives of a layer is kept when another one fails.
        let arguments = ["image", "pull", reference, "--tag", "os", "--progress", "plain", "--parallel", "1"];
        place.run_with(&arguments, &[("CONTAINERS_REGISTRIES_CONF", &config)])
    };
    let no_blobs = |place: &Place| {
        let files = fs::read_dir(place.path().join("repo")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!files.into_iter().any(|name| name.to_str().unwrap().starts_with(".blob-")), "nothing wrong is kept");
    };
    let primary = Server::of_layout(&layout, manifest, |_| ());
    for mirror in [Server::of_layout(&layout, manifest, at_end), Server::of_layout(&layout, manifest, halfway)] {
        let place = Place::with_repository();
        let run = pull(&place, &mirror, &primary);
        assert!(
            run.stderr.contains(&format!("what server {} sends as blob sha256:", mirror.address)),
            "{}",
            run.stderr
        );
        assert!(!run.stderr.contains("an earlier attempt"), "{}", run.stderr);
        run.done();
        no_blobs(&place);
        drop(place.run(&["repo", "fsck"]).done());
    }

    // Layers alone are wrong, everywhere: it ends, and nothing is kept.
    let wrong = || {
        Server::of_layout(&layout, manifest, move |bytes| {
            if bytes[0] != b'{' {
                at_end(bytes);
            }
        })
    };
    let (mirror, primary) = (wrong(), wrong());
    let said = pull(&place, &mirror, &primary).failed(1);
    assert!(said.contains("the blob is damaged: "), "{said}");
    no_blobs(&place);
}

#[test]
fn plain_http_is_for_the_registry_that_the_user_names_alone() {
    let (mirror, primary) = (serves(MANIFEST), serves(MANIFEST));
    let dir = tempfile::tempdir().unwrap();
    let (registries_file, auth) = (dir.path().join("registries.conf"), dir.path().join("auth.json"));
    let (address, copies) = (&primary.address, &mirror.address);
    let config = format!("[[registry]]\nlocation = '{address}'\n[[registry.mirror]]\nlocation = '{copies}'");
    fs::write(&registries_file, config).unwrap();
    fs::write(&auth, "{}").unwrap();
    let mut options = options(AuthFiles::only(auth));
    options.plain_http = true;
    options.registries = RegistriesFiles::only(Some(registries_file), Vec::new());
    let image = RegistryImage::new(&format!("{address}/os:1").parse().unwrap(), &options).unwrap();
    assert_eq!(image.manifest().unwrap(), MANIFEST);
    assert_eq!(paths(&mirror), [""; 0]);
    assert_eq!(paths(&primary), ["/v2/os/manifests/1"]);
}

#[test]
fn a_mirror_that_is_set_up_wrongly_is_passed_by() {
    let primary = serves(MANIFEST);
    let config = table(&primary.address, &["mirror.test"]);
    let auth_file = r#"{"credHelpers": {"mirror.test": "no-such-helper"}}"#;
    assert_eq!(image(&config, ":1", auth_file).unwrap().manifest().unwrap(), MANIFEST);
    let auth_file = format!(r#"{{"credHelpers": {{"{}": "no-such-helper"}}}}"#, primary.address);
    assert!(matches!(image(&config, ":1", &auth_file), Err(RegistryError::Credentials { .. })));
}
