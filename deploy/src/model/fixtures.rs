//! Made-up deployments for tests of decisions.

use super::*;

/// A deployment named by one repeated hex digit.
pub(crate) fn id(digit: char) -> DeploymentId {
    digit.to_string().repeat(128).parse().unwrap()
}

pub(crate) fn deployment(digit: char, sequence: u64, booted_before: bool) -> Deployment {
    let record = Record {
        version: 1,
        sequence,
        created: "2026-11-23T10:00:00Z".to_owned(),
        pinned: false,
        image: Default::default(),
        origin: Default::default(),
        boot: Default::default(),
        boot_since: None,
        etc: Default::default(),
        unknown: Default::default(),
    };
    Deployment { id: id(digit), record, booted_before, unfinished: None }
}

pub(crate) fn entry(digit: char, sequence: u64, tries_left: Option<u32>) -> Entry {
    Entry { deployment: id(digit), sequence, tries_left, file_name: format!("osupdate-{digit}-{sequence:06}.conf") }
}

pub(crate) fn carrying(mut deployment: Deployment, from: char) -> Deployment {
    deployment.record.etc.carry_from = Some(id(from));
    deployment
}

/// What runs, started by an entry with a sequence number.
pub(crate) fn booted(digit: char, sequence: Option<u64>) -> Booted {
    Booted { id: id(digit), verified: true, sequence }
}

pub(crate) fn model(found: Vec<Deployment>, running: char, entries: &[Entry]) -> Model {
    Model::new(found, Vec::new(), Some(booted(running, None)), Some(entries.to_vec()))
}
