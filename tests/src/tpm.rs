//! A TPM in software: what it was given is sealed to what the machine measured at this boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::machine::end;

/// A running TPM; ends when dropped.
#[derive(Debug)]
pub(crate) struct Tpm {
    child: Child,
    socket: PathBuf,
}

impl Tpm {
    /// Starts a TPM whose state is kept in `state`, for a machine whose files are in `directory`.
    pub(crate) fn start(state: &Path, directory: &Path) -> Result<Self> {
        fs::create_dir_all(state).with_context(|| format!("making {}", state.display()))?;
        let (socket, log) = (directory.join("tpm"), directory.join("tpm.log"));
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
            .arg(format!("dir={}", state.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("starting swtpm (Debian package swtpm)")?;
        let mut tpm = Self { child, socket };
        let start = Instant::now();
        while !tpm.socket.exists() {
            if tpm.child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(30) {
                bail!("swtpm does not start: {}", fs::read_to_string(&log)?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(tpm)
    }

    /// Options of the machine that has it.
    pub(crate) fn arguments(&self) -> [String; 6] {
        [
            "-chardev".to_owned(),
            format!("socket,id=tpm,path={}", self.socket.display()),
            "-tpmdev".to_owned(),
            "emulator,id=tpm0,chardev=tpm".to_owned(),
            "-device".to_owned(),
            "tpm-crb,tpmdev=tpm0".to_owned(),
        ]
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
