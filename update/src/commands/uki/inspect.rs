//! `osupdate uki inspect`

use std::error::Error;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use indicatif::BinaryBytes;
use osupdate_core::boot::OsRelease;
use osupdate_core::kernel_args::{ArgFormat, composefs_args};
use osupdate_efi::authenticode;
use osupdate_efi::measure::{Bank, PhasePath, PolicySignatures};
use osupdate_efi::pe::{PROFILE_SECTION, Pe, Section};
use osupdate_efi::uki::{Finding, Profile, Uki, names};
use serde::Serialize;

use super::file::{read, sha256};
use super::pcrs;
use crate::cli::Context;
use crate::commands::policy_options::{Banks, Phases};
use crate::exit::{Outcome, ResultExt as _};
use crate::output::{table, write_raw};

/// Show what is in a UKI or addon, and what is wrong with it
///
/// Explains files of other tools, too. Ends with status 3 if there is a problem: something that keeps it from booting as intended.
/// Notes are about what is weaker than it could be.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate uki inspect /efi/EFI/Linux/os.efi
  osupdate uki inspect os.efi --pcrs --pcr-banks sha256
  osupdate uki inspect os.efi --section .initrd | lsinitrd -
  osupdate uki inspect os.efi --json")]
pub(super) struct Args {
    /// The file
    file: PathBuf,

    /// Print the contents of this section only, byte by byte
    #[arg(long, value_name = "NAME", conflicts_with = "pcrs")]
    section: Option<String>,

    /// Take the section from this profile, counted from 0
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "section")]
    profile: usize,

    /// Also show the values that booting it leaves in PCR 11 of the TPM, for each profile
    #[arg(long)]
    pcrs: bool,

    /// Phases of the boot to show values for, as enter-initrd or enter-initrd:leave-initrd, with commas between
    /// [default: from the beginning of the initial ramdisk until the system is up]
    #[arg(long, value_name = "PHASES", requires = "pcrs")]
    phases: Option<Phases>,

    /// PCR banks to show: sha1, sha256, sha384, sha512, with commas between [default: all]
    #[arg(long, value_name = "BANKS", requires = "pcrs")]
    pcr_banks: Option<Banks>,
}

#[derive(Serialize)]
struct Report<'a> {
    file: String,
    size_bytes: usize,
    sha256: String,
    /// `uki`, `addon`, `profile`; null for other programs.
    kind: Option<&'static str>,
    machine: String,
    stub: Option<&'a str>,
    signatures: Vec<SignatureReport>,
    sections: Vec<SectionReport<'a>>,
    profiles: Vec<ProfileReport<'a>>,
    problems: Vec<FindingReport>,
    notes: Vec<FindingReport>,
}

#[derive(Serialize)]
struct SignatureReport {
    /// Subject of the certificate.
    signer: Option<String>,
    /// Why the signature is worth nothing.
    problem: Option<String>,
}

#[derive(Serialize)]
struct SectionReport<'a> {
    name: &'a str,
    /// The profile that it belongs to; null if it belongs to all.
    profile: Option<usize>,
    size_bytes: usize,
    memory_bytes: u32,
    address: u32,
    file_offset: usize,
    sha256: String,
}

#[derive(Serialize)]
struct ProfileReport<'a> {
    number: usize,
    id: Option<&'a str>,
    title: Option<&'a str>,
    os: Option<String>,
    os_version: Option<String>,
    uname: Option<&'a str>,
    command_line: Option<&'a str>,
    composefs: Vec<ImageReport>,
    /// Signed PCR values: number of signatures by bank.
    pcr_signatures: Vec<PcrSignatures>,
    /// With `--pcrs`.
    pcr11: Option<Vec<pcrs::Value>>,
}

#[derive(Serialize)]
struct ImageReport {
    argument: String,
    image_digest: String,
    algorithm: String,
    /// `v1` or `v2`.
    format: &'static str,
    /// fs-verity is not insisted on.
    optional: bool,
}

#[derive(Serialize)]
struct PcrSignatures {
    bank: &'static str,
    signatures: usize,
}

