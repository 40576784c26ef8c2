//! Values of PCR 11, as options name them and as they are shown.

use std::io::{self, Write};

use osupdate_efi::measure::{Bank, Pcr11, PhasePath};
use osupdate_efi::uki::{Profile, names};
use serde::Serialize;

use super::file::hex;

/// The value of PCR 11 at one phase.
#[derive(Debug, Serialize)]
pub(super) struct Value {
    phase: String,
    /// Counted from 0, where the hardware chooses one of several.
    device_tree: Option<usize>,
    bank: &'static str,
    value: String,
}

/// All values of a profile.
pub(super) fn values(profile: &Profile<'_>, phases: &[PhasePath], banks: &[Bank]) -> Vec<Value> {
    let has_trees = profile.section(names::DEVICE_TREE_AUTO).is_some();
    let of_banks: Vec<_> = banks.iter().map(|bank| Pcr11::of_profile(profile, *bank)).collect();
    let mut values = Vec::new();
    for tree in 0..of_banks.first().map_or(0, Vec::len) {
        for phase in phases {
            values.extend(of_banks.iter().map(|of_bank| Value {
                phase: phase.to_string(),
                device_tree: has_trees.then_some(tree),
                bank: of_bank[tree].bank().name(),
                value: hex(of_bank[tree].after(phase).value()),
            }));
        }
    }
    values
}

/// Writes values as systemd-measure does, below a heading for each phase.
pub(super) fn write(out: &mut dyn Write, values: &[Value]) -> io::Result<()> {
    let of_one = |a: &Value, b: &Value| a.phase == b.phase && a.device_tree == b.device_tree;
    for values in values.chunk_by(of_one) {
        let tree = values[0].device_tree.map(|number| format!(" with device tree {number}")).unwrap_or_default();
        let phase = if values[0].phase.is_empty() { "none" } else { &values[0].phase };
        writeln!(out, "  PCR 11 after {phase}{tree}")?;
        for value in values {
            writeln!(out, "    11:{}={}", value.bank, value.value)?;
        }
    }
    Ok(())
}
