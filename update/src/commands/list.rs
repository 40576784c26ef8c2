//! `osupdate list`: a table of all deployments.

use serde::Serialize;

use super::status::Row;
use super::status::signed::signers;
use crate::cli::Context;
use crate::exit::Outcome;
use crate::output::table;
use crate::system;

/// List all deployments, the newest first
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Listing {
    deployments: Vec<Row>,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (booted, survey) = system::look(context)?;
        let rows = survey.model.deployments().iter().map(|item| Row::new(&survey.model, item, booted.as_ref()));
        let listing = Listing { deployments: rows.collect() };
        context.output.write(&listing, |out| {
            let mut rows = vec![["DEPLOYMENT", "VERSION", "IMAGE", "DIGEST", "SIGNED BY", "ROLES"].map(str::to_owned)];
            for Row { id, image, roles, .. } in &listing.deployments {
                let digest = image.manifest_digest.strip_prefix("sha256:").unwrap_or(&image.manifest_digest);
                rows.push([
                    id.chars().take(12).collect(),
                    image.version.clone().unwrap_or_default(),
                    image.reference.clone(),
                    digest.chars().take(12).collect(),
                    signers(&image.signatures).unwrap_or_else(|| "NOBODY".to_owned()),
                    roles.join(", "),
                ]);
            }
            table(out, &rows)
        })?;
        Ok(Outcome::Done)
    }
}
