//! Extended attributes of one inode.

use std::borrow::Cow;
use std::collections::BTreeMap;

use zerocopy::FromBytes;

use super::image::Image;
use super::inode::Inode;
use super::{Budget, ReadProblem};
use crate::digest::Digest;
use crate::erofs::Format;
use crate::erofs::layout::{XattrEntry, XattrHeader};
use crate::erofs::overlay::{self, Stored};
use crate::erofs::validate::is_payload;
use crate::erofs::xattr::{entry_size, filter_bit, prefix, split_name};
use crate::tree::Xattrs;

const NAME_MAX: usize = 255;

/// What an inode's attributes say.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Those of the user, under the names that he gave them.
    pub(super) user: Xattrs,
    /// `Some(None)`: present without a digest.
    pub(super) metacopy: Option<Option<Digest>>,
    /// Path below the object directory.
    pub(super) redirect: Option<Box<[u8]>>,
    pub(super) opaque: bool,
}

impl Attributes {
    pub(super) fn read(image: &Image<'_>, inode: &Inode, budget: &mut Budget) -> Result<Self, ReadProblem> {
        let mut all = Self::default();
        for (name, value) in stored(image, inode, budget)? {
            match overlay::unescape(&name) {
                Stored::User(name) => {
                    all.user.insert(name.into_owned().into(), value.into());
                }
                Stored::Overlay if name == overlay::METACOPY => {
                    all.metacopy = Some(overlay::parse_metacopy(value).ok_or(ReadProblem::Metacopy)?);
                }
                Stored::Overlay if name == overlay::REDIRECT => {
                    let payload = value.strip_prefix(b"/").filter(|payload| !payload.is_empty() && is_payload(payload));
                    all.redirect = Some(payload.ok_or(ReadProblem::Redirect)?.into());
                }
                Stored::Overlay if name == overlay::OPAQUE => all.opaque = true,
                Stored::Overlay => return Err(ReadProblem::OverlayXattr(name.escape_ascii().to_string())),
            }
        }
        Ok(all)
    }

    /// Refuses attributes that overlayfs obeys, other than those of an external file and of the root.
    pub(super) fn check_overlay(&self, external: bool, root: bool) -> Result<(), ReadProblem> {
        let unexpected = [
            (overlay::METACOPY, self.metacopy.is_some() && !external),
            (overlay::REDIRECT, self.redirect.is_some() && !external),
            (overlay::OPAQUE, self.opaque && !root),
        ];
        match unexpected.iter().find(|(_, there)| *there) {
            Some((name, _)) => Err(ReadProblem::OverlayXattr(name.escape_ascii().to_string())),
            None => Ok(()),
        }
    }

    /// Removes attributes of the user, given by the names under which they are stored.
    pub(super) fn remove_stored(user: &mut Xattrs, stored_names: [&[u8]; 2]) {
        for stored_name in stored_names {
            if let Stored::User(name) = overlay::unescape(stored_name) {
                user.remove(&*name);
            }
        }
    }

    /// Whether the user's attributes are those of a file that stands for a whiteout.
    pub(super) fn marks_whiteout(&self) -> bool {
        all_empty(&self.user, overlay::WHITEOUT)
    }

    /// Whether a directory's attributes, of the user or not, are those of one that holds such files.
    pub(super) fn mark_whiteouts(user: &Xattrs) -> bool {
        all_empty(user, overlay::WHITEOUTS)
    }

    /// Removes the attributes that the writer sets on a directory that holds such files.
    pub(super) fn unmark_whiteouts(user: &mut Xattrs, format: Format) {
        Self::remove_stored(user, overlay::WHITEOUTS);
        if format == Format::V1 {
            Self::remove_stored(user, overlay::WHITEOUTS_OPAQUE);
        }
    }
}

/// Whether these attributes, given by the names under which they are stored, are there with empty values.
fn all_empty(user: &Xattrs, stored_names: [&[u8]; 2]) -> bool {
    stored_names.iter().all(|stored_name| match overlay::unescape(stored_name) {
        Stored::User(name) => user.get(&*name).is_some_and(|value| value.is_empty()),
        Stored::Overlay => false,
    })
}

/// Values of the attributes by which overlayfs finds the contents of an external file.
#[derive(Debug, Default)]
pub(super) struct OverlayValues<'i> {
    pub(super) metacopy: Option<&'i [u8]>,
    pub(super) redirect: Option<&'i [u8]>,
}

