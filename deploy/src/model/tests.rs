use super::fixtures::{booted, carrying, deployment, entry, id, model};
use super::*;

fn name(deployment: Option<&Deployment>) -> Option<char> {
    deployment.map(|deployment| deployment.id.as_str().chars().next().unwrap())
}

fn names<'a>(deployments: impl Iterator<Item = &'a Deployment>) -> String {
    deployments.map(|deployment| name(Some(deployment)).unwrap()).collect()
}

#[test]
fn freshly_installed_system_boots_its_only_deployment() {
    let model = model(vec![deployment('a', 1, true)], 'a', &[entry('a', 1, None)]);
    assert_eq!(name(model.next()), Some('a'));
    assert_eq!(name(model.staged()), None);
    assert_eq!(name(model.rollback()), None);
    assert!(!model.rollback_queued());
    assert_eq!(model.roles(&id('a')), [Role::Booted, Role::Next]);
    assert_eq!(model.next_sequence(), 2);
}

#[test]
fn staged_deployment_is_next_and_the_running_one_is_kept() {
    let model = model(
        vec![deployment('a', 1, true), carrying(deployment('b', 2, false), 'a')],
        'a',
        &[entry('a', 1, None), entry('b', 2, Some(3))],
    );
    assert_eq!(name(model.staged()), Some('b'));
    assert_eq!(name(model.rollback()), None, "the running system is not its own rollback");
    assert!(!model.rollback_queued());
    assert_eq!(model.unneeded().count(), 0);
}

#[test]
fn after_the_boot_the_former_one_is_the_rollback() {
    let model = model(
        vec![deployment('a', 1, true), deployment('b', 2, true)],
        'b',
        &[entry('a', 1, None), entry('b', 2, Some(2))],
    );
    assert_eq!(name(model.rollback()), Some('a'));
    assert_eq!(name(model.staged()), None, "what runs is not staged");
}

#[test]
fn queued_rollback_is_seen() {
    let model = model(
        vec![deployment('a', 3, true), deployment('b', 2, true)],
        'b',
        &[entry('a', 3, None), entry('b', 2, None)],
    );
    assert!(model.rollback_queued());
    assert_eq!(model.roles(&id('a')), [Role::Next, Role::Rollback]);
}

#[test]
fn bad_one_is_neither_next_nor_rollback_and_is_kept_while_newer_than_what_runs() {
    let found = vec![deployment('a', 1, true), deployment('b', 2, true), deployment('c', 3, true)];
    let entries = [entry('a', 1, None), entry('b', 2, None), entry('c', 3, Some(0))];
    let fallen_back = model(found.clone(), 'b', &entries);
    assert_eq!(name(fallen_back.next()), Some('b'));
    assert_eq!(name(fallen_back.rollback()), Some('a'));
    assert_eq!(fallen_back.kept(&id('c')), Some(Kept::Failed));
    assert_eq!(names(fallen_back.expendable()), "c");

    let mut found = found;
    found.push(deployment('d', 4, true));
    let upgraded = model(found, 'd', &[&entries[..], &[entry('d', 4, None)]].concat());
    assert_eq!(upgraded.kept(&id('c')), None);
    assert_eq!(name(upgraded.rollback()), Some('b'));
    assert_eq!(names(upgraded.unneeded()), "ac", "oldest first");
}

#[test]
fn only_bad_ones_left_still_have_a_next() {
    let model = model(
        vec![deployment('a', 1, true), deployment('b', 2, true)],
        'a',
        &[entry('a', 1, Some(0)), entry('b', 2, Some(0))],
    );
    assert_eq!(name(model.next()), Some('b'));
}

#[test]
fn without_entries_the_records_tell_the_order() {
    let found = vec![deployment('a', 1, true), deployment('b', 2, false)];
    let model = Model::new(found, Vec::new(), Some(booted('a', None)), None);
    assert_eq!(name(model.staged()), Some('b'));
    assert!(!model.entries_known());
}

#[test]
fn deployment_without_an_entry_does_not_boot_next() {
    let model = model(vec![deployment('a', 1, true), deployment('b', 2, true)], 'a', &[entry('a', 1, None)]);
    assert_eq!(name(model.next()), Some('a'));
    assert_eq!(name(model.rollback()), Some('b'), "its entry can be made again");
}

#[test]
fn pinned_and_source_of_etc_are_kept() {
    let mut pinned = deployment('a', 1, true);
    pinned.record.pinned = true;
    let found = vec![
        pinned,
        deployment('b', 2, true),
        deployment('c', 3, true),
        deployment('d', 4, true),
        carrying(deployment('e', 5, false), 'b'),
    ];
    let entries = ['a', 'b', 'c', 'd', 'e'].map(|digit| entry(digit, u64::from(digit) - 96, None));
    let model = model(found, 'd', &entries);
    assert_eq!(model.kept(&id('a')), Some(Kept::Needed));
    assert_eq!(model.kept(&id('b')), Some(Kept::CarrySource));
    assert_eq!(name(model.rollback()), Some('c'));
    assert_eq!(names(model.unneeded()), "");
}

