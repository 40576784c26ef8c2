//! `osupdate image untag`

use anyhow::anyhow;
use osupdate_core::oci::untag;

use super::canonical;
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};

/// Take a tag away from an image
///
/// The next `osupdate repo gc` removes the image, if no other tag and no deployment needs it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tag
    #[arg(add = completion::tags())]
    tag: String,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open_for_change()?;
        let mut removed = None;
        for tag in std::iter::once(self.tag.clone()).chain(canonical(&self.tag)) {
            if untag(&repository, &tag)? {
                removed = Some(tag);
                break;
            }
        }
        let removed = removed
            .ok_or_else(|| anyhow!("there is no tag {:?} in the repository", self.tag))
            .hint("see which there are with: osupdate image list")?;
        let report = serde_json::json!({ "removed": removed });
        context.output.write(&report, |out| writeln!(out, "removed tag {removed}"))?;
        Ok(Outcome::Done)
    }
}
