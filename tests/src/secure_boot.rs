//! Secure Boot with keys of our own: who may sign what a machine starts.
//!
//! Keys are made by openssl. They are put into the variables of a machine that is off, so that it is not in setup mode at
//! its first boot; or there are none, for the boot loader to enrol those that an image brings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::machine::FIRMWARE_VARIABLES;
use crate::tool;

/// A GUID as it is stored.
type Guid = [u8; 16];

/// `8be4df61-93ca-11d2-aa0d-00e098032b8c`: variables of the UEFI specification.
const GLOBAL: Guid = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// `d719b2cb-3d3a-4596-a3bc-dad00e67656f`: db and dbx.
const IMAGE_SECURITY: Guid =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
/// `a5c059a1-94e4-4aa7-87b5-ab155c2bf072`: a list of X.509 certificates.
const X509_LIST: Guid =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// `c1c41626-504c-4092-aca9-41f936934328`: a list of SHA-256 digests.
const SHA256_LIST: Guid =
    [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
/// `4aafd29d-68df-49ee-8aa9-347d375665a7`: a signature in PKCS#7.
const PKCS7: Guid = [0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7];
/// Who enrolled them: nobody in particular.
const OWNER: Guid = *b"osupdate tests!!";
/// Non-volatile, for boot services and at run time, written with authentication by time.
const ATTRIBUTES: u32 = 0x27;

/// Name of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The platform key: who may change the key exchange keys.
    Pk,
    /// A key exchange key: who may change db and dbx.
    Kek,
    /// Who may sign programs.
    Db,
    /// A key of the machine itself, in db as well.
    Local,
    /// Who signs values of PCR 11; the firmware does not know it.
    Policy,
    /// Somebody who is not in any of the firmware's lists.
    Stranger,
}

/// Writes the variables of a machine in which no keys are enrolled: it is in setup mode.
pub fn without_keys(variables: &Path) -> Result<()> {
    fs::copy(FIRMWARE_VARIABLES, variables)
        .with_context(|| format!("copying {FIRMWARE_VARIABLES} (Debian package ovmf)"))?;
    Ok(())
}

/// Key pairs with certificates.
#[derive(Debug)]
pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    /// The keys in a directory, made if there are none.
    pub fn get(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let keys = Self { directory: directory.to_owned() };
        for role in [Role::Pk, Role::Kek, Role::Db, Role::Local, Role::Policy, Role::Stranger] {
            if !keys.certificate(role).exists() {
                tool::run(
                    Command::new("openssl")
                        .args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "7300"])
                        .args(["-subj", &format!("/CN=osupdate tests {}", name(role)), "-keyout"])
                        .arg(keys.key(role))
                        .arg("-out")
                        .arg(keys.certificate(role)),
                )?;
            }
        }
        Ok(keys)
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its private key, PEM.
    pub fn key(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.key", name(role)))
    }

    /// Its certificate, PEM.
    pub fn certificate(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.crt", name(role)))
    }

    /// Writes the variables of a machine in which these keys are enrolled: what `Db` or `Local` signed is started, but for
    /// programs whose SHA-256 digest (as signatures have it) is in `revoked`.
    pub fn enroll(&self, variables: &Path, revoked: &[[u8; 32]]) -> Result<()> {
        let mut store = fs::read(FIRMWARE_VARIABLES)
            .with_context(|| format!("reading {FIRMWARE_VARIABLES} (Debian package ovmf)"))?;
        let mut at = first_variable(&store)?;
        let certificates = |role| Ok::<_, anyhow::Error>(signature_list(X509_LIST, &[self.der(role)?]));
        for (name, vendor, list) in [
            ("PK", GLOBAL, certificates(Role::Pk)?),
            ("KEK", GLOBAL, certificates(Role::Kek)?),
            ("db", IMAGE_SECURITY, self.db()?),
        ] {
            at = add_variable(&mut store, at, name, vendor, &list)?;
        }
        if !revoked.is_empty() {
            let list = signature_list(SHA256_LIST, &revoked.iter().map(|digest| digest.to_vec()).collect::<Vec<_>>());
            add_variable(&mut store, at, "dbx", IMAGE_SECURITY, &list)?;
        }
        fs::write(variables, store).with_context(|| format!("writing {}", variables.display()))
    }

    /// An update of a variable that gives it this key, which nobody has signed: firmware takes it in setup mode only.
    pub fn unsigned_update(&self, role: Role) -> Result<Vec<u8>> {
        // A time, and a signature of no bytes: length, revision 2.0, type EFI_GUID, PKCS#7.
        let mut update = vec![0; 16];
        update.extend(24_u32.to_le_bytes());
        update.extend([0x00, 0x02, 0xf1, 0x0e]);
        update.extend(PKCS7);
        update.extend(signature_list(X509_LIST, &[self.der(role)?]));
        Ok(update)
    }

    /// SHA-256 in hex of db as it was enrolled.
    pub fn db_digest(&self) -> Result<String> {
        Ok(Sha256::digest(self.db()?).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn db(&self) -> Result<Vec<u8>> {
        let mut lists = signature_list(X509_LIST, &[self.der(Role::Db)?]);
        lists.extend(signature_list(X509_LIST, &[self.der(Role::Local)?]));
        Ok(lists)
    }

    fn der(&self, role: Role) -> Result<Vec<u8>> {
        let certificate = self.certificate(role);
        let output = Command::new("openssl").args(["x509", "-outform", "DER", "-in"]).arg(&certificate).output()?;
        ensure!(output.status.success(), "openssl cannot read {}", certificate.display());
        Ok(output.stdout)
    }
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Pk => "PK",
        Role::Kek => "KEK",
        Role::Db => "db",
        Role::Local => "local",
        Role::Policy => "policy",
        Role::Stranger => "stranger",
    }
}

/// Signatures of one type and size, as in the UEFI specification.
fn signature_list(kind: Guid, signatures: &[Vec<u8>]) -> Vec<u8> {
    let size = OWNER.len() + signatures.first().map_or(0, Vec::len);
    let mut list = kind.to_vec();
    for number in [28 + size * signatures.len(), 0, size] {
        list.extend(u32_bytes(number));
    }
    for signature in signatures {
        list.extend(OWNER);
        list.extend(signature);
    }
    list
}

/// Where the variables begin in an empty store of EDK II.
fn first_variable(store: &[u8]) -> Result<usize> {
    // The volume's header has its own length at 48, then come the 28 bytes of the store's header.
    let at = usize::from(u16::from_le_bytes([store[48], store[49]])) + 28;
    ensure!(store[at..at + 4] == [0xff; 4], "{FIRMWARE_VARIABLES} has variables already");
    Ok(at)
}

/// Writes a variable and returns where the next one goes.
fn add_variable(store: &mut [u8], at: usize, name: &str, vendor: Guid, data: &[u8]) -> Result<usize> {
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let mut bytes = vec![0xaa, 0x55, 0x3f, 0];
    bytes.extend(ATTRIBUTES.to_le_bytes());
    // Neither a count nor a time of the last change, nor a public key of its own.
    bytes.extend([0; 28]);
    bytes.extend(u32_bytes(name.len()));
    bytes.extend(u32_bytes(data.len()));
    bytes.extend(vendor);
    bytes.extend(name);
    bytes.extend(data);
    let place = store.get_mut(at..at + bytes.len()).context("the firmware's variables do not fit")?;
    place.copy_from_slice(&bytes);
    Ok((at + bytes.len()).next_multiple_of(4))
}

fn u32_bytes(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}
