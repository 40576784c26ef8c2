//! Signature stores: directories, on this machine or on a web server, with the signatures of many images.
//!
//! ```text
//! <address>/<repository without the registry>@sha256=<digest of the manifest>/signature-1
//!                                                                             signature-2 …
//! ```
//!
//! The first number that is missing ends the list. Nothing but the address is trusted to be what it is: no credentials
//! are sent.

use std::fs::File;
use std::io;
use std::path::Path;

use osupdate_core::oci::ContentDigest;
use reqwest::Url;

use super::error::SignatureProblem;
use super::fetch::{Deadline, FetchError};
use super::registries_d::RegistriesD;
use super::signature::{Located, SIGNATURE_MAX_BYTES, SIGNATURES_MAX, Signature};
use crate::transport::reference::RegistryReference;
use crate::transport::registry::{FileContents, FileServer};

/// The store for one image.
#[derive(Debug)]
pub(super) struct Lookaside {
    /// Ends with the repository's name.
    base: Url,
}

impl Lookaside {
    /// The one that is configured; `None` if there is none.
    pub(super) fn of(reference: &RegistryReference, config: &RegistriesD) -> Result<Option<Self>, FetchError> {
        let Some(address) = config.lookaside(reference) else { return Ok(None) };
        let unusable = || FetchError::Store { url: address.clone(), directory: config.directory.clone() };
        let mut base = Url::parse(&address).map_err(|_| unusable())?;
        if !["file", "http", "https"].contains(&base.scheme())
            || base.scheme() == "file" && base.to_file_path().is_err()
        {
            return Err(unusable());
        }
        base.set_path(&format!("{}/{}", base.path().trim_end_matches('/'), reference.repository));
        Ok(Some(Self { base }))
    }

    /// The address of the signatures of a manifest, for people.
    pub(super) fn place(&self, digest: &ContentDigest) -> String {
        shown(&self.directory(digest))
    }

    fn directory(&self, digest: &ContentDigest) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}@{}={}", url.path(), digest.algorithm(), digest.hex()));
        url
    }

    /// Fetches all signatures of a manifest.
    pub(super) fn fetch(&self, digest: &ContentDigest) -> Result<Vec<Located>, FetchError> {
        let (deadline, directory, place) = (Deadline::start(), self.directory(digest), self.place(digest));
        let server = match self.base.scheme() {
            "file" => None,
            _ => {
                let server = FileServer::new(&self.base);
                Some(server.map_err(|error| FetchError::of_server(error, &directory, place.clone()))?)
            }
        };
        let mut found = Vec::new();
        for number in 1.. {
            let mut url = directory.clone();
            url.set_path(&format!("{}/signature-{number}", url.path()));
            deadline.check(&place)?;
            let contents = match &server {
                None => read(&url, deadline)?,
                Some(server) => get(server, &url)?,
            };
            let Some(contents) = contents else { break };
            if found.len() == SIGNATURES_MAX {
                return Err(FetchError::TooMany { place });
            }
            found.push(located(contents, format!("signature-{number} in {place}")));
        }
        Ok(found)
    }
}

/// The address without a user name and password.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // A file:// address has none.
    let has_none = url.username().is_empty() && url.password().is_none();
    if has_none || shown.set_username("").is_ok() && shown.set_password(None).is_ok() {
        shown.into()
    } else {
        url.host_str().unwrap_or_default().to_owned()
    }
}

/// The signatures of an image in a directory that `skopeo copy` has written: `signature-1` and so on, with the digest in
/// front if there are images for several platforms.
pub(super) fn of_directory(directory: &Path, digest: &ContentDigest) -> Result<Vec<Located>, FetchError> {
    let deadline = Deadline::start();
    let mut found = Vec::new();
    for prefix in [String::new(), format!("{}.", digest.hex())] {
        for number in 1.. {
            let path = directory.join(format!("{prefix}signature-{number}"));
            let Some(contents) = read_path(&path, deadline)? else { break };
            if found.len() == SIGNATURES_MAX {
                return Err(FetchError::TooMany { place: directory.display().to_string() });
            }
            found.push(located(contents, path.display().to_string()));
        }
    }
    Ok(found)
}

fn located(contents: FileContents, place: String) -> Located {
    let signature = match contents {
        FileContents::Whole(bytes) => Signature::from_file(bytes),
        FileContents::TooLarge => Err(SignatureProblem::TooLarge("the file")),
    };
    Located { place, signature }
}

/// Reads a file; `None` if there is none.
fn read(url: &Url, deadline: Deadline) -> Result<Option<FileContents>, FetchError> {
    let Ok(path) = url.to_file_path() else { return Ok(None) };
    read_path(&path, deadline)
}

fn read_path(path: &Path, deadline: Deadline) -> Result<Option<FileContents>, FetchError> {
    let failed = |source| FetchError::Read { path: path.to_owned(), source };
    match File::open(path) {
        Ok(file) => {
            let bytes = deadline.read(file, &path.display().to_string(), failed)?;
            Ok(Some(bytes.map_or(FileContents::TooLarge, FileContents::Whole)))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Gets a file; `None` if there is none.
fn get(server: &FileServer, url: &Url) -> Result<Option<FileContents>, FetchError> {
    server.get(url, SIGNATURE_MAX_BYTES).map_err(|error| FetchError::of_server(error, url, shown(url)))
}
