//! What firmware and shim accept on this machine, read from their variables, so that a program that they would refuse is
//! found out before the machine needs it.
//!
//! Without shim: firmware starts a program if its digest is in db, or if it has a valid signature that leads to a
//! certificate in db; unless its digest, or a certificate of any signature, is in dbx, or the signer of one cannot be seen. Only
//! the hash function of a signature counts for digests, SHA-256 without any, and only keys for RSA. With shim the list of the machine's owner
//! (MOK), which shim shows together with the certificates that are built into it, is as good as db, its list of revocations
//! as bad as dbx, though it looks at each signature by itself and only at those with SHA-256, and a program must not have a component (SBAT) of a revoked generation. Sources: UEFI specification,
//! chapter 32; EDK2 and shim, where the specification leaves it open.

mod enrolment;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod program;
mod refused;
mod sbat;
mod signature_list;

use crate::gpt::Guid;
use crate::pe::Pe;
use crate::variables::{EfiVariables, VariableError};

use program::{Judge, Program};
use sbat::Sbat;

pub use enrolment::SignedVariableError;
pub use refused::Refused;
pub use sbat::{Component, SbatLevel};
pub use signature_list::{Database, SignatureListError};

/// Vendor of the variables that the UEFI specification defines.
const GLOBAL: Guid = Guid::new(0x8be4df61, 0x93ca, 0x11d2, 0xaa0d_00e098032b8c);
/// Vendor of the lists of signatures.
const IMAGE_SECURITY: Guid = Guid::new(0xd719b2cb, 0x3d3a, 0x4596, 0xa3bc_dad00e67656f);
/// Vendor of shim's variables.
const SHIM_LOCK: Guid = Guid::new(0x605dab50, 0xe046, 0x4300, 0xabb6_3dd810dd8b23);

/// shim splits a long list into numbered variables; more of them than this are not looked for.
const PARTS_MAX: usize = 64;

/// The state of Secure Boot, and what is accepted.
#[derive(Clone, Debug, Default)]
pub struct SecureBoot {
    /// Whether signatures are checked.
    pub enabled: bool,
    /// Whether keys can be enrolled without being signed.
    pub setup_mode: bool,
    /// Who may replace the keys: PK.
    pub platform_key: Database,
    /// Who may change db and dbx: KEK.
    pub key_exchange_keys: Database,
    /// What is accepted.
    pub db: Database,
    /// What is refused.
    pub dbx: Database,
    /// What shim says; `None` if it has not started this machine.
    pub shim: Option<Shim>,
}

/// What shim has left in variables.
#[derive(Clone, Debug, Default)]
pub struct Shim {
    /// Somebody told it not to check signatures.
    pub insecure: bool,
    /// Somebody told it not to look at db.
    pub ignores_db: bool,
    /// The owner's list, with what is built into shim: MokListRT.
    pub mok: Database,
    /// The owner's list of revocations, with what is built into shim: MokListXRT.
    pub mok_revoked: Database,
    /// Generations that components must have.
    pub sbat_level: SbatLevel,
}

impl SecureBoot {
    /// Reads the variables. A machine without them has no Secure Boot; where there must be some and none is shown, that is logged.
    ///
    /// # Errors
    /// A variable that cannot be read, or a list that makes no sense: then it is not known what firmware does with it.
    pub fn read(variables: &EfiVariables) -> Result<Self, VariableError> {
        if variables.are_hidden() {
            tracing::warn!(
                "efivarfs is not mounted, so it is not known what Secure Boot of this machine accepts, ignoring"
            );
        }
        let flag =
            |name, vendor| Ok::<_, VariableError>(variables.value(name, &vendor)?.is_some_and(|value| value == [1]));
        Ok(Self {
            enabled: flag("SecureBoot", GLOBAL)?,
            setup_mode: flag("SetupMode", GLOBAL)?,
            platform_key: database(variables, "PK", &GLOBAL)?.unwrap_or_default(),
            key_exchange_keys: database(variables, "KEK", &GLOBAL)?.unwrap_or_default(),
            db: database(variables, "db", &IMAGE_SECURITY)?.unwrap_or_default(),
            dbx: database(variables, "dbx", &IMAGE_SECURITY)?.unwrap_or_default(),
            shim: Shim::read(variables)?,
        })
    }