impl<'i> OverlayValues<'i> {
    /// Looks for them, whatever else there is.
    pub(super) fn read(image: &Image<'i>, inode: &Inode, budget: &mut Budget) -> Result<Self, ReadProblem> {
        let metacopy = split_name(overlay::METACOPY, image.format);
        let redirect = split_name(overlay::REDIRECT, image.format);
        let mut values = Self::default();
        entries(image, inode, budget, |entry| {
            if (entry.index, entry.suffix) == metacopy {
                values.metacopy = Some(entry.value);
            } else if (entry.index, entry.suffix) == redirect {
                values.redirect = Some(entry.value);
            }
            Ok(())
        })?;
        Ok(values)
    }
}

/// Attributes as they are in the image.
fn stored<'i>(
    image: &Image<'i>,
    inode: &Inode,
    budget: &mut Budget,
) -> Result<BTreeMap<Cow<'i, [u8]>, &'i [u8]>, ReadProblem> {
    let mut all = BTreeMap::new();
    let mut present = 0;
    let filter = entries(image, inode, budget, |entry| {
        present |= filter_bit(entry.index, entry.suffix);
        match all.insert(entry.name(image.format)?, entry.value) {
            None => Ok(()),
            Some(_) => Err(ReadProblem::XattrDuplicate(entry.suffix.escape_ascii().to_string())),
        }
    })?;
    match filter {
        Some(filter) if image.has_filters && filter != !present => Err(ReadProblem::XattrFilter),
        _ => Ok(all),
    }
}

/// Calls `each` with all attributes of an inode. Returns the name filter, if it has any.
fn entries<'i>(
    image: &Image<'i>,
    inode: &Inode,
    budget: &mut Budget,
    mut each: impl FnMut(&Entry<'i>) -> Result<(), ReadProblem>,
) -> Result<Option<u32>, ReadProblem> {
    if inode.xattrs_size == 0 {
        return Ok(None);
    }
    let body = image.get(inode.xattrs_at, inode.xattrs_size).ok_or(ReadProblem::XattrOutside)?;
    let (header, mut rest) = XattrHeader::ref_from_prefix(body).map_err(|_| ReadProblem::XattrOutside)?;
    let mut add = |entry: &Entry<'i>| {
        budget.charge_xattr(entry.name_len() + entry.value.len())?;
        each(entry)
    };
    for _ in 0..header.shared_count {
        let (id, behind) = rest.split_first_chunk().ok_or(ReadProblem::XattrOutside)?;
        rest = behind;
        let id = u32::from_le_bytes(*id);
        let entry = image.shared_base.checked_add(id as usize * 4).and_then(|at| image.get_from(at));
        let entry = entry.ok_or(ReadProblem::XattrShared(id))?;
        add(&Entry::read(entry).ok_or(ReadProblem::XattrShared(id))?)?;
    }
    while !rest.is_empty() {
        let entry = Entry::read(rest).ok_or(ReadProblem::XattrOutside)?;
        rest = rest.get(entry.size..).ok_or(ReadProblem::XattrOutside)?;
        add(&entry)?;
    }
    Ok(Some(header.filter.get()))
}

/// One attribute.
struct Entry<'i> {
    index: u8,
    suffix: &'i [u8],
    value: &'i [u8],
    /// With padding.
    size: usize,
}

impl<'i> Entry<'i> {
    /// Reads the attribute at the start of `bytes`, which may go on behind it.
    fn read(bytes: &'i [u8]) -> Option<Self> {
        let (entry, rest) = XattrEntry::ref_from_prefix(bytes).ok()?;
        let suffix_len = usize::from(entry.name_len);
        let value_len = usize::from(entry.value_len.get());
        let (suffix, value) = rest.get(..suffix_len + value_len)?.split_at(suffix_len);
        Some(Self { index: entry.name_index, suffix, value, size: entry_size(suffix_len, value_len) })
    }

    fn name_len(&self) -> usize {
        prefix(self.index).unwrap_or_default().len() + self.suffix.len()
    }

    /// The whole name, if it is one that can be, in the form that writers give it.
    fn name(&self, format: Format) -> Result<Cow<'i, [u8]>, ReadProblem> {
        let Self { index, suffix, .. } = *self;
        let malformed = || ReadProblem::XattrName(format!("{index}:{}", suffix.escape_ascii()));
        let name = match prefix(index).ok_or_else(malformed)? {
            [] => Cow::Borrowed(suffix),
            prefix => Cow::Owned([prefix, suffix].concat()),
        };
        let canonical = split_name(&name, format) == (index, suffix);
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) || !canonical {
            return Err(malformed());
        }
        Ok(name)
    }
}
