//! [`PolicySignatures`], the section `.pcrsig`: TPM policies over PCR 11, signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use super::{Bank, KeyError, PCR, Pcr11, PolicyKey};

/// TPM_CC_PolicyPCR.
const POLICY_PCR: u32 = 0x0000_017F;
/// Registers in a selection, by bytes.
const SELECTION_BYTES: u8 = 3;

/// Why a `.pcrsig` section cannot be read.
#[derive(Debug, Error)]
#[error("its PCR signatures are not JSON of the right form")]
pub struct ParsePolicyError(#[from] serde_json::Error);

/// One signed policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PolicySignature {
    /// The registers that it is about.
    pub pcrs: Vec<u8>,
    /// Fingerprint of the public key, hex.
    pub pkfp: String,
    /// The policy digest, hex.
    pub pol: String,
    /// The signature, base64.
    pub sig: String,
}

impl PolicySignature {
    /// Whether it is about this policy ([`Pcr11::policy`]); the signature is not verified.
    #[must_use]
    pub fn is_for(&self, policy: &[u8]) -> bool {
        self.pcrs == [PCR] && self.pol.eq_ignore_ascii_case(&hex(policy))
    }
}

/// Signed policies by bank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySignatures(Vec<(String, Vec<PolicySignature>)>);

impl PolicySignatures {
    /// Adds a signature of this value, if there is none yet that is the same.
    pub fn sign(&mut self, value: &Pcr11, key: &PolicyKey) -> Result<(), KeyError> {
        let policy = value.policy();
        let signature = PolicySignature {
            pcrs: vec![PCR],
            pkfp: hex(&key.public().fingerprint()),
            pol: hex(&policy),
            sig: STANDARD.encode(key.sign(&policy)?),
        };
        let bank = value.bank().name();
        let index = self.0.iter().position(|(name, _)| name == bank).unwrap_or_else(|| {
            self.0.push((bank.to_owned(), Vec::new()));
            self.0.len() - 1
        });
        let signatures = &mut self.0[index].1;
        if !signatures.contains(&signature) {
            signatures.push(signature);
        }
        Ok(())
    }

    /// The signatures of a bank.
    #[must_use]
    pub fn of_bank(&self, bank: Bank) -> &[PolicySignature] {
        self.0.iter().find(|(name, _)| name == bank.name()).map_or(&[], |(_, signatures)| signatures)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, signatures)| signatures.is_empty())
    }

    /// The section, byte by byte as ukify writes it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entry = |signature: &PolicySignature| {
            let pcrs: Vec<_> = signature.pcrs.iter().map(u8::to_string).collect();
            let PolicySignature { pkfp, pol, sig, .. } = signature;
            format!(r#"{{"pcrs": [{}], "pkfp": "{pkfp}", "pol": "{pol}", "sig": "{sig}"}}"#, pcrs.join(", "))
        };
        let banks = self.0.iter().map(|(bank, signatures)| {
            let entries: Vec<_> = signatures.iter().map(entry).collect();
            format!(r#""{bank}": [{}]"#, entries.join(", "))
        });
        format!("{{{}}}", banks.collect::<Vec<_>>().join(", "))
    }

    /// Reads a section.
    pub fn from_json(json: &[u8]) -> Result<Self, ParsePolicyError> {
        let banks: std::collections::BTreeMap<String, Vec<PolicySignature>> = serde_json::from_slice(json)?;
        Ok(Self(banks.into_iter().collect()))
    }
}

impl Pcr11 {
    /// The policy that is fulfilled while PCR 11 has this value: what TPM2_PolicyPCR makes of an empty policy, with SHA-256.
    #[must_use]
    pub fn policy(&self) -> Vec<u8> {
        let mut selection = [0; SELECTION_BYTES as usize];
        selection[usize::from(PCR / 8)] = 1 << (PCR % 8);
        let policy = [
            &[0; 32][..],
            &POLICY_PCR.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &self.bank().tpm_algorithm().to_be_bytes(),
            &[SELECTION_BYTES],
            &selection,
            &Bank::Sha256.digest(self.value()),
        ];
        Bank::Sha256.digest(&policy.concat())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
