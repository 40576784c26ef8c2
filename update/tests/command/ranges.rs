//! Blobs that are continued, from servers that do as they should and from others.

use std::io::Read as _;

use osupdate::transport::registry::RegistryError;
use osupdate_core::oci::ContentDigest;

use crate::server::{Request, Server, reply, truncated_reply};

/// A blob of which each byte tells its position.
fn blob() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i / 7) as u8).collect()
}

/// First byte of a `Range: bytes=N-` header.
fn range(request: &Request) -> usize {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    range.map_or(0, |start| start.parse().unwrap())
}

/// The part that was asked for, the connection breaking after `most` bytes of it.
fn part(request: &Request, most: usize, headers: &[&str]) -> Vec<u8> {
    let (blob, start) = (blob(), range(request));
    let content_range = format!("Content-Range: bytes {start}-{}/{}", blob.len() - 1, blob.len());
    let headers = [headers, &[&content_range]].concat();
    let end = blob.len().min(start + most);
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    truncated_reply(status, &headers, &blob[start..end], blob.len() - start)
}

/// Reads what comes from `offset` on.
fn read(server: &Server, offset: u64) -> std::io::Result<Vec<u8>> {
    let image = server.image(":1");
    let mut bytes = Vec::new();
    let digest = ContentDigest::sha256(b"any");
    let mut reader = image.layer(&digest, blob().len() as u64, offset).map_err(std::io::Error::other)?;
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn error(server: &Server, offset: u64) -> String {
    let error = read(server, offset).unwrap_err();
    let error: &RegistryError = error.get_ref().unwrap().downcast_ref().unwrap();
    error.to_string()
}

#[test]
fn a_line_that_breaks_again_and_again_brings_all_of_it() {
    // More often than there are attempts, the last time at the end.
    let server = Server::start(|request, _| part(request, 70_000, &[]));
    assert_eq!(read(&server, 0).unwrap(), blob());
    assert_eq!(server.requests().iter().map(range).collect::<Vec<_>>(), [0, 70_000, 140_000, 210_000, 280_000]);
}

#[test]
fn a_server_that_sends_next_to_nothing_is_given_up_on() {
    let server = Server::start(|request, _| part(request, 100, &[]));
    let error = error(&server, 0);
    assert!(error.contains("failed for blob") || error.contains("ended after 300 of 300000 bytes"), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn what_is_here_already_is_not_asked_for() {
    let server = Server::start(|request, _| part(request, usize::MAX / 2, &[]));
    assert_eq!(read(&server, 123_456).unwrap(), &blob()[123_456..]);
    assert_eq!(server.requests().iter().map(range).collect::<Vec<_>>(), [123_456]);
}

#[test]
fn a_server_that_cannot_or_will_not_send_parts_is_asked_for_all() {
    for status in ["200 OK", "416 Range Not Satisfiable"] {
        let server = Server::start(move |request, _| match range(request) {
            0 => reply("200 OK", &[], &blob()),
            _ if status.starts_with("200") => reply(status, &[], &blob()),
            _ => reply(status, &["Content-Range: bytes */300000"], b""),
        });
        assert_eq!(read(&server, 123_456).unwrap(), &blob()[123_456..], "{status}");
    }
}

#[test]
fn another_part_than_was_asked_for_is_not_taken() {
    for lie in ["bytes 0-176543/300000", "bytes 123457-299999/300000", "bytes 123456-1/300000", "chapters 2-3/4", ""] {
        let server = Server::start(move |request, _| match range(request) {
            0 => reply("200 OK", &[], &blob()),
            _ if lie.is_empty() => reply("206 Partial Content", &[], &blob()[..176_544]),
            _ => reply("206 Partial Content", &[&format!("Content-Range: {lie}")], &blob()[..176_544]),
        });
        assert_eq!(read(&server, 123_456).unwrap(), &blob()[123_456..], "{lie:?}");
        assert_eq!(server.requests().iter().map(range).collect::<Vec<_>>(), [123_456, 0]);
    }
}

#[test]
fn a_blob_of_another_size_is_refused_at_once() {
    let server = Server::start(|_, _| reply("200 OK", &[], b"<h1>Please log in to the network</h1>"));
    let message = error(&server, 0);
    assert!(
        message.contains(&server.address) && message.contains("has 37 bytes, the manifest states 300000"),
        "{message}"
    );
    for (status, header) in [
        ("206 Partial Content", "Content-Range: bytes 1000-299999/300001"),
        ("416 Range Not Satisfiable", "Content-Range: bytes */999"),
    ] {
        let server = Server::start(move |_, _| reply(status, &[header], &blob()[1000..]));
        assert!(error(&server, 1000).contains("the manifest states 300000"), "{status}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn more_than_the_manifest_states_is_not_read() {
    let server = Server::start(|_, _| {
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        [&head[..], &blob(), &[7; 1_000_000]].concat()
    });
    assert_eq!(read(&server, 0).unwrap(), blob());
}

#[test]
fn copies_of_a_blob_may_have_different_tags() {
    let server = Server::start(|request, number| part(request, 100_000, &[&format!("ETag: \"copy {number}\"")]));
    assert_eq!(read(&server, 0).unwrap(), blob());
}
