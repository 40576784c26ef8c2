//! A real registry on loopback: Debian's docker-registry with a store of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::machine::Network;
use crate::signatures::SignatureStore;
use crate::signing::SigningKey;
use crate::tool;

/// A running registry with a store for signatures beside it; ends when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
    directory: TempDir,
    signatures: SignatureStore,
}

impl Registry {
    /// Starts a registry on a free port of 127.0.0.1 and waits until it answers.
    pub fn start() -> Result<Self> {
        let directory = TempDir::new().context("making a directory for the registry")?;
        let port = free_port()?;
        let store = directory.path().join("store");
        let config = directory.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
                 delete: {{enabled: true}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                store.display()
            ),
        )?;
        let log = fs::File::create(directory.path().join("log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting docker-registry (Debian package docker-registry)")?;
        let signatures = SignatureStore::start()?;
        let mut registry = Self { child, port, directory, signatures };
        registry.wait_until_up()?;
        Ok(registry)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if self.child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(30) {
                let log = fs::read_to_string(self.log())?;
                bail!("docker-registry does not answer on port {}:\n{log}", self.port);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What the registry logged.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How guests reach registry and signatures.
    pub fn network(&self) -> Network {
        Network { registry_port: self.port, signatures_port: self.signatures.port() }
    }

    /// The store for signatures.
    pub fn signatures(&self) -> &SignatureStore {
        &self.signatures
    }

    /// The same as [`Registry::push`], signed as what the image is called for whoever pulls it.
    pub fn push_signed(&self, source: &str, name_and_tag: &str, key: &SigningKey, identity: &str) -> Result<()> {
        let destination = format!("docker://127.0.0.1:{}/{name_and_tag}", self.port);
        let mut skopeo = key.command("skopeo");
        skopeo.arg("--registries.d").arg(self.signatures.registries_d());
        skopeo.args(["copy", "--quiet", "--dest-tls-verify=false", "--sign-by", key.fingerprint()]);
        tool::run(skopeo.args(["--sign-identity", identity, source, &destination]))?;
        Ok(())
    }

    /// Copies an image to `NAME:TAG` in this registry; `source` is in skopeo's syntax.
    pub fn push(&self, source: &str, name_and_tag: &str) -> Result<()> {
        let destination = format!("docker://127.0.0.1:{}/{name_and_tag}", self.port);
        tool::run(Command::new("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false", source, &destination]))?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        crate::machine::end(&mut self.child);
    }
}

pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
