//! [`LocalSigner`]: addons with kernel arguments that are made and signed on this machine.
//!
//! An addon is a UKI without a kernel. The boot stub adds its command line to the one that is sealed, if firmware accepts its
//! signature: so with Secure Boot on, the key must be one that this machine trusts, and that is looked at before it is written.

use std::io::Read as _;
use std::path::PathBuf;

use osupdate_core::repository::Repository;
use osupdate_core::tree::Tree;
use osupdate_efi::authenticode::{SignError, Signer};
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::secure_boot::{Refused, SecureBoot};
use osupdate_efi::uki::{BuildError, Builder};
use thiserror::Error;

/// Where images have the stub of addons, from their root.
const STUBS: &str = "usr/lib/systemd/boot/efi";

/// Largest stub that is read.
const STUB_MAX_BYTES: u64 = 1 << 20;

/// Why an addon was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalAddonError {
    /// There is no local key.
    #[error("this machine has no key of its own to sign kernel arguments with: there is no {}", path.display())]
    NoKey {
        /// What is not there.
        path: PathBuf,
    },
    /// Others than its owner can read the key.
    #[error("the key {} is not for its owner alone", path.display())]
    KeyMode {
        /// The key.
        path: PathBuf,
    },
    /// Key or certificate cannot be used.
    #[error("cannot use the key of this machine")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The image has no stub for addons.
    #[error("the image has no /{STUBS}/{name}, of which addons are made; install systemd-boot-efi when building it")]
    NoStub {
        /// Name of the stub.
        name: String,
    },
    /// The stub cannot be read.
    #[error("cannot read the stub of addons in the image")]
    Stub(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It could not be put together.
    #[error("cannot make the addon")]
    Build(#[source] BuildError),
    /// It could not be signed.
    #[error("cannot sign the addon")]
    Sign(#[source] SignError),
    /// The key is not enrolled.
    #[error("Secure Boot of this machine would not accept the addon, and the kernel arguments in it would be ignored")]
    NotEnrolled(#[source] Refused),
}

impl LocalAddonError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoKey { path } => Some(format!(
                "make a key of this machine (umask 077; mkdir -p /etc/osupdate/keys; openssl req -new -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=local' -keyout {} \
                 -out CERTIFICATE), and enroll its certificate: in db in the firmware's setup, or with mokutil --import where shim \
                 is used",
                path.display()
            )),
            Self::KeyMode { path } => {
                Some(format!("whoever can read it can sign programs for this machine: chmod 600 {}", path.display()))
            }
            _ => None,
        }
    }
}

/// The key that signs addons on this machine, and what firmware says of it.
#[allow(missing_debug_implementations, reason = "secret")]
pub struct LocalSigner {
    signer: Signer,
    secure_boot: SecureBoot,
}

impl LocalSigner {
    /// Takes the key of this machine.
    pub fn new(signer: Signer, secure_boot: SecureBoot) -> Self {
        Self { signer, secure_boot }
    }

    /// Whether firmware checks signatures at all.
    pub fn is_checked(&self) -> bool {
        self.secure_boot.enabled
    }

    /// Makes and signs an addon with these arguments, of the stub that is in an image.
    pub(crate) fn addon(
        &self,
        repository: &Repository,
        tree: &Tree,
        arguments: &[String],
    ) -> Result<Vec<u8>, LocalAddonError> {
        let stub = stub(repository, tree)?;
        let line = arguments.join(" ");
        let builder = Builder { stub: &stub, command_line: Some(line.as_bytes()), ..Builder::default() };
        let addon = builder.build().map_err(LocalAddonError::Build)?;
        let addon = self.signer.sign(&addon).map_err(LocalAddonError::Sign)?;
        self.secure_boot.check(&addon).map_err(LocalAddonError::NotEnrolled)?;
        Ok(addon)
    }
}

fn stub(repository: &Repository, tree: &Tree) -> Result<Vec<u8>, LocalAddonError> {
    let name = format!("addon{}.efi.stub", Architecture::native().map_or("x64", Architecture::efi_name));
    let Some(content) = tree.follow_to_file(&format!("{STUBS}/{name}")) else {
        return Err(LocalAddonError::NoStub { name });
    };
    let mut stub = Vec::new();
    let reader = repository.open_content(content).map_err(|err| LocalAddonError::Stub(Box::new(err)))?;
    reader.take(STUB_MAX_BYTES).read_to_end(&mut stub).map_err(|err| LocalAddonError::Stub(Box::new(err)))?;
    Ok(stub)
}
