//! sigstore signatures. Debian's skopeo is built without them, so they are made with openssl by the published format, and
//! skopeo's decisions are not asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use osupdate::transport::registry::{AuthFiles, RegistriesFiles, RegistryImage};
use osupdate::transport::{ImageReference, Source};
use osupdate::trust::{Policy, SignatureKind, SignatureProblem, TrustError, Verdict};
use osupdate_core::oci::ImageSource as _;
use serde_json::{Value, json};

use super::{Lab, have_tools, payload, problem};
use crate::docker_registry::DockerRegistry;
use crate::layout::sha256;
use crate::server::options;

const KIND: &str = "cosign container image signature";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const ATTACHMENTS: &str = "use-sigstore-attachments: true";
pub(super) const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

fn signed(key: &Path) -> Value {
    json!([{"type": "sigstoreSigned", "keyPath": key}])
}

fn in_repository(key: &Path) -> Value {
    json!([{"type": "sigstoreSigned", "keyPath": key, "signedIdentity": {"type": "matchRepository"}}])
}

#[track_caller]
fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A key pair made with openssl.
pub(super) struct Pair {
    private: PathBuf,
    pub(super) public: PathBuf,
    is_ed25519: bool,
}

impl Pair {
    pub(super) fn make(lab: &Lab, algorithm: &[&str]) -> Self {
        let private = lab.file("");
        let public = lab.file("");
        let (private_text, public_text) = (private.to_str().unwrap(), public.to_str().unwrap());
        openssl(&[&["genpkey", "-quiet", "-out", private_text], algorithm].concat());
        openssl(&["pkey", "-in", private_text, "-pubout", "-out", public_text]);
        Self { private, public, is_ed25519: algorithm.contains(&"ED25519") }
    }

    fn sign(&self, lab: &Lab, document: &[u8]) -> Vec<u8> {
        let file = lab.file(document);
        let (key, file) = (self.private.to_str().unwrap(), file.to_str().unwrap());
        match self.is_ed25519 {
            true => openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", file]),
            false => openssl(&["dgst", "-sha256", "-sign", key, file]),
        }
    }
}

/// A layer of an attachment.
fn layer(media_type: &str, document: &[u8], signature: &str) -> (Value, Vec<u8>) {
    let annotations = json!({"dev.cosignproject.cosign/signature": signature});
    let descriptor = json!({"mediaType": media_type, "digest": sha256(document), "size": document.len(), "annotations": annotations});
    (descriptor, document.to_vec())
}

/// Puts an attachment with these layers beside an image.
fn attach(lab: &Lab, image: &str, layers: &[(Value, Vec<u8>)]) {
    let base = {
        let (host, name) = image.strip_prefix("docker://").unwrap().split_once('/').unwrap();
        format!("http://{host}/v2/{}/", name.split([':', '@']).next().unwrap())
    };
    let client = reqwest::blocking::Client::new();
    let upload = |bytes: &[u8]| {
        let begun = client.post(format!("{base}blobs/uploads/")).send().unwrap();
        let mut url = reqwest::Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
        url.query_pairs_mut().append_pair("digest", &sha256(bytes));
        let done =
            client.put(url).header("content-type", "application/octet-stream").body(bytes.to_vec()).send().unwrap();
        assert!(done.status().is_success(), "{}", done.status());
    };
    let config = br#"{"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}"#;
    upload(config);
    for (_, bytes) in layers {
        upload(bytes);
    }
    let descriptors: Vec<_> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": sha256(config), "size": config.len()},
        "layers": descriptors,
    });
    let tag = format!("{}.sig", sha256(&lab.manifest(image)).replace(':', "-"));
    let put = client.put(format!("{base}manifests/{tag}")).header("content-type", MANIFEST);
    let done = put.body(manifest.to_string()).send().unwrap();
    assert!(done.status().is_success(), "{}", done.text().unwrap());
}

