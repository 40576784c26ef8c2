//! The boot loader of a new system: systemd-boot, out of the image.

use std::io;

use osupdate_core::repository::{ObjectError, Repository};
use osupdate_core::tree::Tree;
use osupdate_efi::Esp;
use osupdate_efi::loader_install::{Architecture, InstallLoaderError, Loader};
use thiserror::Error;

/// Where images have systemd-boot, from their root.
pub(crate) const DIRECTORY: &str = "usr/lib/systemd/boot/efi";

/// How long the menu is shown: enough to choose another deployment by hand.
const TIMEOUT_SECS: u32 = 3;

/// Why the boot loader was not installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// EFI does not know this architecture.
    #[error("there is no EFI boot loader for this architecture")]
    Architecture,
    /// The image has none.
    #[error("the image has no /{DIRECTORY}/{name}; install systemd-boot-efi when building it")]
    Missing {
        /// Name of the file.
        name: String,
    },
    /// It cannot be opened in the repository.
    #[error("cannot open the image's boot loader")]
    Open(#[source] ObjectError),
    /// It cannot be read.
    #[error("cannot read the image's boot loader")]
    Read(#[source] io::Error),
    /// It cannot be written.
    #[error(transparent)]
    Install(#[from] InstallLoaderError),
}

/// The systemd-boot of an image.
#[derive(Clone, Debug)]
pub(crate) struct LoaderFile {
    /// Where it is in the image.
    pub(crate) path: String,
    /// The program.
    pub(crate) program: Vec<u8>,
    architecture: Architecture,
}

impl LoaderFile {
    /// Reads all of an image: the form that its distribution has signed first, then the other one, which its builder may have.
    pub(crate) fn find(repository: &Repository, tree: &Tree) -> Result<Vec<Self>, LoaderError> {
        let architecture = Architecture::native().ok_or(LoaderError::Architecture)?;
        let name = architecture.systemd_boot();
        let mut found = Vec::new();
        for path in [format!("{DIRECTORY}/{name}.signed"), format!("{DIRECTORY}/{name}")] {
            let Some(file) = tree.follow_to_file(&path) else { continue };
            let mut program = Vec::new();
            let mut reader = repository.open_content(file).map_err(LoaderError::Open)?;
            reader.read_to_end(&mut program).map_err(LoaderError::Read)?;
            found.push(Self { path: format!("/{path}"), program, architecture });
        }
        if found.is_empty() { Err(LoaderError::Missing { name }) } else { Ok(found) }
    }

    /// Puts it on a new ESP. `enrols_keys`: there are Secure Boot keys for it to enrol.
    pub(crate) fn install(&self, esp: &Esp, enrols_keys: bool) -> Result<(), LoaderError> {
        let Self { program, architecture, .. } = self;
        let loader = Loader { program, architecture: *architecture, timeout_secs: TIMEOUT_SECS, enrols_keys };
        Ok(esp.install_loader(&loader)?)
    }
}
