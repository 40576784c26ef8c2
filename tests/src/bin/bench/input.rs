//! An image to time with: a tree, the same as OCI image layouts in two compressions, and a second version of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use osupdate_tests::{layout, tool};
use serde::Serialize;

use crate::{layers, say};

/// Tag of the image in every layout.
pub(crate) const TAG: &str = "1";

/// Files that differ in the second version.
const CHANGED_FILES: usize = 370;

/// The directories below one of these names are made together: `complete` stands for all of them.
#[derive(Debug)]
pub(crate) struct Input {
    directory: PathBuf,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) layers: usize,
    pub(crate) gzip_bytes: u64,
    pub(crate) zstd_bytes: u64,
    /// Files that differ in the second version, which shares no layer with the first.
    pub(crate) changed_files: usize,
}

impl Input {
    /// Takes what is in a directory, or makes it there; `make_tree` fills an empty directory with the tree.
    pub(crate) fn get(directory: PathBuf, make_tree: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let input = Self { directory };
        let complete = input.directory.join("complete");
        if !complete.exists() {
            if input.directory.exists() {
                fs::remove_dir_all(&input.directory)?;
            }
            fs::create_dir_all(input.tree())?;
            make_tree(&input.tree())?;
            input.make_layouts()?;
            fs::write(complete, "")?;
        }
        Ok(input)
    }

    /// The tree as a directory.
    pub(crate) fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }

    /// The image with layers compressed with gzip.
    pub(crate) fn gzip(&self) -> PathBuf {
        self.directory.join("gzip")
    }

    /// The image with layers compressed with zstd.
    pub(crate) fn zstd(&self) -> PathBuf {
        self.directory.join("zstd")
    }

    /// The second version: every layer is another one, few files are. Compressed with zstd.
    pub(crate) fn second(&self) -> PathBuf {
        self.directory.join("second")
    }

    pub(crate) fn facts(&self) -> Result<Facts> {
        let (files, bytes) = layers::size(&self.tree())?;
        Ok(Facts {
            files,
            bytes,
            layers: layers::NUMBER,
            gzip_bytes: layout::blob_bytes(&self.gzip())?,
            zstd_bytes: layout::blob_bytes(&self.zstd())?,
            changed_files: CHANGED_FILES,
        })
    }

    fn make_layouts(&self) -> Result<()> {
        say("packing the tree into layers");
        let plain = self.directory.join("plain");
        let scratch = self.directory.join("scratch");
        fs::create_dir_all(&scratch)?;
        let lists = layers::split(&self.tree())?;
        let tars = layers::pack(&self.tree(), &lists, &scratch)?;
        layout::write(&plain, &tars, TAG)?;
        say("compressing the layers");
        compress(&plain, &self.gzip(), "gzip")?;
        compress(&plain, &self.zstd(), "zstd")?;
        fs::remove_dir_all(&plain)?;

        say("making the second version");
        let changed = scratch.join("tree");
        layers::change(&self.tree(), &changed, &lists, CHANGED_FILES)?;
        let tars = layers::pack(&changed, &lists, &scratch)?;
        layout::write(&plain, &tars, TAG)?;
        compress(&plain, &self.second(), "zstd")?;
        fs::remove_dir_all(&plain)?;
        fs::remove_dir_all(&scratch)?;
        Ok(())
    }
}

/// Copies an image as those who build images do.
fn compress(from: &Path, to: &Path, compression: &str) -> Result<()> {
    let name = |path: &Path| format!("oci:{}:{TAG}", path.display());
    let mut skopeo = std::process::Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-compress", "--dest-compress-format", compression]);
    tool::run(skopeo.arg(name(from)).arg(name(to)))?;
    let media_types = layout::layer_media_types(to).with_context(|| format!("reading {}", to.display()))?;
    let all = media_types.iter().all(|media_type| media_type.ends_with(&format!("+{compression}")));
    ensure!(all, "skopeo made layers of {media_types:?} where {compression} was asked for");
    Ok(())
}
