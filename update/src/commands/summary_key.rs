//! The option that says who signs the summary of a published tree.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::ValueHint;

use crate::transport::ImageReference;
use crate::trust::SummaryKeys;

/// Who signs the summary.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(super) struct SummaryKeyOption {
    /// Believe a published tree only if its summary is signed by a public key of this file (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    summary_key: Option<PathBuf>,
}

impl SummaryKeyOption {
    /// The keys, in PEM, for an image.
    pub(super) fn load(&self, reference: &ImageReference) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.summary_key else { return Ok(None) };
        if !matches!(reference, ImageReference::Published(_)) {
            bail!("--summary-key is for published trees (https://HOST/DIR/NAME), {reference} has no summary");
        }
        SummaryKeys::read(vec![file.clone()])?;
        fs::read_to_string(file).map(Some).with_context(|| format!("cannot read {}", file.display()))
    }
}
