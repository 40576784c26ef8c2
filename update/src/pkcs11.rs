//! Keys in tokens: smart cards, security keys, hardware modules, by PKCS#11.

mod uri;

use std::fs;
use std::path::PathBuf;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use osupdate_efi::authenticode::SigningKey;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub(crate) use uri::Uri;

/// Gives access to the tokens that are set up on the machine; `module-path` names another module. Its other name,
/// `p11-kit-proxy.so`, does not exist everywhere.
const DEFAULT_MODULE: &str = "libp11-kit.so.0";

/// Before a SHA-256 digest that is signed with RSASSA-PKCS1-v1_5: which function it is of (RFC 8017, 9.2).
const DIGEST_INFO: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];

/// Why a key in a token cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("cannot load the PKCS#11 module {module}")]
    Module {
        module: String,
        #[source]
        source: cryptoki::error::Error,
    },
    #[error("cannot ask the PKCS#11 module")]
    Ask(#[source] cryptoki::error::Error),
    #[error("no token fits the URI; there are: {}", if found.is_empty() { "none".to_owned() } else { found.join(", ") })]
    NoToken { found: Vec<String> },
    #[error("several tokens fit the URI: {}", found.join(", "))]
    SeveralTokens { found: Vec<String> },
    #[error("cannot read the PIN from {}", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot log in to the token {token}")]
    Login {
        token: String,
        #[source]
        source: cryptoki::error::Error,
    },
    #[error("the token {token} has {} the URI", if *number == 0 { "no private key that fits".to_owned() } else { format!("{number} private keys that fit") })]
    Key { token: String, number: usize },
}

impl TokenError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Module { .. } => {
                Some("install the module of the token, or name it in the URI: pkcs11:...?module-path=FILE")
            }
            Self::NoToken { .. } | Self::SeveralTokens { .. } => {
                Some("name it in the URI: pkcs11:token=NAME;object=KEY")
            }
            Self::Login { .. } => Some("name a file with the PIN in the URI: pkcs11:...?pin-source=file:FILE"),
            Self::Key { number: 0, .. } => Some(
                "keys are only seen with the PIN: pkcs11:...?pin-source=file:FILE; pkcs11-tool --list-objects --login shows them",
            ),
            Self::Key { .. } => Some("name it in the URI: pkcs11:token=NAME;object=KEY, or id=%01"),
            Self::Ask(_) | Self::Pin { .. } => None,
        }
    }
}

/// A private key in a token.
pub(crate) struct TokenKey {
    session: Session,
    key: ObjectHandle,
}

impl TokenKey {
    /// Finds the one key that the URI names.
    pub(crate) fn open(uri: &Uri) -> Result<Self, TokenError> {
        let module = uri.module_path().unwrap_or(DEFAULT_MODULE);
        let error = |source| TokenError::Module { module: module.to_owned(), source };
        let context = Pkcs11::new(module).map_err(error)?;
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(error)?;
        let (slot, token, login) = find_token(&context, uri)?;
        let session = context.open_ro_session(slot).map_err(TokenError::Ask)?;
        let pin = pin(uri)?;
        if login && let Some(pin) = pin {
            let login = session.login(UserType::User, Some(&AuthPin::new(pin.into())));
            login.map_err(|source| TokenError::Login { token: token.clone(), source })?;
        }
        let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Sign(true)];
        template.extend(uri.object().map(|label| Attribute::Label(label.as_bytes().to_vec())));
        template.extend(uri.id().map(|id| Attribute::Id(id.to_vec())));
        let found = session.find_objects(&template).map_err(TokenError::Ask)?;
        match found[..] {
            [key] => Ok(Self { session, key }),
            _ => Err(TokenError::Key { token, number: found.len() }),
        }
    }
}

/// The one token that the URI names, its label, and whether one has to log in.
fn find_token(context: &Pkcs11, uri: &Uri) -> Result<(Slot, String, bool), TokenError> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for slot in context.get_slots_with_token().map_err(TokenError::Ask)? {
        let token = context.get_token_info(slot).map_err(TokenError::Ask)?;
        if !token.token_initialized() {
            continue;
        }
        let label = token.label().trim_end().to_owned();
        let is_it = uri.is_token(&label, token.manufacturer_id(), token.model(), token.serial_number());
        if is_it {
            found.push((slot, label, token.login_required()));
        } else {
            others.push(label);
        }
    }
    match found.len() {
        0 => Err(TokenError::NoToken { found: others }),
        1 => Ok(found.remove(0)),
        _ => Err(TokenError::SeveralTokens { found: found.into_iter().map(|(_, label, _)| label).collect() }),
    }
}

fn pin(uri: &Uri) -> Result<Option<String>, TokenError> {
    if let Some(path) = uri.pin_file() {
        let pin = fs::read_to_string(path).map_err(|source| TokenError::Pin { path: path.into(), source })?;
        return Ok(Some(pin.trim_end_matches(['\r', '\n']).to_owned()));
    }
    Ok(uri.pin_value().map(str::to_owned))
}

impl SigningKey for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        // Every token can pad; not every one can hash.
        let digest = [&DIGEST_INFO[..], &Sha256::digest(message)].concat();
        Ok(self.session.sign(&Mechanism::RsaPkcs, self.key, &digest)?)
    }
}
