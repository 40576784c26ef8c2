//! `osupdate uki sign`

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueHint;
use osupdate_efi::authenticode::{Hash, Signer, digest};
use osupdate_efi::pe::{self, Pe};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::cli::Context;
use crate::commands::signing_options::SigningOptions;
use crate::exit::Outcome;

/// Sign a UKI, so that firmware with Secure Boot starts it
///
/// Adds an Authenticode signature with SHA-256 and RSA, as sbsign does. Signatures that are there stay, and a second one with
/// the same certificate is not added. Boot loaders and other PE files can be signed, too. Nothing of the signature depends on
/// the time: the same file and key give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate uki sign os.efi --key db.key --certificate db.crt
  osupdate uki sign os.efi --output os.signed.efi --certificate db.crt \\
      --key 'pkcs11:token=Release;object=db?pin-source=file:/run/pin'")]
pub(super) struct Args {
    /// The program
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,

    #[command(flatten)]
    signing: SigningOptions,

    /// Write the signed program to this file, instead of replacing FILE
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
}

/// What `--json` prints; a contract.
#[derive(Serialize)]
struct Report {
    file: PathBuf,
    signer: String,
    authenticode_sha256: String,
    /// Whether a signature was added; it was there if not.
    added: bool,
}

impl Args {
    /// What is signed.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let signer = self.signing.signer()?;
        let path = self.output.as_deref().unwrap_or(&self.file);
        let program = read_program(&self.file)?;
        let signed = sign(&signer, &self.file, &program)?;
        let added = signed != program;
        if added || self.output.is_some() {
            write_program(path, &signed, &self.file)?;
        }
        let digest = digest(&Pe::parse(&signed)?, Hash::Sha256);
        let report = Report {
            file: path.to_owned(),
            signer: signer.certificate().subject().to_owned(),
            authenticode_sha256: hex(&digest),
            added,
        };
        context.output.write(&report, |out| {
            let how = if report.added { "signed by" } else { "was already signed by" };
            writeln!(out, "{} {how} {}", path.display(), report.signer)
        })?;
        Ok(Outcome::Done)
    }
}

/// Reads a program.
pub(super) fn read_program(path: &Path) -> anyhow::Result<Vec<u8>> {
    let doing = || format!("cannot read {}", path.display());
    pe::read(File::open(path).with_context(doing)?).with_context(doing)
}

/// Signs a program; errors name the file.
pub(super) fn sign(signer: &Signer, path: &Path, program: &[u8]) -> anyhow::Result<Vec<u8>> {
    signer.sign(program).with_context(|| format!("cannot sign {}", path.display()))
}

/// Puts a program in place as a whole, with the permissions of `like`.
fn write_program(path: &Path, program: &[u8], like: &Path) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let permissions = fs::metadata(like)?.permissions();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = NamedTempFile::with_prefix_in(".osupdate-", directory)?;
        file.write_all(program)?;
        file.as_file().set_permissions(permissions)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
