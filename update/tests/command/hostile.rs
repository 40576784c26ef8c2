//! Broken, confused and malicious registries.

use std::error::Error as _;
use std::io::Read as _;

use osupdate::transport::registry::{AuthFiles, RegistryError, RegistryImage};
use osupdate_core::oci::{ContentDigest, ManifestError};

use crate::server::{Request, Server, reply, truncated_reply};

const MANIFEST: &[u8] = br#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const TYPE: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json";
const LIST_TYPE: &str = "Content-Type: application/vnd.oci.image.index.v1+json";
const REGISTRY: &str = "Docker-Distribution-Api-Version: registry/2.0";

fn digest(bytes: &[u8]) -> ContentDigest {
    ContentDigest::sha256(bytes)
}

/// A blob of which each byte tells its position.
fn blob() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i / 7) as u8).collect()
}

fn read(server: &Server, size: usize) -> Result<Vec<u8>, std::io::Error> {
    let image = server.image(":1");
    let mut bytes = Vec::new();
    image.blob(&digest(b"any"), size as u64).map_err(std::io::Error::other)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// First byte of a `Range: bytes=N-` header.
fn range(request: &Request) -> usize {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    range.map_or(0, |start| start.parse().unwrap())
}

#[test]
fn a_broken_blob_is_continued_where_it_ended() {
    let server = Server::start(|request, number| {
        let (blob, start) = (blob(), range(request));
        let content_range = format!("Content-Range: bytes {start}-{}/{}", blob.len() - 1, blob.len());
        let end = if number < 2 { start + 100_000 } else { blob.len() };
        let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
        truncated_reply(status, &[&content_range], &blob[start..end], blob.len() - start)
    });
    assert_eq!(read(&server, blob().len()).unwrap(), blob());
    let ranges: Vec<_> = server.requests().iter().map(range).collect();
    assert_eq!(ranges, [0, 100_000, 200_000]);
}

#[test]
fn a_server_without_ranges_is_read_again_from_the_beginning() {
    let server = Server::start(|_, number| {
        let blob = blob();
        let end = [150_000, 60_000, blob.len()][number];
        truncated_reply("200 OK", &[], &blob[..end], blob.len())
    });
    assert_eq!(read(&server, blob().len()).unwrap(), blob());
}

#[test]
fn a_server_without_ranges_that_always_sends_a_little_more_is_given_up_on() {
    const MORE: usize = 70_000;
    let server = Server::start(|_, number| {
        let blob = [blob(), blob(), blob(), blob()].concat();
        let end = blob.len().min((number + 1) * MORE);
        truncated_reply("200 OK", &[], &blob[..end], blob.len())
    });
    assert!(read(&server, 4 * blob().len()).is_err());
    let asked = server.requests().len();
    assert!(asked <= 5, "what is here was sent {asked} times");
}

#[test]
fn a_blob_that_always_breaks_ends_in_an_error_with_its_position() {
    // Without a Content-Length the end of the stream looks like the end of the blob.
    let server = Server::start(|_, _| b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n1234".to_vec());
    let error = read(&server, 10).unwrap_err();
    let RegistryError::Truncated { got_bytes, size_bytes, .. } = error.get_ref().unwrap().downcast_ref().unwrap()
    else {
        panic!("{error}")
    };
    assert_eq!((*got_bytes, *size_bytes), (4, 10));
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_wrong_range_is_not_taken_for_the_rest() {
    let server = Server::start(|_, number| match number {
        0 => truncated_reply("200 OK", &[], b"01234", 10),
        _ => reply("206 Partial Content", &["Content-Range: bytes 0-9/10"], b"0123456789"),
    });
    assert!(read(&server, 10).is_err());
}

#[test]
fn manifests_are_checked_against_every_digest() {
    let wrong = digest(b"another");
    let expected_by = |image: RegistryImage| match image.manifest() {
        Err(RegistryError::ManifestDigest { expected_by, .. }) => expected_by,
        other => panic!("{other:?}"),
    };
    let server = Server::start(|_, _| reply("200 OK", &[TYPE], MANIFEST));
    assert_eq!(expected_by(server.image(&format!("@{wrong}"))), "by the reference");
    assert_eq!(server.image(&format!(":1@{}", digest(MANIFEST))).manifest().unwrap(), MANIFEST);

    let server = Server::start(|_, _| {
        reply("200 OK", &[TYPE, &format!("Docker-Content-Digest: {}", digest(b"another"))], MANIFEST)
    });
    assert_eq!(expected_by(server.image(":1")), "by the registry");

    let server = Server::start(|request, _| {
        let list = format!(
            r#"{{"schemaVersion": 2, "manifests": [{{"mediaType": "{MANIFEST_TYPE}", "digest": "{}", "size": 1}}]}}"#,
            digest(b"another")
        );
        match request.path.ends_with(":1") || request.path.ends_with("/1") {
            true => reply("200 OK", &[LIST_TYPE], list.as_bytes()),
            false => reply("200 OK", &[TYPE], MANIFEST),
        }
    });
    assert_eq!(expected_by(server.image(":1")), "by the manifest list");
}

#[test]
fn a_list_without_this_platform_tells_which_it_has() {
    let server = Server::start(|_, _| {
        let entry = |platform: &str| {
            format!(
                r#"{{"mediaType": "{MANIFEST_TYPE}", "digest": "{}", "size": 1, "platform": {platform}}}"#,
                digest(b"")
            )
        };
        let list = format!(
            r#"{{"schemaVersion": 2, "manifests": [{}, {}]}}"#,
            entry(r#"{"os": "linux", "architecture": "pdp11"}"#),
            entry(r#"{"os": "unknown", "architecture": "unknown"}"#)
        );
        reply("200 OK", &[LIST_TYPE], list.as_bytes())
    });
    let error = server.image(":1").resolve().unwrap_err();
    let RegistryError::List { source: ManifestError::Platform { available, .. }, .. } = &error else {
        panic!("{error}")
    };
    assert!(available.contains(&"linux/pdp11".to_owned()), "{available:?}");
}

#[test]
fn a_huge_manifest_is_not_read_into_memory() {
    let server = Server::start(|_, _| reply("200 OK", &[TYPE], &vec![b' '; (4 << 20) + 1]));
    assert!(matches!(server.image(":1").manifest(), Err(RegistryError::ManifestSize { .. })));
}

#[test]
fn busy_servers_are_asked_again() {
    let server = Server::start(|_, number| match number {
        0 => reply("503 Service Unavailable", &[], b""),
        1 => reply("429 Too Many Requests", &["Retry-After: 0"], b""),
        _ => reply("200 OK", &[TYPE], MANIFEST),
    });
    assert_eq!(server.image(":1").manifest().unwrap(), MANIFEST);
    let server = Server::start(|_, _| reply("503 Service Unavailable", &[], b""));
    let error = server.image(":1").manifest().unwrap_err();
    assert!(matches!(&error, RegistryError::Status { status, .. } if status.as_u16() == 503), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_connection_that_is_closed_at_once_is_tried_again() {
    let server = Server::start(|_, number| match number {
        0 => Vec::new(),
        _ => reply("200 OK", &[TYPE], MANIFEST),
    });
    assert_eq!(server.image(":1").manifest().unwrap(), MANIFEST);
}

#[test]
fn a_server_that_says_nothing_is_given_up_on_and_asked_again() {
    let server = Server::start(|_, number| {
        if number == 0 {
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        reply("200 OK", &[TYPE], MANIFEST)
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{}").unwrap();
    let mut options = crate::server::options(AuthFiles::only(file.path().to_owned()));
    options.idle_timeout = std::time::Duration::from_secs(2);
    let reference = format!("{}/os:1", server.address).parse().unwrap();
    assert_eq!(RegistryImage::new(&reference, &options).unwrap().manifest().unwrap(), MANIFEST);
    assert_eq!(server.requests().len(), 2);
}

/// An auth file with credentials for every image of `host`.
fn auth_file(host: &str) -> String {
    // me:secret
    format!(r#"{{"auths": {{"{host}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#)
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let storage = Server::start(|_, _| reply("200 OK", &[], b"0123456789"));
    let location = format!("Location: http://{}/storage?signature=x", storage.address);
    let registry = Server::start(move |request, _| match request.header("authorization") {
        None => reply("401 Unauthorized", &["WWW-Authenticate: Basic realm=\"r\""], b""),
        Some(_) => reply("307 Temporary Redirect", &[&location], b""),
    });
    let image = registry.image_with(":1", &auth_file(&registry.address));
    let mut bytes = Vec::new();
    image.blob(&digest(b""), 10).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"0123456789");
    assert_eq!(registry.requests()[1].header("authorization"), Some("Basic bWU6c2VjcmV0"));
    assert_eq!(storage.requests().len(), 1);
    assert_eq!(storage.requests()[0].header("authorization"), None);
}

#[test]
fn tokens_are_fetched_with_the_credentials_and_renewed() {
    let tokens = Server::start(|_, number| reply("200 OK", &[], format!(r#"{{"token": "t{number}"}}"#).as_bytes()));
    let challenge = format!(
        "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"reg\",scope=\"repository:os:pull\"",
        tokens.address
    );
    // The first token expires after two answers.
    let registry = Server::start(move |request, number| match request.header("authorization") {
        Some("Bearer t0") if number < 3 => reply("200 OK", &[TYPE], MANIFEST),
        Some("Bearer t1") => reply("200 OK", &[TYPE], MANIFEST),
        _ => reply("401 Unauthorized", &[&challenge], b""),
    });
    let image = registry.image_with(":1", &auth_file(&registry.address));
    for _ in 0..4 {
        assert_eq!(image.manifest().unwrap(), MANIFEST);
    }
    let requests = tokens.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].path, "/token?service=reg&scope=repository%3Aos%3Apull");
    assert_eq!(requests[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));
}

#[test]
fn a_denied_repository_ends_in_advice() {
    let registry = Server::start(|_, _| {
        let body = br#"{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required\u001b[2J"}]}"#;
        reply("401 Unauthorized", &["WWW-Authenticate: Basic realm=\"r\""], body)
    });
    let error = registry.image(":1").manifest().unwrap_err();
    assert!(error.to_string().ends_with("/os:1: authentication required[2J"), "{error}");
    assert!(error.hint().unwrap().contains("skopeo login"));
    let error = registry.image_with(":1", &auth_file(&registry.address)).manifest().unwrap_err();
    assert!(error.hint().unwrap().contains("the user of the auth file"));
}

#[test]
fn a_token_that_is_never_accepted_does_not_loop() {
    let tokens = Server::start(|_, number| reply("200 OK", &[], format!(r#"{{"token": "t{number}"}}"#).as_bytes()));
    let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"", tokens.address);
    let registry = Server::start(move |_, _| reply("401 Unauthorized", &[&challenge], b""));
    assert!(matches!(registry.image(":1").manifest(), Err(RegistryError::Denied { .. })));
}

#[test]
fn missing_tags_repositories_and_registries_are_told_apart() {
    let not_found = br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#;
    let registry = Server::start(|request, _| match request.path.contains("/tags/") {
        true => reply("200 OK", &[REGISTRY], br#"{"name": "os", "tags": ["1", "2"]}"#),
        false => reply("404 Not Found", &[REGISTRY], not_found),
    });
    let error = registry.image(":3").manifest().unwrap_err();
    assert_eq!(error.to_string(), format!("repository os in registry {} has no tag 3", registry.address));
    assert_eq!(error.hint().unwrap(), "tags that it has: 1, 2");

    let registry = Server::start(|_, _| reply("404 Not Found", &[REGISTRY], not_found));
    assert!(matches!(registry.image(":3").manifest(), Err(RegistryError::NoRepository { .. })));
    let by_digest = registry.image(&format!("@{}", digest(b""))).manifest();
    assert!(matches!(by_digest, Err(RegistryError::NotFound { .. })));

    let website = Server::start(|_, _| reply("404 Not Found", &["Content-Type: text/html"], b"<h1>Not found</h1>"));
    assert!(matches!(website.image(":3").manifest(), Err(RegistryError::NotARegistry { .. })));
}

#[test]
fn nobody_there_and_no_such_host_are_told_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reference = format!("{free}/os:1").parse().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{}").unwrap();
    let options = crate::server::options(AuthFiles::only(file.path().to_owned()));
    let error = RegistryImage::new(&reference, &options).unwrap().manifest().unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    assert_eq!(error.source().unwrap().to_string(), "Connection refused (os error 111)");
}

#[test]
fn plain_http_is_never_fallen_back_to() {
    let server = Server::start(|_, _| reply("200 OK", &[TYPE], MANIFEST));
    let reference = format!("{}/os:1", server.address).parse().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{}").unwrap();
    let mut options = crate::server::options(AuthFiles::only(file.path().to_owned()));
    options.plain_http = false;
    let error = RegistryImage::new(&reference, &options).unwrap().manifest().unwrap_err();
    assert!(matches!(error, RegistryError::NotTls { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--plain-http"));
}
