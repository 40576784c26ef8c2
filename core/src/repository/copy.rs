//! Copying between repositories: streams and images with all that they lead to.
//!
//! Between repositories of one algorithm every object is copied as it is. Between algorithms the contents of files stay
//! what they are and get other names: so streams and images, which hold these names, are written anew, and the image that
//! comes out is the one that the layers would give.

mod object;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};

use thiserror::Error;

use super::gc::MarkError;
use super::{FileError, ImageError, Namespace, NotWritable, ObjectError, PublishError, RefError, Repository};
use crate::digest::Digest;
use crate::erofs;
use crate::observer::{Event, Observer};
use crate::splitstream::{Chunk, Reader, Writer, is_splitstream};
use crate::tree::{Content, LeafKind};

/// Bytes that tell what an object is.
const HEADER_BYTES: u64 = 32;
/// Most streams that lead from one to the next; images have three. Keeps the stack from being used up.
pub(super) const DEPTH_MAX: usize = 64;

/// How to copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyOptions {
    /// Make hard links where both repositories are on one file system and equally sealed. What happens to the file in one
    /// repository, damage or `chmod`, then happens in the other; else only its blocks are shared, if the file system can.
    pub hard_links: bool,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyReport {
    /// Objects that were there already.
    pub objects_present: u64,
    /// Objects that share their blocks with those of the source.
    pub objects_reflinked: u64,
    /// Objects that are files of the source.
    pub objects_linked: u64,
    /// Objects that were written.
    pub objects_copied: u64,
    /// Size of all objects that were not there.
    pub new_bytes: u64,
    /// Names of streams and images that were made or re-pointed.
    pub names: u64,
}

/// Why something was not copied. Only objects without names are left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// It is not in the source.
    #[error("there is no {name} in the repository that is copied from")]
    NotFound {
        /// The stream or image.
        name: String,
    },
    /// An object of the source cannot be read, or is damaged.
    #[error("cannot read {digest} in the repository that is copied from")]
    Source {
        /// The object.
        digest: Digest,
        /// What is wrong.
        source: ObjectError,
    },
    /// It cannot be told what an object of the source needs.
    #[error("cannot copy what {digest} needs")]
    Parse {
        /// The object.
        digest: Digest,
        /// What is wrong.
        source: MarkError,
    },
    /// Streams name streams without end.
    #[error("cannot copy {digest}: more than {DEPTH_MAX} streams lead from one to the next")]
    Depth {
        /// The first one that is too many.
        digest: Digest,
    },
    /// An image cannot be written with other digests.
    #[error("cannot write image {digest} with digests of the other kind")]
    Erofs {
        /// The image.
        digest: Digest,
        /// What is wrong.
        source: erofs::WriteError,
    },
    /// A stream cannot be written.
    #[error("cannot write the stream of {digest}")]
    Stream {
        /// The stream.
        digest: Digest,
        /// What is wrong.
        source: io::Error,
    },
    /// An object cannot be stored.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An image cannot be stored.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Names were not made.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Refs cannot be read or made.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The repository may not be changed.
    #[error(transparent)]
    NotWritable(#[from] NotWritable),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Repository {
    /// Copies streams and images by their first-level names from another repository, with everything that they lead to.
    /// Durable on return; returns the names that they have here, which differ only for images of another algorithm.
    ///
    /// Every object is proven by its digest before it gets its name. A name that stands for another stream here is
    /// re-pointed, unless that one refers to all that ours does.
    pub fn copy_from(
        &self,
        source: &Repository,
        names: &[(Namespace, String)],
        options: &CopyOptions,
        observer: &dyn Observer,
    ) -> Result<(CopyReport, Vec<String>), CopyError> {
        self.check_writable()?;
        let mut copier = Copier::new(self, source, options);
        let mut copied = Vec::new();
        for (namespace, name) in names {
            let digest = source.first_level(*namespace, name)?;
            let digest =
                digest.ok_or_else(|| CopyError::NotFound { name: format!("{}/{name}", namespace.directory()) })?;
            observer.event(Event::Step(&format!("copying {name}")));
            let target = copier.copy(digest)?;
            copied.push(match namespace {
                Namespace::Streams => name.clone(),
                Namespace::Images => target.to_string(),
            });
        }
        copier.publish()?;
        Ok((copier.report, copied))
    }
}

