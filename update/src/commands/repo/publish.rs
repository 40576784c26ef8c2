//! `osupdate repo publish`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueHint;
use indicatif::BinaryBytes;
use osupdate_core::oci::{ContentDigest, Stored, list, open_any};
use osupdate_core::repository::Repository;
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::duration;
use crate::exit::Outcome;
use crate::publish::{Publication, PublishOptions, Published, SummaryKey, TreeName, publish};

/// Publish images as plain files, for any web server
///
/// The directory gets everything that machines need to install the images and to upgrade to them, by references such as
/// https://HOST/DIRECTORY/NAME:TAG, and it can be copied as it is to a server that knows nothing of images. Only files that are new are
/// written. An image takes the place of one with the same name, tag and platform; all others that were published there before stay.
/// Without an image, the summary alone is made anew, so that it holds for longer.
///
/// The summary, which says what image a name stands for, is replaced last and at once: whenever this stops, readers find what was
/// published before. Signatures and other artifacts that belong to an image are published with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate repo publish /srv/www/os docker://registry.example.com/os:1.2
  osupdate repo publish /srv/www/os stable=os:1.3 --sign-key summary.key --expires 14d
  osupdate repo publish /srv/www/os --sign-key summary.key --expires 14d
  osupdate repo publish /srv/www/os --remove os:1.1 --prune")]
pub(super) struct Args {
    /// Where to; made if there is none
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,

    /// What: tags or digests of images, and what they are called there if that is not the end of the tag
    #[arg(value_name = "IMAGE[=NAME[:TAG]]", add = completion::images())]
    images: Vec<Publication>,

    /// Publish all images that have a tag
    #[arg(long, conflicts_with = "images")]
    all: bool,

    /// Take all other images out of the tree
    #[arg(long)]
    only: bool,

    /// Take an image out of the tree, with this tag or with all; may be repeated
    #[arg(long, value_name = "NAME[:TAG]", value_parser = parse_removed)]
    remove: Vec<(String, Option<String>)>,

    /// Sign the summary with this private key in PEM, for Ed25519 or ECDSA with P-256
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    sign_key: Option<PathBuf>,

    /// Put a summary without a signature in the place of one that has some
    #[arg(long, conflicts_with = "sign_key")]
    unsigned: bool,

    /// Keep the images of a signed summary whose time is over and that was not published from this repository: it may be an old
    /// one that somebody has put there
    #[arg(long, requires = "sign_key")]
    allow_expired: bool,

    /// When clients no longer believe the summary, so that nobody can keep newer ones from them: from now on so many minutes,
    /// hours, days or weeks, such as 14d [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    expires: Option<Duration>,

    /// Also have every file as it is, and each layer as streams/oci-layer-…, for the HTTP client of composefs-rs; takes more than
    /// twice the space
    #[arg(long)]
    plain_objects: bool,

    /// How hard to compress files, from 1, fast, to 19; those that are there stay as they are
    #[arg(long, value_name = "LEVEL", default_value_t = 9, value_parser = clap::value_parser!(i32).range(1..=19))]
    compression_level: i32,

    /// Remove files that no summary has named for some time
    #[arg(long)]
    prune: bool,

    /// With --prune, for how long no summary has named them: clients may still be reading by an old one
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "1d", requires = "prune")]
    grace: Duration,
}

#[derive(Serialize)]
struct Report {
    serial: u64,
    created: String,
    expires: Option<String>,
    key: Option<String>,
    images: Vec<Row>,
    objects: u64,
    new_files: u64,
    new_bytes: u64,
    files_removed: u64,
    freed_bytes: u64,
}

#[derive(Serialize)]
struct Row {
    name: String,
    tag: String,
    platform: String,
    manifest_digest: ContentDigest,
    index_digest: ContentDigest,
    index_bytes: u64,
}

fn parse_removed(text: &str) -> Result<(String, Option<String>), String> {
    let TreeName { name, tag } = text.parse()?;
    Ok((name, text.contains(':').then_some(tag)))
}

/// All images that have a tag.
fn all(repository: &Repository) -> anyhow::Result<Vec<Publication>> {
    let mut found = Vec::new();
    for (tag, _) in list(repository)? {
        if let Stored::Image(_) = open_any(repository, &tag)? {
            found.push(tag.parse().map_err(anyhow::Error::msg).with_context(|| format!("cannot publish {tag}"))?);
        }
    }
    Ok(found)
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let lock_timeout = repository.lock_timeout();
        let repository = repository.open()?;
        let key = self.sign_key.as_deref().map(SummaryKey::read).transpose()?;
        let images = if self.all { all(&repository)? } else { self.images };
        let options = PublishOptions {
            images: &images,
            only: self.only,
            remove: &self.remove,
            expires: self.expires,
            key: key.as_ref(),
            unsigned: self.unsigned,
            allow_expired: self.allow_expired,
            plain_objects: self.plain_objects,
            level: self.compression_level,
            prune: self.prune.then_some(self.grace),
            lock_timeout,
        };
        let done = publish(&repository, &self.directory, &options, &*context.observer)
            .with_context(|| format!("cannot publish to {}", self.directory.display()))?;
        let report = report(done, key.map(|key| key.fingerprint()));
        context.output.write(&report, |out| {
            for Row { name, tag, platform, manifest_digest, .. } in &report.images {
                writeln!(out, "{name}:{tag}  {platform}  {manifest_digest}")?;
            }
            writeln!(out, "{} files new ({})", report.new_files, BinaryBytes(report.new_bytes))?;
            if self.prune {
                writeln!(out, "{} files removed ({})", report.files_removed, BinaryBytes(report.freed_bytes))?;
            }
            let signed = report.key.as_ref().map_or("not signed".to_owned(), |key| format!("signed with {key}"));
            let holds = report.expires.as_ref().map_or("without end".to_owned(), |end| format!("until {end}"));
            writeln!(out, "summary {}, {signed}, holds {holds}", report.serial)
        })?;
        Ok(Outcome::Done)
    }
}

fn report(done: Published, key: Option<String>) -> Report {
    let images = done.summary.images.into_iter().map(|image| Row {
        name: image.name,
        tag: image.tag,
        platform: image.platform,
        manifest_digest: image.manifest,
        index_digest: image.index.digest,
        index_bytes: image.index.size,
    });
    Report {
        serial: done.summary.serial,
        created: done.summary.created,
        expires: done.summary.expires,
        key,
        images: images.collect(),
        objects: done.objects,
        new_files: done.new_files,
        new_bytes: done.new_bytes,
        files_removed: done.pruned.files,
        freed_bytes: done.pruned.bytes,
    }
}
