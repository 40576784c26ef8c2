use osupdate_deploy::model::Entry;
use osupdate_deploy::record::{Deployment as Record, DeploymentId};

use super::*;
use crate::output::JSON_VERSION;

fn id(digit: char) -> DeploymentId {
    digit.to_string().repeat(128).parse().unwrap()
}

fn deployment(digit: char, sequence: u64, booted_before: bool) -> Deployment {
    let text = format!(
        "version = 1\nsequence = {sequence}\ncreated = \"2026-11-23T10:04:05Z\"\n\
         [image]\nreference = \"docker://registry.example.com/os:latest\"\nmanifest_digest = \"sha256:{hex}\"\n\
         config_digest = \"sha256:{hex}\"\nversion = \"{sequence}\"\ntitle = \"Example OS {sequence}\"\n\
         [boot]\ndigest = \"{hex}\"\nkernel = \"6.12\"\narguments = [\"root=UUID=1\", \"rw\"]\n\
         image_arguments = [\"quiet\"]\n{signed}",
        hex = digit.to_string().repeat(64),
        signed = signed(digit),
    );
    Deployment { id: id(digit), record: Record::parse(&text).unwrap(), booted_before, unfinished: None }
}

/// What the record says of signatures: a is from before there were any, d was allowed without.
fn signed(digit: char) -> &'static str {
    match digit {
        'b' => {
            "[[image.signatures]]\nkind = \"openpgp\"\nkey = \"0123456789ABCDEF0123456789ABCDEF01234567\"\n\
             key_file = \"/etc/pki/os.gpg\"\nsigner = \"Example Builders <os@example.com>\"\n\
             identity = \"registry.example.com/os:latest\"\nmade = \"2026-11-23T09:00:00Z\"\n\
             verified = \"2026-11-23T10:00:00Z\"\n\
             [origin.requirement]\nsignature = \"required\"\nkeys = [\"0123456789ABCDEF0123456789ABCDEF01234567\"]\n\
             since = \"2026-11-20T10:00:00Z\"\n"
        }
        'c' => {
            "[[image.signatures]]\nkind = \"sigstore\"\nkey = \"sha256:00ff\"\nverified = \"2026-11-23T10:00:00Z\"\n\
             [origin.requirement]\nsignature = \"required\"\nsince = \"2026-11-20T10:00:00Z\"\n\
             [boot.uki]\npath = \"boot/EFI/Linux/os.efi\"\nobject = \"00ff\"\n\
             [[boot.uki.addons]]\nname = \"a.addon.efi\"\nobject = \"00fe\"\n\
             [boot.uki.local]\nfile = \"x\"\narguments = [\"console=ttyS0\"]\n"
        }
        'd' => "[origin.requirement]\nsignature = \"waived\"\nsince = \"2026-11-20T10:00:00Z\"\n",
        _ => "",
    }
}

fn entry(digit: char, sequence: u64, tries_left: Option<u32>) -> Entry {
    let file_name = format!("osupdate-{}-{sequence:06}.conf", digit.to_string().repeat(12));
    Entry { deployment: id(digit), sequence, tries_left, file_name }
}

fn booted(digit: char, verified: bool) -> Booted {
    Booted { id: id(digit), verified, sequence: Some(1) }
}

/// Booted b, staged c, rollback a, and d that failed.
fn report() -> Report {
    let found =
        vec![deployment('a', 1, true), deployment('b', 2, true), deployment('d', 3, true), deployment('c', 4, false)];
    let entries = vec![entry('a', 1, None), entry('b', 2, None), entry('d', 3, Some(0)), entry('c', 4, Some(3))];
    let damaged = vec![Damaged { name: "x".to_owned(), reason: "has no deployment.toml".to_owned() }];
    let model = Model::new(found, damaged, Some(booted('b', true)), Some(entries));
    let foreign = vec![Foreign { id: "debian.conf".to_owned(), title: Some("Debian".to_owned()) }];
    Report::new(&model, Some(&booted('b', true)), Some(foreign))
}

fn human(report: &Report) -> String {
    let mut text = Vec::new();
    report.human(&mut text).unwrap();
    // The digests are of no interest here.
    let text = String::from_utf8(text).unwrap();
    ['a', 'b', 'c', 'd'].iter().fold(text, |text, digit| text.replace(&digit.to_string().repeat(64), "HEX"))
}

#[test]
fn json_form_is_the_pinned_one() {
    assert_eq!(JSON_VERSION, 1, "a new version needs a new fixture beside the old one");
    let json = serde_json::to_string_pretty(&report()).unwrap() + "\n";
    assert_eq!(json, include_str!("fixture-v1.json"));
}

