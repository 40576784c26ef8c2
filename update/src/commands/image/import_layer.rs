//! `osupdate image import-layer`

use std::io::{self, IsTerminal as _};

use anyhow::bail;
use osupdate_core::oci::{ContentDigest, ImportLayerError, LayerError, import_layer};
use osupdate_core::repository::Namespace;
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::{Outcome, ResultExt as _};

/// Store a layer: an uncompressed tar archive on standard input
///
/// Images that have this layer need not fetch it any more. It is refused unless its digest is the one that is named. The
/// next osupdate repo gc removes it, if no image has it by then and no ref keeps it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  zcat layer.tar.gz | osupdate image import-layer sha256:0123…
  osupdate image import-layer sha256:0123… --ref base/layer-1 < layer.tar")]
pub(super) struct Args {
    /// diff_id of the layer: the digest of the uncompressed archive
    diff_id: ContentDigest,

    /// Keep it under this name below streams/refs
    #[arg(long = "ref", value_name = "NAME")]
    ref_name: Option<String>,
}

#[derive(Serialize)]
struct Report {
    diff_id: String,
    /// Object of the split stream.
    stream_digest: String,
    #[serde(rename = "ref")]
    ref_name: Option<String>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open_for_change()?;
        if io::stdin().is_terminal() {
            bail!("the tar archive is read from standard input, which is a terminal");
        }
        let result = import_layer(&repository, &self.diff_id, Box::new(io::stdin()), &*context.observer);
        let (name, stream) = match result {
            Err(ImportLayerError::Digest { .. } | ImportLayerError::Layer { source: LayerError::Format(_), .. }) => {
                result
                    .hint("a compressed archive must be unpacked: zcat LAYER | osupdate image import-layer DIFF_ID")?
            }
            other => other?,
        };
        if let Some(ref_name) = &self.ref_name {
            repository.set_ref(Namespace::Streams, ref_name, &name)?;
        }
        let report =
            Report { diff_id: self.diff_id.to_string(), stream_digest: stream.to_string(), ref_name: self.ref_name };
        context.output.write(&report, |out| writeln!(out, "{}", report.stream_digest))?;
        Ok(Outcome::Done)
    }
}