/// What an object is.
enum Kind {
    Stream,
    Image,
    Other,
}

/// A copy in progress.
pub(super) struct Copier<'a> {
    target: &'a Repository,
    source: &'a Repository,
    options: &'a CopyOptions,
    /// Digests here by digests in the source: of what was copied with all that it leads to.
    done: HashMap<Digest, Digest>,
    /// The same, of what was copied as the contents of a file. They may be those of a stream or image, which is then
    /// something else: what that leads to is not here, and in a repository of another kind it has another digest.
    leaves: HashMap<Digest, Digest>,
    /// Streams that are being copied.
    depth: usize,
    /// Images as they are here.
    images: Vec<Digest>,
    pub(super) report: CopyReport,
}

impl<'a> Copier<'a> {
    pub(super) fn new(target: &'a Repository, source: &'a Repository, options: &'a CopyOptions) -> Self {
        let report = CopyReport::default();
        let (done, leaves) = (HashMap::new(), HashMap::new());
        Self { target, source, options, done, leaves, depth: 0, images: Vec::new(), report }
    }

    /// Copies an object and everything that it leads to; returns its digest here.
    pub(super) fn copy(&mut self, digest: Digest) -> Result<Digest, CopyError> {
        if let Some(done) = self.done.get(&digest) {
            return Ok(*done);
        }
        let copied = match self.kind(&digest)? {
            Kind::Stream if self.depth == DEPTH_MAX => return Err(CopyError::Depth { digest }),
            Kind::Stream => {
                self.depth += 1;
                let copied = self.copy_stream(digest)?;
                self.depth -= 1;
                copied
            }
            Kind::Image => self.copy_image(digest)?,
            Kind::Other => self.copy_leaf(&digest)?,
        };
        self.done.insert(digest, copied);
        Ok(copied)
    }

    fn same_algorithm(&self) -> bool {
        self.source.algorithm() == self.target.algorithm()
    }

    fn kind(&self, digest: &Digest) -> Result<Kind, CopyError> {
        let failed = |source| CopyError::Source { digest: *digest, source };
        let file = File::from(self.source.open_object(digest).map_err(failed)?);
        let mut header = Vec::new();
        file.take(HEADER_BYTES)
            .read_to_end(&mut header)
            .map_err(|error| failed(self.source.object_error("read", digest, error).into()))?;
        Ok(match is_splitstream(&header) {
            true => Kind::Stream,
            false if erofs::uses_acl(&header).is_some() => Kind::Image,
            false => Kind::Other,
        })
    }

    fn read(&self, digest: &Digest) -> Result<Vec<u8>, CopyError> {
        self.source.read_object(digest).map_err(|source| CopyError::Source { digest: *digest, source })
    }

    fn copy_stream(&mut self, digest: Digest) -> Result<Digest, CopyError> {
        let parse = |source| CopyError::Parse { digest, source: MarkError::Stream { digest, source } };
        let write = |source| CopyError::Stream { digest, source };
        let stream = Reader::new(self.read(&digest)?, self.source.algorithm()).map_err(parse)?;
        for object in stream.object_refs() {
            self.copy_leaf(object)?;
        }
        let mut named = Vec::new();
        for (label, object) in stream.named_refs() {
            named.push((label, self.copy(*object)?));
        }
        if self.same_algorithm() {
            return self.copy_object(&digest);
        }
        let mut writer = Writer::new(self.target.algorithm(), stream.content_type()).map_err(write)?;
        for (label, object) in named {
            writer.named_ref(label, object);
        }
        for chunk in stream.chunks() {
            match chunk.map_err(parse)? {
                Chunk::Inline(bytes) => writer.inline(&bytes),
                Chunk::External(object) => {
                    let size = self.source.object_size(&object)?.unwrap_or(0);
                    writer.external(self.copy_leaf(&object)?, size).map_err(write)?;
                }
            }
        }
        for object in stream.object_refs() {
            writer.object_ref(self.copy_leaf(object)?);
        }
        let stored = self.target.put_object(&writer.finish().map_err(write)?)?;
        self.count_written(&stored);
        Ok(stored.digest)
    }