/// What our policy decides.
#[track_caller]
fn check(lab: &Lab, image: &str, requirements: &Value) -> Result<Verdict, TrustError> {
    lab.ours(image, &lab.policy(requirements))
}

#[test]
fn other_keys_other_images_and_other_names_are_told_apart() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    lab.configure(ATTACHMENTS);
    let one = lab.push("one", "os:1", &[]);
    let pair = Pair::make(&lab, &P256);
    let document = payload(KIND, &lab.manifest(&one), one.strip_prefix("docker://").unwrap()).to_string().into_bytes();
    attach(&lab, &one, &[layer(PAYLOAD, &document, &STANDARD.encode(pair.sign(&lab, &document)))]);
    let verdict = check(&lab, &one, &signed(&pair.public)).unwrap();
    let [signer] = verdict.signers.as_slice() else { panic!("{verdict:?}") };
    let der = openssl(&["pkey", "-pubin", "-in", pair.public.to_str().unwrap(), "-outform", "DER"]);
    assert_eq!((signer.kind, &signer.key), (SignatureKind::Sigstore, &sha256(&der)));
    assert_eq!(signer.identity, one.strip_prefix("docker://").unwrap());
    assert_eq!(signer.signed_at, Some(1_700_000_000));
    assert_eq!(signer.key_file, Some(pair.public.clone()));

    let other = Pair::make(&lab, &P256);
    let found = problem(check(&lab, &one, &signed(&other.public)));
    assert!(matches!(found, SignatureProblem::NotThisKey { .. }), "{found}");
    let moved = lab.push("one", "os:2", &[]);
    let found = problem(check(&lab, &moved, &signed(&pair.public)));
    assert!(matches!(found, SignatureProblem::Identity { .. }), "{found}");
    check(&lab, &moved, &in_repository(&pair.public)).unwrap();
    let two = lab.push("two", "os:3", &[]);
    let error = check(&lab, &two, &signed(&pair.public)).unwrap_err();
    let TrustError::NoSignature { kind: "sigstore", places, .. } = &error else { panic!("{error}") };
    assert!(places.contains(".sig"), "{places}");

    // Nobody looks where nobody is told to.
    lab.configure("lookaside: file:///nonexistent");
    let error = check(&lab, &one, &signed(&pair.public)).unwrap_err();
    assert!(error.hint().unwrap().contains("use-sigstore-attachments"), "{error}");
}

