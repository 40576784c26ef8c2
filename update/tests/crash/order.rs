//! The order that `FORMAT.md` promises, seen in the calls of whole commands.

use crate::scenarios;
use crate::tracer::Call;

/// True if the path has this component directly below the repository.
fn is_in(call: &Call, directory: &str) -> bool {
    let mut components = call.path.iter().skip_while(|component| *component != "repo");
    components.nth(1).is_some_and(|component| component == directory)
}

fn is_ref(call: &Call) -> bool {
    call.path.iter().any(|component| component == "refs")
}

/// The number of the last call before `end` that is like this.
fn last_before(calls: &[Call], end: usize, like: impl Fn(&Call) -> bool) -> Option<usize> {
    calls[..end].iter().rposition(like)
}

/// Every name is made after a `syncfs` that came after all objects, every ref after a sync of the names.
fn assert_order_of_writing(calls: &[Call]) {
    let mut names = 0;
    let makes = |call: &Call| matches!(call.name, "symlinkat" | "renameat");
    for (number, call) in calls.iter().enumerate().filter(|(_, call)| makes(call)) {
        names += 1;
        if is_ref(call) {
            let Some(name) = last_before(calls, number, |call| {
                makes(call) && !is_ref(call) && (is_in(call, "streams") || is_in(call, "images"))
            }) else {
                continue;
            };
            let synced = last_before(calls, number, |call| matches!(call.name, "fsync" | "syncfs"));
            assert!(synced > Some(name), "{call:?} before the name {:?} was synced", calls[name]);
        } else {
            // A name that is put in place of another is first made beside it.
            let object = last_before(calls, number, |call| is_in(call, "objects"));
            let synced = last_before(calls, number, |call| call.name == "syncfs");
            assert!(object.is_none() || synced > object, "{call:?} before {:?} was synced", calls[object.unwrap()]);
        }
    }
    assert!(names > 0);
}

#[test]
fn names_come_after_objects_are_synced_and_refs_after_names() {
    for scenario in [scenarios::pull(), scenarios::pull_of_another_image(), scenarios::tag()] {
        assert_order_of_writing(&scenario.undisturbed().0);
    }
}

#[test]
fn a_collection_removes_names_then_syncs_then_removes_objects() {
    let (calls, _) = scenarios::collection().undisturbed();
    let removals = |calls: &[Call], objects: bool| {
        let removes = |call: &&Call| call.name == "unlinkat" && is_in(call, "objects") == objects;
        calls.iter().filter(removes).count()
    };
    let sync = calls.iter().position(|call| call.name == "syncfs").unwrap();
    let (before, after) = calls.split_at(sync);
    assert!(removals(before, false) > 0 && removals(before, true) == 0, "{before:?}");
    assert!(removals(after, true) > 0, "{after:?}");
}
