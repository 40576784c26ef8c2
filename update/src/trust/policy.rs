//! [`Policy`]: `policy.json` as containers-policy.json(5) describes it, and where the signatures are.
//!
//! Read as strictly as podman does: a field or type that is not known, a key that occurs twice, a scope that can match
//! nothing makes the whole file invalid, and nothing is pulled. What podman knows and this program cannot verify (keyless
//! signatures, certificates) is read, so that one policy serves both, and refuses every image that it is wanted of.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::LoadError;
use super::identity::SignedIdentity;
use super::registries_d::RegistriesD;
use super::scope;
use crate::transport::ImageReference;

mod parse;

/// Largest file of configuration that is read. Keys may be in it.
pub(super) const FILE_MAX_BYTES: u64 = 4 << 20;
/// The policy of the machine.
const SYSTEM_POLICY: &str = "/etc/containers/policy.json";
/// Where the machine's configuration of signature stores is.
const SYSTEM_REGISTRIES_D: &str = "/etc/containers/registries.d";
/// Where signatures are, if nothing else is configured.
const SYSTEM_LOOKASIDE: &str = "/var/lib/containers/sigstore";

/// Where the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPaths {
    /// Policy files; the first one that exists is read.
    policies: Vec<PathBuf>,
    /// One of them must exist.
    must_exist: bool,
    /// Directories with YAML files; the first one that exists is read.
    registries_d: Vec<PathBuf>,
    /// The signature store, unless `registries.d` names another.
    default_lookaside: Option<PathBuf>,
}

impl PolicyPaths {
    /// Those of podman: `~/.config/containers/` for users other than root, then `/etc/containers/`.
    ///
    /// Not root's home: what a machine may boot is decided in `/etc`, by whatever name root is called.
    pub fn standard() -> Self {
        let home = if rustix::process::geteuid().is_root() { None } else { env::var_os("HOME").map(PathBuf::from) };
        let in_home = |path: &str| home.iter().map(move |home| home.join(path)).collect::<Vec<_>>();
        Self {
            policies: [in_home(".config/containers/policy.json"), vec![SYSTEM_POLICY.into()]].concat(),
            must_exist: false,
            registries_d: [in_home(".config/containers/registries.d"), vec![SYSTEM_REGISTRIES_D.into()]].concat(),
            default_lookaside: match rustix::process::geteuid().is_root() {
                true => Some(SYSTEM_LOOKASIDE.into()),
                false => in_home(".local/share/containers/sigstore").pop(),
            },
        }
    }

    /// With this policy file, which must exist.
    pub fn with_policy(mut self, file: PathBuf) -> Self {
        self.policies = vec![file];
        self.must_exist = true;
        self
    }

    /// With the `registries.d` in this directory.
    pub fn with_registries_d(mut self, directory: PathBuf) -> Self {
        self.registries_d = vec![directory];
        self
    }
}

/// What may be pulled from where, and signed by whom.
#[derive(Debug)]
pub struct Policy {
    file: Option<PathBuf>,
    default: Vec<Requirement>,
    /// Transport to scope to what is wanted.
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
    pub(super) registries_d: RegistriesD,
}

/// One condition; an image must meet all that belong to its scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    /// None.
    AcceptAnything,
    /// Never met.
    Reject,
    /// An OpenPGP signature.
    SignedBy { keys: KeySource, identity: SignedIdentity },
    /// A sigstore signature.
    SigstoreSigned { keys: KeySource, identity: SignedIdentity },
    /// Never met, because this program cannot tell. The text says what is wanted.
    Unsupported(String),
}

/// Where trusted keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    /// Files, or directories of them.
    Files(Vec<PathBuf>),
    /// In the policy, as many as there are.
    Inline(Vec<Vec<u8>>),
}

/// What a policy wants of one image.
#[derive(Debug)]
pub(super) struct Applicable<'a> {
    /// The conditions; at least one.
    pub(super) requirements: Cow<'a, [Requirement]>,
    /// Where they are written, for people.
    pub(super) scope: String,
}

impl Policy {
    /// Reads policy and `registries.d`. Without a policy file everything is accepted, and nothing counts as signed.
    ///
    /// # Errors
    /// When a file cannot be read or is not valid.
    pub fn load(paths: &PolicyPaths) -> Result<Self, LoadError> {
        let registries_d = RegistriesD::load(&paths.registries_d, paths.default_lookaside.as_deref())?;
        for path in &paths.policies {
            match read_file(path) {
                Ok(json) => {
                    let (default, transports) = parse::parse(&json, path)?;
                    return Ok(Self { file: Some(path.clone()), default, transports, registries_d });
                }
                Err(LoadError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !paths.must_exist => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { file: None, default: vec![Requirement::AcceptAnything], transports: BTreeMap::new(), registries_d })
    }

    /// The policy file; `None` if there is none.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The policy file for messages.
    pub(super) fn file_name(&self) -> String {
        self.file.as_ref().map_or_else(|| "(none)".to_owned(), |file| file.display().to_string())
    }

    /// What is wanted of an image of this transport: the most specific scope decides alone.
    pub(super) fn requirements(&self, reference: &ImageReference, transport: &str) -> io::Result<Applicable<'_>> {
        let Some(scopes) = self.transports.get(transport) else { return Ok(self.default_requirements()) };
        match scope::names(reference, transport)? {
            Some(names) => {
                for name in names {
                    if let Some(requirements) = scopes.get(&name) {
                        return Ok(Applicable {
                            requirements: requirements.into(),
                            scope: format!("scope {name:?} of transport {transport}"),
                        });
                    }
                }
            }
            None if scopes.keys().all(String::is_empty) => {}
            None => {
                let what = format!("a scope of transport {transport}, of which only \"\" is known here");
                return Ok(Applicable {
                    requirements: vec![Requirement::Unsupported(what)].into(),
                    scope: format!("transport {transport}"),
                });
            }
        }
        Ok(match scopes.get("") {
            Some(requirements) => {
                Applicable { requirements: requirements.into(), scope: format!("the default of transport {transport}") }
            }
            None => self.default_requirements(),
        })
    }

    fn default_requirements(&self) -> Applicable<'_> {
        let scope = if self.file.is_some() { "its default" } else { "there is no policy" };
        Applicable { requirements: (&self.default).into(), scope: scope.to_owned() }
    }
}

/// Reads a file of configuration.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(LoadError::Size { path: path.to_owned(), max_bytes: FILE_MAX_BYTES });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
