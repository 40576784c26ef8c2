//! `osupdate image`: the images in the repository.

mod create;
mod diff;
mod digest;
mod directory_files;
mod dump;
pub(super) mod expected;
mod fetch_options;
mod fsck;
mod import;
mod import_layer;
mod inspect;
mod layer;
mod lint;
mod list;
mod look;
mod mkfs;
mod mount;
mod mounted;
mod near;
mod objects;
mod pull;
mod push;
mod scratch;
mod seal;
mod serve;
mod shell;
mod subject;
mod tag;
mod tree_options;
mod unmount;
mod untag;

use std::fmt;

use anyhow::{anyhow, bail};
use clap::Subcommand;
use osupdate_core::Digest;
use osupdate_core::oci::{
    StoreError, Stored, StoredArtifact, StoredImage, image_of_erofs, list as list_tags, open_any, open_image,
};
use osupdate_core::repository::Repository;
use osupdate_core::scan::ScanError;
use osupdate_core::tree::Tree;
use serde_json::Value;

use super::repository_path::RepositoryPath;
use crate::cli::Context;
use crate::exit::{Outcome, ResultExt as _};
use crate::transport::ImageReference;
pub(crate) use shell::NotRun;

/// Pull, list, inspect, make, compare and mount images
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    repository: RepositoryPath,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::Args),
    Push(push::Args),
    List(list::Args),
    Inspect(inspect::Args),
    Digest(digest::Args),
    Lint(lint::Args),
    Seal(Box<seal::Args>),
    Diff(diff::Args),
    Dump(dump::Args),
    Create(create::Args),
    Mkfs(mkfs::Args),
    Fsck(fsck::Args),
    Mount(mount::Args),
    Unmount(unmount::Args),
    Shell(shell::Args),
    #[command(hide = true)]
    ShellServer(shell::server::Args),
    #[command(hide = true)]
    ShellInit(shell::init::Args),
    Tag(tag::Args),
    Untag(untag::Args),
    Objects(objects::Args),
    Import(import::Args),
    Layer(layer::Args),
    ImportLayer(import_layer::Args),
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Pull(args) => args.run(&self.repository, context),
            Command::Push(args) => args.run(&self.repository, context),
            Command::List(args) => args.run(&self.repository, context),
            Command::Inspect(args) => args.run(&self.repository, context),
            Command::Digest(args) => args.run(&self.repository, context),
            Command::Seal(args) => args.run(&self.repository, context),
            Command::Lint(args) => args.run(&self.repository, context),
            Command::Diff(args) => args.run(&self.repository, context),
            Command::Dump(args) => args.run(&self.repository, context),
            Command::Create(args) => args.run(&self.repository, context),
            Command::Mkfs(args) => args.run(&self.repository, context),
            Command::Fsck(args) => args.run(&self.repository, context),
            Command::Mount(args) => args.run(&self.repository, context),
            Command::Unmount(args) => args.run(),
            Command::Shell(args) => args.run(&self.repository, context),
            Command::ShellServer(args) => args.run(&self.repository),
            Command::ShellInit(args) => args.run(),
            Command::Tag(args) => args.run(&self.repository, context),
            Command::Untag(args) => args.run(&self.repository, context),
            Command::Objects(args) => args.run(&self.repository, context),
            Command::Import(args) => args.run(&self.repository, context),
            Command::Layer(args) => args.run(&self.repository, context),
            Command::ImportLayer(args) => args.run(&self.repository, context),
        }
    }
}

/// Opens an image by tag or digest; if there is none, the hint says which tags there are.
fn open(repository: &Repository, name: &str) -> anyhow::Result<StoredImage> {
    open_with(repository, name, open_image)
}

/// The same for an image or artifact.
fn open_stored(repository: &Repository, name: &str) -> anyhow::Result<Stored> {
    open_with(repository, name, open_any)
}

fn open_with<T>(
    repository: &Repository,
    name: &str,
    open: impl Fn(&Repository, &str) -> Result<T, StoreError>,
) -> anyhow::Result<T> {
    let result = open(repository, name);
    if !matches!(result, Err(StoreError::NotFound { .. })) {
        return Ok(result?);
    }
    if let Some(tag) = canonical(name) {
        match open(repository, &tag) {
            Err(StoreError::NotFound { .. }) => {}
            other => return Ok(other?),
        }
    }
    // An EROFS image leads to the image that it was made of.
    if let Ok(erofs) = name.parse()
        && let Some(image) = image_of_erofs(repository, &erofs)?
    {
        return Ok(open(repository, &image.manifest_digest.to_string())?);
    }
    let tags: Vec<_> = list_tags(repository)?.into_iter().map(|(tag, _)| tag).collect();
    result.hint(near::hint(name, &tags))
}

/// Finds an EROFS image: that of an image by tag or digest, or one by its own hex digest or ref.
fn find_erofs(repository: &Repository, name: &str, boot: bool) -> anyhow::Result<Digest> {
    if let Some(digest) = repository.image(name)? {
        if boot {
            bail!("--boot goes with the name of an image, not with that of an EROFS image");
        }
        return Ok(digest);
    }
    let image = open(repository, name)?;
    let (digest, what, how) = match boot {
        true => (image.boot_image, "boot image", "osupdate image pull --bootable"),
        false => (image.image, "EROFS image", "osupdate image pull"),
    };
    digest.ok_or_else(|| anyhow!("{name} has no {what} in the repository")).hint(format!("pull it again with: {how}"))
}

/// The tree that a scan has made.
fn scanned(result: Result<Tree, ScanError>) -> anyhow::Result<Tree> {
    match result {
        Err(ScanError::Changed { .. }) => {
            result.hint("give it a directory that nothing writes to, such as a snapshot or a mounted image")
        }
        _ => Ok(result?),
    }
}

/// The tag that `pull` gives to an image, from what the user wrote to pull it.
fn canonical(name: &str) -> Option<String> {
    let reference: ImageReference = name.parse().ok()?;
    Some(reference.absolute().ok()?.to_string())
}

/// The version that an image says it has.
fn version(image: &StoredImage) -> Option<&str> {
    let labels = image.config.config().as_ref()?.labels().as_ref()?;
    labels.get("org.opencontainers.image.version").map(String::as_str)
}

/// A digest that may not be there, for people.
fn or_none(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// What `pull` and `inspect` tell about an image, in JSON.
fn summary(image: &StoredImage) -> Value {
    serde_json::json!({
        "manifest_digest": image.manifest_digest,
        "config_digest": image.config_digest,
        "image_digest": image.image,
        "boot_image_digest": image.boot_image,
        "image_version": version(image),
        "architecture": image.config.architecture().to_string(),
    })
}

/// The same about an artifact.
fn artifact_summary(artifact: &StoredArtifact) -> Value {
    serde_json::json!({
        "manifest_digest": artifact.manifest_digest,
        "artifact_type": artifact.artifact_type,
        "subject": artifact.subject,
    })
}
