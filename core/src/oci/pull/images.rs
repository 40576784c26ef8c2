//! The EROFS images of an image that is pulled: which are there, and making the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Pull, PullError};
use crate::boot::{BootOptions, transform_for_boot};
use crate::digest::Digest;
use crate::erofs::{self, Format};
use crate::fsverity;
use crate::observer::Event;
use crate::oci::digest::ContentDigest;
use crate::oci::label::ImageLabel;
use crate::oci::store::build_tree;
use crate::repository::ObjectError;
use crate::transform::XattrFilter;
use crate::tree::Tree;

/// EROFS images of one configuration by label.
#[derive(Default)]
pub(super) struct Images {
    /// Made here, now or earlier, from layers that were verified.
    pub(super) own: BTreeMap<String, Digest>,
    /// Named by a configuration that another program has stored: they may be of other layers, or made by other rules.
    pub(super) foreign: BTreeMap<String, Digest>,
    /// The boot image that was asked for.
    pub(super) boot: Option<Digest>,
}

impl Images {
    fn own(&self, label: ImageLabel) -> Option<Digest> {
        self.own.get(&label.to_string()).copied()
    }

    fn insert(&mut self, label: ImageLabel, image: Digest) {
        let label = label.to_string();
        if self.foreign.remove(&label).is_some_and(|foreign| foreign != image) {
            tracing::warn!("{label} of another program is not the image that is made here, replacing it");
        }
        self.own.insert(label, image);
    }
}

/// A boot image that was made to see whether it is the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriedImage {
    /// Format of the image.
    pub format: Format,
    /// Extended attributes in it.
    pub xattrs: XattrFilter,
    /// As in [`BootOptions::copy_nanoseconds`].
    pub copy_nanoseconds: bool,
    /// Its digest.
    pub digest: Digest,
}

impl fmt::Display for TriedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = if self.copy_nanoseconds { "" } else { ", seconds only" };
        write!(f, "{} (V{}, {}{nanoseconds})", self.digest, self.format.number(), self.xattrs.name())
    }
}

impl Pull<'_> {
    /// The formats that are wanted, checked before anything is fetched.
    pub(super) fn formats(&self) -> Result<Vec<Format>, PullError> {
        let formats = self.repository.image_formats();
        match formats.iter().find(|format| ImageLabel::new(**format, None).is_none()) {
            Some(format) => Err(PullError::Format(*format)),
            None => Ok(formats),
        }
    }

    /// Makes the images that are wanted and not there, and those that another program has made where ours are wanted.
    pub(super) fn images(
        &self,
        formats: &[Format],
        layers: &[(ContentDigest, Digest)],
        mut images: Images,
    ) -> Result<Images, PullError> {
        // Images of all files that another program has made are few and cheap to make along.
        let is_wanted = |label: &ImageLabel| {
            label.boot.is_none() && (formats.contains(&label.format) || images.foreign.contains_key(&label.to_string()))
        };
        let mut wanted: Vec<ImageLabel> = ImageLabel::all().filter(is_wanted).collect();
        if self.options.bootable && self.options.expected_boot_image.is_none() {
            let boot = Some(self.options.xattrs);
            wanted.extend(formats.iter().filter_map(|format| ImageLabel::new(*format, boot)));
        }
        let missing: Vec<_> = wanted.iter().copied().filter(|label| images.own(*label).is_none()).collect();
        self.make(&missing, layers, &mut images)?;
        images.boot = match self.options.expected_boot_image {
            Some(expected) => Some(self.find_expected(&expected, formats, layers, &mut images)?),
            None => wanted.iter().find(|label| label.boot.is_some()).and_then(|label| images.own(*label)),
        };
        Ok(images)
    }

    fn make(
        &self,
        labels: &[ImageLabel],
        layers: &[(ContentDigest, Digest)],
        images: &mut Images,
    ) -> Result<(), PullError> {
        for xattrs in [XattrFilter::AllowlistOnly, XattrFilter::KeepUserXattrs] {
            let labels = labels.iter().copied().filter(|label| label.xattrs() == xattrs);
            let (plain, boot): (Vec<ImageLabel>, Vec<_>) = labels.partition(|label| label.boot.is_none());
            if plain.is_empty() && boot.is_empty() {
                continue;
            }
            let mut tree = self.tree(layers, xattrs)?;
            for label in plain {
                images.insert(label, self.put(&tree, label.format)?);
            }
            if !boot.is_empty() {
                transform_for_boot(self.repository, &mut tree, &BootOptions::default())?;
            }
            for label in boot {
                images.insert(label, self.put(&tree, label.format)?);
            }
        }
        Ok(())
    }

    /// Finds out how the boot image with this digest is made: images have been sealed under different rules.
    fn find_expected(
        &self,
        expected: &Digest,
        formats: &[Format],
        layers: &[(ContentDigest, Digest)],
        images: &mut Images,
    ) -> Result<Digest, PullError> {
        let algorithm = self.repository.algorithm();
        if expected.algorithm() != algorithm {
            return Err(ObjectError::Algorithm { digest: *expected, expected: algorithm }.into());
        }
        let boot_labels = ImageLabel::all().filter(|label| label.boot.is_some());
        if boot_labels.into_iter().any(|label| images.own(label) == Some(*expected)) {
            return Ok(*expected);
        }
        // The repository's own formats first, and what was asked for.
        let others = [Format::V1, Format::V2].into_iter().filter(|format| !formats.contains(format));
        let formats: Vec<Format> = formats.iter().copied().chain(others).collect();
        let filters = match self.options.xattrs {
            XattrFilter::AllowlistOnly => [XattrFilter::AllowlistOnly, XattrFilter::KeepUserXattrs],
            XattrFilter::KeepUserXattrs => [XattrFilter::KeepUserXattrs, XattrFilter::AllowlistOnly],
        };
        let mut tried: Vec<TriedImage> = Vec::new();
        for xattrs in filters {
            let original = self.tree(layers, xattrs)?;
            for copy_nanoseconds in [true, false] {
                let mut tree = original.clone();
                transform_for_boot(self.repository, &mut tree, &BootOptions { copy_nanoseconds })?;
                for format in &formats {
                    let image = erofs::write(&tree, *format)?;
                    let digest = fsverity::digest(algorithm, &image);
                    if digest == *expected
                        && let Some(label) = ImageLabel::new(*format, Some(xattrs))
                    {
                        images.insert(label, self.repository.put_image(&image)?);
                        return Ok(digest);
                    }
                    tried.push(TriedImage { format: *format, xattrs, copy_nanoseconds, digest });
                }
            }
        }
        // Rules that make no difference for this image need not be told.
        let mut seen = BTreeSet::new();
        tried.retain(|image| seen.insert(image.digest.to_string()));
        Err(PullError::BootImage { expected: *expected, tried })
    }

    fn tree(&self, layers: &[(ContentDigest, Digest)], xattrs: XattrFilter) -> Result<Tree, PullError> {
        self.observer.event(Event::Step("building the image"));
        Ok(build_tree(self.repository, layers, xattrs)?)
    }

    fn put(&self, tree: &Tree, format: Format) -> Result<Digest, PullError> {
        Ok(self.repository.put_image(&erofs::write(tree, format)?)?)
    }
}
