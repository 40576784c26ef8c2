//! Whom to trust: whether an image may be used, by the policy that podman and skopeo heed, too.
//!
//! [`Policy::load`] reads `policy.json` and `registries.d`; [`Policy::check`] decides on one image, by the bytes of the
//! manifest that is going to be pulled, before anything else of it is fetched. What a policy does not forbid is not yet
//! trusted: a [`Verdict`] says who signed, and it is for the caller to want somebody.
//!
//! Everything that comes from outside is bounded: the number and size of signatures, what they unpack to, the depth of
//! their JSON, and the time that fetching them takes.

mod attachments;
mod check;
mod error;
mod fetch;
mod identity;
mod json;
mod keys;
mod lookaside;
mod openpgp;
mod payload;
mod policy;
mod registries_d;
mod scope;
mod signature;
mod sigstore;
mod summary_keys;
mod verdict;

pub use error::{KeyError, LoadError, SignatureError, SignatureErrors, SignatureProblem, TrustError};
pub use fetch::FetchError;
pub use policy::{Policy, PolicyPaths};
pub use summary_keys::SummaryKeys;
pub use verdict::{SignatureKind, Signer, Verdict};
