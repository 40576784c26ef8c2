//! OCI images: pulled, stored, checked; against the answers of cfsctl 0.9 in `vectors/oci/README.md`.

mod damage;
mod fixture;
mod garbage;
mod known_answers;
mod layout;
mod pull;
mod tags;
mod tar_tools;
mod tools;
