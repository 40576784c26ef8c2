//! One image, put into the tree with all that it needs.

use std::collections::{HashMap, HashSet};

use osupdate_core::Digest;
use osupdate_core::observer::Event;
use osupdate_core::oci::{
    ContentDigest, Platform, Stored, StoredArtifact, StoredImage, documents, list, open_any, open_layer, referrers,
};
use osupdate_core::published::{
    ATTACHED_BLOB_MAX_BYTES, ATTACHMENTS_MAX, AttachedBlob, Attachment, Index, Part, PublishedFile, PublishedImage,
    PublishedLayer, VERSION, chunk_path, chunks, encode, index_path,
};

use super::name::TreeName;
use super::object::Objects;
use super::{PublishError, stream_path};

/// Level of zstd for chunks: they are small, and fetched by everybody.
const CHUNK_LEVEL: i32 = 19;

/// An image that is being published.
pub(super) struct Image<'a> {
    pub(super) objects: &'a Objects<'a>,
    pub(super) name: &'a TreeName,
    pub(super) stored: &'a StoredImage,
}

/// The objects of an image in the order of first use.
#[derive(Default)]
struct Used {
    seen: HashSet<Digest>,
    order: Vec<Digest>,
}

impl Used {
    fn add(&mut self, digest: Digest) {
        if self.seen.insert(digest) {
            self.order.push(digest);
        }
    }
}

impl Image<'_> {
    /// Writes what is missing of it. What is fetched of objects is noted in `known`.
    pub(super) fn publish(&self, known: &mut HashMap<Digest, u64>) -> Result<PublishedImage, PublishError> {
        let Objects { repository, tree, .. } = *self.objects;
        let digest = self.stored.manifest_digest;
        let (manifest, config) = documents(repository, &digest)?;
        let mut used = Used::default();
        let mut layers = Vec::with_capacity(self.stored.layers.len());
        for (diff_id, _) in &self.stored.layers {
            layers.push(self.layer(diff_id, &mut used, known)?);
        }
        self.objects.publish(&used.order, known)?;
        let index = Index {
            version: VERSION,
            manifest: text(manifest, &digest)?,
            config: text(config, &digest)?,
            layers,
            objects: used.order.iter().map(|object| known.get(object).copied().unwrap_or(0)).collect(),
            attachments: self.attachments()?,
        };
        let (name, file) = index.to_file()?;
        // What no client would accept must not get a name that others then find there.
        Index::from_file(&file, &name)
            .map_err(|source| PublishError::Refused { name: self.name.to_string(), source })?;
        let size = tree.add(&index_path(&name), || Ok(file))?;
        Ok(PublishedImage {
            name: self.name.name.clone(),
            tag: self.name.tag.clone(),
            platform: platform(self.stored).to_string(),
            manifest: digest,
            index: PublishedFile { digest: name, size },
        })
    }

    fn layer(
        &self,
        diff_id: &ContentDigest,
        used: &mut Used,
        known: &mut HashMap<Digest, u64>,
    ) -> Result<PublishedLayer, PublishError> {
        let Objects { repository, tree, .. } = *self.objects;
        let diff_id = *diff_id;
        let layer = open_layer(repository, &diff_id)?;
        let mut names = Vec::new();
        for parts in chunks(repository, &layer.stream) {
            let parts = parts.map_err(|source| PublishError::Cut { diff_id, source })?;
            let bytes = encode(&parts);
            let name = ContentDigest::sha256(&bytes);
            tree.add(&chunk_path(&name), || zstd::bulk::compress(&bytes, CHUNK_LEVEL))?;
            names.push(name);
            for part in parts {
                if let Part::External { digest, .. } = part {
                    used.add(digest);
                }
            }
        }
        if self.objects.plain {
            let stream = repository.read_object(&layer.digest)?;
            self.objects.publish(layer.stream.object_refs(), known)?;
            tree.add(&stream_path(&diff_id), || Ok(stream))?;
        }
        Ok(PublishedLayer { diff_id, chunks: names })
    }

    /// The artifacts that belong to the image: those that refer to it, and signatures under the tag that is made of its digest.
    fn attachments(&self) -> Result<Vec<Attachment>, PublishError> {
        let repository = self.objects.repository;
        let image = self.stored.manifest_digest;
        let mut found: Vec<_> = referrers(repository, &image)?.into_iter().map(|digest| (None, digest)).collect();
        let tag = format!("{}-{}.sig", image.algorithm(), image.hex());
        for (name, digest) in list(repository)? {
            let is_tag = name.rsplit(['/', ':']).next() == Some(&tag);
            if is_tag && !found.iter().any(|(tag, other)| tag.is_some() && *other == digest) {
                found.push((Some(tag.clone()), digest));
            }
        }
        let mut attachments = Vec::new();
        for (tag, digest) in found {
            if let Stored::Artifact(artifact) = open_any(repository, &digest.to_string())? {
                attachments.extend(self.attachment(tag, &artifact)?);
            }
        }
        if attachments.len() > ATTACHMENTS_MAX {
            return Err(PublishError::Attachments { image });
        }
        Ok(attachments)
    }

    fn attachment(&self, tag: Option<String>, artifact: &StoredArtifact) -> Result<Option<Attachment>, PublishError> {
        let repository = self.objects.repository;
        let digest = artifact.manifest_digest;
        let (manifest, config) = documents(repository, &digest)?;
        let is_too_large = |bytes: u64| {
            let too_large = bytes > ATTACHED_BLOB_MAX_BYTES as u64;
            if too_large {
                let text = format!(
                    "{digest} ({}) of {} has {bytes} bytes and is not published: only what has at most \
                     {ATTACHED_BLOB_MAX_BYTES} is",
                    artifact.artifact_type, self.name,
                );
                self.objects.observer.event(Event::Warning(&text));
            }
            too_large
        };
        if is_too_large(config.len() as u64) {
            return Ok(None);
        }
        let mut blobs = vec![AttachedBlob { digest: ContentDigest::sha256(&config), data: config }];
        for (diff_id, _) in &artifact.layers {
            let stream = open_layer(repository, diff_id)?.stream;
            if is_too_large(stream.merged_size()) {
                return Ok(None);
            }
            let mut data = Vec::new();
            repository
                .write_merged(&stream, &mut data)
                .map_err(|source| PublishError::Attachment { digest, source })?;
            if blobs.iter().all(|blob| blob.digest != *diff_id) {
                blobs.push(AttachedBlob { digest: *diff_id, data });
            }
        }
        Ok(Some(Attachment { tag, manifest: text(manifest, &digest)?, blobs }))
    }
}

fn text(document: Vec<u8>, digest: &ContentDigest) -> Result<String, PublishError> {
    String::from_utf8(document).map_err(|_| PublishError::NotText(*digest))
}

/// What an image runs on.
pub(super) fn platform(image: &StoredImage) -> Platform {
    Platform {
        architecture: image.config.architecture().to_string(),
        os: image.config.os().to_string(),
        variant: image.config.variant().clone().filter(|variant| !variant.is_empty()),
    }
}
