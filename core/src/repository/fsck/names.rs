//! Streams, images and refs: that everything a name leads to is there.

use std::collections::HashMap;
use std::os::fd::AsFd;

use rustix::fs::FileType;

use super::{FindingKind, FsckReport, chain, is_absent};
use crate::digest::Digest;
use crate::erofs;
use crate::repository::copy::DEPTH_MAX;
use crate::repository::link::{REFS, object_of, read_link};
use crate::repository::{FileError, Namespace, ObjectError, Repository, names};
use crate::splitstream::{Chunk, Reader, is_splitstream};

impl Repository {
    pub(super) fn check_streams(&self, report: &mut FsckReport) -> Result<(), FileError> {
        // Streams that were opened, also through others, and whether they are complete.
        let mut opened = HashMap::new();
        for (path, digest) in self.check_first_level(Namespace::Streams, report)? {
            report.streams_checked += 1;
            let good = match digest {
                Some(digest) => self.check_stream(&path, digest, 0, &mut opened, report)?,
                None => false,
            };
            report.streams_corrupted += u64::from(!good);
        }
        Ok(())
    }

    /// Checks a stream and the streams it names, `depth` steps from the first, which must be a stream; others may be anything.
    fn check_stream(
        &self,
        path: &str,
        digest: Digest,
        depth: usize,
        opened: &mut HashMap<Digest, bool>,
        report: &mut FsckReport,
    ) -> Result<bool, FileError> {
        if let Some(good) = opened.get(&digest) {
            return Ok(*good);
        }
        // Digests cannot form a circle; if damage made one, it ends here.
        opened.insert(digest, true);
        let good = self.check_new_stream(path, digest, depth, opened, report)?;
        opened.insert(digest, good);
        Ok(good)
    }

    fn check_new_stream(
        &self,
        path: &str,
        digest: Digest,
        depth: usize,
        opened: &mut HashMap<Digest, bool>,
        report: &mut FsckReport,
    ) -> Result<bool, FileError> {
        let mut finding = |kind, detail| {
            report.find(kind, path, Some(detail));
            Ok(false)
        };
        let data = match self.read_object(&digest) {
            Ok(data) => data,
            Err(error) => {
                report.find_bad(FindingKind::StreamOpenFailed, path, digest, Some(chain(&error)));
                return Ok(false);
            }
        };
        if depth > 0 && !is_splitstream(&data) {
            return Ok(true);
        }
        if depth == DEPTH_MAX {
            let detail = format!("more than {DEPTH_MAX} streams lead from one to the next");
            return finding(FindingKind::StreamOpenFailed, detail);
        }
        let stream = match Reader::new(data, self.algorithm()) {
            Ok(stream) => stream,
            Err(error) => return finding(FindingKind::StreamOpenFailed, chain(&error)),
        };
        let mut good = true;
        let mut sizes = HashMap::new();
        for object in stream.object_refs() {
            if let Some(size) = self.object_size(object)? {
                sizes.insert(*object, size);
            } else {
                report.find_bad(FindingKind::MissingObjectRef, path, *object, Some(object.to_string()));
                good = false;
            }
        }
        let mut finding = |kind, detail| {
            report.find(kind, path, Some(detail));
            Ok::<_, FileError>(false)
        };
        let mut merged_size = 0_u64;
        for chunk in stream.chunks() {
            match chunk {
                Ok(Chunk::Inline(bytes)) => merged_size = merged_size.saturating_add(bytes.len() as u64),
                Ok(Chunk::External(object)) => {
                    merged_size = merged_size.saturating_add(sizes.get(&object).copied().unwrap_or(0));
                }
                Err(error) => good = finding(FindingKind::StreamReadFailed, chain(&error))?,
            }
        }
        if good && merged_size != stream.merged_size() {
            let detail = format!("{merged_size} bytes, {} are stated", stream.merged_size());
            good = finding(FindingKind::StreamReadFailed, detail)?;
        }
        for (label, target) in stream.named_refs() {
            if self.object_size(target)?.is_none() {
                let detail = format!("{label}: {target}");
                report.find_bad(FindingKind::MissingNamedRef, path, *target, Some(detail));
                good = false;
            } else {
                good &= self.check_stream(&format!("{path}: {label}"), *target, depth + 1, opened, report)?;
            }
        }
        Ok(good)
    }

