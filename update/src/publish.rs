//! Publishing images of the repository as a tree of plain files, which any web server can serve.
//!
//! Everything that a summary names is in the tree, whole and on disk, before that summary is: readers always see a whole
//! tree, whenever a publication stops. Files are named by what they hold, so that only new ones are written, and none is ever
//! changed but the summary.
//!
#![doc = include_str!("../HTTP.md")]

mod before;
mod history;
mod image;
mod key;
mod name;
mod object;
mod tree;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osupdate_core::Digest;
use osupdate_core::observer::{Event, Observer};
use osupdate_core::oci::{ContentDigest, OpenLayerError, StoreError, Stored, open_any};
use osupdate_core::published::{
    ChunkError, ChunkerError, Envelope, IndexError, PublishedImage, Summary, SummaryError, VERSION,
};
use osupdate_core::repository::{FileError, MergeError, ObjectError, Repository, SeenSerial};
use osupdate_core::splitstream::ReadError;
use osupdate_core::{Algorithm, published};
use osupdate_deploy::timestamp;
use thiserror::Error;

use before::Before;
use history::History;
pub use history::Pruned;
use image::Image;
pub use key::{SummaryKey, SummaryKeyError};
pub use name::{Publication, TreeName};
use object::Objects;
use tree::Tree;
pub use tree::TreeError;

/// What to publish, and how.
#[derive(Debug)]
pub struct PublishOptions<'a> {
    /// The images. Those that are in the tree under other names, or for other platforms, stay in it.
    pub images: &'a [Publication],
    /// None but these.
    pub only: bool,
    /// Names that are taken out of the tree, each with this tag, or with all.
    pub remove: &'a [(String, Option<String>)],
    /// For how long the summary is to be believed; without end if not given.
    pub expires: Option<Duration>,
    /// What signs the summary.
    pub key: Option<&'a SummaryKey>,
    /// Put a summary without a signature in the place of one that has some.
    pub unsigned: bool,
    /// Keep the images of a summary whose time is over, also if the repository does not know whether it is the last one.
    pub allow_expired: bool,
    /// Also have all objects as they are, and layers as split streams, for clients that know no others.
    pub plain_objects: bool,
    /// Level of zstd for objects.
    pub level: i32,
    /// Remove files that no summary has named for so long.
    pub prune: Option<Duration>,
    /// How long to wait for others who publish to the same tree.
    pub lock_timeout: Duration,
}

/// What was published.
#[derive(Debug)]
pub struct Published {
    /// The summary.
    pub summary: Summary,
    /// Distinct objects of the images that were named.
    pub objects: u64,
    /// Files that were not there before, the summary apart.
    pub new_files: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Files that were removed.
    pub pruned: Pruned,
}

