use std::sync::Mutex;

use osupdate_core::oci::Release;
use osupdate_deploy::record::Needed;

use super::*;

const REFUSED: Allowances =
    Allowances { allow_unsigned_image: false, expired: AllowExpired { allow_expired_image: false } };
const NOTHING_MORE: UpgradeAllowances =
    UpgradeAllowances { allow_downgrade: false, expired: AllowExpired { allow_expired_image: false } };

/// Collects the warnings.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

impl Heard {
    fn text(self) -> String {
        self.0.into_inner().unwrap().join("\n")
    }
}

fn followed(requirement: Option<Needed>) -> Record {
    let text = "version = 1\nsequence = 1\ncreated = \"\"\n[image]\nreference = \"docker://registry.example.com/os:1\"\n\
                manifest_digest = \"m\"\nconfig_digest = \"c\"\n[boot]\ndigest = \"d\"\nkernel = \"6\"\n";
    let mut record = Record::parse(text).unwrap();
    record.origin.requirement = requirement.map(|signature| Requirement {
        signature,
        keys: vec!["KEY".to_owned()],
        since: "then".to_owned(),
        ..Requirement::default()
    });
    record
}

fn signed(key: &str) -> Vec<Signature> {
    vec![Signature { key: key.to_owned(), ..Signature::default() }]
}

fn older() -> Freshness {
    let release = |version: &str| Release { version: Some(version.to_owned()), ..Release::default() };
    Freshness::of(&release("1"), Some(&release("2")), 0)
}

fn expired() -> Freshness {
    Freshness::of(
        &Release { expires: Some("2026-01-01T00:00:00Z".to_owned()), ..Release::default() },
        None,
        i64::MAX / 2,
    )
}

#[test]
fn stripped_image_is_refused_by_what_is_stored_whatever_the_policy_says() {
    let heard = Heard::default();
    let upgrade = |stored, signatures, heard: &Heard| {
        decide_upgrade(&followed(stored), signatures, Freshness::default(), false, NOTHING_MORE, heard)
    };
    let err = upgrade(Some(Needed::Required), Vec::new(), &heard).unwrap_err();
    assert!(err.to_string().contains("must be signed since then"), "{err}");
    assert!(err.hint().unwrap().contains("switch --allow-unsigned-image"));
    assert!(upgrade(Some(Needed::Waived), Vec::new(), &heard).is_ok());
    assert_eq!(upgrade(None, Vec::new(), &heard).unwrap().requirement, None);
    let now = upgrade(None, signed("KEY"), &heard).unwrap();
    assert!(now.requirement.unwrap().refuses_unsigned());
    assert_eq!(heard.text(), "");
}

#[test]
fn unsigned_medium_waives_nothing_for_the_origin_that_is_followed_then() {
    let (medium, registry) = ("oci:/medium".parse().unwrap(), "registry.example.com/os:1".parse().unwrap());
    let allowed = Allowances { allow_unsigned_image: true, ..REFUSED };
    let heard = Heard::default();
    let required = |origin| requirement_of_installed(&medium, origin, &[], allowed, &heard).unwrap().refuses_unsigned();
    assert!(!required(&medium));
    assert!(required(&registry));
    assert!(heard.text().contains("registry.example.com/os:1 must be signed"));
    assert!(requirement_of_installed(&medium, &registry, &[], REFUSED, &Heard::default()).is_err());
}

#[test]
fn change_of_the_key_is_told() {
    let heard = Heard::default();
    decide_upgrade(&followed(Some(Needed::Required)), signed("NEW"), Freshness::default(), false, NOTHING_MORE, &heard)
        .unwrap();
    let text = heard.text();
    assert!(text.contains("another key") && text.contains("signed with KEY since then"), "{text}");
}

#[test]
fn older_image_is_refused_by_upgrade_and_told_by_switch() {
    let record = followed(Some(Needed::Required));
    let heard = Heard::default();
    let err = decide_upgrade(&record, signed("KEY"), older(), false, NOTHING_MORE, &heard).unwrap_err();
    assert!(err.to_string().contains("(version 1) is older") && err.to_string().contains("(version 2)"), "{err}");
    let allowed = UpgradeAllowances { allow_downgrade: true, ..NOTHING_MORE };
    assert!(decide_upgrade(&record, signed("KEY"), older(), false, allowed, &heard).is_ok());
    assert!(decide_switch(&record, signed("KEY"), older(), REFUSED, &heard).is_ok());
    assert!(heard.text().contains("older"));
}

#[test]
fn expired_image_is_refused_unless_the_machine_has_it() {
    let (record, heard) = (followed(Some(Needed::Required)), Heard::default());
    let upgrade = |same, allow| decide_upgrade(&record, signed("KEY"), expired(), same, allow, &heard);
    assert!(matches!(upgrade(false, NOTHING_MORE), Err(AdmissionError::Expired(_))));
    assert!(upgrade(true, NOTHING_MORE).unwrap().frozen.is_some(), "it stays, and that is told");
    let allowed = AllowExpired { allow_expired_image: true };
    assert_eq!(upgrade(false, UpgradeAllowances { expired: allowed, ..NOTHING_MORE }).unwrap().frozen, None);
    let switch = |allow| decide_switch(&record, signed("KEY"), expired(), allow, &heard);
    assert!(matches!(switch(REFUSED), Err(AdmissionError::Expired(_))));
    assert!(switch(Allowances { expired: allowed, ..REFUSED }).is_ok());
}

#[test]
fn switch_to_an_unsigned_image_needs_the_word_each_time_and_says_what_is_dropped() {
    let allowed = Allowances { allow_unsigned_image: true, ..REFUSED };
    for stored in [None, Some(Needed::Waived), Some(Needed::Required)] {
        let heard = Heard::default();
        let record = followed(stored.clone());
        let switch = |allow| decide_switch(&record, Vec::new(), Freshness::default(), allow, &heard);
        let err = switch(REFUSED).unwrap_err();
        assert!(err.hint().unwrap().contains("--allow-unsigned-image"), "{stored:?}");
        assert!(!switch(allowed).unwrap().requirement.refuses_unsigned());
        let text = heard.text();
        let dropped = text.contains("docker://registry.example.com/os:1 are signed with KEY since then");
        assert_eq!(dropped, stored == Some(Needed::Required), "{text}");
    }
}
