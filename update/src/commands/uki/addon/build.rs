//! `osupdate uki addon build`

use std::path::PathBuf;

use anyhow::Context as _;
use osupdate_efi::uki::Builder;

use super::super::build::addon_stub;
use super::super::contents::Contents;
use super::super::file::{self, read};
use crate::cli::Context;
use crate::exit::Outcome;

/// Build an addon: a UKI without a kernel
///
/// The boot stub of systemd adds its command line behind that of the UKI, and its initial ramdisks, device trees and microcode
/// to those of the UKI. Addons for one UKI are beside it on the ESP, in NAME.efi.extra.d/*.addon.efi, those for all in
/// loader/addons/*.addon.efi. With Secure Boot they need a signature as the UKI itself does.
///
/// With --uname the addon is for UKIs with this kernel only.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate uki addon build --cmdline 'console=ttyS0' --output serial.addon.efi
  osupdate uki addon build --devicetree board.dtb --uname 6.12.57 --output board.addon.efi")]
pub(super) struct Args {
    #[command(flatten)]
    contents: Contents,

    /// The boot stub [default: that of systemd for addons, for this machine's processor, below --root]
    #[arg(long, value_name = "FILE")]
    stub: Option<PathBuf>,

    /// Where the boot stub is looked for
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let loaded = self.contents.load()?;
        let stub = self.stub.as_deref().map_or_else(|| addon_stub(&self.root), read)?;
        let addon = Builder { stub: &stub, ..loaded.builder() }.build();
        let addon = addon.with_context(|| format!("cannot build {}", loaded.output.display()))?;
        file::write(&loaded.output, &addon, context)?;
        Ok(Outcome::Done)
    }
}
