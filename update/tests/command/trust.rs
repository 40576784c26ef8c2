//! Trust: signatures that the real tools make, and what must not pass for one. Everything is compared with what skopeo
//! decides under the same policy.

mod gpg;
mod hostile;
mod oracle;
mod sigstore;
mod simple;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use osupdate::transport::{ImageReference, SourceOptions, open_source};
use osupdate::trust::{Policy, PolicyPaths, SignatureProblem, TrustError, Verdict};
use osupdate_core::oci::{ImageSource as _, Platform};
use serde_json::{Value, json};

use crate::docker_registry::{DockerRegistry, have};
use crate::layout::Layout;
use gpg::Gpg;

const TOOLS: [&str; 6] = ["/usr/bin/docker-registry", "skopeo", "gpg", "openssl", "tar", "gzip"];

/// Whether the tools are there.
fn have_tools() -> bool {
    have(&TOOLS)
}

/// A registry, a signature store, keys, and images.
struct Lab {
    registry: DockerRegistry,
    dir: tempfile::TempDir,
    gpg: Gpg,
    number: Cell<u32>,
}

impl Lab {
    /// With the images `one` and `two` in an OCI directory, and nothing in the registry.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::create(&dir.path().join("images"));
        for name in ["one", "two"] {
            let files: &[(&str, &[u8])] = &[("usr/lib/os-release", name.as_bytes())];
            let image = layout.image(&Platform::host().architecture, &[files]);
            layout.tag(name, &image);
        }
        fs::create_dir_all(dir.path().join("registries.d")).unwrap();
        fs::create_dir_all(dir.path().join("store")).unwrap();
        let lab = Self { registry: DockerRegistry::start(), dir, gpg: Gpg::new(), number: Cell::new(0) };
        lab.configure(&format!("lookaside: {}", lab.store_url()));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store_url(&self) -> String {
        format!("file://{}", self.path("store").display())
    }

    /// Writes `registries.d`: lines for all images in registries.
    fn configure(&self, lines: &str) {
        let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
        fs::write(self.path("registries.d/test.yaml"), format!("default-docker:\n{lines}")).unwrap();
    }

    /// A file with these contents and a name of its own.
    fn file(&self, contents: impl AsRef<[u8]>) -> PathBuf {
        self.number.set(self.number.get() + 1);
        let path = self.path(&format!("file-{}", self.number.get()));
        fs::write(&path, contents).unwrap();
        path
    }

    /// `skopeo` with our keys and configuration.
    fn skopeo(&self) -> Command {
        let mut command = Command::new("skopeo");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path()).env("GNUPGHOME", self.gpg.home());
        command.arg("--registries.d").arg(self.path("registries.d"));
        command
    }

    /// Pushes `one` or `two` as `name` with further arguments, such as those for signing. Returns the reference.
    #[track_caller]
    fn push(&self, image: &str, name: &str, arguments: &[&str]) -> String {
        let source = format!("oci:{}:{image}", self.path("images").display());
        let target = format!("docker://{}/{name}", self.registry.address);
        let mut command = self.skopeo();
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]).args(arguments);
        let output = command.args([&source, &target]).output().unwrap();
        assert!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
        target
    }

    /// Pushes and signs with this OpenPGP key.
    #[track_caller]
    fn push_signed(&self, image: &str, name: &str, key: &str) -> String {
        self.push(image, name, &["--sign-by", key])
    }

    /// The manifest of what a reference stands for.
    fn manifest(&self, reference: &str) -> Vec<u8> {
        let source =
            open_source(&reference.parse().unwrap(), &SourceOptions { plain_http: true, ..SourceOptions::default() })
                .unwrap();
        source.manifest().unwrap()
    }

    /// The directory in the store with the signatures of an image.
    fn signatures(&self, reference: &str) -> PathBuf {
        let digest = crate::layout::sha256(&self.manifest(reference)).replace(':', "=");
        let name = reference.strip_prefix("docker://").unwrap().split_once('/').unwrap().1;
        let name = name.split([':', '@']).next().unwrap();
        self.path(&format!("store/{name}@{digest}"))
    }

    /// A policy file that wants this of everything.
    fn policy(&self, requirements: &Value) -> PathBuf {
        self.file(json!({"default": requirements}).to_string())
    }

    /// The files of our configuration, with this policy.
    fn paths(&self, policy: &Path) -> PolicyPaths {
        PolicyPaths::standard().with_policy(policy.to_owned()).with_registries_d(self.path("registries.d"))
    }

    /// What our policy decides, and skopeo's, which must be the same.
    #[track_caller]
    fn check(&self, reference: &str, requirements: &Value) -> Result<Verdict, TrustError> {
        let policy = self.policy(requirements);
        let ours = self.ours(reference, &policy);
        let skopeo = self.skopeos(reference, &policy);
        assert_eq!(ours.is_ok(), skopeo.is_ok(), "{reference}, {requirements}: {ours:?}, skopeo: {skopeo:?}");
        ours
    }

    /// What our policy decides.
    #[track_caller]
    fn ours(&self, reference: &str, policy: &Path) -> Result<Verdict, TrustError> {
        let reference: ImageReference = reference.parse().unwrap();
        let source = open_source(&reference, &SourceOptions { plain_http: true, ..SourceOptions::default() }).unwrap();
        let policy = Policy::load(&self.paths(policy)).unwrap();
        policy.check(&reference, &source, &source.manifest().unwrap())
    }

    /// Whether skopeo copies it.
    fn skopeos(&self, reference: &str, policy: &Path) -> Result<(), String> {
        let target = tempfile::tempdir().unwrap();
        let mut command = self.skopeo();
        command.arg("--policy").arg(policy).args(["copy", "--quiet", "--src-tls-verify=false", "--remove-signatures"]);
        let output = command.args([reference, &format!("dir:{}", target.path().display())]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(());
        }
        // Any other failure would agree with us by chance.
        assert!(message.contains("Source image rejected"), "{message}");
        Err(message)
    }

    /// The problem of the only signature, which skopeo does not accept, either.
    #[track_caller]
    fn problem(&self, reference: &str, requirements: &Value) -> SignatureProblem {
        problem(self.check(reference, requirements))
    }
}

#[track_caller]
fn problem(result: Result<Verdict, TrustError>) -> SignatureProblem {
    match result {
        Err(TrustError::NotAccepted { source, .. }) if source.0.len() == 1 => source.0[0].problem.clone(),
        other => panic!("{other:?}"),
    }
}

/// `signedBy` these key files.
fn signed_by(keys: &[&Path]) -> Value {
    json!([{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": keys}])
}

/// The same with a `signedIdentity`.
fn signed_by_as(key: &Path, identity: Value) -> Value {
    json!([{"type": "signedBy", "keyType": "GPGKeys", "keyPath": key, "signedIdentity": identity}])
}

/// A document that can be signed for an image.
fn payload(kind: &str, manifest: &[u8], identity: &str) -> Value {
    json!({
        "critical": {
            "type": kind,
            "image": {"docker-manifest-digest": crate::layout::sha256(manifest)},
            "identity": {"docker-reference": identity},
        },
        "optional": {"creator": "a test", "timestamp": 1_700_000_000},
    })
}