#[test]
fn signatures_by_the_published_format_are_good() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    lab.configure(ATTACHMENTS);
    let image = lab.push("one", "os:1", &[]);
    let manifest = lab.manifest(&image);
    let name = image.strip_prefix("docker://").unwrap();
    let repository = name.strip_suffix(":1").unwrap();
    let algorithms: [&[&str]; 4] = [
        &P256,
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["-algorithm", "ED25519"],
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    ];
    // cosign signs for the repository, without a tag.
    let mut document = payload(KIND, &manifest, repository);
    document["optional"] = Value::Null;
    let document = document.to_string().into_bytes();
    let pairs: Vec<_> = algorithms.iter().map(|algorithm| Pair::make(&lab, algorithm)).collect();
    let signature = |pair: &Pair, document: &[u8]| STANDARD.encode(pair.sign(&lab, document));
    let mut layers: Vec<_> = pairs.iter().map(|pair| layer(PAYLOAD, &document, &signature(pair, &document))).collect();
    // Something else may lie there.
    layers.push(layer("application/vnd.dsse.envelope.v1+json", b"an attestation", ""));
    attach(&lab, &image, &layers);
    for pair in &pairs {
        let verdict = check(&lab, &image, &in_repository(&pair.public)).unwrap();
        assert_eq!((verdict.signers.len(), verdict.signers[0].identity.as_str()), (1, repository));
        let found = check(&lab, &image, &signed(&pair.public)).unwrap_err();
        assert!(matches!(found, TrustError::NotAccepted { .. }), "the tag is not signed: {found}");
    }
    let keys: Vec<_> = pairs.iter().map(|pair| &pair.public).collect();
    let policy = lab
        .policy(&json!([{"type": "sigstoreSigned", "keyPaths": keys, "signedIdentity": {"type": "matchRepository"}}]));
    assert_eq!(lab.ours(&image, &policy).unwrap().signers.len(), 4);

    // Damaged in every way.
    let pair = &pairs[0];
    let good = signature(pair, &document);
    let attached = |layers: &[(Value, Vec<u8>)]| {
        attach(&lab, &image, layers);
        check(&lab, &image, &in_repository(&pair.public))
    };
    let other = payload(KIND, b"{}", repository).to_string().into_bytes();
    let found = problem(attached(&[layer(PAYLOAD, &other, &signature(pair, &other))]));
    assert!(matches!(found, SignatureProblem::Digest { .. }), "{found}");
    let found = problem(attached(&[layer(PAYLOAD, &other, &good)]));
    assert!(matches!(found, SignatureProblem::NotThisKey { .. }), "{found}");
    let simple = payload("atomic container signature", &manifest, repository).to_string().into_bytes();
    let found = problem(attached(&[layer(PAYLOAD, &simple, &signature(pair, &simple))]));
    assert!(matches!(found, SignatureProblem::Payload(_)), "{found}");
    let found = problem(attached(&[layer(PAYLOAD, &document, "!")]));
    assert!(matches!(found, SignatureProblem::Malformed(_)), "{found}");
    let (mut unsigned, bytes) = layer(PAYLOAD, &document, "");
    unsigned["annotations"] = json!({});
    let found = problem(attached(&[(unsigned, bytes)]));
    assert!(matches!(found, SignatureProblem::Malformed(_)), "{found}");
    let many = vec![layer(PAYLOAD, &document, &good); 129];
    attach(&lab, &image, &many);
    let policy = lab.policy(&in_repository(&pair.public));
    let error = lab.ours(&image, &policy).unwrap_err();
    assert!(matches!(error, TrustError::Fetch { .. }), "{error}");
}

#[test]
fn signatures_that_a_mirror_lacks_come_from_the_registry() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    lab.configure(ATTACHMENTS);
    let image = lab.push("one", "os:1", &[]);
    let pair = Pair::make(&lab, &P256);
    let document =
        payload(KIND, &lab.manifest(&image), image.strip_prefix("docker://").unwrap()).to_string().into_bytes();
    attach(&lab, &image, &[layer(PAYLOAD, &document, &STANDARD.encode(pair.sign(&lab, &document)))]);
    let mirror = DockerRegistry::start();
    mirror.push(&format!("oci:{}:one", lab.path("images").display()), "os:1", &[]);

    let location = |address: &str| format!("location = '{address}'\ninsecure = true\n");
    let registry = &lab.registry.address;
    let file = lab.file(format!(
        "[[registry]]\nprefix = '{registry}'\n{}[[registry.mirror]]\n{}",
        location(registry),
        location(&mirror.address)
    ));
    let mut options = options(AuthFiles::only(lab.file("{}")));
    options.registries = RegistriesFiles::only(Some(file), Vec::new());
    let reference: ImageReference = image.parse().unwrap();
    let ImageReference::Registry(name) = &reference else { panic!() };
    let source = Source::Registry(Box::new(RegistryImage::new(name, &options).unwrap()));
    let manifest = source.manifest().unwrap();
    let check =
        |policy: &Value| Policy::load(&lab.paths(&lab.policy(policy))).unwrap().check(&reference, &source, &manifest);
    assert!(check(&signed(&pair.public)).unwrap().is_signed());
    let other = Pair::make(&lab, &P256);
    assert!(matches!(problem(check(&signed(&other.public))), SignatureProblem::NotThisKey { .. }));
}

