//! Whether the machine will start what an update puts down.

use osupdate_efi::authenticode;
use osupdate_efi::boot_program::{Identity, places};
use osupdate_efi::pe::Pe;
use osupdate_efi::secure_boot::{Refused, SecureBoot};

use super::{Allowed, BootloaderError, Planned, Programs};

impl Programs {
    /// Checks what is planned for an ESP, which has these files now (path and contents).
    pub(super) fn judge(
        &self,
        plan: &[Planned<'_>],
        on_esp: &[(String, Vec<u8>)],
        secure_boot: &SecureBoot,
        allowed: Allowed,
    ) -> Result<(), BootloaderError> {
        let [_, second_stage, _] = places(self.architecture);
        let is_checked = secure_boot.enabled && !secure_boot.shim.as_ref().is_some_and(|shim| shim.insecure);
        for Planned { esp, program, offered, .. } in plan {
            let (path, place) = (program.path.clone(), esp.place().to_owned());
            let checked = match &program.identity {
                _ if path == second_stage => secure_boot.check_boot_loader(&offered.contents),
                Identity::SystemdBoot(_) => check_first_stage(secure_boot, &program.contents, &offered.contents),
                _ => secure_boot.check_by_firmware(&offered.contents),
            };
            checked.map_err(|source| BootloaderError::Refused { path: offered.path.clone(), source })?;
            if !is_checked && !allowed.unsigned && is_signed(&program.contents) && !is_signed(&offered.contents) {
                return Err(BootloaderError::Unsigned { path, place, offered: offered.path.clone() });
            }
            if secure_boot.enabled && matches!(program.identity, Identity::Shim(_)) {
                let planned = plan.iter().find(|planned| planned.program.path == second_stage);
                let planned = planned.map(|planned| planned.offered.contents.as_slice());
                let there = on_esp.iter().find(|(path, _)| *path == second_stage).map(|(_, contents)| &contents[..]);
                if planned.or(there).is_some_and(|second| !self.starts(secure_boot, second)) {
                    return Err(BootloaderError::ShimAlone { path: second_stage, place });
                }
            }
        }
        Ok(())
    }

    /// Whether the shim of the image will start a program. Not known are the certificates that are built into it: those that shim
    /// shows are of the one that runs.
    fn starts(&self, secure_boot: &SecureBoot, program: &[u8]) -> bool {
        let of_image = self.systemd_boot.as_ref().is_some_and(|offered| offered.contents == program);
        let uses_db = !secure_boot.shim.as_ref().is_some_and(|shim| shim.ignores_db);
        of_image || (uses_db && secure_boot.check_by_firmware(program).is_ok())
    }
}

/// Checks a program that firmware itself starts. Where it would not start the one that is there, it is not what the machine boots
/// by, but may be one that shim has started under another name.
fn check_first_stage(secure_boot: &SecureBoot, there: &[u8], new: &[u8]) -> Result<(), Refused> {
    match secure_boot.check_by_firmware(new) {
        Err(_) if secure_boot.check_by_firmware(there).is_err() => secure_boot.check_boot_loader(new),
        result => result,
    }
}

/// Whether a program has a signature that is valid, whosever it is.
fn is_signed(program: &[u8]) -> bool {
    let Ok(pe) = Pe::parse(program) else { return false };
    authenticode::signatures(&pe).is_ok_and(|signatures| signatures.iter().any(Result::is_ok))
}
