//! `osupdate image fsck`

use std::error::Error as _;

use anyhow::{Context as _, bail};
use osupdate_core::erofs::{self, ReadError};
use osupdate_core::{Algorithm, Digest, fsverity};
use serde::Serialize;

use super::open;
use super::subject::{Place, find, looks_like_image, read_file};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};

/// Check an EROFS file, or the EROFS images of a stored image
///
/// Everything that the file says is checked: that nothing lies outside of it or overlaps, that names, types, links,
/// attributes and digests are what a composefs writer makes. Ends with status 3 if something is wrong. Objects are not
/// looked at: that is what osupdate repo fsck does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image fsck ./os.erofs
  osupdate image fsck docker://registry.example.com/os:1.2")]
pub(super) struct Args {
    /// An EROFS file, or tag or digest of an image in the repository
    #[arg(add = completion::subjects())]
    image: String,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    images: Vec<Checked>,
}

#[derive(Serialize)]
struct Checked {
    name: String,
    size_bytes: usize,
    format: Option<u32>,
    files: Option<usize>,
    objects: Option<usize>,
    digest: Digest,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    /// Path in the image; null if it is about the whole image.
    path: Option<String>,
    detail: String,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let mut images = Vec::new();
        match find(&self.image, repository)? {
            Place::Path(path) if path.is_dir() => bail!("{} is a directory, not an EROFS file", self.image),
            Place::Path(path) => {
                let bytes = read_file(&path)?;
                if bytes.starts_with(b"/") && !looks_like_image(&bytes) {
                    return Err(anyhow::anyhow!("{} is a dumpfile, not an EROFS file", self.image))
                        .hint(format!("check it with: osupdate image digest {}", self.image));
                }
                images.push(check(&self.image, &bytes, Algorithm::Sha512));
            }
            Place::Stdin => bail!("an EROFS file cannot be checked on standard input: name the file"),
            Place::Erofs(repository, digest) => {
                images.push(check(&self.image, &repository.read_image(&digest)?, repository.algorithm()));
            }
            Place::Image(repository, image) => {
                for (what, digest) in [("image", image.image), ("boot image", image.boot_image)] {
                    if let Some(digest) = digest {
                        let bytes = repository
                            .read_image(&digest)
                            .with_context(|| format!("cannot read the {what} of {}", self.image))?;
                        images.push(check(&format!("{what} {digest}"), &bytes, repository.algorithm()));
                    }
                }
                if images.is_empty() {
                    bail!("{} has no EROFS image in the repository", self.image);
                }
            }
            Place::Reference(_) => {
                open(&repository.open()?, &self.image)?;
            }
        }
        let report = Report { ok: images.iter().all(|image| image.findings.is_empty()), images };
        context.output.write(&report, |out| {
            for image in &report.images {
                for finding in &image.findings {
                    match &finding.path {
                        Some(path) => writeln!(out, "{}: {path}: {}", image.name, finding.detail)?,
                        None => writeln!(out, "{}: {}", image.name, finding.detail)?,
                    }
                }
                if let (Some(format), Some(files), Some(objects), true) =
                    (image.format, image.files, image.objects, image.findings.is_empty())
                {
                    writeln!(out, "{}: ok, version {format}, {files} files, {objects} objects", image.name)?;
                }
            }
            Ok(())
        })?;
        Ok(if report.ok { Outcome::Done } else { Outcome::Findings })
    }
}

fn check(name: &str, bytes: &[u8], algorithm: Algorithm) -> Checked {
    let mut checked = Checked {
        name: name.to_owned(),
        size_bytes: bytes.len(),
        format: None,
        files: None,
        objects: None,
        digest: fsverity::digest(algorithm, bytes),
        findings: Vec::new(),
    };
    let (tree, format) = match erofs::read(bytes) {
        Ok(read) => read,
        Err(error) => {
            let path = match &error {
                ReadError::File { path, .. } => Some(path.clone()),
                _ => None,
            };
            let detail = error.source().map_or_else(|| error.to_string(), |problem| problem.to_string());
            checked.findings.push(Finding { path, detail });
            return checked;
        }
    };
    checked.format = Some(format.number());
    checked.files = Some(tree.leaves.len());
    checked.objects = erofs::objects(bytes).ok().map(|objects| objects.len());
    let detail = match erofs::write(&tree, format) {
        Ok(again) if again == bytes => return checked,
        Ok(again) => {
            let at =
                again.iter().zip(bytes).position(|(one, other)| one != other).unwrap_or(again.len().min(bytes.len()));
            format!("sound, but no composefs tool writes it so: it differs at byte {at} from what it should be")
        }
        Err(error) => format!("cannot be written again: {error}: {}", error.problem),
    };
    checked.findings.push(Finding { path: None, detail });
    checked
}
