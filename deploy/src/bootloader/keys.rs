//! Entries for UKIs while the loader changes from one that does not know the key `uki` to one that does, or back.
//!
//! At no moment an entry that must be seen is hidden, or one that must be counted is not: what is counted cannot be had in both ways,
//! so there must be no such entry.

use osupdate_core::observer::{Event, Observer};
use osupdate_efi::entry::UkiKey;

use super::BootloaderError;
use crate::boot::BootPartition;

/// Fits the entries to loaders of both kinds, before the first one is replaced.
pub(super) fn prepare(
    boot: &BootPartition,
    before: UkiKey,
    after: UkiKey,
    observer: &dyn Observer,
) -> Result<(), BootloaderError> {
    boot.correct_keys(observer)?;
    if before == after {
        return Ok(());
    }
    let entries = boot.own_entries()?;
    let (ukis, others): (Vec<_>, Vec<_>) = entries.iter().partition(|named| named.entry.uki_key().is_some());
    let tried = ukis.iter().filter(|named| named.name.tries().is_some() && !named.name.is_bad());
    let tried: Vec<_> = tried.map(|named| named.name.file_name().to_owned()).collect();
    if !tried.is_empty() {
        return Err(BootloaderError::Tried { entries: tried });
    }
    if !ukis.is_empty() && ukis.iter().chain(&others).all(|named| named.name.is_bad()) {
        return Err(BootloaderError::AllFailed);
    }
    // What was given up may be hidden; what is neither counted nor given up boots by the key `efi` in any case.
    for named in ukis.iter().filter(|named| named.entry.uki_key() != Some(after)) {
        if named.name.is_bad() == (after == UkiKey::Uki) {
            observer.event(Event::Step(&format!("fitting {} to the new boot loader", named.name)));
            boot.change_key(named, after)?;
        }
    }
    if after == UkiKey::Efi {
        for name in boot.foreign_uki_entries()? {
            let text = format!("the boot loader will not show the entry {name} any more, which is not of osupdate");
            observer.event(Event::Warning(&text));
        }
    }
    Ok(())
}
