//! `osupdate image layer`

use std::io::{self, IsTerminal as _, Write};

use anyhow::{Context as _, bail};
use osupdate_core::dumpfile;
use osupdate_core::oci::{ContentDigest, ContentHasher, LayerFacts, OpenLayerError, StoredLayer, open_layer};
use osupdate_core::repository::Repository;
use serde::Serialize;

use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::output::write_raw;

/// Restore a layer: print its uncompressed tar archive
///
/// The archive is the one that the layer was made from, bit for bit; it is verified while it is printed. What the layer
/// consists of is told with --json.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image layer sha256:0123… | tar --list
  osupdate image layer sha256:0123… --dumpfile
  osupdate image layer sha256:0123… --json")]
pub(super) struct Args {
    /// diff_id of the layer, as osupdate image inspect shows it
    #[arg(add = completion::layers())]
    diff_id: ContentDigest,

    /// Print the files of the layer as a dumpfile, its whiteouts (.wh.NAME) among them
    #[arg(long)]
    dumpfile: bool,
}

#[derive(Serialize)]
struct Report {
    diff_id: String,
    /// Object of the split stream.
    stream_digest: String,
    entries: u64,
    size_bytes: u64,
    external_objects: u64,
    external_bytes: u64,
    inline_bytes: u64,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let repository = repository.open()?;
        let result = open_layer(&repository, &self.diff_id);
        let layer = match result {
            Err(OpenLayerError::NotFound { .. }) => {
                result.hint("the diff_ids of an image's layers are shown by: osupdate image inspect IMAGE")?
            }
            other => other?,
        };
        let reading = || format!("cannot read layer {}", self.diff_id);
        if self.dumpfile {
            let tree = layer.tree(&repository).with_context(reading)?;
            let mut text = Vec::new();
            dumpfile::write(&tree, &mut text)?;
            write_raw(|out| Ok(out.write_all(&text)?))?;
        } else if context.output.is_json() {
            let facts = layer.facts(&repository).with_context(reading)?;
            context.output.write(&Report::new(&layer, &facts), |_| Ok(()))?;
        } else {
            restore(&repository, &layer)?;
        }
        Ok(Outcome::Done)
    }
}

/// Prints the archive.
fn restore(repository: &Repository, layer: &StoredLayer) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        bail!("a tar archive is not for a terminal: redirect it, or ask for --json or --dumpfile");
    }
    write_raw(|out| {
        let mut hashed = Hashed { hasher: ContentHasher::new(layer.diff_id.algorithm()), out };
        repository.write_merged(&layer.stream, &mut hashed)?;
        let actual = hashed.hasher.finish();
        if actual != layer.diff_id {
            bail!("the layer that is stored as {} has the digest {actual}: do not use what was printed", layer.diff_id);
        }
        Ok(())
    })
}

/// Hashes what passes.
struct Hashed<'a> {
    hasher: ContentHasher,
    out: &'a mut dyn Write,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Report {
    fn new(layer: &StoredLayer, facts: &LayerFacts) -> Self {
        Self {
            diff_id: layer.diff_id.to_string(),
            stream_digest: layer.digest.to_string(),
            entries: facts.entries,
            size_bytes: facts.size_bytes,
            external_objects: facts.external_objects,
            external_bytes: facts.external_bytes,
            inline_bytes: facts.inline_bytes,
        }
    }
}
