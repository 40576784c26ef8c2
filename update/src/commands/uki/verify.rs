//! `osupdate uki verify`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueHint;
use osupdate_core::kernel_args::{ComposefsArg, composefs_args};
use osupdate_efi::authenticode::{self, Certificates, Signature, SignatureError};
use osupdate_efi::pe::Pe;
use osupdate_efi::secure_boot::SecureBoot;
use osupdate_efi::uki::{ParseUkiError, Profile, Uki};
use osupdate_efi::variables::EfiVariables;
use serde::Serialize;

use super::sign::{hex, read_program};
use crate::cli::Context;
use crate::commands::image::expected::ExpectedImage;
use crate::commands::signing_options::read_certificates;
use crate::exit::{self, Outcome};

/// Check that a UKI is whole, who signed it, and that it is made for an image
///
/// Its sections must lie within the file and apart. One of its signatures must be valid and lead to one of the certificates
/// given with --certificate, or, without these, to what this machine accepts, if it was started with EFI: db, and the list of
/// the machine's owner where shim is used, less what is revoked. With --image the digest on its kernel command lines must be
/// that of the image when it is booted. What is wrong is printed, and the exit status is 3; what is only weaker than it could be, such as
/// a UKI without a command line, does not count.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate uki verify os.efi --certificate db.crt
  osupdate uki verify os.efi --certificate db.crt --image docker://registry.example.com/os:1.2
  osupdate uki verify os.efi --image ./rootfs")]
pub(super) struct Args {
    /// The UKI, an addon, or a boot loader
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// A certificate, in PEM or DER, that must have signed it or issued its signer's; several are allowed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: Vec<PathBuf>,

    #[command(flatten)]
    image: ExpectedImage,
}

/// What `--json` prints; a contract.
#[derive(Serialize)]
struct Report {
    file: PathBuf,
    /// `uki`, `addon`, `profile`, or `program` for anything else.
    kind: &'static str,
    sections: usize,
    signatures: Vec<SignatureRow>,
    /// Whether it would be accepted; `None` if there was nothing to compare with.
    accepted: Option<bool>,
    /// Kernel arguments in it that name images.
    kernel_arguments: Vec<String>,
    /// What is wrong.
    findings: Vec<String>,
    /// What is weaker than it could be.
    notes: Vec<String>,
}

#[derive(Serialize)]
struct SignatureRow {
    signer: Option<String>,
    /// The certificates in it that issued the signer's, nearest first.
    issuers: Vec<String>,
    authenticode_digest: Option<String>,
    /// Why it is worth nothing.
    problem: Option<String>,
}

impl SignatureRow {
    fn new(signature: &Result<Signature, SignatureError>) -> Self {
        match signature {
            Ok(signature) => Self {
                signer: Some(signature.signer().subject().to_owned()),
                issuers: signature.issuers().map(|issuer| issuer.subject().to_owned()).collect(),
                authenticode_digest: Some(hex(signature.digest())),
                problem: None,
            },
            Err(error) => Self {
                signer: None,
                issuers: Vec::new(),
                authenticode_digest: None,
                problem: Some(exit::one_line(error)),
            },
        }
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let mut certificates = Vec::new();
        for path in &self.certificate {
            certificates.extend(read_certificates(path)?);
        }
        let program = read_program(&self.file)?;
        let mut report = Report {
            file: self.file,
            kind: "program",
            sections: 0,
            signatures: Vec::new(),
            accepted: None,
            kernel_arguments: Vec::new(),
            findings: Vec::new(),
            notes: Vec::new(),
        };
        match Pe::parse(&program) {
            Err(error) => report.findings.push(exit::one_line(&error)),
            Ok(pe) => {
                report.look_at(&pe);
                report.check_signatures(&pe, &program, certificates.into_iter().collect())?;
                if self.image.is_given() {
                    report.check_image(&self.image, context)?;
                }
            }
        }
        context.output.write(&report, |out| report.print(out))?;
        Ok(if report.findings.is_empty() { Outcome::Done } else { Outcome::Findings })
    }
}

impl Report {
    fn look_at(&mut self, pe: &Pe<'_>) {
        self.sections = pe.sections().len();
        match Uki::parse(pe) {
            Ok(uki) => {
                self.kind = uki.kind().name();
                for finding in uki.check(pe) {
                    let list = if finding.is_problem() { &mut self.findings } else { &mut self.notes };
                    list.push(exit::one_line(&finding));
                }
                for line in uki.profiles().iter().filter_map(Profile::command_line) {
                    // What cannot be understood is one of the problems.
                    self.kernel_arguments.extend(composefs_args(line).iter().flatten().map(ToString::to_string));
                }
                self.kernel_arguments.dedup();
            }
            Err(ParseUkiError::NotUki) => {}
            Err(error) => self.findings.push(exit::one_line(&error)),
        }
        match authenticode::signatures(pe) {
            Ok(signatures) => self.signatures = signatures.iter().map(SignatureRow::new).collect(),
            Err(error) => self.findings.push(exit::one_line(&error)),
        }
    }

    fn check_signatures(&mut self, pe: &Pe<'_>, program: &[u8], certificates: Certificates) -> anyhow::Result<()> {
        let problem = if certificates.is_empty() {
            let machine = SecureBoot::read(&EfiVariables::default())?;
            if machine.db.is_empty() {
                return Ok(());
            }
            if machine.shim.as_ref().is_some_and(|shim| shim.insecure) {
                self.notes.push(
                    "shim of this machine starts everything, because somebody told it not to check signatures (mokutil \
                     --enable-validation turns it on again)"
                        .to_owned(),
                );
            }
            machine.enforced().check(program).err().map(|error| exit::one_line(&error))
        } else {
            authenticode::verify(pe, &certificates).err().map(|error| exit::one_line(&error))
        };
        self.accepted = Some(problem.is_none());
        self.findings.extend(problem);
        Ok(())
    }

    fn check_image(&mut self, image: &ExpectedImage, context: &Context) -> anyhow::Result<()> {
        if self.kernel_arguments.is_empty() {
            self.findings.push("it names no image: there is no composefs.digest= in its command line".to_owned());
        }
        for argument in &self.kernel_arguments {
            let argument: ComposefsArg = argument.parse()?;
            let digests = image.digests(&argument, context)?;
            if let Some(expected) = digests.first()
                && !digests.contains(&argument.digest)
            {
                let named = argument.digest;
                self.findings
                    .push(format!("it is made for another image: it names {named}, and this one has {expected}"));
            }
        }
        Ok(())
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}  {}, {} sections", self.file.display(), self.kind, self.sections)?;
        if self.signatures.is_empty() {
            writeln!(out, "not signed")?;
        }
        for signature in &self.signatures {
            match (&signature.signer, &signature.problem) {
                (Some(signer), _) => writeln!(out, "signed by  {signer}")?,
                (None, problem) => writeln!(out, "signature  not valid: {}", problem.as_deref().unwrap_or_default())?,
            }
            for issuer in &signature.issuers {
                writeln!(out, "issued by  {issuer}")?;
            }
        }
        for argument in &self.kernel_arguments {
            writeln!(out, "names      {argument}")?;
        }
        match self.accepted {
            Some(true) => writeln!(out, "accepted")?,
            Some(false) => {}
            None => {
                writeln!(out, "trust      not looked at: give --certificate, this machine has no Secure Boot keys")?
            }
        }
        for finding in &self.findings {
            writeln!(out, "wrong: {finding}")?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }
}
