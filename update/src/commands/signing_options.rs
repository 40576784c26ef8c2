//! The options that say with which key programs are signed for Secure Boot.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueHint;
use osupdate_efi::authenticode::{Certificates, RsaKey, Signer, SigningKey};

use crate::pkcs11::{TokenKey, Uri};

/// A key and its certificate.
#[derive(Clone, clap::Args)]
pub(crate) struct SigningOptions {
    /// The private key for RSA: a file in PEM or DER, or in a token, named by a PKCS#11 URI such as
    /// pkcs11:token=NAME;object=KEY?pin-source=file:FILE
    #[arg(long, value_name = "KEY", value_hint = ValueHint::FilePath)]
    key: String,

    /// Its certificate, in PEM or DER; certificates that issued it may follow in the file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: PathBuf,
}

impl fmt::Debug for SigningOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SigningOptions");
        shown.field("key", &shown_key(&self.key)).field("certificate", &self.certificate).finish()
    }
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
    let doing = || format!("cannot use the key {}", shown_key(key));
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
    let doing = || format!("cannot use the key {}", shown_key(key));
    let uri: Uri = key.parse().with_context(doing)?;
    TokenKey::open(&uri).map(Some).with_context(doing)
}

/// How a key is named in messages: what stands behind a question mark in a URI may be the PIN.
pub(crate) fn shown_key(key: &str) -> &str {
    match key.split_once('?') {
        Some((shown, _)) if Uri::is_meant(key) => shown,
        _ => key,
    }
}

/// Reads a file with certificates in PEM, or one in DER.
pub(crate) fn read_certificates(path: &Path) -> anyhow::Result<Certificates> {
    let doing = || format!("cannot read the certificate {}", path.display());
    let file = fs::read(path).with_context(doing)?;
    Certificates::read(&file).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_no_pin() {
        let options = SigningOptions::new("pkcs11:token=x;object=y?pin-value=1234".to_owned(), "db.crt".into());
        assert_eq!(
            format!("{options:?}"),
            r#"SigningOptions { key: "pkcs11:token=x;object=y", certificate: "db.crt" }"#
        );
        assert_eq!(shown_key("what?.key"), "what?.key", "the name of a file");
    }
}
