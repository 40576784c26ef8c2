//! The JSON of a policy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::super::error::LoadError;
use super::super::identity::{Name, SignedIdentity, is_prefix};
use super::super::json::UniqueMap;
use super::super::scope;
use super::{KeySource, Requirement};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Json>,
    #[serde(default)]
    transports: UniqueMap<UniqueMap<Vec<Json>>>,
}

/// A requirement.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Json {
    // Variants of structs: serde looks for unknown fields in no others.
    InsecureAcceptAnything {},
    Reject {},
    SignedBy {
        key_type: KeyType,
        key_path: Option<PathBuf>,
        key_paths: Option<Vec<PathBuf>>,
        key_data: Option<Base64>,
        #[serde(default)]
        signed_identity: Identity,
    },
    SigstoreSigned {
        key_path: Option<PathBuf>,
        key_paths: Option<Vec<PathBuf>>,
        key_data: Option<Base64>,
        key_datas: Option<Vec<Base64>>,
        fulcio: Option<IgnoredAny>,
        pki: Option<IgnoredAny>,
        rekor_public_key_path: Option<IgnoredAny>,
        rekor_public_key_paths: Option<IgnoredAny>,
        rekor_public_key_data: Option<IgnoredAny>,
        rekor_public_key_datas: Option<IgnoredAny>,
        #[serde(default)]
        signed_identity: Identity,
    },
    SignedBaseLayer {
        #[serde(rename = "baseLayerIdentity")]
        _base_layer_identity: Identity,
    },
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
enum KeyType {
    #[serde(rename = "GPGKeys")]
    GpgKeys,
    #[serde(rename = "signedByGPGKeys")]
    SignedByGpgKeys,
    #[serde(rename = "X509Certificates")]
    X509Certificates,
    #[serde(rename = "signedByX509CAs")]
    SignedByX509Cas,
}

/// A `signedIdentity`.
#[allow(clippy::enum_variant_names, reason = "the names of the format")]
#[derive(Deserialize, Default)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Identity {
    MatchExact {},
    #[default]
    #[serde(skip)]
    Default,
    MatchRepoDigestOrExact {},
    MatchRepository {},
    ExactReference {
        docker_reference: String,
    },
    ExactRepository {
        docker_repository: String,
    },
    RemapIdentity {
        prefix: String,
        signed_prefix: String,
    },
}

/// Bytes in base64.
struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: String = String::deserialize(deserializer)?.split(['\r', '\n']).collect();
        STANDARD.decode(text).map(Self).map_err(|error| D::Error::custom(format_args!("not base64: {error}")))
    }
}

/// What a policy file says: the default, and transport to scope to requirements.
type Parsed = (Vec<Requirement>, BTreeMap<String, BTreeMap<String, Vec<Requirement>>>);

/// Parses a policy file.
pub(super) fn parse(json: &[u8], path: &Path) -> Result<Parsed, LoadError> {
    let file: File =
        serde_json::from_slice(json).map_err(|source| LoadError::Policy { path: path.to_owned(), source })?;
    let invalid = |problem: String| LoadError::PolicyPart { path: path.to_owned(), problem };
    let default = requirements(file.default).map_err(|problem| invalid(format!("in the default, {problem}")))?;
    let mut transports = BTreeMap::new();
    for (transport, UniqueMap(scopes)) in file.transports.0 {
        let mut of_transport = BTreeMap::new();
        for (scope, list) in scopes {
            let within = |problem: &str| invalid(format!("in scope {scope:?} of transport {transport}, {problem}"));
            if let Some(problem) = scope::problem(&transport, &scope) {
                return Err(within(problem));
            }
            let list = requirements(list).map_err(|problem| within(&problem))?;
            of_transport.insert(scope, list);
        }
        transports.insert(transport, of_transport);
    }
    Ok((default, transports))
}

fn requirements(list: Vec<Json>) -> Result<Vec<Requirement>, String> {
    if list.is_empty() {
        return Err("the list of requirements is empty; write insecureAcceptAnything to accept anything".to_owned());
    }
    list.into_iter().map(requirement).collect()
}