    /// The same as if nobody had turned off that signatures are checked, in the firmware or in shim.
    #[must_use]
    pub fn enforced(self) -> Self {
        let shim = self.shim.map(|shim| Shim { insecure: false, ..shim });
        Self { enabled: true, shim, ..self }
    }

    /// Whether firmware itself will start a program, as it starts shim: by db and dbx alone.
    ///
    /// # Errors
    /// As [`SecureBoot::check`].
    pub fn check_by_firmware(&self, file: &[u8]) -> Result<(), Refused> {
        if !self.enabled {
            return Ok(());
        }
        Program::read(&Pe::parse(file)?)?.judge(&[("db", &self.db)], &[("dbx", &self.dbx)], Judge::Firmware)
    }

    /// Whether this machine will start a program that its boot loader starts: a UKI or an addon.
    ///
    /// Everything is accepted while Secure Boot is off.
    ///
    /// # Errors
    /// Which rule refuses it; [`Refused::hint`] has the next step.
    pub fn check(&self, file: &[u8]) -> Result<(), Refused> {
        self.check_with(file, Sbat::Optional)
    }

    /// Whether this machine will start a program that shim itself starts, if there is one: the boot loader. It must have
    /// components (SBAT).
    ///
    /// # Errors
    /// As [`SecureBoot::check`].
    pub fn check_boot_loader(&self, file: &[u8]) -> Result<(), Refused> {
        self.check_with(file, Sbat::Required)
    }

    fn check_with(&self, file: &[u8], sbat: Sbat) -> Result<(), Refused> {
        if !self.enabled {
            return Ok(());
        }
        let Some(shim) = &self.shim else { return self.check_by_firmware(file) };
        if shim.insecure {
            return Ok(());
        }
        let pe = Pe::parse(file)?;
        let program = Program::read(&pe)?;
        let section = pe.section(".sbat").map(|section| section.data);
        shim.sbat_level.check(section.unwrap_or_default(), sbat)?;
        let mut accepted = vec![("the list of the machine's owner (MOK)", &shim.mok)];
        if !shim.ignores_db {
            accepted.push(("db", &self.db));
        }
        let revoked = [("dbx", &self.dbx), ("shim's list of revocations", &shim.mok_revoked)];
        program.judge(&accepted, &revoked, Judge::Shim)
    }
}

impl Shim {
    fn read(variables: &EfiVariables) -> Result<Option<Self>, VariableError> {
        let Some(mok) = database_in_parts(variables, "MokListRT")? else { return Ok(None) };
        let flag = |name| Ok::<_, VariableError>(variables.value(name, &SHIM_LOCK)?.is_some_and(|value| value == [1]));
        let level = variables.value("SbatLevelRT", &SHIM_LOCK)?.unwrap_or_default();
        Ok(Some(Self {
            insecure: flag("MokSBStateRT")?,
            ignores_db: flag("MokIgnoreDB")?,
            mok,
            mok_revoked: database_in_parts(variables, "MokListXRT")?.unwrap_or_default(),
            sbat_level: SbatLevel::parse(&level),
        }))
    }
}

fn database(variables: &EfiVariables, name: &str, vendor: &Guid) -> Result<Option<Database>, VariableError> {
    let Some(value) = variables.value(name, vendor)? else { return Ok(None) };
    let parsed = Database::parse(&value);
    parsed.map(Some).map_err(|source| VariableError::SignatureList { name: name.to_owned(), source })
}

/// A list that may go on in variables with a number behind the name.
fn database_in_parts(variables: &EfiVariables, name: &str) -> Result<Option<Database>, VariableError> {
    let Some(mut whole) = database(variables, name, &SHIM_LOCK)? else { return Ok(None) };
    for number in 0..PARTS_MAX {
        match database(variables, &format!("{name}{number}"), &SHIM_LOCK)? {
            Some(part) => whole.extend(part),
            None if number == 0 => {}
            None => break,
        }
    }
    Ok(Some(whole))
}

#[cfg(test)]
mod tests;
