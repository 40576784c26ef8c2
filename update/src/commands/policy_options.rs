//! The options that say which keys sign the expected values of PCR 11.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use osupdate_efi::measure::{Bank, ParseBankError, ParsePhasesError, PhasePath, PolicyKey, PublicKey};

use super::signing_options::{open_token_key, shown_key};
use crate::exit::ResultExt as _;
use crate::seal::Policy;

/// Keys, and what they sign.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PolicyOptions {
    /// RSA key that signs the expected values of PCR 11: a file in PEM or DER, or a PKCS#11 URI, which also needs --pcr-public-key; may
    /// be given several times
    #[arg(long, value_name = "KEY", help_heading = "Signed PCR values")]
    pcr_private_key: Vec<String>,

    /// The public key that belongs to it, PEM; as often as --pcr-private-key
    #[arg(long, value_name = "FILE", help_heading = "Signed PCR values")]
    pcr_public_key: Vec<PathBuf>,

    /// Phases of the boot that it signs for, as enter-initrd or enter-initrd:leave-initrd, with commas between; as often as --pcr-private-key
    /// [default: from the beginning of the initial ramdisk until the system is up]
    #[arg(long, value_name = "PHASES", requires = "pcr_private_key", help_heading = "Signed PCR values")]
    phases: Vec<Phases>,

    /// PCR banks to sign for: sha1, sha256, sha384, sha512, with commas between [default: all]
    #[arg(long, value_name = "BANKS", requires = "pcr_private_key", help_heading = "Signed PCR values")]
    pcr_banks: Option<Banks>,

    /// Public key, PEM, to be put into the UKI [default: that of the only --pcr-private-key]
    #[arg(long, value_name = "FILE", help_heading = "Signed PCR values")]
    pcrpkey: Option<PathBuf>,
}

/// Banks with commas between them.
#[derive(Clone, Debug)]
pub(crate) struct Banks(pub(crate) Vec<Bank>);

impl FromStr for Banks {
    type Err = ParseBankError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut banks: Vec<Bank> = words(text).map(str::parse).collect::<Result<_, _>>()?;
        banks.sort();
        banks.dedup();
        Ok(Self(banks))
    }
}

/// Phase paths with commas between them.
#[derive(Clone, Debug)]
pub(crate) struct Phases(pub(crate) Vec<PhasePath>);

impl FromStr for Phases {
    type Err = ParsePhasesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut paths: Vec<PhasePath> = words(text).map(str::parse).collect::<Result<_, _>>()?;
        // As systemd-measure does, whose result depends on it.
        paths.sort_by_key(ToString::to_string);
        paths.dedup();
        Ok(Self(paths))
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\n', '\t']).filter(|word| !word.is_empty())
}

impl PolicyOptions {
    /// Opens the keys.
    pub(crate) fn policy(&self) -> anyhow::Result<Policy> {
        let wanted = self.pcr_private_key.len();
        for (option, given) in [("--pcr-public-key", self.pcr_public_key.len()), ("--phases", self.phases.len())] {
            if given != 0 && given != wanted && wanted != 0 {
                bail!(
                    "--pcr-private-key is given {wanted} times and {option} {given} times: each belongs to one of the other"
                );
            }
        }
        let mut publics = Vec::new();
        let mut pems = Vec::new();
        for path in &self.pcr_public_key {
            let pem = read(path)?;
            publics.push(PublicKey::from_pem(&pem).with_context(|| format!("cannot use {}", path.display()))?);
            pems.push(pem);
        }
        let phases = match &self.phases[..] {
            [] => vec![PhasePath::usual(); wanted],
            given => given.iter().map(|phases| phases.0.clone()).collect(),
        };
        let mut signers = Vec::new();
        for ((index, name), phases) in self.pcr_private_key.iter().enumerate().zip(phases) {
            signers.push((policy_key(name, publics.get(index))?, phases));
        }
        let public_key = match (&self.pcrpkey, &pems[..]) {
            (Some(path), _) => {
                let pem = read(path)?;
                PublicKey::from_pem(&pem).with_context(|| format!("cannot use {}", path.display()))?;
                Some(pem)
            }
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        };
        let banks = self.pcr_banks.as_ref().map(|banks| banks.0.clone()).unwrap_or_default();
        Ok(Policy { signers, banks, public_key })
    }
}

/// A key in a token, or in a file.
fn policy_key(name: &str, public: Option<&PublicKey>) -> anyhow::Result<PolicyKey> {
    let shown = shown_key(name);
    let doing = || format!("cannot use the key {shown}");
    if let Some(key) = open_token_key(name)? {
        let Some(public) = public else {
            return Err(anyhow::anyhow!("the public key that belongs to {shown} is not known"))
                .hint("give it with --pcr-public-key");
        };
        return PolicyKey::new(Box::new(key), public.clone()).with_context(doing);
    }
    let file = read(Path::new(name))?;
    let key = PolicyKey::read(&file).with_context(doing)?;
    if public.is_some_and(|public| key.public() != public) {
        bail!("the public key given for {shown} is not the one that belongs to it");
    }
    Ok(key)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