#[test]
fn human_form_shows_every_deployment_and_the_next_boot() {
    let expected = "\
Booted: docker://registry.example.com/os:latest
  version     2 (Example OS 2)
  digest      sha256:HEX
  deployment  bbbbbbbbbbbb
  verified    yes
  signed      by Example Builders <os@example.com> on 2026-11-23T09:00:00Z
              openpgp key 0123456789ABCDEF0123456789ABCDEF01234567
              verified on 2026-11-23T10:00:00Z

Staged: docker://registry.example.com/os:latest
  version     4 (Example OS 4)
  digest      sha256:HEX
  deployment  cccccccccccc
  boots       /boot/EFI/Linux/os.efi of the image, a UKI with sealed kernel arguments
  addon       a.addon.efi
  arguments   console=ttyS0, in an addon of this machine
  signed      yes
              sigstore key sha256:00ff
              verified on 2026-11-23T10:00:00Z

Rollback: docker://registry.example.com/os:latest
  version     1 (Example OS 1)
  digest      sha256:HEX
  deployment  aaaaaaaaaaaa
  signed      NO: it was installed before signatures were required

Other (bad): docker://registry.example.com/os:latest
  version     3 (Example OS 3)
  digest      sha256:HEX
  deployment  dddddddddddd
  signed      NO: the user has allowed that (--allow-unsigned-image) on 2026-11-20T10:00:00Z
  bad         the boot loader gave up on it after failed boots

Next boot: the staged deployment, 4 (cccccccccccc)
Damaged: x has no deployment.toml
Boot entries of other systems, left alone:
  debian.conf Debian
";
    assert_eq!(human(&report()), expected);
}

#[test]
fn unverified_root_is_told_loudly() {
    let model = Model::new(vec![deployment('a', 1, true)], Vec::new(), Some(booted('a', true)), None);
    let text = human(&Report::new(&model, Some(&booted('a', false)), None));
    assert!(text.contains("verified    NO"), "{text}");
    assert!(text.contains("Next boot: the booted deployment, 1 (aaaaaaaaaaaa)"), "{text}");
    assert!(text.contains("that needs root privileges"), "{text}");
}

#[test]
fn image_whose_time_is_over_is_told() {
    let mut old = deployment('a', 1, true);
    let mut told = |expires: &str| {
        old.record.image.expires = Some(expires.to_owned());
        human(&Report::new(&Model::new(vec![old.clone()], Vec::new(), Some(booted('a', true)), None), None, None))
    };
    assert!(told("2026-01-01T00:00:00Z").contains("  expires     2026-01-01T00:00:00Z: over;"));
    assert!(told("9999-01-01T00:00:00Z").contains("  expires     9999-01-01T00:00:00Z\n"));
}

#[test]
fn default_set_by_somebody_is_told() {
    let told = Report { preferred_by_loader: Some("debian.conf".to_owned()), ..report() };
    assert!(human(&told).contains("told to start debian.conf instead"), "{}", human(&told));
}

#[test]
fn queued_rollback_is_told() {
    let found = vec![deployment('a', 3, true), deployment('b', 2, true)];
    let entries = vec![entry('a', 3, None), entry('b', 2, None)];
    let model = Model::new(found, Vec::new(), Some(booted('b', true)), Some(entries));
    let text = human(&Report::new(&model, None, Some(Vec::new())));
    assert!(text.contains("Next boot: the rollback deployment, 3 (aaaaaaaaaaaa)"), "{text}");
}

#[test]
fn change_that_waits_for_a_restart_is_told() {
    let mut changed = deployment('b', 5, true);
    changed.record.boot_since = Some(5);
    let entries = vec![entry('b', 1, None), entry('b', 5, Some(3))];
    let model = Model::new(vec![changed], Vec::new(), Some(booted('b', true)), Some(entries));
    let report = Report::new(&model, None, None);
    assert!(report.change_pending);
    assert!(human(&report).contains("5 (bbbbbbbbbbbb), with kernel arguments or a UKI that it was not started with\n"));
}

#[test]
fn change_that_was_given_up_is_told_with_what_to_do() {
    let mut changed = deployment('b', 5, true);
    changed.record.boot_since = Some(5);
    let report = |tries| {
        let entries = vec![entry('b', 1, None), entry('b', 5, Some(tries))];
        Report::new(&Model::new(vec![changed.clone()], Vec::new(), Some(booted('b', true)), Some(entries)), None, None)
    };
    assert!(!report(1).change_failed);
    let failed = report(0);
    assert!(failed.change_failed && !failed.change_pending);
    assert!(human(&failed).contains("osupdate kargs --delete"), "{}", human(&failed));
}
