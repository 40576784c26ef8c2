//! `osupdate uki addon sign`

use anyhow::{Context as _, anyhow};
use osupdate_efi::pe::Pe;

use crate::cli::Context;
use crate::commands::uki::sign;
use crate::exit::{Outcome, ResultExt as _};

/// Sign an addon, so that the stub of a UKI takes it when Secure Boot is on
///
/// The same as osupdate uki sign, for a file that has no kernel.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate uki addon sign debug.addon.efi --key db.key --certificate db.crt")]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    sign: sign::Args,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let file = self.sign.file();
        let program = sign::read_program(file)?;
        let addon = Pe::parse(&program).with_context(|| format!("cannot sign {}", file.display()))?;
        if addon.section(".linux").is_some() {
            return Err(anyhow!("{} is a UKI, not an addon: it has a kernel", file.display()))
                .hint("sign it with: osupdate uki sign");
        }
        self.sign.run(context)
    }
}
