//! Who is told our passwords and tokens, and who is not.

use std::io::{Read as _, Write as _};

use osupdate::transport::registry::{AuthError, RegistryError, RegistryImage};
use osupdate_core::oci::ContentDigest;

use crate::server::{Server, reply};

const MANIFEST: &[u8] = br#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
const TYPE: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json";
/// `me:secret`.
const BASIC: &str = "Basic bWU6c2VjcmV0";
const BASIC_CHALLENGE: &str = "WWW-Authenticate: Basic realm=\"r\"";

/// An auth file with `me:secret` for a host.
fn password_for(host: &str) -> String {
    format!(r#"{{"auths": {{"{host}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#)
}

fn bearer(realm: &str) -> String {
    format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:os:pull\"")
}

/// A registry that wants a token from a realm, any token.
fn token_registry(realm: &str) -> Server {
    let challenge = bearer(realm);
    Server::start(move |request, _| match request.header("authorization") {
        Some(header) if header.starts_with("Bearer ") => reply("200 OK", &[TYPE], MANIFEST),
        _ => reply("401 Unauthorized", &[&challenge], b""),
    })
}

fn auth_error(image: &RegistryImage) -> AuthError {
    match image.manifest() {
        Err(RegistryError::Auth { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_identity_token_is_exchanged_for_tokens() {
    let tokens = Server::start(|_, _| reply("200 OK", &[], br#"{"access_token": "abc"}"#));
    let registry = token_registry(&format!("http://{}/token", tokens.address));
    let auth_file =
        format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0", "identitytoken": "re fresh&"}}}}}}"#, registry.address);
    assert_eq!(registry.image_with(":1", &auth_file).manifest().unwrap(), MANIFEST);
    assert_eq!(registry.requests()[1].header("authorization"), Some("Bearer abc"));
    let [request] = tokens.requests().try_into().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/token"));
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.header("authorization"), None);
    assert_eq!(
        request.body,
        "service=reg&scope=repository%3Aos%3Apull&grant_type=refresh_token&client_id=osupdate&refresh_token=re+fresh%26"
    );
}

#[test]
fn secrets_do_not_follow_a_redirect_of_the_token_service() {
    let elsewhere = Server::start(|_, _| reply("200 OK", &[], br#"{"token": "abc"}"#));
    let location = format!("Location: http://{}/token", elsewhere.address);
    let tokens = Server::start(move |_, _| reply("307 Temporary Redirect", &[&location], b""));
    let registry = token_registry(&format!("http://{}/token", tokens.address));

    let identity = format!(r#"{{"auths": {{"{}": {{"identitytoken": "refresh"}}}}}}"#, registry.address);
    let error = auth_error(&registry.image_with(":1", &identity));
    assert!(matches!(error, AuthError::Redirect { .. }), "{error:?}");
    assert_eq!(elsewhere.requests().len(), 0);

    // A password stays behind, and the token that is had without one is taken.
    let image = registry.image_with(":1", &password_for(&registry.address));
    assert_eq!(image.manifest().unwrap(), MANIFEST);
    assert_eq!(tokens.requests()[1].header("authorization"), Some(BASIC));
    let [request] = elsewhere.requests().try_into().unwrap();
    assert_eq!(request.header("authorization"), None);
}

#[test]
fn a_host_that_we_are_redirected_to_is_told_nothing_however_it_asks() {
    let storage = Server::start(|_, _| reply("401 Unauthorized", &[BASIC_CHALLENGE], b""));
    let location = format!("Location: http://user:password@{}/blob", storage.address);
    let registry = Server::start(move |request, _| match request.header("authorization") {
        None => reply("401 Unauthorized", &[BASIC_CHALLENGE], b""),
        Some(_) => reply("307 Temporary Redirect", &[&location], b""),
    });
    let image = registry.image_with(":1", &password_for(&registry.address));
    let error = image.blob(&ContentDigest::sha256(b""), 10).unwrap_err();
    let expected = format!(
        "{}, where it redirects to, asks for a login, which is for {} alone",
        storage.address, registry.address
    );
    assert!(error.to_string().ends_with(&expected), "{error}");
    let [request] = storage.requests().try_into().unwrap();
    assert_eq!(request.header("authorization"), None);
    // Nor is somebody told the password for another one.
    let image = registry.image_with(":1", &password_for(&storage.address));
    assert!(matches!(image.manifest(), Err(RegistryError::Denied { had_credentials: false, .. })));
}

#[test]
fn a_token_that_runs_out_in_the_middle_of_a_pull_is_renewed() {
    let tokens = Server::start(|_, number| reply("200 OK", &[], format!(r#"{{"token": "t{number}"}}"#).as_bytes()));
    let challenge = bearer(&format!("http://{}/token", tokens.address));
    let blob: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
    let contents = blob.clone();
    // Each token is good for one answer, and the blob breaks off once.
    let registry = Server::serve(move |request, number, stream| {
        let token = request.header("authorization").unwrap_or_default();
        match (request.path.contains("/blobs/"), token, request.header("range")) {
            (false, "Bearer t0", _) if number < 2 => stream.write_all(&reply("200 OK", &[TYPE], MANIFEST)),
            (true, "Bearer t1", None) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", contents.len());
                stream.write_all(head.as_bytes())?;
                stream.write_all(&contents[..100_000])
            }
            (true, "Bearer t2", Some("bytes=100000-")) => {
                let range = format!("Content-Range: bytes 100000-{}/{}", contents.len() - 1, contents.len());
                stream.write_all(&reply("206 Partial Content", &[&range], &contents[100_000..]))
            }
            _ => stream.write_all(&reply("401 Unauthorized", &[&challenge], b"")),
        }
    });
    let image = registry.image(":1");
    assert_eq!(image.manifest().unwrap(), MANIFEST);
    let mut bytes = Vec::new();
    image.blob(&ContentDigest::sha256(&blob), blob.len() as u64).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, blob);
    assert_eq!(tokens.requests().len(), 3);
}

#[test]
fn a_token_service_that_is_busy_is_asked_again() {
    let tokens = Server::start(|_, number| match number {
        0 => reply("503 Service Unavailable", &[], b""),
        1 => Vec::new(),
        _ => reply("200 OK", &[], br#"{"token": "abc"}"#),
    });
    let registry = token_registry(&format!("http://{}/token", tokens.address));
    assert_eq!(registry.image(":1").manifest().unwrap(), MANIFEST);
    assert_eq!(tokens.requests().len(), 3);
}

#[test]
fn token_services_that_misbehave_are_named() {
    let endless = Server::serve(|_, _, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"token\": \"")?;
        loop {
            stream.write_all(&[b'x'; 1 << 16])?;
        }
    });
    let control = Server::start(|_, _| reply("200 OK", &[], br#"{"token": "a\r\nX-Evil: b"}"#));
    let empty = Server::start(|_, _| reply("200 OK", &[], br#"{"token": ""}"#));
    let refuses = Server::start(|_, _| {
        reply("403 Forbidden", &[], br#"{"errors": [{"code": "DENIED", "message": "not \u001b[31myou"}]}"#)
    });
    for (server, problem) in [
        (&endless, "it has more than 1 MiB"),
        (&control, "it has characters that no token has"),
        (&empty, "neither token nor access_token is there"),
        (&refuses, "answered 403 Forbidden: not [31myou"),
    ] {
        let registry = token_registry(&format!("http://{}/token", server.address));
        let error = auth_error(&registry.image(":1")).to_string();
        assert!(error.contains(problem) && error.contains(&server.address), "{error}");
    }
    for (realm, problem) in [("not an address", "is not an address"), ("ftp://x/", "is not reached by https")] {
        let registry = token_registry(realm);
        let error = auth_error(&registry.image(":1")).to_string();
        assert!(error.contains(problem), "{error}");
    }
    let negotiate = Server::start(|_, _| reply("401 Unauthorized", &["WWW-Authenticate: Negotiate"], b""));
    assert!(matches!(auth_error(&negotiate.image(":1")), AuthError::Challenge(_)));
}