#[test]
fn signatures_in_an_oci_directory_are_good() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let directory = lab.path("images");
    let reference = format!("oci:{}:one", directory.display());
    let pair = Pair::make(&lab, &["-algorithm", "ED25519"]);
    let document = payload(KIND, &lab.manifest(&reference), "vendor.example/os:1").to_string().into_bytes();
    let put = |bytes: &[u8]| fs::write(directory.join("blobs").join(sha256(bytes).replace(':', "/")), bytes).unwrap();
    let (descriptor, _) = layer(PAYLOAD, &document, &STANDARD.encode(pair.sign(&lab, &document)));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": sha256(b"{}"), "size": 2},
        "layers": [descriptor],
    })
    .to_string();
    for bytes in [&document[..], manifest.as_bytes(), b"{}"] {
        put(bytes);
    }
    let mut index: Value = serde_json::from_slice(&fs::read(directory.join("index.json")).unwrap()).unwrap();
    let tag = format!("{}.sig", sha256(&lab.manifest(&reference)).replace(':', "-"));
    index["manifests"].as_array_mut().unwrap().push(json!({
        "mediaType": MANIFEST,
        "digest": sha256(manifest.as_bytes()),
        "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }));
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    let as_vendor = json!({"type": "exactReference", "dockerReference": "vendor.example/os:1"});
    let policy = lab.policy(&json!([{"type": "sigstoreSigned", "keyPath": pair.public, "signedIdentity": as_vendor}]));
    assert_eq!(lab.ours(&reference, &policy).unwrap().signers[0].identity, "vendor.example/os:1");
    // A directory has no name of its own.
    let policy = lab.policy(&signed(&pair.public));
    assert!(matches!(problem(lab.ours(&reference, &policy)), SignatureProblem::Identity { .. }));
    // Signatures are no image of the directory.
    let tags = index["manifests"].as_array_mut().unwrap();
    tags.retain(|image| image["annotations"]["org.opencontainers.image.ref.name"] != "two");
    let alone = lab.path("alone");
    assert!(Command::new("cp").arg("-a").args([&directory, &alone]).status().unwrap().success());
    fs::write(alone.join("index.json"), index.to_string()).unwrap();
    assert_eq!(lab.manifest(&format!("oci:{}", alone.display())), lab.manifest(&reference));
    // The other image has none.
    let other = format!("oci:{}:two", directory.display());
    assert!(matches!(lab.ours(&other, &policy), Err(TrustError::NoSignature { .. })));
}

#[test]
fn keyless_signatures_and_unusable_keys_are_refused() {
    if !have_tools() {
        return;
    }
    let lab = Lab::start();
    let image = lab.push("one", "os:1", &[]);
    let public_key = Pair::make(&lab, &P256).public;
    let fulcio = json!({"caPath": "/ca", "oidcIssuer": "https://issuer.example", "subjectEmail": "me@example.com"});
    for (requirement, part) in [
        (json!({"type": "sigstoreSigned", "fulcio": fulcio, "rekorPublicKeyPath": "/key"}), "keyless"),
        (
            json!({"type": "sigstoreSigned", "pki": {"caRootsPath": "/ca", "subjectEmail": "me@example.com"}}),
            "certificate",
        ),
        (json!({"type": "sigstoreSigned", "keyPath": public_key, "rekorPublicKeyPath": "/key"}), "transparency log"),
    ] {
        let error = lab.ours(&image, &lab.policy(&json!([requirement]))).unwrap_err();
        assert!(matches!(error, TrustError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("does not support") && error.to_string().contains(part), "{error}");
        assert!(error.hint().is_some());
    }
    let p521 = Pair::make(&lab, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    for (file, part) in [
        (p521.private.clone(), "private key"),
        (p521.public, "only P-256"),
        (lab.file("nothing"), "has no -----BEGIN PUBLIC KEY"),
        (PathBuf::from("/nonexistent/key"), "cannot read the key file /nonexistent/key"),
    ] {
        let error = lab.ours(&image, &lab.policy(&signed(&file))).unwrap_err();
        let TrustError::Keys { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains(part), "{source}");
    }
}
