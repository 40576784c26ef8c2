//! A web server on loopback with the signatures of images, what `lookaside` in `registries.d` names, and published trees.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::registry::free_port;

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct SignatureStore {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl SignatureStore {
    /// Starts a server for an empty directory.
    pub fn start() -> Result<Self> {
        let directory = TempDir::new().context("making a directory for signatures")?;
        let (files, port) = (directory.path().join("files"), free_port()?);
        fs::create_dir(&files)?;
        let configuration = directory.path().join("registries.d");
        fs::create_dir(&configuration)?;
        fs::write(
            configuration.join("store.yaml"),
            format!("default-docker:\n  lookaside-staging: file://{}\n", files.display()),
        )?;
        let child = Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
            .arg(&files)
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting python3 (Debian package python3)")?;
        let mut store = Self { child, port, directory };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if store.child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(30) {
                bail!("the signature store does not answer on port {port}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(store)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `registries.d` by which skopeo writes signatures here.
    pub fn registries_d(&self) -> PathBuf {
        self.directory.path().join("registries.d")
    }

    /// Takes all signatures away, as an attacker would.
    pub fn strip(&self) -> Result<()> {
        let files = self.files();
        fs::remove_dir_all(&files).and_then(|()| fs::create_dir(&files)).context("taking the signatures away")
    }

    /// The directory that is served.
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }
}

impl Drop for SignatureStore {
    fn drop(&mut self) {
        crate::machine::end(&mut self.child);
    }
}
