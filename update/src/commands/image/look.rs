//! An image that is served: from a repository, or fetched for the purpose.

use std::path::PathBuf;

use anyhow::Context as _;
use osupdate_core::repository::Repository;
use osupdate_core::{Algorithm, Digest};

use super::fetch_options::FetchOptions;
use super::find_erofs;
use super::scratch::{self, Scratch};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::transport::ImageReference;

/// Where it is.
pub(super) enum Look {
    Stored(Repository, Digest),
    Fetched(Scratch, Digest),
}

impl Look {
    /// Finds an image in the repository. If it is not there and its name is a reference with a transport, it is fetched.
    pub(super) fn find(
        name: &str,
        boot: bool,
        repository: &RepositoryPath,
        fetch: &FetchOptions,
        context: &Context,
    ) -> anyhow::Result<Self> {
        if !ImageReference::has_transport(name) {
            let repository = repository.open()?;
            let digest = find_erofs(&repository, name, boot)?;
            return Ok(Self::Stored(repository, digest));
        }
        if let Some(stored) = repository.open_if_there()? {
            match find_erofs(&stored, name, boot) {
                Ok(digest) => return Ok(Self::Stored(stored, digest)),
                Err(error) => tracing::debug!("{name} is not in the repository: {error}"),
            }
        }
        let algorithm = repository.wanted_algorithm().unwrap_or(Algorithm::Sha512);
        let (scratch, image) = Scratch::fetch(&name.parse()?, algorithm, boot, fetch, context)?;
        let digest = if boot { image.boot_image } else { image.image };
        Ok(Self::Fetched(scratch, digest.context("no EROFS image was made")?))
    }

    /// What another process needs to serve it: the path of its repository, the image, and what is to be removed at the end; if there is
    /// that, signals wait: see [`Scratch::keep`].
    pub(super) fn hand_over(self) -> anyhow::Result<(PathBuf, Digest, Option<PathBuf>)> {
        Ok(match self {
            Self::Stored(repository, digest) => (repository.path().to_owned(), digest, None),
            Self::Fetched(scratch, digest) => {
                let dir = scratch.keep()?;
                (scratch::repository(&dir), digest, Some(dir))
            }
        })
    }
}
