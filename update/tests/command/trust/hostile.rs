//! Signatures made to do harm: too large, too many, too deep, packed.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use osupdate::transport::registry::RegistryError;
use osupdate::trust::{FetchError, SignatureProblem, TrustError};

use serde_json::json;

use super::{Lab, have_tools, payload, problem, signed_by};
use crate::layout::sha256;
use crate::server::{Server, reply};

const KIND: &str = "atomic container signature";

/// A packet of the new format with a length of four bytes.
fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0 | tag, 0xff];
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Zeros in a deflate stream, as GnuPG would compress them.
fn bomb(inner: &[u8]) -> Vec<u8> {
    let script = "import sys, zlib; c = zlib.compressobj(9, zlib.DEFLATED, -15); d = sys.stdin.buffer.read(); \
                  sys.stdout.buffer.write(b'\\x01' + c.compress(d) + c.flush())";
    let mut child =
        Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(inner).unwrap();
    packet(8, &child.wait_with_output().unwrap().stdout)
}

/// A compressed packet of that many zeros.
fn bomb_of_zeros(bytes: u64) -> Vec<u8> {
    let script = "import sys, zlib; c = zlib.compressobj(9, zlib.DEFLATED, -15); o = sys.stdout.buffer; o.write(b'\\x01'); \
                  [o.write(c.compress(bytes(1 << 20))) for _ in range(int(sys.argv[1]) >> 20)]; o.write(c.flush())";
    let output = Command::new("python3").args(["-c", script, &bytes.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    packet(8, &output.stdout)
}

#[test]
fn signatures_that_are_too_much_end_soon() {
    if !have_tools() || !crate::docker_registry::have(&["python3"]) {
        return;
    }
    let lab = Lab::start();
    let key = lab.gpg.key("a", None, "ed25519", "never");
    let file = lab.gpg.export(&key, &[]);
    let image = lab.push("one", "os:1", &[]);
    let document = payload(KIND, &lab.manifest(&image), image.strip_prefix("docker://").unwrap());
    let directory = lab.signatures(&image);
    fs::create_dir_all(&directory).unwrap();
    let policy = lab.policy(&signed_by(&[&file]));
    let good = lab.gpg.sign(&key, None, &[], document.to_string().as_bytes());
    let check = |signature: &[u8]| {
        fs::write(directory.join("signature-1"), signature).unwrap();
        let begun = Instant::now();
        let result = lab.ours(&image, &policy);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        result
    };
    assert!(check(&good).unwrap().is_signed());

    // Larger than any signature.
    let found = problem(check(&vec![0xa3; 1 << 20]));
    assert!(matches!(found, SignatureProblem::TooLarge(_)), "{found}");
    // Signed by whom it should be, but unpacks to 40 MiB.
    let large = lab.gpg.sign(&key, None, &[], &vec![b' '; 40 << 20]);
    assert!(large.len() < 64 << 10, "{}", large.len());
    let found = problem(check(&large));
    assert!(matches!(found, SignatureProblem::TooLarge(_)), "{found}");
    let mut deep = document.clone();
    let nested = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    deep["optional"] = json!({"x": "NESTED"});
    let deep = deep.to_string().replace("\"NESTED\"", &nested);
    let found = problem(check(&lab.gpg.sign(&key, None, &[], deep.as_bytes())));
    assert!(matches!(found, SignatureProblem::Payload(_)), "{found}");

    let plain = lab.gpg.sign(&key, None, &["--compress-algo", "none"], document.to_string().as_bytes());
    assert!(check(&plain).unwrap().is_signed());
    // A packet that is no document and unpacks to much, many packets, compressed packets in compressed packets.
    let literal = packet(11, &[&b"b\0\0\0\0\0"[..], document.to_string().as_bytes()].concat());
    let mut nested = literal.clone();
    for _ in 0..20 {
        nested = bomb(&nested);
    }
    // A few bytes in whose middle are 512 MiB.
    let zeros = bomb_of_zeros(512 << 20);
    for hostile in [
        bomb(&packet(2, &vec![0; 50 << 20])),
        bomb(&packet(10, b"PGP").repeat(1 << 20)),
        bomb(&packet(4, &[3, 0, 10, 22, 1, 2, 3, 4, 5, 6, 7, 8, 1]).repeat(1 << 18)),
        packet(10, b"PGP").repeat(1000),
        nested,
        bomb(&zeros),
        literal,
        packet(8, b"\x03BZh"),
        packet(8, b"\x01\xff\xff\xff"),
        vec![0xc2, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x80],
        plain.repeat(2),
        good[..good.len() / 2].to_vec(),
    ] {
        let found = problem(check(&hostile));
        let refused = matches!(found, SignatureProblem::Malformed(_) | SignatureProblem::TooLarge(_));
        assert!(refused, "{found}: {:x?}", &hostile[..hostile.len().min(32)]);
    }

    // Any byte of a good one changed or missing: an error, never more.
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 0x10;
        drop(check(&changed));
    }

    // Bad ones beside a good one do not matter, until there are too many.
    check(b"<html>").unwrap_err();
    for number in 2..=128 {
        fs::write(directory.join(format!("signature-{number}")), &good).unwrap();
    }
    assert_eq!(lab.ours(&image, &policy).unwrap().signers.len(), 1);
    fs::write(directory.join("signature-129"), &good).unwrap();
    let error = lab.ours(&image, &policy).unwrap_err();
    assert!(matches!(error, TrustError::Fetch { source: FetchError::TooMany { .. }, .. }), "{error}");
}

#[test]
fn stores_on_web_servers_are_read_and_their_faults_named() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let key = lab.gpg.key("a", None, "ed25519", "never");
    let file = lab.gpg.export(&key, &[]);
    let image = lab.push_signed("one", "os:1", &key);
    let good = fs::read(lab.signatures(&image).join("signature-1")).unwrap();
    let policy = lab.policy(&signed_by(&[&file]));

    let path = lab.signatures(&image).strip_prefix(lab.path("store")).unwrap().join("signature-1");
    let path = format!("/base/{}", path.display());
    let server = Server::start({
        let (good, path) = (good.clone(), path.clone());
        move |request, number| match (request.path == path, number) {
            (true, 0) => reply("503 Service Unavailable", &[], b""),
            (true, _) => reply("200 OK", &[], &good),
            _ => reply("404 Not Found", &[], b""),
        }
    });
    lab.configure(&format!("lookaside: http://user:secret@{}/base/", server.address));
    let verdict = lab.ours(&image, &policy).unwrap();
    assert_eq!(verdict.signers[0].key, key);
    assert_eq!(server.requests().iter().filter(|request| request.path == path).count(), 2);

    let failing = |answer: Vec<u8>| {
        let server = Server::start(move |_, _| answer.clone());
        lab.configure(&format!("lookaside: http://user:secret@{}/base", server.address));
        let error = lab.ours(&image, &policy).unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        assert!(!text.contains("secret"), "{text}");
        (error, text)
    };
    let (error, text) = failing(reply("403 Forbidden", &[], b""));
    assert!(matches!(error, TrustError::Fetch { source: FetchError::Status { .. }, .. }), "{text}");
    assert!(text.contains("127.0.0.1") && text.contains("403"), "{text}");
    let (error, text) = failing(reply("200 OK", &["Content-Type: text/html; charset=utf-8"], b"<html>"));
    assert!(matches!(error, TrustError::NoSignature { .. }), "{text}");
    let (error, text) = failing(reply("302 Found", &["Location: /base/again"], b""));
    assert!(matches!(error, TrustError::Fetch { source: FetchError::Request { .. }, .. }), "{text}");
    let (error, text) = failing(reply("200 OK", &[], &good));
    assert!(matches!(error, TrustError::Fetch { source: FetchError::TooMany { .. }, .. }), "{text}");

    lab.configure("lookaside: ftp://store.example");
    let error = lab.ours(&image, &policy).unwrap_err();
    assert!(error.hint().unwrap().contains("https://"), "{error}");
}

