//! The options that say with which key programs are signed for Secure Boot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueHint;
use osupdate_efi::authenticode::{Certificates, RsaKey, Signer, SigningKey};

use crate::pkcs11::{TokenKey, Uri};

/// A key and its certificate.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SigningOptions {
    /// The private key for RSA: a file in PEM or DER, or in a token, named by a PKCS#11 URI such as
    /// pkcs11:token=NAME;object=KEY?pin-source=file:FILE
    #[arg(long, value_name = "KEY", value_hint = ValueHint::FilePath)]
    key: String,

    /// Its certificate, in PEM or DER; certificates that issued it may follow in the file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: PathBuf,
}

impl SigningOptions {
    /// Of commands that need not sign.
    pub(crate) fn new(key: String, certificate: PathBuf) -> Self {
        Self { key, certificate }
    }

    /// What signs with them.
    pub(crate) fn signer(&self) -> anyhow::Result<Signer> {
        signer(&self.key, &self.certificate)
    }
}

/// What signs with a key, a file or a PKCS#11 URI, and its certificate.
pub(crate) fn signer(key: &str, certificate: &Path) -> anyhow::Result<Signer> {
    let certificates = read_certificates(certificate)?;
    let doing = || format!("cannot use the key {key}");
    let key: Box<dyn SigningKey> = match open_token_key(key)? {
        Some(key) => Box::new(key),
        None => Box::new(RsaKey::read(&fs::read(key).with_context(doing)?).with_context(doing)?),
    };
    Signer::new(key, certificates).with_context(|| format!("cannot sign with {}", certificate.display()))
}

/// The key that a PKCS#11 URI names; none if it is the name of a file.
pub(crate) fn open_token_key(key: &str) -> anyhow::Result<Option<TokenKey>> {
    if !Uri::is_meant(key) {
        return Ok(None);
    }
    let doing = || format!("cannot use the key {key}");
    let uri: Uri = key.parse().with_context(doing)?;
    TokenKey::open(&uri).map(Some).with_context(doing)
}

/// Reads a file with certificates in PEM, or one in DER.
pub(crate) fn read_certificates(path: &Path) -> anyhow::Result<Certificates> {
    let doing = || format!("cannot read the certificate {}", path.display());
    let file = fs::read(path).with_context(doing)?;
    Certificates::read(&file).with_context(doing)
}
