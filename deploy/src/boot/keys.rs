//! By which key our entries name UKIs, when loaders change.
//!
//! What each loader makes of the keys is in `LAYOUT.md` of the efi crate.

use osupdate_core::observer::{Event, Observer};
use osupdate_efi::boot_program::Identity;
use osupdate_efi::entry::UkiKey;
use osupdate_efi::order::NamedEntry;

use super::{BootError, BootPartition};
use crate::esps;

impl BootPartition {
    /// The key by which entries must name UKIs, for the loaders on all ESPs.
    pub(crate) fn uki_key(&self) -> Result<UkiKey, BootError> {
        Ok(match &self.esps {
            Some(esps) => esps.uki_key()?,
            None => {
                let programs = esps::programs(&self.esp)?;
                esps::uki_key(programs.iter().map(|program| &program.identity), None)
            }
        })
    }

    /// The same if the loaders were these.
    pub(crate) fn uki_key_with<'a>(&self, loaders: impl Iterator<Item = &'a Identity>) -> UkiKey {
        match &self.esps {
            Some(esps) => esps.uki_key_with(loaders),
            None => esps::uki_key(loaders, None),
        }
    }

    /// The entries of osupdate that can boot, whichever physical root they are for.
    pub(crate) fn own_entries(&self) -> Result<Vec<NamedEntry>, BootError> {
        let listing = self.esp.entries()?;
        Ok(listing.ours().filter(|named| self.esp.is_complete(&named.entry)).cloned().collect())
    }

    /// Names of the entries of others that have the key `uki`.
    pub(crate) fn foreign_uki_entries(&self) -> Result<Vec<String>, BootError> {
        let listing = self.esp.entries()?;
        let with_key = listing.foreign().filter(|named| named.entry.uki.is_some());
        Ok(with_key.map(|named| named.name.file_name().to_owned()).collect())
    }

    /// Gives entries for UKIs the other key where the loaders, since they were changed, would hide them or not count them.
    pub(crate) fn correct_keys(&self, observer: &dyn Observer) -> Result<(), BootError> {
        let entries: Vec<_> = self.own_entries()?.into_iter().filter(|named| named.entry.uki_key().is_some()).collect();
        if entries.is_empty() {
            return Ok(());
        }
        let right = self.uki_key()?;
        let has_key = |named: &NamedEntry| named.entry.uki_key() == Some(right);
        for named in entries.iter().filter(|named| !has_key(named)) {
            let twin = named.name.twin().map(|twin| twin.id());
            let has_twin = entries.iter().any(|other| has_key(other) && Some(other.name.id()) == twin);
            // An entry that is not counted boots by the key `efi` in any case.
            if right == UkiKey::Efi || named.name.tries().is_some() || has_twin {
                observer.event(Event::Step(&format!("fitting {} to the boot loader", named.name)));
                self.change_key(named, right)?;
            }
        }
        Ok(())
    }

    /// Changes by which key an entry of ours names its UKI: it is written anew under another name, and then removed.
    pub(crate) fn change_key(&self, named: &NamedEntry, key: UkiKey) -> Result<(), BootError> {
        let Some(twin) = named.name.twin() else { return Ok(()) };
        let is_twin = |other: &NamedEntry| other.name.id() == twin.id() && other.entry.uki_key() == Some(key);
        // It is there if a change was interrupted.
        if !self.own_entries()?.iter().any(is_twin) {
            self.esp.write_entry(&twin, &named.entry.clone().with_uki_key(key))?;
        }
        self.esp.remove_entry(&named.name)?;
        Ok(())
    }
}
