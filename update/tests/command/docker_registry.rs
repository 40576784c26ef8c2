//! Debian's docker-registry on a loopback port, filled by skopeo.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

const REGISTRY: &str = "/usr/bin/docker-registry";
/// User `me`, password `secret`, hashed with bcrypt.
const HTPASSWD: &str = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Whether the programs that a test needs are installed; says so if not. With `OSUPDATE_REQUIRE_TOOLS` in the
/// environment a missing one is a failure.
pub(crate) fn have(tools: &[&str]) -> bool {
    let found = |tool: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        tool.starts_with('/') && Path::new(tool).exists()
            || std::env::split_paths(&path).any(|dir| dir.join(tool).exists())
    };
    let missing: Vec<_> = tools.iter().copied().filter(|tool| !found(tool)).collect();
    assert!(
        missing.is_empty() || std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_none(),
        "not installed: {}",
        missing.join(", ")
    );
    if !missing.is_empty() {
        println!("skipped: not installed: {}", missing.join(", "));
    }
    missing.is_empty()
}

pub(crate) fn have_registry() -> bool {
    have(&[REGISTRY, "skopeo", "tar", "gzip"])
}

/// For a registry whose directory has a certificate and its key.
pub(crate) const TLS: &str = "  tls:\n    certificate: DIR/certificate.pem\n    key: DIR/key.pem\n";

/// A running registry; ends with the value.
pub(crate) struct DockerRegistry {
    pub(crate) address: String,
    process: Child,
    dir: TempDir,
}

impl DockerRegistry {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Wants the user `me` with the password `secret`.
    pub(crate) fn start_with_login() -> Self {
        Self::start_with("auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n")
    }

    /// Speaks TLS with a certificate that nobody trusts, at `DIR/certificate.pem`.
    pub(crate) fn start_with_tls() -> Self {
        Self::start_with_tls_by(make_certificate)
    }

    /// Speaks TLS with the `certificate.pem` and `key.pem` that are put into its directory.
    pub(crate) fn start_with_tls_by(make: impl FnOnce(&Path)) -> Self {
        Self::start_prepared(TLS, make)
    }

    /// The same, and wants certificates of its clients that `ca.pem` signed.
    pub(crate) fn start_with_client_certificates_by(make: impl FnOnce(&Path)) -> Self {
        Self::start_prepared(&format!("{TLS}    clientcas:\n      - DIR/ca.pem\n"), make)
    }

    /// `config` goes below `http:`; `DIR` in it is the registry's directory.
    pub(crate) fn start_with(config: &str) -> Self {
        Self::start_prepared(config, |_| ())
    }

    /// The same with a directory that is prepared first.
    pub(crate) fn start_prepared(config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        prepare(dir.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("localhost:{port}");
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {path}/data\nhttp:\n  addr: 127.0.0.1:{port}\n{}",
            config.replace("DIR", &path)
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new(REGISTRY)
            .args(["serve", &format!("{path}/config.yml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self { address, process, dir };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return registry;
            }
            if let Some(status) = registry.process.try_wait().unwrap() {
                panic!("the registry ended ({status}): {}", registry.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("the registry does not listen: {}", registry.log());
    }

    pub(crate) fn directory(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Copies `source`, a reference of skopeo's, to `name` with these further arguments of `skopeo copy`.
    pub(crate) fn push(&self, source: &str, name: &str, arguments: &[&str]) {
        let destination = format!("docker://{}/{name}", self.address);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "--dest-creds=me:secret"])
            .args(arguments)
            .args([source, &destination])
            .output()
            .unwrap();
        assert!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("the registry ends when it is told to");
    }
}

pub(crate) fn make_certificate(dir: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("certificate.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
