//! OCI images: pulled, stored, checked; against the answers of cfsctl 0.9 in `vectors/oci/README.md`.

mod artifacts;
mod damage;
mod expected;
mod fixture;
mod garbage;
mod known_answers;
mod layout;
mod peer;
mod proof;
mod pull;
mod repair;
mod resume;
mod tags;
mod tar_tools;
mod tools;