fn requirement(json: Json) -> Result<Requirement, String> {
    Ok(match json {
        Json::InsecureAcceptAnything {} => Requirement::AcceptAnything,
        Json::Reject {} => Requirement::Reject,
        Json::SignedBaseLayer { .. } => Requirement::Unsupported("a signedBaseLayer".to_owned()),
        Json::SignedBy { key_type, key_path, key_paths, key_data, signed_identity } => {
            let inline = key_data.map(|data| vec![data]);
            let keys =
                one_source([key_path.map(|path| vec![path]), key_paths], [inline], "keyPath, keyPaths and keyData")?;
            let identity = identity(signed_identity)?;
            match key_type {
                KeyType::GpgKeys => Requirement::SignedBy { keys, identity },
                KeyType::SignedByGpgKeys | KeyType::X509Certificates | KeyType::SignedByX509Cas => {
                    Requirement::Unsupported("a signature by keys of another kind than GPGKeys".to_owned())
                }
            }
        }
        Json::SigstoreSigned {
            key_path,
            key_paths,
            key_data,
            key_datas,
            fulcio,
            pki,
            rekor_public_key_path,
            rekor_public_key_paths,
            rekor_public_key_data,
            rekor_public_key_datas,
            signed_identity,
        } => {
            let identity = identity(signed_identity)?;
            let rekor =
                [&rekor_public_key_path, &rekor_public_key_paths, &rekor_public_key_data, &rekor_public_key_datas];
            let has_keys = key_path.is_some() || key_paths.is_some() || key_data.is_some() || key_datas.is_some();
            const SOURCES: &str = "keyPath, keyPaths, keyData, keyDatas, fulcio and pki";
            if [has_keys, fulcio.is_some(), pki.is_some()].into_iter().filter(|given| *given).count() > 1 {
                return Err(format!("exactly one of {SOURCES} must be given"));
            }
            if rekor.iter().filter(|given| given.is_some()).count() > 1 {
                return Err("at most one of the rekorPublicKey fields may be given".to_owned());
            }
            if fulcio.is_some() {
                return Ok(Requirement::Unsupported("a keyless sigstore signature (fulcio)".to_owned()));
            }
            if pki.is_some() {
                return Ok(Requirement::Unsupported("a sigstore signature by a certificate (pki)".to_owned()));
            }
            let paths = [key_path.map(|path| vec![path]), key_paths];
            let keys = one_source(paths, [key_data.map(|data| vec![data]), key_datas], SOURCES)?;
            if rekor.iter().any(|given| given.is_some()) {
                let what = "an entry for the sigstore signature in a transparency log (rekorPublicKey)";
                return Ok(Requirement::Unsupported(what.to_owned()));
            }
            Requirement::SigstoreSigned { keys, identity }
        }
    })
}

/// The one place that keys are in.
fn one_source<const P: usize, const D: usize>(
    paths: [Option<Vec<PathBuf>>; P],
    data: [Option<Vec<Base64>>; D],
    names: &str,
) -> Result<KeySource, String> {
    let paths = paths.into_iter().flatten().map(KeySource::Files);
    let data = data.into_iter().flatten();
    let data = data.map(|list| KeySource::Inline(list.into_iter().map(|Base64(bytes)| bytes).collect()));
    let mut given = paths.chain(data);
    let (Some(source), None) = (given.next(), given.next()) else {
        return Err(format!("exactly one of {names} must be given"));
    };
    match &source {
        KeySource::Files(list) if list.is_empty() || list.iter().any(|path| path.as_os_str().is_empty()) => {
            Err("a list of key files is empty, or the name of one is".to_owned())
        }
        KeySource::Inline(list) if list.is_empty() => Err("a list of keys is empty".to_owned()),
        _ => Ok(source),
    }
}

fn identity(json: Identity) -> Result<SignedIdentity, String> {
    let name = |text: &str| Name::parse(text).ok_or_else(|| format!("{text:?} is not a reference"));
    Ok(match json {
        Identity::MatchExact {} => SignedIdentity::MatchExact,
        Identity::Default | Identity::MatchRepoDigestOrExact {} => SignedIdentity::MatchRepoDigestOrExact,
        Identity::MatchRepository {} => SignedIdentity::MatchRepository,
        Identity::ExactReference { docker_reference } => {
            let name = name(&docker_reference)?;
            if name.is_name_only() {
                return Err(format!("dockerReference {docker_reference:?} has neither a tag nor a digest"));
            }
            SignedIdentity::ExactReference(name)
        }
        Identity::ExactRepository { docker_repository } => {
            SignedIdentity::ExactRepository(name(&docker_repository)?.repository)
        }
        Identity::RemapIdentity { prefix, signed_prefix } => {
            for text in [&prefix, &signed_prefix] {
                if !is_prefix(text) {
                    return Err(format!("{text:?} is not a host or the beginning of a repository's name"));
                }
            }
            SignedIdentity::RemapIdentity { prefix, signed_prefix }
        }
    })
}
