//! `osupdate completion`: what makes a shell complete the command line.

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::Context;
use crate::exit::Outcome;

/// Print the script that makes a shell complete osupdate's command line
///
/// It completes commands, options, and the names of images in the repository, as far as the user may read it. Packages
/// install the scripts where the shells look for them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(osupdate completion bash)
  osupdate completion zsh > ~/.zfunc/_osupdate
  osupdate completion fish > ~/.config/fish/completions/osupdate.fish")]
pub struct Args {
    /// The shell: bash, zsh or fish
    #[arg(hide_possible_values = true)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    fn script(self) -> &'static str {
        match self {
            Self::Bash => include_str!("../completion/osupdate.bash"),
            Self::Zsh => include_str!("../completion/_osupdate"),
            Self::Fish => include_str!("../completion/osupdate.fish"),
        }
    }
}

#[derive(Serialize)]
struct Report {
    script: &'static str,
}

impl Args {
    /// Runs the command.
    pub fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let report = Report { script: self.shell.script() };
        context.output.write(&report, |out| out.write_all(report.script.as_bytes()))?;
        Ok(Outcome::Done)
    }
}
