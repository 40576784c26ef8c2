//! The order in which systemd-boot shows entries, and so which one it starts by itself.
//!
//! Kept equal to the loader's own comparison, because deployments are put in order by nothing else: no default is ever
//! set, it would be started even when all its tries have failed.

use std::cmp::Ordering;

use crate::entry::Entry;
use crate::name::EntryName;
use crate::version;

/// An entry with the name that it has on the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEntry {
    /// Its file name.
    pub name: EntryName,
    /// Its text.
    pub entry: Entry,
}

/// Compares two entries as systemd-boot does: the lesser one is higher in the menu.
///
/// Bad entries come last. Then entries with a sort-key before those without, sort-key and machine-id ascending, version
/// descending, id descending; entries with equal ids by tries left descending and tries done ascending.
pub fn compare(a: &NamedEntry, b: &NamedEntry) -> Ordering {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let by_sort_key = match (&a.entry.sort_key, &b.entry.sort_key) {
        (Some(a_key), Some(b_key)) => a_key
            .cmp(b_key)
            .then_with(|| text(&a.entry.machine_id).cmp(&text(&b.entry.machine_id)))
            .then_with(|| version::compare(&text(&b.entry.version), &text(&a.entry.version))),
        (a_key, b_key) => a_key.is_none().cmp(&b_key.is_none()),
    };
    (a.name.is_bad().cmp(&b.name.is_bad()))
        .then(by_sort_key)
        .then_with(|| version::compare(&b.name.id(), &a.name.id()))
        .then_with(|| match (a.name.tries(), b.name.tries()) {
            (Some(a), Some(b)) => b.left.cmp(&a.left).then(a.done.cmp(&b.done)),
            _ => Ordering::Equal,
        })
}

/// The entry that the loader starts when nobody chooses: no one-shot or default entry in EFI variables or `loader.conf`,
/// no key pressed.
///
/// Give it the entries that the loader shows: those of $BOOT and of the ESP whose files are there. A bad entry is chosen
/// only if there is no other. Type #2 entries are not considered.
pub fn first_choice<'a>(entries: impl IntoIterator<Item = &'a NamedEntry>) -> Option<&'a NamedEntry> {
    entries.into_iter().filter(|candidate| candidate.entry.program().is_some()).min_by(|a, b| compare(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, sort_key: &str, version: &str) -> NamedEntry {
        let text = format!("linux /vmlinuz\nsort-key {sort_key}\nversion {version}\n");
        NamedEntry { name: name.parse().unwrap(), entry: Entry::parse(text.as_bytes()) }
    }

    fn names(mut entries: Vec<NamedEntry>) -> Vec<String> {
        entries.sort_by(compare);
        entries.into_iter().map(|entry| entry.name.to_string()).collect()
    }

    #[test]
    fn highest_version_first_and_bad_last() {
        let entries = vec![
            entry("osupdate-a-1.conf", "osupdate", "000001-13"),
            entry("osupdate-b-3+0-3.conf", "osupdate", "000003-13"),
            entry("osupdate-a-2+3-0.conf", "osupdate", "000002-1"),
        ];
        assert_eq!(names(entries), ["osupdate-a-2+3-0.conf", "osupdate-a-1.conf", "osupdate-b-3+0-3.conf"]);
    }

    #[test]
    fn sort_keys_decide_before_versions_and_their_absence_comes_last() {
        let entries = vec![
            entry("z.conf", "", "999"),
            entry("a.conf", "osupdate", "1"),
            entry("b.conf", "debian", "0"),
            entry("y.conf", "", "1"),
        ];
        assert_eq!(names(entries), ["b.conf", "a.conf", "z.conf", "y.conf"]);
    }

    #[test]
    fn equal_entries_are_ordered_by_id_and_then_by_tries() {
        let entries =
            vec![entry("x-9.conf", "k", "1"), entry("x-10+1-2.conf", "k", "1"), entry("x-10+2-1.conf", "k", "1")];
        assert_eq!(names(entries), ["x-10+2-1.conf", "x-10+1-2.conf", "x-9.conf"]);
    }

    #[test]
    fn a_bad_entry_is_started_when_nothing_else_is_left() {
        let bad = entry("a+0-3.conf", "osupdate", "2");
        let good = entry("b.conf", "osupdate", "1");
        let empty = NamedEntry { name: "c.conf".parse().unwrap(), entry: Entry::parse(b"sort-key a\n") };
        assert_eq!(first_choice([&bad, &good, &empty]), Some(&good));
        assert_eq!(first_choice([&bad, &empty]), Some(&bad));
        assert_eq!(first_choice([&empty]), None);
    }
}