/// Why nothing was published: but for [`PublishError::Prune`], the summary is as it was, and readers find all that it names.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// All was published, and files that nothing needs cannot be removed.
    #[error("everything is published, but what is no longer needed cannot be removed")]
    Prune(#[source] Box<PublishError>),
    /// An image cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An artifact was named.
    #[error("{0} is an artifact, not an image; artifacts are published with the images that they belong to")]
    Artifact(String),
    /// A layer cannot be opened.
    #[error(transparent)]
    OpenLayer(#[from] OpenLayerError),
    /// A layer cannot be cut.
    #[error("cannot read layer {diff_id}")]
    Cut {
        /// The layer.
        diff_id: ContentDigest,
        /// Why.
        source: ChunkerError,
    },
    /// A document is not text.
    #[error("the manifest or configuration of {0} is not text")]
    NotText(ContentDigest),
    /// An artifact cannot be read.
    #[error("cannot read artifact {digest}")]
    Attachment {
        /// Its manifest.
        digest: ContentDigest,
        /// Why.
        source: MergeError,
    },
    /// More artifacts belong to an image than an index can have.
    #[error("more than {} artifacts belong to image {image}", published::ATTACHMENTS_MAX)]
    Attachments {
        /// The image.
        image: ContentDigest,
    },
    /// An object cannot be used.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object cannot be examined.
    #[error(transparent)]
    File(#[from] FileError),
    /// An object cannot be read.
    #[error("cannot read object {digest}")]
    ReadObject {
        /// The object.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// Data cannot be compressed.
    #[error("cannot compress what is to be published")]
    Compress(#[source] io::Error),
    /// The index of an image is beyond what clients accept.
    #[error("no client would accept the index of {name}")]
    Refused {
        /// The image.
        name: String,
        /// Why.
        source: IndexError,
    },
    /// An index cannot be written, or read where files are removed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A chunk cannot be read where files are removed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A split stream cannot be read where files are removed.
    #[error("cannot read {}", path.display())]
    Stream {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// A file is missing where files are removed.
    #[error("{} is missing, so that what is still needed is not known", path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
    },
    /// The list of earlier publications is damaged.
    #[error("cannot use {}", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The tree cannot be read or written.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The summary would not be accepted.
    #[error("the summary would not be accepted")]
    Summary(#[from] SummaryError),
    /// The summary cannot be written.
    #[error("cannot write the summary")]
    Json(#[from] serde_json::Error),
    /// The summary cannot be signed.
    #[error(transparent)]
    Key(#[from] SummaryKeyError),
    /// There would be nothing in the tree.
    #[error("nothing was published to {} yet, and no image is named", .0.display())]
    Nothing(PathBuf),
    /// There is nothing of this name that could be taken out.
    #[error("the tree has no image {0}")]
    NotThere(String),
    /// Two images are to have one name.
    #[error("two images are to be {name} for {platform}: {first} and {second}")]
    SameName {
        /// The name.
        name: TreeName,
        /// The platform of both.
        platform: String,
        /// One of them.
        first: ContentDigest,
        /// The other.
        second: ContentDigest,
    },
    /// The tree is that of a repository with other digests.
    #[error("{} has objects with {found} digests, the repository has {expected}", path.display())]
    Algorithm {
        /// The tree.
        path: PathBuf,
        /// Its algorithm.
        found: String,
        /// That of the repository.
        expected: Algorithm,
    },
    /// A signature would be lost.
    #[error("the summary in {} is signed, and the new one would not be", .0.display())]
    WasSigned(PathBuf),
    /// What the summary says may be from anybody.
    #[error("the summary in {} is not signed with this key, so that the images that it names cannot be signed for", .0.display())]
    NotOurs(PathBuf),
    /// An old summary is in the place of the last one.
    #[error("{} has serial {serial}, and one with serial {} was published: somebody has put an old one there", path.display(), seen.serial)]
    Replayed {
        /// The summary.
        path: PathBuf,
        /// Its serial.
        serial: u64,
        /// What was published.
        seen: SeenSerial,
    },
    /// The summary may be an old one.
    #[error(
        "the time of {} ended at {expires}, and this repository does not know whether it is the last one that was published",
        path.display()
    )]
    Expired {
        /// The summary.
        path: PathBuf,
        /// When.
        expires: String,
    },
    /// The last serial leaves none that are higher.
    #[error("{} has serial {serial}, which no publication can have come to", path.display())]
    Serial {
        /// The summary, or where the repository remembers it.
        path: PathBuf,
        /// Its serial.
        serial: u64,
    },
}

impl PublishError {
    /// The next step for the user.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Prune(error) => return error.hint(),
            Self::Tree(error) => return error.hint(),
            Self::Key(error) => return error.hint().map(str::to_owned),
            Self::Store(StoreError::NotFound { .. }) => "see what is there with: osupdate image list".to_owned(),
            Self::Nothing(_) => "name images, or --all".to_owned(),
            Self::Refused { .. } => {
                "nothing was published: the image has too many files, or artifacts that belong to it are too large".to_owned()
            }
            Self::SameName { .. } => "give each a name of its own: IMAGE=NAME[:TAG]".to_owned(),
            Self::Algorithm { .. } => "publish to a directory of its own".to_owned(),
            Self::WasSigned(_) => "give --sign-key, or --unsigned if clients shall see no signature from now on".to_owned(),
            Self::NotOurs(_) => "name all images that are to be there, and give --only".to_owned(),
            Self::Replayed { seen, .. } => format!(
                "find out who can write there, then put the last summary back, or name all images that are to be there and give \
                 --only; if you have restored the tree yourself, remove {}",
                seen.file.display()
            ),
            Self::Expired { .. } => "if you know that it is, give --allow-expired; if not, name all images that are to be there, and \
                                     give --only"
                .to_owned(),
            Self::Serial { path, .. } => format!(
                "somebody else has written it, or the clock was wrong: remove {}, and publish anew with all images that are to be there",
                path.display()
            ),
            Self::Index(_) | Self::Chunk(_) | Self::Stream { .. } | Self::Incomplete { .. } => {
                "nothing was removed; name all images that are to be there once more, without --prune, after removing the \
                 damaged file"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

/// Path of the split stream of a layer, as the reference implementation's client asks for it.
fn stream_path(diff_id: &ContentDigest) -> String {
    format!("streams/oci-layer-{diff_id}")
}

/// Publishes images in a directory, which is made if need be. Durable on return.
///
/// # Errors
/// When something cannot be read or written, or the directory is something else. Files that no summary names may be left, which
/// the next publication uses.
pub fn publish(
    repository: &Repository,
    directory: &Path,
    options: &PublishOptions<'_>,
    observer: &dyn Observer,
) -> Result<Published, PublishError> {
    let mut images = Vec::new();
    for publication in options.images {
        let Stored::Image(stored) = open_any(repository, &publication.image)? else {
            return Err(PublishError::Artifact(publication.image.clone()));
        };
        images.push((&publication.name, stored));
    }
    let tree = Tree::open(directory, options.lock_timeout, observer)?;
    let before = Before::read(&tree, directory, repository, options)?;
    if before.summary.is_none() && images.is_empty() {
        return Err(PublishError::Nothing(directory.to_owned()));
    }
    if options.expires.is_none() && before.summary.as_ref().is_some_and(|summary| summary.expires.is_some()) {
        observer.event(Event::Warning("the summary before had an end, this one has none; give --expires to set one"));
    }
    let now = timestamp::now_secs();
    let serial = before.next_serial(&tree, now)?;
    let (objects, mut known) = (
        Objects { repository, tree: &tree, level: options.level, plain: options.plain_objects, observer },
        HashMap::new(),
    );
    let mut named: Vec<PublishedImage> = Vec::new();
    for (name, stored) in &images {
        observer.event(Event::Step(&format!("publishing {name}")));
        let entry = Image { objects: &objects, name, stored }.publish(&mut known)?;
        match named.iter().find(|other| is_same(other, &entry)) {
            Some(other) if other.manifest == entry.manifest => {}
            Some(other) => {
                return Err(PublishError::SameName {
                    name: (*name).clone(),
                    platform: entry.platform,
                    first: other.manifest,
                    second: entry.manifest,
                });
            }
            None => named.push(entry),
        }
    }

    let mut stays = if options.only { Vec::new() } else { before.images() };
    stays.retain(|image| !named.iter().any(|new| is_same(new, image)));
    for (name, tag) in options.remove {
        let left = stays.len();
        stays.retain(|image| image.name != *name || tag.as_ref().is_some_and(|tag| image.tag != *tag));
        if left == stays.len() && !options.only {
            let tag = tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
            return Err(PublishError::NotThere(format!("{name}{tag}")));
        }
    }
    stays.extend(named);
    stays.sort_by(|a, b| (&a.name, &a.tag, &a.platform).cmp(&(&b.name, &b.tag, &b.platform)));
    let expires = options.expires.map(|holds| {
        let holds = i64::try_from(holds.as_secs()).unwrap_or(i64::MAX);
        timestamp::format(now.saturating_add(holds))
    });
    let summary = Summary {
        version: VERSION,
        serial,
        created: timestamp::format(now),
        expires,
        algorithm: repository.algorithm().fsverity_name().to_owned(),
        images: stays,
    };
    let payload = serde_json::to_vec(&summary)?;
    Summary::parse(&payload)?;
    let mut envelope = Envelope { payload, signatures: Vec::new() };
    if let Some(key) = options.key {
        key.sign(&mut envelope)?;
    }

    let mut history = History::read(&tree)?;
    if let Some(before) = &before.summary {
        let current = |image: &&PublishedImage| !summary.images.iter().any(|new| new.index == image.index);
        history.note(before.images.iter().filter(current).map(|image| &image.index), now);
        history.write(&tree)?;
    }
    tree.replace_summary(&envelope.to_file()?)?;
    before.remember(repository, serial, observer);
    let (new_files, new_bytes) = tree.written();
    let pruned = match options.prune {
        Some(grace) => {
            let grace = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
            let pruned = history.prune(&tree, &summary, repository.algorithm(), now, grace);
            pruned.map_err(|error| PublishError::Prune(Box::new(error)))?
        }
        None => Pruned::default(),
    };
    Ok(Published { summary, objects: known.len() as u64, new_files, new_bytes, pruned })
}

fn is_same(one: &PublishedImage, other: &PublishedImage) -> bool {
    (&one.name, &one.tag, &one.platform) == (&other.name, &other.tag, &other.platform)
}