#[derive(Serialize)]
struct FindingReport {
    name: String,
    message: String,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let bytes = read(&self.file)?;
        let pe = Pe::parse(&bytes).with_context(|| format!("cannot use {}", self.file.display()))?;
        if let Some(name) = &self.section {
            return self.print_section(name, &pe);
        }
        let (uki, refused) = match Uki::parse(&pe) {
            Ok(uki) => (Some(uki), None),
            Err(error) => (None, Some(error)),
        };
        let findings = uki.as_ref().map(|uki| uki.check(&pe)).unwrap_or_default();
        let (mut problems, notes): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.is_problem());
        let mut problems: Vec<_> = problems.drain(..).map(FindingReport::new).collect();
        problems
            .extend(refused.map(|error| FindingReport { name: "not-a-uki".to_owned(), message: error.to_string() }));
        let profiles = uki.as_ref().map_or(&[][..], Uki::profiles);
        let report = Report {
            file: self.file.display().to_string(),
            size_bytes: bytes.len(),
            sha256: sha256(&bytes),
            kind: uki.as_ref().map(|uki| uki.kind().name()),
            machine: pe.machine().to_string(),
            stub: uki.as_ref().and_then(Uki::stub),
            signatures: signatures(&pe),
            sections: sections(&pe),
            profiles: profiles.iter().map(|profile| self.profile(profile)).collect(),
            problems,
            notes: notes.into_iter().map(FindingReport::new).collect(),
        };
        context.output.write(&report, |out| report.write(out))?;
        Ok(if report.problems.is_empty() { Outcome::Done } else { Outcome::Findings })
    }

    fn print_section(&self, name: &str, pe: &Pe<'_>) -> anyhow::Result<Outcome> {
        let uki = Uki::parse(pe).ok();
        let profile = match &uki {
            Some(uki) => Some(uki.profiles().get(self.profile).ok_or_else(|| {
                anyhow!("{} has no profile {}: it has {}", self.file.display(), self.profile, uki.profiles().len())
            })?),
            None => None,
        };
        let section = profile.and_then(|profile| profile.section(name)).or_else(|| pe.section(name));
        let Some(section) = section else {
            let names: Vec<_> = pe.sections().iter().map(|section| section.name).collect();
            return Err(anyhow!("{} has no section {name}", self.file.display()))
                .hint(format!("it has {}", names.join(", ")));
        };
        write_raw(|out| Ok(out.write_all(section.data)?))?;
        Ok(Outcome::Done)
    }

    fn profile<'a>(&self, profile: &'a Profile<'_>) -> ProfileReport<'a> {
        let line = profile.command_line();
        let images = composefs_args(line.unwrap_or_default()).unwrap_or_default();
        let release = profile.os_release();
        let of_release = |get: fn(&OsRelease) -> Option<&str>| release.as_ref().and_then(get).map(str::to_owned);
        let signatures = profile.section(names::PCR_SIGNATURE);
        let signatures =
            signatures.and_then(|section| PolicySignatures::from_json(section.data).ok()).unwrap_or_default();
        let counted =
            Bank::ALL.map(|bank| PcrSignatures { bank: bank.name(), signatures: signatures.of_bank(bank).len() });
        ProfileReport {
            number: profile.number(),
            id: profile.id(),
            title: profile.title(),
            os: of_release(OsRelease::title),
            os_version: of_release(OsRelease::version),
            uname: profile.uname(),
            command_line: line,
            composefs: images
                .iter()
                .map(|image| ImageReport {
                    argument: image.to_string(),
                    image_digest: image.digest.to_string(),
                    algorithm: image.digest.algorithm().to_string(),
                    format: match image.format {
                        ArgFormat::V1 => "v1",
                        ArgFormat::V2 => "v2",
                    },
                    optional: image.optional,
                })
                .collect(),
            pcr_signatures: counted.into_iter().filter(|count| count.signatures > 0).collect(),
            pcr11: self.pcrs.then(|| {
                let phases = self.phases.as_ref().map_or_else(PhasePath::usual, |phases| phases.0.clone());
                let banks = self.pcr_banks.as_ref().map_or(&Bank::ALL[..], |banks| &banks.0);
                pcrs::values(profile, &phases, banks)
            }),
        }
    }
}

impl FindingReport {
    fn new(finding: &Finding) -> Self {
        Self { name: finding.name().to_owned(), message: finding.to_string() }
    }
}

