//! One object: by a hard link, by sharing its blocks, or byte by byte.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::AsFd as _;

use rustix::fs::{AtFlags, CWD, fstat, ioctl_ficlone, linkat};
use rustix::io::Errno;

use super::{Copier, CopyError};
use crate::digest::Digest;
use crate::fsverity::digest_reader;
use crate::proc_fd;
use crate::repository::object::Existing;
use crate::repository::temporary::Temporary;
use crate::repository::{OBJECTS, ObjectError, StoredObject, Verity, make_directory};

impl Copier<'_> {
    /// Copies one object as bytes; returns its digest here, which is the same unless the algorithms differ.
    pub(crate) fn copy_object(&mut self, digest: &Digest) -> Result<Digest, CopyError> {
        // What is here may be good where the source is damaged, and damaged in the same way as the source.
        let existing = match self.same_algorithm() {
            true => self.target.check_existing(digest)?,
            false => Existing::Nothing,
        };
        if let Existing::Good = existing {
            self.report.objects_present += 1;
            return Ok(*digest);
        }
        let failed = |source: ObjectError| CopyError::Source { digest: *digest, source };
        let file = File::from(self.source.open_object(digest).map_err(failed)?);
        let read_error = |error: io::Error| failed(self.source.object_error("read", digest, error).into());
        let size = fstat(&file).map_err(|errno| read_error(errno.into()))?.st_size;
        let size_bytes = u64::try_from(size).unwrap_or(0);
        if let Existing::Nothing = existing
            && self.same_algorithm()
            && self.options.hard_links
            && self.hard_link(digest, &file).map_err(read_error)?
        {
            self.report.objects_linked += 1;
            self.report.new_bytes += size_bytes;
            return Ok(*digest);
        }

        let write_error = |error: io::Error| self.target.file_error("write an object in", OBJECTS, error);
        let objects = self.target.objects_for_writing()?;
        let mut temporary = Temporary::create(objects).map_err(|errno| write_error(errno.into()))?;
        let reflinked = ioctl_ficlone(temporary.file(), &file).is_ok();
        if !reflinked {
            (&file).rewind().map_err(read_error)?;
            io::copy(&mut &file, &mut temporary.file()).map_err(write_error)?;
        }
        // Shared blocks come past the check of the source's file, and what was copied may have been cut short.
        temporary.file().rewind().map_err(write_error)?;
        let found = digest_reader(self.source.algorithm(), temporary.file()).map_err(write_error)?;
        if found != *digest {
            return Err(failed(ObjectError::Mismatch { digest: *digest, found }));
        }
        let name = if self.same_algorithm() {
            *digest
        } else {
            temporary.file().rewind().map_err(write_error)?;
            digest_reader(self.target.algorithm(), temporary.file()).map_err(write_error)?
        };
        if let Some(found) = self.target.seal(&mut temporary)?
            && found != name
        {
            return Err(ObjectError::Mismatch { digest: name, found }.into());
        }
        temporary.file().rewind().map_err(write_error)?;
        let existing = self.target.existing(&name, size_bytes, &mut temporary.file())?;
        let stored = StoredObject { digest: name, size_bytes, new: false };
        let stored = self.target.publish_object(&mut temporary, stored, &existing)?;
        if stored.new && reflinked {
            self.report.objects_reflinked += 1;
            self.report.new_bytes += size_bytes;
        } else {
            self.count_written(&stored);
        }
        Ok(name)
    }

    /// Counts an object that was written byte by byte.
    pub(super) fn count_written(&mut self, stored: &StoredObject) {
        if stored.new {
            self.report.objects_copied += 1;
            self.report.new_bytes += stored.size_bytes;
        } else {
            self.report.objects_present += 1;
        }
    }

    /// Gives the source's file the same name here; false where that cannot be. Only between repositories that are both
    /// sealed or both not: to seal the source's file would change the source.
    fn hard_link(&self, digest: &Digest, file: &File) -> io::Result<bool> {
        if self.source.verity() != self.target.verity() {
            return Ok(false);
        }
        if self.source.verity() == Verity::Unverified {
            (&*file).rewind()?;
            if digest_reader(self.source.algorithm(), file)? != *digest {
                return Ok(false);
            }
        }
        let path = digest.object_path();
        let objects = self.target.objects_for_writing().map_err(|error| error.source)?;
        make_directory(objects, &path[..2])?;
        match linkat(CWD, proc_fd::path(file.as_fd()), objects, &path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(errno) => {
                // Another file system or mount, no such links, too many of them: all of these can be copied.
                if !matches!(errno, Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::EXIST) {
                    tracing::debug!("cannot link object {digest}: {errno}, copying it");
                }
                Ok(false)
            }
        }
    }
}
