//! URIs that name keys in tokens. Source: RFC 7512.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Begins such a URI.
const SCHEME: &str = "pkcs11:";

/// A URI of a private key.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Uri {
    token: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    module_path: Option<String>,
    pin_file: Option<String>,
    pin_value: Option<String>,
}

/// Why a URI is refused. Says nothing that may be a PIN, or a part of one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum UriError {
    #[error("a PKCS#11 URI begins with {SCHEME}")]
    Scheme,
    #[error("attribute {0} of the URI is not NAME=VALUE")]
    Pair(usize),
    #[error(
        "the attribute {0} is not supported: token, manufacturer, model, serial, object, id and type are, and module-path, pin-source and pin-value behind a question mark"
    )]
    Attribute(String),
    #[error("the attribute {0} is there twice")]
    Twice(String),
    #[error("a percent sign in the value of {0} is not followed by two hexadecimal digits")]
    Percent(String),
    #[error("the value of {0} is not text")]
    Text(String),
    #[error("type is {0:?}, and a private key is needed")]
    Type(String),
    #[error("pin-source names no file: it is file: and the path of a file with the PIN")]
    PinSource,
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, manufacturer, model, serial, object, id, module_path, pin_file, pin_value } = self;
        f.debug_struct("Uri")
            .field("token", token)
            .field("manufacturer", manufacturer)
            .field("model", model)
            .field("serial", serial)
            .field("object", object)
            .field("id", id)
            .field("module_path", module_path)
            .field("pin_file", pin_file)
            .field("pin_value", &pin_value.as_ref().map(|_| "hidden"))
            .finish()
    }
}

impl Uri {
    /// Whether a text is meant to be such a URI.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Whether a token is the one that is named.
    pub(super) fn is_token(&self, label: &str, manufacturer: &str, model: &str, serial: &str) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found.trim_end());
        is(&self.token, label)
            && is(&self.manufacturer, manufacturer)
            && is(&self.model, model)
            && is(&self.serial, serial)
    }

    /// Label of the key.
    pub(super) fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// Identifier of the key.
    pub(super) fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// The module that has the token.
    pub(super) fn module_path(&self) -> Option<&str> {
        self.module_path.as_deref()
    }

    /// A file with the PIN.
    pub(super) fn pin_file(&self) -> Option<&str> {
        self.pin_file.as_deref()
    }

    /// The PIN.
    pub(super) fn pin_value(&self) -> Option<&str> {
        self.pin_value.as_deref()
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = text.strip_prefix(SCHEME).ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        let mut number = 0;
        for pair in path.split(';').filter(|pair| !pair.is_empty()) {
            number += 1;
            let (name, value) = decoded(pair, number)?;
            let place = match name {
                "token" => &mut uri.token,
                "manufacturer" => &mut uri.manufacturer,
                "model" => &mut uri.model,
                "serial" => &mut uri.serial,
                "object" => &mut uri.object,
                "id" => {
                    set(&mut uri.id, name, value)?;
                    continue;
                }
                "type" if value == b"private" => continue,
                "type" => return Err(UriError::Type(text_of(name, value)?)),
                other => return Err(UriError::Attribute(other.to_owned())),
            };
            set(place, name, text_of(name, value)?)?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            number += 1;
            let (name, value) = decoded(pair, number)?;
            let value = text_of(name, value)?;
            match name {
                "module-path" => set(&mut uri.module_path, name, value)?,
                "pin-value" => set(&mut uri.pin_value, name, value)?,
                "pin-source" => {
                    let path = value.strip_prefix("file:").map(|path| path.strip_prefix("//").unwrap_or(path));
                    // Bare paths are common, too.
                    let path =
                        path.or_else(|| value.starts_with('/').then_some(&*value)).filter(|path| !path.is_empty());
                    set(&mut uri.pin_file, name, path.ok_or(UriError::PinSource)?.to_owned())?;
                }
                other => return Err(UriError::Attribute(other.to_owned())),
            }
        }
        Ok(uri)
    }
}

fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Twice(name.to_owned())),
    }
}

fn text_of(name: &str, value: Vec<u8>) -> Result<String, UriError> {
    String::from_utf8(value).map_err(|_| UriError::Text(name.to_owned()))
}

/// Takes `NAME=VALUE` apart, which is the attribute of this number; `%41` in the value is `A`.
fn decoded(pair: &str, number: usize) -> Result<(&str, Vec<u8>), UriError> {
    let (name, value) = pair.split_once('=').ok_or(UriError::Pair(number))?;
    let mut bytes = Vec::new();
    let mut parts = value.split('%');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| UriError::Percent(name.to_owned()))?);
        bytes.extend(part[2..].bytes());
    }
    Ok((name, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_the_standard_has_it() {
        let uri: Uri =
            "pkcs11:token=My%20token;object=db;type=private;id=%01%aB?module-path=/lib/x.so&pin-source=file:/run/pin"
                .parse()
                .unwrap();
        let expected = Uri {
            token: Some("My token".to_owned()),
            object: Some("db".to_owned()),
            id: Some(vec![1, 0xab]),
            module_path: Some("/lib/x.so".to_owned()),
            pin_file: Some("/run/pin".to_owned()),
            ..Uri::default()
        };
        assert_eq!(uri, expected);
        assert!(uri.is_token("My token   ", "anybody", "", "1") && !uri.is_token("token", "", "", ""));
        assert_eq!("pkcs11:".parse(), Ok(Uri::default()));
        assert_eq!("pkcs11:?pin-source=file:///run/pin".parse::<Uri>().unwrap().pin_file(), Some("/run/pin"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let error = |text: &str| text.parse::<Uri>().unwrap_err();
        assert_eq!(error("pkcs12:"), UriError::Scheme);
        assert_eq!(error("pkcs11:token"), UriError::Pair(1));
        assert_eq!(error("pkcs11:slot-id=1"), UriError::Attribute("slot-id".to_owned()));
        assert_eq!(error("pkcs11:?object=x"), UriError::Attribute("object".to_owned()));
        assert_eq!(error("pkcs11:token=a;token=b"), UriError::Twice("token".to_owned()));
        assert_eq!(error("pkcs11:token=%4"), UriError::Percent("token".to_owned()));
        assert_eq!(error("pkcs11:token=%é1"), UriError::Percent("token".to_owned()));
        assert_eq!(error("pkcs11:token=%ff"), UriError::Text("token".to_owned()));
        assert_eq!(error("pkcs11:type=cert"), UriError::Type("cert".to_owned()));
        assert_eq!(error("pkcs11:?pin-source=%7Ccat"), UriError::PinSource);
    }

    #[test]
    fn the_pin_is_in_no_message() {
        let uri: Uri = "pkcs11:token=a?pin-value=1234".parse().unwrap();
        assert_eq!(uri.pin_value(), Some("1234"));
        let debug = format!("{uri:?}");
        assert!(debug.contains("token: Some(\"a\")") && !debug.contains("1234"), "{debug}");
        for text in ["token=a?1234", "?pin-value=1234%4", "?pin-source=1234", "?pin-value=1234&pin-value=1234"] {
            let message = format!("pkcs11:{text}").parse::<Uri>().unwrap_err().to_string();
            assert!(!message.contains("1234"), "{message}");
        }
    }
}
