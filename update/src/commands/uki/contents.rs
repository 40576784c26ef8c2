//! What UKIs and addons are both made of.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use osupdate_efi::uki::{Builder, hwids};

use super::file::{TextOrFile, read, read_all};

/// Options for sections that a UKI and an addon can have.
#[derive(Debug, clap::Args)]
pub(super) struct Contents {
    /// Kernel command line; @FILE takes it from a file as it is
    #[arg(long, value_name = "TEXT|@FILE")]
    cmdline: Option<TextOrFile>,

    /// Initial ramdisk; several are joined in this order
    #[arg(long, value_name = "FILE")]
    initrd: Vec<PathBuf>,

    /// Microcode, as an initial ramdisk of its own
    #[arg(long, value_name = "FILE")]
    microcode: Option<PathBuf>,

    /// Device tree
    #[arg(long, value_name = "FILE")]
    devicetree: Option<PathBuf>,

    /// Device tree that is used where the hardware is the one that it is for; may be given several times
    #[arg(long, value_name = "FILE")]
    devicetree_auto: Vec<PathBuf>,

    /// Directory of JSON files that say which hardware a --devicetree-auto is for
    #[arg(long, value_name = "DIRECTORY")]
    hwids: Option<PathBuf>,

    /// Version of the kernel
    #[arg(long, value_name = "VERSION")]
    uname: Option<String>,

    /// SBAT lines, added to those of boot stub and kernel [default: a line that says that it is a UKI or an addon]
    #[arg(long, value_name = "TEXT|@FILE")]
    sbat: Vec<TextOrFile>,

    /// Another section; its name has at most 8 characters
    #[arg(long = "section", value_name = "NAME:TEXT|@FILE", value_parser = parse_section)]
    sections: Vec<(String, TextOrFile)>,

    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// The contents of all files that were named.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) cmdline: Option<Vec<u8>>,
    initrds: Vec<Vec<u8>>,
    microcode: Option<Vec<u8>>,
    devicetree: Option<Vec<u8>>,
    devicetrees_auto: Vec<Vec<u8>>,
    hwids: Option<Vec<u8>>,
    pub(super) uname: Option<String>,
    sbat: Vec<String>,
    sections: Vec<(String, Vec<u8>)>,
    pub(super) output: PathBuf,
}

impl Contents {
    /// Reads all files.
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        let optional = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let text = |text: &TextOrFile| String::from_utf8(text.read()?).with_context(|| format!("{text:?} is not text"));
        let cmdline = match &self.cmdline {
            // Blanks have no meaning, and come in with line breaks in scripts.
            Some(TextOrFile::Text(text)) => Some(text.split_whitespace().collect::<Vec<_>>().join(" ").into_bytes()),
            Some(file) => Some(file.read()?),
            None => None,
        };
        Ok(Loaded {
            cmdline,
            initrds: read_all(&self.initrd)?,
            microcode: optional(&self.microcode)?,
            devicetree: optional(&self.devicetree)?,
            devicetrees_auto: read_all(&self.devicetree_auto)?,
            hwids: self.hwids.as_deref().map(read_hwids).transpose()?,
            sbat: self.sbat.iter().map(text).collect::<Result<_, _>>()?,
            sections: self
                .sections
                .iter()
                .map(|(name, text)| Ok((name.clone(), text.read()?)))
                .collect::<anyhow::Result<_>>()?,
            uname: self.uname.clone(),
            output: self.output.clone(),
        })
    }
}

impl Loaded {
    /// A builder with all of it.
    pub(super) fn builder(&self) -> Builder<'_> {
        Builder {
            command_line: self.cmdline.as_deref(),
            initrds: self.initrds.iter().map(Vec::as_slice).collect(),
            microcode: self.microcode.as_deref(),
            device_tree: self.devicetree.as_deref(),
            device_trees_auto: self.devicetrees_auto.iter().map(Vec::as_slice).collect(),
            hwids: self.hwids.as_deref(),
            uname: self.uname.as_deref(),
            sbat: self.sbat.iter().map(String::as_str).collect(),
            sections: self.sections.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect(),
            ..Builder::default()
        }
    }
}

fn parse_section(text: &str) -> Result<(String, TextOrFile), String> {
    let (name, contents) = text.split_once(':').ok_or("a name, a colon, and text or @FILE are needed")?;
    let Ok(contents) = contents.parse();
    Ok((name.to_owned(), contents))
}

/// The paths of all JSON files below a directory.
fn find(directory: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = || format!("cannot list {}", directory.display());
    for entry in std::fs::read_dir(directory).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        // Links are not followed: they may lead in circles.
        if entry.file_type().with_context(cannot)?.is_dir() {
            find(&entry.path(), found)?;
        } else if entry.path().extension().is_some_and(|extension| extension == "json") {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// All descriptions below a directory, as the section `.hwids` has them.
fn read_hwids(directory: &Path) -> anyhow::Result<Vec<u8>> {
    let mut found = Vec::new();
    find(directory, &mut found)?;
    found.sort();
    let mut files = Vec::new();
    for path in found {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let device = text.parse().with_context(|| format!("cannot use {}", path.display()))?;
        files.push(device);
    }
    if files.is_empty() {
        anyhow::bail!("{} has no files *.json", directory.display());
    }
    Ok(hwids::table(&files))
}
