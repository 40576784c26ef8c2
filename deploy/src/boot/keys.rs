//! By which key our entries name UKIs, when loaders change.
//!
//! What each loader makes of the keys is in `LAYOUT.md` of the efi crate.

use osupdate_core::observer::{Event, Observer};
use osupdate_efi::boot_program::Identity;
use osupdate_efi::entry::UkiKey;
use osupdate_efi::order::NamedEntry;

use super::{BootError, BootPartition};
use crate::esps::{self, UkiSupport};

impl BootPartition {
    /// Which of the loaders on all ESPs know the key `uki`.
    pub(crate) fn uki_support(&self) -> Result<UkiSupport, BootError> {
        Ok(match &self.esps {
            Some(esps) => esps.uki_support()?,
            None => {
                let programs = esps::programs(&self.esp)?;
                esps::uki_support(programs.iter().map(|program| &program.identity), None)
            }
        })
    }

    /// The same if the loaders were these.
    pub(crate) fn uki_support_with<'a>(&self, loaders: impl Iterator<Item = &'a Identity>) -> UkiSupport {
        match &self.esps {
            Some(esps) => esps.uki_support_with(loaders),
            None => esps::uki_support(loaders, None),
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
        let has_uki = |named: &NamedEntry| named.entry.uki_key().is_some();
        if self.own_entries()?.iter().any(has_uki) { self.fit_keys(self.uki_support()?, observer) } else { Ok(()) }
    }

    /// The same for loaders of this kind, whichever there are.
    pub(crate) fn fit_keys(&self, support: UkiSupport, observer: &dyn Observer) -> Result<(), BootError> {
        let entries = self.own_entries()?;
        let other_works = entries.iter().any(|named| !named.name.is_bad());
        // With `efi`, a loader that knows `uki` would start what was given up again and again. With `uki` the others hide it.
        let right = |named: &NamedEntry| match support {
            UkiSupport::Mixed if named.name.is_bad() && other_works => UkiKey::Uki,
            _ => support.key(),
        };
        let has_right = |named: &NamedEntry| named.entry.uki_key() == Some(right(named));
        // What becomes visible comes first.
        for key in [UkiKey::Efi, UkiKey::Uki] {
            let to_change = |named: &&NamedEntry| named.entry.uki_key().is_some() && !has_right(named);
            for named in entries.iter().filter(to_change).filter(|named| right(named) == key) {
                let twin = named.name.twin().map(|twin| twin.id());
                let has_twin = entries.iter().any(|other| has_right(other) && Some(other.name.id()) == twin);
                // An entry that is not counted boots by the key `efi` in any case.
                if key == UkiKey::Efi || named.name.tries().is_some() || has_twin {
                    observer.event(Event::Step(&format!("fitting {} to the boot loader", named.name)));
                    self.change_key(named, key)?;
                }
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
