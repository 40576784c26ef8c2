//! Generated input: a small tree for `--quick`, and images of any number of files.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Result;
use osupdate_tests::layout;

use crate::input::Input;
use crate::say;

const QUICK_FILES: u64 = 4_000;
/// Files of one directory of a generated image.
const DIRECTORY_FILES: u64 = 500;
/// Layers of a generated image.
const LAYERS: u64 = 4;

/// A small image with files of all sizes, made in the cache if it is not there.
pub(crate) fn input(cache: &Path) -> Result<Input> {
    Input::get(cache.join("quick"), |tree| {
        say("making a small tree");
        for number in 0..QUICK_FILES {
            let directory = tree.join(format!("usr/share/d{}", number / 50));
            fs::create_dir_all(&directory)?;
            // From nothing to 64 KiB, most of them small.
            let length = 1_usize << (number * 7 % 17);
            let contents: Vec<u8> = format!("{number} ").bytes().cycle().take(length - 1).collect();
            fs::write(directory.join(format!("f{number}")), contents)?;
        }
        Ok(())
    })
}

/// Contents of a file of a generated image: an object of its own, as small as objects get.
pub(crate) fn contents(number: u64) -> String {
    format!("{number:0>99}\n")
}

/// Path of a file of a generated image.
pub(crate) fn path(number: u64) -> String {
    format!("usr/d{}/f{number}", number / DIRECTORY_FILES)
}

/// Makes a layout of an image with a number of small files, each of them an object.
pub(crate) fn image(directory: &Path, files: u64, tag: &str) -> Result<()> {
    fs::create_dir_all(directory)?;
    let tars = (0..LAYERS)
        .map(|layer| {
            let tar = directory.join(format!("layer-{layer}.tar"));
            pack(&tar, files * layer / LAYERS, files * (layer + 1) / LAYERS)?;
            Ok(tar)
        })
        .collect::<Result<Vec<PathBuf>>>()?;
    layout::write(directory, &tars, tag)
}

fn pack(tar: &Path, first: u64, end: u64) -> Result<()> {
    let mut builder = tar::Builder::new(BufWriter::new(fs::File::create(tar)?));
    add(&mut builder, tar::EntryType::Directory, 0o755, "usr", "")?;
    let mut directory = None;
    for number in first..end {
        let its = number / DIRECTORY_FILES;
        if directory != Some(its) {
            add(&mut builder, tar::EntryType::Directory, 0o755, &format!("usr/d{its}"), "")?;
            directory = Some(its);
        }
        add(&mut builder, tar::EntryType::Regular, 0o644, &path(number), &contents(number))?;
    }
    builder.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}

fn add(
    builder: &mut tar::Builder<impl std::io::Write>,
    kind: tar::EntryType,
    mode: u32,
    path: &str,
    contents: &str,
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header.set_size(contents.len() as u64);
    Ok(builder.append_data(&mut header, path, contents.as_bytes())?)
}