    fn copy_image(&mut self, digest: Digest) -> Result<Digest, CopyError> {
        let image = self.read(&digest)?;
        let parse = |source| CopyError::Parse { digest, source: MarkError::Image { digest, source } };
        for object in erofs::objects(&image).map_err(parse)? {
            self.copy_leaf(&object)?;
        }
        let copied = if self.same_algorithm() {
            self.copy_object(&digest)?
        } else {
            let (mut tree, format) = erofs::read(&image).map_err(parse)?;
            for leaf in &mut tree.leaves {
                if let LeafKind::Regular(Content::External { size, payload, digest }) = &mut leaf.kind {
                    let named = payload.as_deref().and_then(|path| str::from_utf8(path).ok());
                    let object = digest.or_else(|| named.and_then(|path| Digest::from_object_path(path).ok()));
                    if let Some(object) = object {
                        leaf.kind = LeafKind::Regular(Content::object(self.copy_leaf(&object)?, *size));
                    }
                }
            }
            let image = erofs::write(&tree, format).map_err(|source| CopyError::Erofs { digest, source })?;
            let stored = self.target.put_object(&image)?;
            self.count_written(&stored);
            stored.digest
        };
        self.images.push(copied);
        Ok(copied)
    }

    /// Copies an object that is not opened, whatever it looks like.
    fn copy_leaf(&mut self, digest: &Digest) -> Result<Digest, CopyError> {
        if let Some(done) = self.leaves.get(digest) {
            return Ok(*done);
        }
        let copied = self.copy_object(digest)?;
        self.leaves.insert(*digest, copied);
        Ok(copied)
    }

    /// Makes the names that the source has for what was copied.
    pub(super) fn publish(&mut self) -> Result<(), CopyError> {
        let images: Vec<(String, Digest)> = self.images.iter().map(|image| (image.to_string(), *image)).collect();
        let new_images = self.changed(Namespace::Images, images)?;
        let names: Vec<_> = new_images.iter().map(|(name, image)| (name.as_str(), *image)).collect();
        self.target.publish(Namespace::Images, &names)?;
        let mut streams = BTreeMap::new();
        for name in self.source.stream_names()? {
            match self.source.stream(&name) {
                Ok(digest) => {
                    if let Some(copied) = digest.and_then(|digest| self.done.get(&digest)) {
                        streams.insert(name, *copied);
                    }
                }
                // It is none of those that were copied by their names.
                Err(error) => tracing::warn!("the name {name} in the source stands for nothing, ignoring it: {error}"),
            }
        }
        let new_streams = self.changed(Namespace::Streams, streams)?;
        self.target.publish_streams(&new_streams)?;
        self.report.names += (new_images.len() + new_streams.len()) as u64;
        Ok(())
    }

    /// Those of the names that have to be made or re-pointed.
    fn changed(
        &self,
        namespace: Namespace,
        names: impl IntoIterator<Item = (String, Digest)>,
    ) -> Result<Vec<(String, Digest)>, CopyError> {
        let mut changed = Vec::new();
        for (name, digest) in names {
            match self.target.first_level(namespace, &name)? {
                Some(existing) if self.refers_to_as_much(&existing, &digest, &mut HashSet::new()) => {}
                _ => changed.push((name, digest)),
            }
        }
        Ok(changed)
    }

    /// Whether a stream that is here has all labels of another one, and what it has there has all labels of that.
    fn refers_to_as_much(&self, existing: &Digest, new: &Digest, seen: &mut HashSet<(Digest, Digest)>) -> bool {
        if existing == new || !seen.insert((*existing, *new)) {
            return true;
        }
        let labels = |digest: &Digest| match self.target.references(*digest) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!("cannot read {digest}, replacing its name: {error}");
                None
            }
        };
        let (Some(existing), Some(new)) = (labels(existing), labels(new)) else { return false };
        let complete = existing.named.iter().map(|(_, digest)| digest).chain(&existing.objects);
        let mut complete = complete.map(|digest| matches!(self.target.has_object(digest), Ok(true)));
        let existing: HashMap<_, _> = existing.named.iter().map(|(label, digest)| (label, digest)).collect();
        complete.all(|there| there)
            && new.named.iter().all(|(label, new)| {
                existing.get(label).is_some_and(|existing| self.refers_to_as_much(existing, new, seen))
            })
    }
}