#[test]
fn source_of_a_discarded_deployment_is_not_kept() {
    let found = vec![
        deployment('a', 1, true),
        deployment('c', 5, true),
        deployment('d', 4, true),
        carrying(deployment('b', 2, false), 'a'),
    ];
    let entries = [entry('a', 1, None), entry('b', 2, None), entry('c', 5, None), entry('d', 4, None)];
    let model = model(found, 'd', &entries);
    assert_eq!(names(model.unneeded()), "ab");
}

#[test]
fn interrupted_making_is_no_deployment_until_its_entry_exists() {
    let mut new = deployment('b', 2, false);
    new.unfinished = Some(Unfinished::New);
    let found = vec![deployment('a', 1, true), new];
    let before = model(found.clone(), 'a', &[entry('a', 1, None)]);
    assert_eq!(before.interrupted, [id('b')]);
    assert_eq!(names(before.deployments().iter()), "a");
    let after = model(found.clone(), 'a', &[entry('a', 1, None), entry('b', 2, Some(3))]);
    assert!(after.interrupted.is_empty());
    assert_eq!(name(after.staged()), Some('b'));
    let unprivileged = Model::new(found.clone(), Vec::new(), Some(booted('a', None)), None);
    assert_eq!(unprivileged.interrupted, [id('b')]);
    let running = model(found, 'b', &[entry('a', 1, None)]);
    assert_eq!(name(running.booted()), Some('b'), "what runs is never taken for an unfinished one");
}

#[test]
fn interrupted_change_of_order_counts_from_its_entry_on() {
    let mut changed = deployment('a', 3, true);
    changed.unfinished = Some(Unfinished::Changed(Box::new(deployment('a', 1, true).record)));
    let found = vec![changed, deployment('b', 2, true)];
    let old = [entry('a', 1, None), entry('b', 2, None)];
    assert_eq!(name(model(found.clone(), 'b', &old).next()), Some('b'));
    assert_eq!(model(found.clone(), 'b', &old).next_sequence(), 3);
    let new = [&old[..], &[entry('a', 3, None)]].concat();
    let after = model(found, 'b', &new);
    assert_eq!(name(after.next()), Some('a'));
    assert_eq!(after.entry(&id('a')).unwrap().sequence, 3);
    assert_eq!(after.next_sequence(), 4);
}

#[test]
fn thirty_deployments_keep_their_order() {
    let digest = |n: u64| format!("{n:0128x}").parse::<DeploymentId>().unwrap();
    let found: Vec<_> = (1..=30).rev().map(|n| Deployment { id: digest(n), ..deployment('a', n, n < 30) }).collect();
    let entries = (1..=30)
        .map(|n| Entry { deployment: digest(n), sequence: n, tries_left: None, file_name: String::new() })
        .collect();
    let model =
        Model::new(found, Vec::new(), Some(Booted { id: digest(17), verified: true, sequence: None }), Some(entries));
    assert_eq!(model.next().unwrap().id, digest(30));
    assert_eq!(model.rollback().unwrap().id, digest(29));
    assert_eq!(model.unneeded().count(), 27, "booted, next and rollback stay");
    assert_eq!(model.next_sequence(), 31);
}

#[test]
fn change_of_what_runs_is_pending_until_it_is_started_or_given_up() {
    let changed = |since| {
        let mut deployment = deployment('a', 5, true);
        deployment.record.boot_since = since;
        deployment
    };
    let pending = |since, started, entries: Option<Vec<Entry>>| {
        let found = vec![changed(since), deployment('b', 3, true)];
        Model::new(found, Vec::new(), Some(booted('a', started)), entries).change_pending()
    };
    let tried = |tries| Some(vec![entry('a', 2, None), entry('a', 5, tries), entry('b', 3, None)]);
    assert!(pending(Some(5), Some(2), tried(Some(3))));
    assert!(pending(Some(5), Some(2), None), "without privileges");
    assert!(!pending(Some(5), Some(2), tried(Some(0))), "given up");
    assert!(!pending(Some(5), Some(5), tried(None)), "started");
    assert!(!pending(Some(4), Some(4), tried(None)), "only the order changed since");
    assert!(!pending(None, Some(2), tried(None)));
    assert!(!pending(Some(5), None, tried(Some(3))), "another loader");
    let next = Some(vec![entry('a', 5, Some(3)), entry('b', 6, None)]);
    assert!(!pending(Some(5), Some(2), next), "another deployment is next");
}
