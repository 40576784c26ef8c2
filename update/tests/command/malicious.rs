//! Registries that mean harm: everything ends soon, with little in memory, and with an error that names the host.

use std::error::Error;
use std::io::{self, Read as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use osupdate::transport::registry::{AuthFiles, RegistryError, RegistryImage, RegistryOptions};
use osupdate_core::oci::ContentDigest;

use crate::server::{Server, options, reply};

const MANIFEST: &[u8] = br#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
const TYPE: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json";
const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
/// No test takes longer, however busy the machine.
const SOON: Duration = Duration::from_secs(20);

fn image(server: &Server, change: impl FnOnce(&mut RegistryOptions)) -> RegistryImage {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{}").unwrap();
    let mut options = options(AuthFiles::only(file.path().to_owned()));
    options.retry.attempts = 2;
    change(&mut options);
    RegistryImage::new(&format!("{}/os:1", server.address).parse().unwrap(), &options).unwrap()
}

fn hasty(options: &mut RegistryOptions) {
    options.idle_timeout = Duration::from_secs(1);
    options.document_timeout = Duration::from_secs(1);
}

/// An error and all its causes, which must name the server.
fn text(server: &Server, error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    assert!(text.contains(&server.address), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
    text
}

fn manifest_error(server: &Server, change: impl FnOnce(&mut RegistryOptions)) -> RegistryError {
    let start = Instant::now();
    let error = image(server, change).manifest().unwrap_err();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    text(server, &error);
    error
}

/// Writes until the other side hangs up; counts.
fn write_without_end(stream: &mut impl Write, piece: &[u8], count: &AtomicUsize) -> io::Result<()> {
    loop {
        stream.write_all(piece)?;
        count.fetch_add(piece.len(), Ordering::Relaxed);
    }
}

/// Writes a byte now and then, until the other side hangs up.
fn drip(stream: &mut impl Write) -> io::Result<()> {
    loop {
        stream.write_all(b" ")?;
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn bodies_without_end_are_cut() {
    let sent = Arc::new(AtomicUsize::new(0));
    for head in [ENDLESS, b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n", b"HTTP/1.1 403 No\r\n\r\n"] {
        let counter = sent.clone();
        let server = Server::serve(move |_, _, stream| {
            stream.write_all(head)?;
            write_without_end(stream, &[b' '; 1 << 16], &counter)
        });
        let error = manifest_error(&server, |_| ());
        let expected = if head == ENDLESS { "larger than 4 MiB" } else { &server.address };
        assert!(error.to_string().contains(expected), "{error}");
    }
    // 4 MiB of a manifest and what the kernel keeps for connections.
    assert!(sent.load(Ordering::Relaxed) < 64 << 20, "{} bytes were taken", sent.load(Ordering::Relaxed));
}

#[test]
fn a_manifest_of_100_mb_is_refused() {
    let server = Server::serve(|_, _, stream| {
        let length = 100 << 20;
        write!(stream, "HTTP/1.1 200 OK\r\n{TYPE}\r\nContent-Length: {length}\r\n\r\n")?;
        write_without_end(stream, &[b' '; 1 << 16], &AtomicUsize::new(0))
    });
    assert!(matches!(manifest_error(&server, |_| ()), RegistryError::ManifestSize { .. }));
}

#[test]
fn json_as_deep_as_the_sea_is_refused() {
    for piece in ["[", r#"{"schemaVersion":"#, r#"{"config":"#] {
        let body = piece.repeat(200_000);
        let server = Server::start(move |_, _| reply("200 OK", &[TYPE], body.as_bytes()));
        let error = manifest_error(&server, |_| ());
        assert!(matches!(error, RegistryError::ManifestJson { .. }), "{error:?}");
    }
}

#[test]
fn a_media_type_that_lies_is_refused() {
    for media_type in ["text/html", "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.layer.v1.tar"]
    {
        let header = format!("Content-Type: {media_type}");
        let server = Server::start(move |_, _| reply("200 OK", &[&header], MANIFEST));
        let error = manifest_error(&server, |_| ());
        assert!(error.to_string().ends_with(&format!("its media type is {media_type}")), "{error}");
    }
}

#[test]
fn redirects_in_a_circle_and_to_nowhere_end() {
    let server = Server::start(|_, number| reply("302 Found", &[&format!("Location: /v2/{number}")], b""));
    let error = manifest_error(&server, |_| ());
    assert!(error.to_string().ends_with("more than 10 redirects"), "{error}");
    assert_eq!(server.requests().len(), 11);
    for (location, problem) in [
        ("Location: file:///etc/shadow", "a redirect to an address of the kind file"),
        ("Location: https://[", "which is no address"),
        ("X: y", "a redirect without an address"),
    ] {
        let server = Server::start(move |_, _| reply("307 Temporary Redirect", &[location], b""));
        let error = manifest_error(&server, |_| ());
        assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_redirect_to_a_host_that_is_not_there_names_both() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server =
        Server::start(move |_, _| reply("307 Temporary Redirect", &[&format!("Location: http://{free}/blob")], b""));
    let error = manifest_error(&server, |_| ());
    assert!(error.to_string().starts_with(&format!("cannot reach server {free} for ")), "{error}");
    assert!(error.to_string().ends_with(&format!("(redirected there by {})", server.address)), "{error}");
}

#[test]
fn heads_that_drip_or_swell_are_given_up_on() {
    let server = Server::serve(|_, _, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
        drip(stream)
    });
    let error = manifest_error(&server, hasty);
    assert!(matches!(error, RegistryError::Connection { .. }), "{error:?}");

    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let server = Server::serve(move |_, _, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        write_without_end(stream, format!("X: {}\r\n", "y".repeat(1 << 16)).as_bytes(), &counter)
    });
    let error = manifest_error(&server, |_| ());
    assert!(matches!(error, RegistryError::Connection { .. }), "{error:?}");
    assert!(taken.load(Ordering::Relaxed) < 64 << 20);
}

#[test]
fn documents_that_drip_are_given_up_on() {
    let server = Server::serve(|_, _, stream| {
        stream.write_all(ENDLESS)?;
        drip(stream)
    });
    let error = manifest_error(&server, hasty);
    assert!(text(&server, &error).contains("bytes came within 1 seconds"), "{}", text(&server, &error));
}

#[test]
fn blobs_that_drip_are_given_up_on() {
    let server = Server::serve(|_, _, stream| {
        stream.write_all(ENDLESS)?;
        drip(stream)
    });
    let start = Instant::now();
    let image = image(&server, hasty);
    let mut blob = image.blob(&ContentDigest::sha256(b""), 1 << 30).unwrap();
    let error = blob.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let error = error.get_ref().unwrap();
    assert!(text(&server, error).contains("bytes came within 1 seconds"), "{}", text(&server, error));
}

#[test]
fn what_a_registry_says_cannot_control_the_terminal() {
    let server = Server::start(|_, _| {
        let body = br#"{"errors": [{"code": "X", "message": "\u001b]0;owned\u0007\u001b[2J\u009b31m\r\nok\u202e"}]}"#;
        reply("418 Teapot", &[], body)
    });
    let error = manifest_error(&server, |_| ());
    assert!(error.to_string().ends_with("]0;owned[2J31mok"), "{error}");
    // A header that holds control characters is none.
    let server = Server::start(|_, _| reply("302 Found", &["Location: http://x/\x1b[2J"], b""));
    let error = manifest_error(&server, |_| ());
    assert!(matches!(error, RegistryError::Connection { .. }), "{error:?}");
    let server = Server::start(|_, _| reply("401 No", &["WWW-Authenticate: Weird\u{9b}31m x=\"\u{202e}\""], b""));
    assert!(matches!(manifest_error(&server, |_| ()), RegistryError::Denied { .. }));
}

#[test]
fn a_server_that_asks_for_a_long_wait_is_not_waited_for() {
    let server = Server::start(|_, _| reply("429 Too Many Requests", &["Retry-After: 86400"], b""));
    let error = manifest_error(&server, |_| ());
    assert!(error.to_string().ends_with("it asks to come back in 86400 seconds"), "{error}");
    assert_eq!(server.requests().len(), 1);
}
