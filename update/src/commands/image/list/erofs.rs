//! The EROFS images in `osupdate image list --all`.

use std::io::{self, Write};

use osupdate_core::Digest;
use osupdate_core::oci::ContentDigest;
use osupdate_core::repository::{Namespace, Repository};
use serde::Serialize;

use super::short;
use crate::output::table;

/// One EROFS image.
#[derive(Serialize)]
pub(super) struct ErofsRow {
    image_digest: String,
    /// Refs that keep it.
    refs: Vec<String>,
    /// Manifests of the images that it was made of, and which keep it, too.
    manifest_digests: Vec<String>,
}

/// All EROFS images; `made` tells which were made of which image.
pub(super) fn rows(repository: &Repository, made: &[(Digest, ContentDigest)]) -> anyhow::Result<Vec<ErofsRow>> {
    let refs = repository.refs(Namespace::Images)?;
    let rows = repository.image_digests()?.into_iter().map(|digest| {
        let image_digest = digest.to_string();
        let names = refs.iter().filter(|(_, target)| *target == image_digest).map(|(name, _)| format!("refs/{name}"));
        let mut manifest_digests: Vec<_> =
            made.iter().filter(|(erofs, _)| *erofs == digest).map(|(_, manifest)| manifest.to_string()).collect();
        manifest_digests.sort();
        manifest_digests.dedup();
        ErofsRow { refs: names.collect(), manifest_digests, image_digest }
    });
    Ok(rows.collect())
}

/// The table of them.
pub(super) fn human(rows: &[ErofsRow], out: &mut dyn Write) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let or_dash = |texts: Vec<String>| if texts.is_empty() { "-".to_owned() } else { texts.join(", ") };
    let heading = ["EROFS IMAGE", "NAMES", "OF MANIFESTS"].map(str::to_owned);
    let columns = rows.iter().map(|row| {
        let manifests = row.manifest_digests.iter().map(|digest| short(digest)).collect();
        [short(&row.image_digest), or_dash(row.refs.clone()), or_dash(manifests)]
    });
    table(out, &std::iter::once(heading).chain(columns).collect::<Vec<_>>())
}
