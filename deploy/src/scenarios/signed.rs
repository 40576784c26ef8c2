//! What a computer remembers of who signed its images, and what it requires of those to come.

use osupdate_core::oci::{Offer, Platform};
use osupdate_record::{Deployment as Record, Needed, Requirement, Signature, paths};

use super::computer::{Computer, source};
use super::image::Image;
use crate::cleanup;
use crate::plan::Staging;
use crate::prepare::Source;
use crate::rollback;
use crate::stage::{self, Request, Staged};
use crate::trust::{self, Unsigned};

fn signature(key: &str, verified: &str) -> Signature {
    Signature { kind: "openpgp".to_owned(), key: key.to_owned(), verified: verified.to_owned(), ..Signature::default() }
}

/// Upgrades to an image that was signed so, as the command does: what is stored decides.
fn upgrade(computer: &Computer, image: &Image, signatures: &[Signature]) -> Result<Staged, trust::UnsignedError> {
    computer.run(None, |machine| {
        let survey = cleanup::repair(machine).unwrap();
        let offer = Offer::fetch(image, &Platform::host()).unwrap();
        let origin = stage::origin(&survey.model).unwrap();
        let requirement = trust::of_followed_origin(signatures, origin.requirement.as_ref())?;
        let source = Source { requirement, ..origin };
        let request = Request { source, signatures: signatures.to_vec(), retry_failed: false, allow_unsealed: true };
        Ok(stage::stage(machine, &survey, &offer, &request).unwrap())
    })
}

/// Switches to an image, as the command does.
fn switch(computer: &Computer, image: &Image, signatures: &[Signature], unsigned: Unsigned) -> Staged {
    computer.run(None, |machine| {
        let survey = cleanup::repair(machine).unwrap();
        let offer = Offer::fetch(image, &Platform::host()).unwrap();
        let origin = stage::origin(&survey.model).unwrap();
        let requirement = trust::of_named_image(signatures, origin.requirement.as_ref(), unsigned).unwrap();
        let source = Source { requirement: Some(requirement), ..source() };
        let request = Request { source, signatures: signatures.to_vec(), retry_failed: true, allow_unsealed: true };
        stage::stage(machine, &survey, &offer, &request).unwrap()
    })
}

fn requirement(record: &Record) -> Option<Needed> {
    record.origin.requirement.as_ref().map(|requirement| requirement.signature.clone())
}

#[test]
fn requirement_is_enforced_from_image_to_image_and_rollback_brings_back_its_own() {
    let mut computer = Computer::installed(&Image::new("1"));
    let first = computer.booted();
    assert_eq!(computer.record(&first).origin.requirement, None, "as from before there were any");
    assert!(upgrade(&computer, &Image::new("1"), &[]).is_ok(), "goes on without");

    let signed = upgrade(&computer, &Image::new("2"), &[signature("a", "then")]).unwrap();
    assert_eq!(signed.record.image.signatures, [signature("a", "then")]);
    assert_eq!(computer.record(&signed.id), signed.record);
    assert!(upgrade(&computer, &Image::new("3"), &[]).is_err(), "what is staged is followed");
    assert_eq!(computer.boot(), signed.id);
    assert!(upgrade(&computer, &Image::new("3"), &[]).is_err());
    assert!(upgrade(&computer, &Image::new("2"), &[]).is_err(), "not even the one that runs");

    let third = upgrade(&computer, &Image::new("3"), &[signature("b", "later")]).unwrap();
    let stored = third.record.origin.requirement.clone().unwrap();
    assert_eq!((stored.signature, stored.keys), (Needed::Required, vec!["b".to_owned()]));
    assert_eq!(stored.since, signed.record.origin.requirement.unwrap().since, "required all the time");

    computer.run(None, rollback::rollback).unwrap();
    assert_eq!(computer.boot(), first);
    assert_eq!(computer.record(&first).origin.requirement, None, "its own");
    computer.assert_whole();
}

#[test]
fn only_a_switch_that_says_so_waives_the_requirement() {
    let mut computer = Computer::installed(&Image::new("1"));
    switch(&computer, &Image::new("2"), &[signature("a", "then")], Unsigned::Refused);
    computer.boot();
    let unsigned = switch(&computer, &Image::new("3"), &[], Unsigned::Allowed);
    assert_eq!(requirement(&unsigned.record), Some(Needed::Waived));
    assert!(unsigned.record.image.signatures.is_empty());
    computer.boot();
    let fourth = upgrade(&computer, &Image::new("4"), &[]).unwrap();
    assert_eq!(requirement(&fourth.record), Some(Needed::Waived));
    computer.assert_whole();
}

#[test]
fn image_that_runs_gets_its_signature_recorded_once() {
    let computer = Computer::installed(&Image::new("1"));
    let staged = upgrade(&computer, &Image::new("1"), &[signature("a", "then")]).unwrap();
    assert_eq!(staged.staging, Staging::Current);
    let path = computer.root().join(paths::record(&staged.id));
    let before = std::fs::read(&path).unwrap();
    let record = computer.record(&staged.id);
    assert_eq!((requirement(&record), record.image.signatures), (Some(Needed::Required), vec![signature("a", "then")]));
    upgrade(&computer, &Image::new("1"), &[signature("a", "later")]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before, "the same signature, verified again");
    upgrade(&computer, &Image::new("1"), &[signature("b", "later")]).unwrap();
    assert_eq!(computer.record(&staged.id).image.signatures, [signature("b", "later")]);
}

#[test]
fn newer_programs_requirement_survives_an_older_program() {
    let computer = Computer::installed(&Image::new("1"));
    let id = computer.booted();
    let mut record = computer.record(&id);
    let stored = Requirement { signature: Needed::Unknown("by-two-keys".to_owned()), ..Requirement::default() };
    record.origin.requirement = Some(stored);
    record.origin.requirement.as_mut().unwrap().unknown.insert("quorum".to_owned(), 2.into());
    std::fs::write(computer.root().join(paths::record(&id)), record.to_toml().unwrap()).unwrap();
    assert!(upgrade(&computer, &Image::new("2"), &[]).is_err());
    let staged = upgrade(&computer, &Image::new("2"), &[signature("a", "then")]).unwrap();
    let stored = staged.record.origin.requirement.unwrap();
    assert_eq!(stored.signature, Needed::Unknown("by-two-keys".to_owned()));
    assert_eq!(stored.unknown["quorum"].as_integer(), Some(2));
}