#[test]
fn attachments_made_to_do_harm_end_soon() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    lab.configure("use-sigstore-attachments: true");
    let key = super::sigstore::Pair::make(&lab, &super::sigstore::P256).public;
    let policy = lab.policy(&json!([{"type": "sigstoreSigned", "keyPath": key}]));
    let check = |attachment: Vec<u8>, blob: Vec<u8>| {
        let server = Server::start(move |request, _| {
            let manifest = "Content-Type: application/vnd.oci.image.manifest.v1+json";
            let path = request.path.as_str();
            if path.ends_with(".sig") {
                return attachment.clone();
            }
            match path.ends_with("/manifests/1") {
                true => reply("200 OK", &[manifest], br#"{"schemaVersion": 2, "config": {}, "layers": []}"#),
                false => blob.clone(),
            }
        });
        let begun = Instant::now();
        let result = lab.ours(&format!("docker://{}/os:1", server.address), &policy);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let blobs = server.requests().iter().filter(|request| request.path.contains("/blobs/")).count();
        (result, blobs)
    };
    let ok = |body: &[u8]| reply("200 OK", &["Content-Type: application/vnd.oci.image.manifest.v1+json"], body);
    let attachment = |body: &str| check(ok(body.as_bytes()), reply("404 Not Found", &[], b""));
    let fetch_error = |(result, _): (Result<_, TrustError>, usize)| match result {
        Err(TrustError::Fetch { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in ["", "no JSON", "{}", &deep, r#"{"schemaVersion": 2, "manifests": []}"#] {
        let error = fetch_error(attachment(text));
        assert!(matches!(error, FetchError::Attachment { .. }), "{error}");
        assert!(error.to_string().contains(".sig"), "{error}");
    }
    let error = fetch_error(attachment(&" ".repeat(5 << 20)));
    assert!(matches!(error, FetchError::Registry(RegistryError::ManifestSize { .. })), "{error}");
    let error = fetch_error(check(reply("403 Forbidden", &[], b""), Vec::new()));
    assert!(matches!(error, FetchError::Registry(RegistryError::Denied { .. })), "{error}");

    let manifest = |digest: &str, size: u64| {
        let config =
            json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(b"{}"), "size": 2});
        let layer = json!({
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": digest,
            "size": size,
            "annotations": {"dev.cosignproject.cosign/signature": "AAAA"},
        });
        ok(json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string().as_bytes())
    };
    // Not even asked for.
    let (result, blobs) = check(manifest(&sha256(b"x"), 1 << 40), ok(b"x"));
    assert!(matches!(problem(result), SignatureProblem::TooLarge(_)) && blobs == 0);
    // Something else than was promised, and more.
    let (result, _) = check(manifest(&sha256(b"x"), 1), ok(b"y"));
    let found = problem(result);
    assert!(matches!(found, SignatureProblem::Malformed(_)), "{found}");
    assert!(check(manifest(&sha256(b"x"), 1), ok(&vec![b'x'; 10 << 20])).0.is_err());
    let (result, _) = check(manifest(&sha256(b"x"), 1), ok(b"x"));
    assert!(matches!(problem(result), SignatureProblem::NotThisKey { .. }));
}
