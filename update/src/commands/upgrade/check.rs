//! `osupdate upgrade --check`: whether there is an update, and what it would cost.

use std::io::{self, Write};

use indicatif::BinaryBytes;
use osupdate_core::oci::{Amount, Offer, Platform};
use osupdate_deploy::check::{self, Check};
use osupdate_deploy::plan::Staging;
use osupdate_deploy::prepare::Source;
use osupdate_deploy::stage::{self, StageError};
use serde::Serialize;

use crate::admission::{self, Candidate, Upgrade, UpgradeAllowances};
use crate::cli::Context;
use crate::commands::repository_path::LockTimeout;
use crate::commands::status::signed::{SignatureRow, signed_by};
use crate::exit::Outcome;
use crate::system::Look;
use crate::transport::{ImageReference, SourceOptions, open_source};

/// What is said where the layers would have to be here.
const NOT_KNOWN: &str = "not known before the download";

pub(super) fn run(
    lock: LockTimeout,
    allow: UpgradeAllowances,
    allow_unsealed: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let look = Look::open(context, lock)?;
    let source = stage::origin(&look.survey.model)?;
    let reference: ImageReference = source.reference.parse()?;
    let options = SourceOptions { plain_http: source.plain_http, ..SourceOptions::default() };
    let options =
        options.with_summary_key(source.summary_key.clone()).not_older_than(look.scene().repository, &reference)?;
    let image = open_source(&reference, &options)?;
    let offer = Offer::fetch(&image, &Platform::host())
        .map_err(|err| anyhow::Error::new(err).context(format!("cannot examine {}", source.reference)))?;
    let candidate = Candidate { reference: &reference, source: &image, offer: &offer };
    let scene = look.scene();
    let admitted = admission::upgrade(&candidate, scene.repository, scene.model, allow, &*context.observer)
        .map_err(|err| anyhow::Error::new(err).context(format!("cannot upgrade to {}", source.reference)))?;
    let check = check::check(&scene, &offer)?;
    let is_new = matches!(check.staging, Staging::New | Staging::Again | Staging::Resealed);
    let unsealed = check.sealed == Some(false) && stage::followed(scene.model)?.record.boot.uki.is_some();
    if is_new && unsealed && !allow_unsealed {
        return Err(StageError::Unsealed { reference: source.reference }.into());
    }
    let report = Report::new(&source, check, &admitted);
    context.output.write(&report, |out| {
        report.human(out)?;
        super::tell_frozen(admitted.frozen.as_ref(), out)
    })?;
    let findings = report.update_available || report.expired;
    Ok(if findings { Outcome::Findings } else { Outcome::Done })
}

/// What `--check --json` prints; a contract.
#[derive(Debug, Serialize)]
struct Report {
    update_available: bool,
    state: &'static str,
    reference: String,
    manifest_digest: String,
    image_version: Option<String>,
    signatures: Vec<SignatureRow>,
    expired: bool,
    missing_bytes: Option<u64>,
    fetch: Bytes,
    root: Bytes,
    /// For the copy of the local changes in /etc.
    etc: Bytes,
    esp: Bytes,
    etc_conflicts: Conflicts,
    kernel_arguments: Arguments,
    reboot: &'static str,
}

/// A number of bytes, as far as it is known.
#[derive(Debug, Serialize)]
struct Bytes {
    known: bool,
    bytes: Option<u64>,
    at_least: u64,
    at_most: Option<u64>,
    /// What is free where they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Conflicts {
    known: bool,
    paths: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Arguments {
    known: bool,
    added: Vec<String>,
    removed: Vec<String>,
}

impl Bytes {
    fn new(amount: Amount, free_bytes: Option<u64>) -> Self {
        let Amount { at_least, at_most } = amount;
        let bytes = amount.known();
        Self { known: bytes.is_some(), bytes, at_least, at_most, free_bytes }
    }

