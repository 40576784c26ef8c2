//! [`Mismatch`]: why the digest in a UKI is not that of the image around it.
//!
//! A digest tells nothing of the files that it was made of. But images are sealed in few ways, and these go wrong in few ways: the
//! digest is made again as each of them would have it, and if one fits, what it was made of is known, and what differs, too.

use osupdate_core::Digest;
use osupdate_core::boot::{BootOptions, transform_for_boot};
use osupdate_core::diff::{Change, Diff, DiffOptions, diff};
use osupdate_core::erofs::{self, Format};
use osupdate_core::fsverity;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{StoredImage, image_tree};
use osupdate_core::repository::Repository;
use osupdate_core::tree::Tree;
use thiserror::Error;

use super::SealedUki;

/// So many layers on top are left out to find what the digest was made of.
const LAYERS_MAX: usize = 4;

/// So many fields are shown.
const SHOWN_MAX: usize = 8;

/// The digest in the UKI is not that of the image.
#[derive(Debug, Error)]
#[error("the UKI /{path} is for another image: {sealed} is sealed into it, the files of this image make {computed}")]
#[non_exhaustive]
pub struct Mismatch {
    /// The UKI.
    pub path: String,
    /// In the UKI.
    pub sealed: Digest,
    /// Of the boot form of the image.
    pub computed: Digest,
    /// What the digest in the UKI was made of, if that was found out.
    #[source]
    pub difference: Option<Difference>,
    /// The UKI itself is among the files that make the digest.
    pub in_boot_form: bool,
}

/// What the digest in a UKI was made of, compared with the image around it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Difference {
    /// `/boot` and `/sysroot` were not emptied.
    #[error("it is the digest of files that still have what the image has in /boot, not of the form that is booted")]
    NotBootForm,
    /// The files were right, and their times were cut to seconds.
    #[error("it is the digest of the same files with times in whole seconds")]
    WholeSeconds,
    /// Layers came on top that changed more than `/boot`.
    #[error("it fits the image without {}, where more than /boot changes: {}", layers(*count), list(differences))]
    Layers {
        /// How many layers.
        count: usize,
        /// What they changed.
        differences: Diff,
    },
}

fn layers(count: usize) -> String {
    if count == 1 { "the layer on top".to_owned() } else { format!("the {count} layers on top") }
}

/// The first differences: path, field and both values where these are short.
fn list(diff: &Diff) -> String {
    let mut text = String::new();
    for difference in diff.differences.iter().take(SHOWN_MAX) {
        let separator = if text.is_empty() { "" } else { "; " };
        let path = difference.path.escape_ascii();
        let field = difference.change.field();
        let values = match &difference.change {
            Change::OnlyLeft(kind) => format!("{kind} removed"),
            Change::OnlyRight(kind) => format!("{kind} added"),
            Change::Mode { left, right } => format!("{field} {left:04o} -> {right:04o}"),
            Change::Uid { left, right } | Change::Gid { left, right } => format!("{field} {left} -> {right}"),
            Change::Mtime { left, right } => format!("{field} {left} -> {right}"),
            Change::Xattr { name, .. } => format!("{field} {}", name.escape_ascii()),
            _ => field.to_owned(),
        };
        text.push_str(&format!("{separator}{path}: {values}"));
    }
    match diff.differences.len().saturating_sub(SHOWN_MAX) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

impl Mismatch {
    /// Finds out what is wrong. `computed` is the digest of the boot form of the image.
    pub(crate) fn explain(
        repository: &Repository,
        image: &StoredImage,
        uki: &SealedUki,
        computed: Digest,
        observer: &dyn Observer,
    ) -> Self {
        observer.event(Event::Step("looking for what the digest in the UKI was made of"));
        let difference = Candidates { repository, image, sealed: uki.image }.find();
        let in_boot_form = uki.file.is_in_boot_form();
        Self { path: uki.file.path.clone(), sealed: uki.image, computed, difference, in_boot_form }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        if self.in_boot_form {
            return "a UKI in /usr is one of the files that its digest is made of, so it can never fit: put it into \
                    /boot/EFI/Linux when building the image"
                .to_owned();
        }
        match &self.difference {
            Some(Difference::NotBootForm) => {
                "seal the digest that osupdate image digest tells, with its --bootable where there is a choice".to_owned()
            }
            Some(Difference::WholeSeconds) => {
                "compute the digest from the layers that are pushed, or of a tree with whole seconds".to_owned()
            }
            Some(Difference::Layers { .. }) => {
                "the layer with the UKI may have nothing but /boot in it, no other directories either; or compute the digest \
                 of the image with these layers"
                    .to_owned()
            }
            None => "usual causes: the image was changed after it was sealed; the digest was computed of an unpacked tree, whose \
                     directories have other times than those in the layers; the UKI is of another build. osupdate image diff of \
                     what was sealed and the image shows each field"
                .to_owned(),
        }
    }
}

/// What the digest may have been made of.
struct Candidates<'a> {
    repository: &'a Repository,
    image: &'a StoredImage,
    sealed: Digest,
}

impl Candidates<'_> {
    fn find(&self) -> Option<Difference> {
        let (_, boot) = self.trees(self.image)?;
        let mut cut = boot.clone();
        cut_nanoseconds(&mut cut);
        if self.fits(&cut) {
            return Some(Difference::WholeSeconds);
        }
        let all = self.image.layers.len();
        for count in 0..=LAYERS_MAX.min(all.saturating_sub(1)) {
            let mut lower = self.image.clone();
            lower.layers.truncate(all - count);
            let Some((whole, lower)) = self.trees(&lower) else { continue };
            if lower != boot && self.fits(&lower) {
                return Some(Difference::Layers { count, differences: diff(&lower, &boot, &DiffOptions::default()) });
            }
            if self.fits(&whole) {
                return Some(Difference::NotBootForm);
            }
        }
        None
    }

    /// The files of an image, and its boot form; `None` if that cannot be made.
    fn trees(&self, image: &StoredImage) -> Option<(Tree, Tree)> {
        let whole = image_tree(self.repository, image).ok()?;
        let mut boot = whole.clone();
        transform_for_boot(self.repository, &mut boot, &BootOptions::default()).ok()?;
        Some((whole, boot))
    }

    /// Whether an image of these files has the digest, in any format.
    fn fits(&self, tree: &Tree) -> bool {
        [Format::V1, Format::V2].into_iter().any(|format| {
            let image = erofs::write(tree, format);
            image.is_ok_and(|image| fsverity::digest(self.sealed.algorithm(), &image) == self.sealed)
        })
    }
}

fn cut_nanoseconds(tree: &mut Tree) {
    use osupdate_core::tree::{Directory, Entry};
    fn cut(directory: &mut Directory) {
        directory.stat.mtime_nanos = 0;
        for entry in directory.entries.values_mut() {
            if let Entry::Directory(child) = entry {
                cut(child);
            }
        }
    }
    cut(&mut tree.root);
    for leaf in &mut tree.leaves {
        leaf.stat.mtime_nanos = 0;
    }
}