fn signatures(pe: &Pe<'_>) -> Vec<SignatureReport> {
    let problem = |error: &dyn Error| SignatureReport { signer: None, problem: Some(error.to_string()) };
    match authenticode::signatures(pe) {
        Err(error) => vec![problem(&error)],
        Ok(signatures) => signatures
            .iter()
            .map(|signature| match signature {
                Ok(signature) => {
                    SignatureReport { signer: Some(signature.signer().subject().to_owned()), problem: None }
                }
                Err(error) => problem(error),
            })
            .collect(),
    }
}

fn sections<'a>(pe: &Pe<'a>) -> Vec<SectionReport<'a>> {
    let mut profile = None;
    let report = |section: &Section<'a>| {
        if section.name == PROFILE_SECTION {
            profile = Some(profile.map_or(0, |number| number + 1));
        }
        SectionReport {
            name: section.name,
            profile,
            size_bytes: section.data.len(),
            memory_bytes: section.memory_bytes,
            address: section.address,
            file_offset: section.file.start,
            sha256: sha256(section.data),
        }
    };
    pe.sections().iter().map(report).collect()
}

impl Report<'_> {
    fn write(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        writeln!(out, "file      {}, {}", self.file, BinaryBytes(self.size_bytes as u64))?;
        writeln!(out, "sha256    {}", self.sha256)?;
        let kind = match self.kind {
            Some("uki") => "UKI",
            Some(other) => other,
            None => "another program",
        };
        writeln!(out, "kind      {kind} for {}", self.machine)?;
        writeln!(out, "stub      {}", self.stub.unwrap_or("not told"))?;
        for signature in &self.signatures {
            match (&signature.signer, &signature.problem) {
                (Some(signer), _) => writeln!(out, "signer    {}", signer.escape_debug())?,
                (None, problem) => writeln!(out, "signature not valid: {}", problem.as_deref().unwrap_or_default())?,
            }
        }
        if self.signatures.is_empty() {
            writeln!(out, "signer    none")?;
        }
        for profile in &self.profiles {
            profile.write(out, self.profiles.len() > 1)?;
        }
        writeln!(out)?;
        let heading = ["SECTION", "PROFILE", "SIZE", "ADDRESS", "SHA256"].map(str::to_owned);
        let rows = self.sections.iter().map(|section| {
            [
                section.name.to_owned(),
                section.profile.map_or_else(|| "all".to_owned(), |number| number.to_string()),
                section.size_bytes.to_string(),
                format!("{:#x}", section.address),
                section.sha256.clone(),
            ]
        });
        table(out, &[heading].into_iter().chain(rows).collect::<Vec<_>>())?;
        for (label, findings) in [("problem", &self.problems), ("note", &self.notes)] {
            for finding in findings {
                writeln!(out, "{label}: {} ({})", finding.message, finding.name)?;
            }
        }
        Ok(())
    }
}

impl ProfileReport<'_> {
    fn write(&self, out: &mut dyn std::io::Write, several: bool) -> std::io::Result<()> {
        if several || self.id.is_some() {
            let id = self.id.unwrap_or("no ID");
            let title = self.title.map(|title| format!(", {}", title.escape_debug())).unwrap_or_default();
            writeln!(out, "\nprofile   {}: {}{title}", self.number, id.escape_debug())?;
        }
        let mut line = |label: &str, value: Option<&str>| match value {
            Some(value) => writeln!(out, "{label:9} {}", value.escape_debug()),
            None => Ok(()),
        };
        let os = self.os.as_ref().map(|os| match &self.os_version {
            Some(version) => format!("{os}, version {version}"),
            None => os.clone(),
        });
        line("os", os.as_deref())?;
        line("kernel", self.uname)?;
        line("cmdline", self.command_line)?;
        for image in &self.composefs {
            let optional = if image.optional { ", fs-verity optional" } else { "" };
            writeln!(out, "image     {} ({}, {}{optional})", image.image_digest, image.algorithm, image.format)?;
        }
        for signatures in &self.pcr_signatures {
            writeln!(out, "signed    {} values of PCR 11 in bank {}", signatures.signatures, signatures.bank)?;
        }
        match &self.pcr11 {
            Some(values) => pcrs::write(out, values),
            None => Ok(()),
        }
    }
}