    fn human(&self) -> String {
        let amount = match (self.bytes, self.at_most) {
            (Some(bytes), _) => BinaryBytes(bytes).to_string(),
            (None, Some(at_most)) => format!("{} to {}", BinaryBytes(self.at_least), BinaryBytes(at_most)),
            (None, None) => NOT_KNOWN.to_owned(),
        };
        match self.free_bytes {
            Some(free) => format!("{amount} ({} free)", BinaryBytes(free)),
            None => amount,
        }
    }
}

impl Report {
    fn new(source: &Source, check: Check, admitted: &Upgrade) -> Self {
        let cost = check.cost;
        let arguments = cost.arguments;
        Self {
            update_available: matches!(check.staging, Staging::New | Staging::Again | Staging::Resealed),
            state: super::state(check.staging),
            reference: source.reference.clone(),
            manifest_digest: check.manifest_digest.to_string(),
            image_version: check.version,
            signatures: admitted.signatures.iter().map(SignatureRow::new).collect(),
            expired: admitted.frozen.is_some(),
            missing_bytes: cost.fetch_bytes.at_most,
            fetch: Bytes::new(cost.fetch_bytes, None),
            root: Bytes::new(cost.root_bytes, Some(cost.root_free_bytes)),
            etc: Bytes::new(cost.etc_bytes, None),
            esp: Bytes::new(cost.esp_bytes, cost.esp_free_bytes),
            etc_conflicts: Conflicts {
                known: cost.etc_conflicts.is_some(),
                paths: cost.etc_conflicts.unwrap_or_default(),
            },
            kernel_arguments: Arguments {
                known: arguments.is_some(),
                added: arguments.as_ref().map_or_else(Vec::new, |change| change.added.clone()),
                removed: arguments.map_or_else(Vec::new, |change| change.removed),
            },
            // There is no other way to use another image.
            reboot: if cost.reboot { "full" } else { "none" },
        }
    }

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let version = self.image_version.as_deref().unwrap_or("without a version");
        match self.state {
            "current" | "booted" => return writeln!(out, "No update available: {} is what runs.", self.reference),
            "staged" => return writeln!(out, "Version {version} is staged already; reboot to use it."),
            "failed" => {
                return writeln!(out, "Version {version} failed to boot on this machine; no newer one is available.");
            }
            _ => {
                let signed = signed_by(&self.signatures);
                writeln!(out, "Update available: version {version} of {}, {signed}", self.reference)?;
            }
        }
        writeln!(out, "  digest        {}", self.manifest_digest)?;
        writeln!(out, "  to fetch      {}", self.fetch.human())?;
        writeln!(out, "  on the root   {}", self.root.human())?;
        writeln!(out, "  for /etc      {}", self.etc.human())?;
        writeln!(out, "  on the ESP    {}", self.esp.human())?;
        let Conflicts { known, paths } = &self.etc_conflicts;
        match (known, paths.len()) {
            (false, _) => writeln!(out, "  conflicts     {NOT_KNOWN}")?,
            (true, 0) => {
                writeln!(out, "  conflicts     none: the update changes nothing in /etc that was changed here")?
            }
            (true, count) => {
                writeln!(out, "  conflicts     {count}: changed here and by the update; what is here stays")?;
                for path in paths {
                    writeln!(out, "                {}", path.escape_debug())?;
                }
            }
        }
        let Arguments { known, added, removed } = &self.kernel_arguments;
        let changes: Vec<String> = added
            .iter()
            .map(|argument| format!("+{argument}"))
            .chain(removed.iter().map(|argument| format!("-{argument}")))
            .collect();
        match (known, changes.is_empty()) {
            (false, _) => writeln!(out, "  arguments     {NOT_KNOWN}")?,
            (true, true) => writeln!(out, "  arguments     unchanged")?,
            (true, false) => writeln!(out, "  arguments     {}", changes.join(" "))?,
        }
        writeln!(out, "  reboot        needed")
    }
}

#[cfg(test)]
mod tests {
    use osupdate_core::oci::ContentDigest;
    use osupdate_deploy::check::{ArgumentChange, Cost};

    use super::*;

    fn report(etc_conflicts: Option<Vec<String>>, root_bytes: Amount) -> Report {
        let known = etc_conflicts.is_some();
        let arguments = ArgumentChange { added: vec!["quiet".to_owned()], removed: vec!["debug".to_owned()] };
        let cost = Cost {
            fetch_bytes: Amount { at_least: 0, at_most: Some(1 << 20) },
            root_bytes,
            etc_bytes: Amount::exactly(8192),
            esp_bytes: if known { Amount::exactly(80 << 20) } else { Amount::UNKNOWN },
            etc_conflicts,
            arguments: known.then_some(arguments),
            reboot: true,
            root_free_bytes: 1 << 30,
            esp_free_bytes: Some(100 << 20),
        };
        let manifest_digest = ContentDigest::sha256(b"");
        let check = Check {
            manifest_digest,
            version: Some("2".to_owned()),
            staging: Staging::New,
            cost,
            sealed: known.then_some(false),
        };
        let source = Source { reference: "oci:/x".to_owned(), plain_http: false, summary_key: None, requirement: None };
        Report::new(&source, check, &Upgrade { signatures: Vec::new(), requirement: None, frozen: None })
    }

    fn human(report: &Report) -> String {
        let mut out = Vec::new();
        report.human(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_form_of_a_check_is_the_pinned_one() {
        let unknown = serde_json::to_string(&report(None, Amount::UNKNOWN)).unwrap();
        let digest = ContentDigest::sha256(b"");
        assert_eq!(
            unknown,
            format!(
                r#"{{"update_available":true,"state":"new","reference":"oci:/x","manifest_digest":"{digest}","image_version":"2","signatures":[],"expired":false,"missing_bytes":1048576,"fetch":{{"known":false,"bytes":null,"at_least":0,"at_most":1048576}},"root":{{"known":false,"bytes":null,"at_least":0,"at_most":null,"free_bytes":1073741824}},"etc":{{"known":true,"bytes":8192,"at_least":8192,"at_most":8192}},"esp":{{"known":false,"bytes":null,"at_least":0,"at_most":null,"free_bytes":104857600}},"etc_conflicts":{{"known":false,"paths":[]}},"kernel_arguments":{{"known":false,"added":[],"removed":[]}},"reboot":"full"}}"#
            )
        );
    }

    #[test]
    fn what_is_not_known_is_said_not_to_be() {
        let text = human(&report(None, Amount::UNKNOWN));
        assert!(text.contains("  on the root   not known before the download (1.00 GiB free)\n"), "{text}");
        assert!(text.contains("  to fetch      0 B to 1.00 MiB\n"), "{text}");
        assert!(text.contains("  arguments     not known before the download\n"), "{text}");
    }

    #[test]
    fn conflicts_and_arguments_are_listed() {
        let text = human(&report(Some(vec!["/etc/a".to_owned(), "/etc/b\u{1b}".to_owned()]), Amount::exactly(4096)));
        assert!(
            text.contains("2: changed here and by the update; what is here stays\n                /etc/a\n"),
            "{text}"
        );
        assert!(text.contains("/etc/b\\u{1b}\n"), "{text}");
        assert!(text.contains("  arguments     +quiet -debug\n"), "{text}");
        assert!(text.contains("  on the root   4.00 KiB (1.00 GiB free)\n"), "{text}");
    }
}
