//! Entries for UKIs while the loader changes from one that does not know the key `uki` to one that does, or back.
//!
//! At no moment an entry that must be seen is hidden, or one that must be counted is not: what is counted cannot be had in both ways,
//! so there must be no such entry. Where the machine has loaders of both kinds already, it is not counted in any case.

use osupdate_core::observer::{Event, Observer};
use osupdate_efi::entry::UkiKey;
use osupdate_efi::order::NamedEntry;

use super::BootloaderError;
use crate::boot::BootPartition;
use crate::esps::UkiSupport;

/// Fits the entries to loaders of both kinds, before the first one is replaced.
pub(super) fn prepare(
    boot: &BootPartition,
    before: UkiSupport,
    after: UkiSupport,
    observer: &dyn Observer,
) -> Result<(), BootloaderError> {
    boot.correct_keys(observer)?;
    if before == after {
        return Ok(());
    }
    let entries = boot.own_entries()?;
    let is_uki = |named: &&NamedEntry| named.entry.uki_key().is_some();
    let is_tried = |named: &&NamedEntry| named.name.tries().is_some() && !named.name.is_bad();
    let tried: Vec<_> = entries.iter().filter(is_uki).filter(is_tried).collect();
    // Where loaders are of both kinds already, they may never be found good: the newer one does not count their boots.
    if before != UkiSupport::Mixed && !tried.is_empty() {
        let entries = tried.iter().map(|named| named.name.file_name().to_owned()).collect();
        return Err(BootloaderError::Tried { entries });
    }
    if entries.iter().any(|named| is_uki(&named)) && entries.iter().all(|named| named.name.is_bad()) {
        return Err(BootloaderError::AllFailed);
    }
    boot.fit_keys(UkiSupport::Mixed, observer)?;
    // From now on the newer loader counts them, and the older one starts what is good.
    if after == UkiSupport::All && entries.iter().any(|named| named.name.tries().is_none()) {
        for named in tried {
            boot.change_key(named, UkiKey::Uki)?;
        }
    }
    if before == UkiSupport::All {
        for name in boot.foreign_uki_entries()? {
            let text = format!("the boot loader will not show the entry {name} any more, which is not of osupdate");
            observer.event(Event::Warning(&text));
        }
    }
    Ok(())
}
