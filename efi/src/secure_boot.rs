//! What firmware and shim accept on this machine, read from their variables, so that a program that they would refuse is
//! found out before the machine needs it.
//!
//! Without shim: firmware starts a program if its digest is in db, or if it has a valid signature that leads to a
//! certificate in db; unless its digest, or a certificate of a signature, is in dbx. With shim the list of the machine's owner
//! (MOK), which shim shows together with the certificates that are built into it, is as good as db, its list of revocations
//! as bad as dbx, and a program must not have a component (SBAT) of a revoked generation. Sources: UEFI specification,
//! chapter 32; EDK2 and shim, where the specification leaves it open.

mod enrolment;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod refused;
mod sbat;
mod signature_list;

use crate::authenticode::{self, Certificate, Hash};
use crate::gpt::Guid;
use crate::pe::Pe;
use crate::variables::{EfiVariables, VariableError};

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

/// In the extended key usage of a certificate: for kernel modules only. shim does not start programs by it.
const MODULE_SIGNING: der::asn1::ObjectIdentifier = der::asn1::ObjectIdentifier::new_unwrap("1.3.6.1.4.1.2312.16.1.2");

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

    /// Whether firmware itself will start a program, as it starts shim: by db and dbx alone.
    ///
    /// # Errors
    /// As [`SecureBoot::check`].
    pub fn check_by_firmware(&self, file: &[u8]) -> Result<(), Refused> {
        if !self.enabled {
            return Ok(());
        }
        Program::read(&Pe::parse(file)?)?.judge(&[("db", &self.db)], &[("dbx", &self.dbx)], |_| true)
    }

    /// Whether this machine will start a program: a UKI, an addon, or a boot loader.
    ///
    /// Everything is accepted while Secure Boot is off.
    ///
    /// # Errors
    /// Which rule refuses it; [`Refused::hint`] has the next step.
    pub fn check(&self, file: &[u8]) -> Result<(), Refused> {
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
        shim.sbat_level.check(section.unwrap_or_default())?;
        let mut accepted = vec![("the list of the machine's owner (MOK)", &shim.mok)];
        if !shim.ignores_db {
            accepted.push(("db", &self.db));
        }
        let revoked = [("dbx", &self.dbx), ("shim's list of revocations", &shim.mok_revoked)];
        program.judge(&accepted, &revoked, |certificate| !certificate.has_usage(MODULE_SIGNING))
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

/// What is looked at of a program.
struct Program {
    digests: Vec<Vec<u8>>,
    signatures: Vec<Result<authenticode::Signature, authenticode::SignatureError>>,
}

type Lists<'a> = [(&'static str, &'a Database)];

impl Program {
    fn read(pe: &Pe<'_>) -> Result<Self, Refused> {
        let digests = Hash::ALL.iter().map(|hash| authenticode::digest(pe, *hash)).collect();
        Ok(Self { digests, signatures: authenticode::signatures(pe)? })
    }

    fn judge(
        &self,
        accepted: &Lists<'_>,
        revoked: &Lists<'_>,
        usable: impl Fn(&Certificate) -> bool,
    ) -> Result<(), Refused> {
        let lists_digest = |database: &Database| self.digests.iter().any(|digest| database.has_digest(digest));
        for (list, database) in revoked {
            if lists_digest(database) {
                return Err(Refused::Revoked { list });
            }
            for signature in self.signatures.iter().flatten() {
                let by_digest = signature.path().find(|certificate| database.revokes(certificate));
                let by_certificate = || database.certificates().iter().find(|revoked| signature.leads_to(revoked));
                if let Some(certificate) = by_digest.or_else(by_certificate) {
                    return Err(Refused::CertificateRevoked { list, subject: certificate.subject().to_owned() });
                }
            }
        }
        if accepted.iter().any(|(_, database)| lists_digest(database)) {
            return Ok(());
        }
        let mut signers = Vec::new();
        let mut invalid = None;
        for signature in &self.signatures {
            let signature = match signature {
                Ok(signature) => signature,
                Err(err) => {
                    invalid = Some(err.to_string());
                    continue;
                }
            };
            let leads_to = |certificate: &&Certificate| usable(certificate) && signature.leads_to(certificate);
            let trusted = accepted.iter().flat_map(|(_, database)| database.certificates().iter());
            let is_revoked =
                |certificate: &Certificate| revoked.iter().any(|(_, database)| database.revokes(certificate));
            if trusted.filter(leads_to).any(|certificate| !is_revoked(certificate)) {
                return Ok(());
            }
            signers.push(signature.signer().subject().to_owned());
        }
        let lists = accepted.iter().map(|(list, _)| *list).collect();
        match invalid {
            _ if !signers.is_empty() => Err(Refused::NotTrusted { signers, lists }),
            Some(problem) => Err(Refused::Invalid { problem }),
            None => Err(Refused::Unsigned),
        }
    }
}

#[cfg(test)]
mod tests;
