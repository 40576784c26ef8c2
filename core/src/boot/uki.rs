//! Where an image has unified kernel images. What is in them is not looked at here.

use super::MODULES;
use crate::tree::{Content, Directory, Entry, Tree};

/// Where the specification of UKIs has them. Not part of the boot form, so a UKI here can name its own image.
const TYPE_2: &str = "boot/EFI/Linux";
const SUFFIX: &str = ".efi";
const ADDON_SUFFIX: &str = ".addon.efi";
/// After the path of a UKI: the directory of its addons.
const ADDONS: &str = ".extra.d";
/// Directories within [`TYPE_2`] that are looked into.
const DEPTH: usize = 4;

/// A file that is in the place of a UKI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UkiFile {
    /// Path, without a leading slash.
    pub path: String,
    /// The file.
    pub content: Content,
    /// Its addons: file names and files.
    pub addons: Vec<(String, Content)>,
}

impl UkiFile {
    /// Whether the boot form of the image has it, too: then no digest of the boot form can be sealed into it.
    pub fn is_in_boot_form(&self) -> bool {
        !self.path.starts_with("boot/")
    }
}

/// Finds all files that are in the place of UKIs: `*.efi` below `/boot/EFI/Linux` and in `/usr/lib/modules/<version>`, in the
/// order of their paths. The tree must be that of the image as it was pulled: the boot form has nothing in `/boot`.
pub fn find_ukis(tree: &Tree) -> Vec<UkiFile> {
    let mut found = Vec::new();
    find_in(tree, TYPE_2, DEPTH, &mut found);
    if let Some(modules) = tree.directory(MODULES) {
        for version in modules.entries.keys().filter_map(|name| std::str::from_utf8(name).ok()) {
            find_in(tree, &format!("{MODULES}/{version}"), 1, &mut found);
        }
    }
    found
}

fn find_in(tree: &Tree, path: &str, depth: usize, found: &mut Vec<UkiFile>) {
    let Some(directory) = tree.directory(path) else { return };
    for (name, entry) in names(directory) {
        let path = format!("{path}/{name}");
        let lower = name.to_ascii_lowercase();
        match entry {
            Entry::Directory(_) if depth > 1 && !lower.ends_with(ADDONS) => find_in(tree, &path, depth - 1, found),
            Entry::Leaf(_) if lower.ends_with(SUFFIX) && !lower.ends_with(ADDON_SUFFIX) => {
                if let Some(content) = tree.follow_to_file(&path) {
                    let addons = addons(tree, &path);
                    found.push(UkiFile { content: content.clone(), addons, path });
                }
            }
            _ => {}
        }
    }
}

fn addons(tree: &Tree, uki: &str) -> Vec<(String, Content)> {
    let path = format!("{uki}{ADDONS}");
    let Some(directory) = tree.directory(&path) else { return Vec::new() };
    let addon = |name: &str| {
        let content = tree.follow_to_file(&format!("{path}/{name}"))?;
        name.to_ascii_lowercase().ends_with(ADDON_SUFFIX).then(|| (name.to_owned(), content.clone()))
    };
    names(directory).filter_map(|(name, _)| addon(name)).collect()
}

/// Names that are UTF-8. Others cannot be on a boot partition.
fn names(directory: &Directory) -> impl Iterator<Item = (&str, &Entry)> {
    directory.entries.iter().filter_map(|(name, entry)| Some((std::str::from_utf8(name).ok()?, entry)))
}
