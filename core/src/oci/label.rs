//! Labels of EROFS images among the refs of a configuration.
//!
//! ```text
//! composefs.image[.boot][.v1][.xattrs=keep-user-xattrs]   without .v1: format V2; .xattrs only with .boot
//! ```

use std::fmt;

use crate::erofs::Format;
use crate::transform::XattrFilter;

const PLAIN: &str = "composefs.image";
const BOOT: &str = "composefs.image.boot";
const V1: &str = ".v1";
const KEEP_USER_XATTRS: &str = ".xattrs=keep-user-xattrs";

/// Which of the images that can be made of an OCI image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageLabel {
    pub(crate) format: Format,
    /// The boot form with these extended attributes; `None`: the image of all files.
    pub(crate) boot: Option<XattrFilter>,
}

impl ImageLabel {
    /// `None` for formats that OCI images are not stored in.
    pub(crate) fn new(format: Format, boot: Option<XattrFilter>) -> Option<Self> {
        matches!(format, Format::V1 | Format::V2).then_some(Self { format, boot })
    }

    /// All there are, the usual ones first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let forms = [None, Some(XattrFilter::AllowlistOnly), Some(XattrFilter::KeepUserXattrs)];
        forms.into_iter().flat_map(|boot| [Format::V1, Format::V2].map(|format| Self { format, boot }))
    }

    /// Which extended attributes the tree of the image keeps.
    pub(crate) fn xattrs(self) -> XattrFilter {
        self.boot.unwrap_or_default()
    }
}

/// Whether a label is that of an image, also of a kind that is not known here.
pub(crate) fn is_image_label(label: &str) -> bool {
    label.starts_with(PLAIN)
}

/// Whether a label is that of a boot image, also of a kind that is not known here.
pub(crate) fn is_boot_label(label: &str) -> bool {
    label.starts_with(BOOT)
}

impl fmt::Display for ImageLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.boot.is_some() { BOOT } else { PLAIN })?;
        if self.format == Format::V1 {
            f.write_str(V1)?;
        }
        match self.boot {
            Some(XattrFilter::KeepUserXattrs) => f.write_str(KEEP_USER_XATTRS),
            Some(XattrFilter::AllowlistOnly) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_cfsctl() {
        let labels: Vec<String> = ImageLabel::all().map(|label| label.to_string()).collect();
        let expected = [
            "composefs.image.v1",
            "composefs.image",
            "composefs.image.boot.v1",
            "composefs.image.boot",
            "composefs.image.boot.v1.xattrs=keep-user-xattrs",
            "composefs.image.boot.xattrs=keep-user-xattrs",
        ];
        assert_eq!(labels, expected);
        assert_eq!(ImageLabel::new(Format::V0, None), None);
    }
}