    pub(super) fn check_images(&self, report: &mut FsckReport) -> Result<(), FileError> {
        for (path, digest) in self.check_first_level(Namespace::Images, report)? {
            report.images_checked += 1;
            let good = match digest {
                Some(digest) => self.check_image(&path, digest, report)?,
                None => false,
            };
            report.images_corrupted += u64::from(!good);
        }
        Ok(())
    }

    fn check_image(&self, path: &str, digest: Digest, report: &mut FsckReport) -> Result<bool, FileError> {
        let mut finding = |kind, detail| {
            report.find(kind, path, Some(detail));
            Ok(false)
        };
        if !path.ends_with(&format!("/{digest}")) {
            return finding(FindingKind::ImageOpenFailed, format!("the name stands for object {digest}"));
        }
        let image = match self.read_object(&digest) {
            Ok(image) => image,
            Err(error) => {
                let kind = match error {
                    ObjectError::File(_) => FindingKind::ImageReadFailed,
                    _ => FindingKind::ImageOpenFailed,
                };
                report.find_bad(kind, path, digest, Some(chain(&error)));
                return Ok(false);
            }
        };
        let objects = match erofs::objects(&image) {
            Ok(objects) => objects,
            Err(error) => return finding(FindingKind::ImageInvalid, chain(&error)),
        };
        let mut good = true;
        for object in objects {
            if self.object_size(&object)?.is_none() {
                report.find_bad(FindingKind::ImageMissingObject, path, object, Some(object.to_string()));
                good = false;
            }
        }
        Ok(good)
    }

    /// First-level names with the objects that they stand for; `None` where there is none, which is reported.
    fn check_first_level(
        &self,
        namespace: Namespace,
        report: &mut FsckReport,
    ) -> Result<Vec<(String, Option<Digest>)>, FileError> {
        let directory = namespace.directory();
        let listed = names(self.dir.as_fd(), directory).map_err(|error| self.file_error("read", directory, error))?;
        let mut found = Vec::new();
        for name in listed.unwrap_or_default() {
            let path = format!("{directory}/{}", String::from_utf8_lossy(&name));
            if name == REFS.as_bytes() {
                continue;
            }
            let digest = match read_link(self.dir.as_fd(), &path).map(|target| object_of(&target)) {
                Ok(Some(digest)) if self.object_size(&digest)?.is_some() => Some(digest),
                Ok(digest) => {
                    let detail = digest.map(|digest| digest.to_string());
                    report.bad_objects.extend(digest.filter(|digest| digest.algorithm() == self.algorithm()));
                    report.find(FindingKind::BrokenSymlink, &path, detail);
                    None
                }
                Err(_) => {
                    report.find(FindingKind::EntryNotSymlink, &path, None);
                    None
                }
            };
            found.push((path, digest));
        }
        Ok(found)
    }

    pub(super) fn check_refs(&self, report: &mut FsckReport) -> Result<(), FileError> {
        for namespace in [Namespace::Streams, Namespace::Images] {
            let mut directories = vec![format!("{}/{REFS}", namespace.directory())];
            while let Some(directory) = directories.pop() {
                let listed =
                    names(self.dir.as_fd(), &directory).map_err(|error| self.file_error("read", &directory, error))?;
                for name in listed.unwrap_or_default() {
                    let path = format!("{directory}/{}", String::from_utf8_lossy(&name));
                    match self.file_type(&path) {
                        Ok(FileType::Directory) => directories.push(path),
                        Ok(FileType::Symlink) => self.check_ref(namespace, &path, report),
                        Ok(_) => report.find(FindingKind::UnexpectedFileType, &path, None),
                        // Removed by its user just now.
                        Err(error) if is_absent(&error) => {}
                        Err(error) => report.find(FindingKind::StatFailed, &path, Some(chain(&error))),
                    }
                }
            }
        }
        Ok(())
    }

    fn check_ref(&self, namespace: Namespace, path: &str, report: &mut FsckReport) {
        let target = match read_link(self.dir.as_fd(), path) {
            Ok(target) => target,
            Err(errno) => return report.find(FindingKind::StatFailed, path, Some(errno.to_string())),
        };
        let name = target.rsplit('/').next().unwrap_or_default();
        match self.first_level(namespace, name) {
            Ok(Some(_)) => {}
            Ok(None) => {
                report.missing_names.insert((namespace, name.to_owned()));
                report.find(FindingKind::BrokenSymlink, path, Some(name.to_owned()));
            }
            Err(error) => report.find(FindingKind::BrokenSymlink, path, Some(chain(&error))),
        }
    }
}
