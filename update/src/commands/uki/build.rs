//! `osupdate uki build`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use osupdate_core::Event;
use osupdate_efi::pe::Pe;
use osupdate_efi::uki::{Builder, Finding, Uki, kernel_version};

use super::contents::Contents;
use super::file::{self, TextOrFile, read, read_all};
use crate::cli::Context;
use crate::commands::policy_options::PolicyOptions;
use crate::exit::{Outcome, ResultExt as _};

/// Where systemd's boot stubs are.
const STUBS: &str = "usr/lib/systemd/boot/efi";
/// Where os-release is.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// Build a unified kernel image, a UKI
///
/// The result has the sections, in the order and with the contents, that ukify of systemd 257 makes, and options have the same
/// names. The same input always gives the same bytes. It is not signed, which
/// osupdate uki sign does; osupdate uki inspect shows what is in it.
///
/// Profiles are ways to boot one UKI, for example with another command line. Each is built on its own with --profile and
/// without --linux, and then joined to the UKI with --join-profile.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate uki build --linux vmlinuz --initrd initramfs.img --cmdline \"$(osupdate image digest ./rootfs --kernel-argument) quiet\" --output os.efi
  osupdate uki build --linux vmlinuz --initrd initramfs.img --cmdline @cmdline --root ./rootfs \\
    --pcr-private-key pcr.key --phases enter-initrd --output os.efi
  osupdate uki build --profile \"$(printf 'ID=debug\\nTITLE=Debugging')\" --cmdline \"… debug\" --output debug.efi
  osupdate uki build … --join-profile debug.efi --output os.efi")]
pub(super) struct Args {
    /// The kernel, with an EFI stub of its own
    #[arg(long, value_name = "FILE")]
    linux: Option<PathBuf>,

    #[command(flatten)]
    contents: Contents,

    /// What the operating system says about itself [default: etc/os-release or usr/lib/os-release below --root]
    #[arg(long, value_name = "TEXT|@FILE")]
    os_release: Option<TextOrFile>,

    /// Picture that is shown while it boots, BMP
    #[arg(long, value_name = "FILE")]
    splash: Option<PathBuf>,

    /// The boot stub [default: that of systemd for the kernel's processor, below --root]
    #[arg(long, value_name = "FILE")]
    stub: Option<PathBuf>,

    /// Where os-release and the boot stub are looked for
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,

    /// Description of the profile: lines ID=…, TITLE=…
    #[arg(long, value_name = "TEXT|@FILE", help_heading = "Profiles")]
    profile: Option<TextOrFile>,

    /// A profile to join, made with --profile; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Profiles")]
    join_profile: Vec<PathBuf>,

    /// Sign the values of the profile with this ID only; may be given several times [default: of all profiles]
    #[arg(long, value_name = "ID", requires = "pcr_private_key", help_heading = "Signed PCR values")]
    sign_profile: Vec<String>,

    #[command(flatten)]
    policy: PolicyOptions,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let is_profile = self.profile.is_some() && self.join_profile.is_empty();
        if self.linux.is_none() && !is_profile {
            return Err(anyhow::anyhow!("a UKI has a kernel, and none is given"))
                .hint("give one with --linux; for an addon use: osupdate uki addon build");
        }
        let mut loaded = self.contents.load()?;
        let linux = self.linux.as_deref().map(read).transpose()?;
        if let (None, Some(linux)) = (&loaded.uname, &linux) {
            loaded.uname = kernel_version(linux);
            if loaded.uname.is_none() {
                let text =
                    "the kernel does not tell its version, so there will be no section .uname; give it with --uname";
                context.observer.event(Event::Warning(text));
            }
        }
        let os_release = match (&self.os_release, &linux) {
            (Some(text), _) => Some(text.read()?),
            (None, Some(_)) => Some(find_os_release(&self.root)?),
            (None, None) => None,
        };
        let stub = match &self.stub {
            Some(path) => read(path)?,
            None => find_stub(&self.root, linux.as_deref())?,
        };
        let splash = self.splash.as_deref().map(read).transpose()?;
        let profile = self.profile.as_ref().map(TextOrFile::read).transpose()?;
        let joined = read_all(&self.join_profile)?;
        let policy = self.policy.policy()?;
        let builder = Builder {
            stub: &stub,
            linux: linux.as_deref(),
            os_release: os_release.as_deref(),
            splash: splash.as_deref(),
            profile: profile.as_deref(),
            join_profiles: joined.iter().map(Vec::as_slice).collect(),
            sign_profiles: self.sign_profile.iter().map(String::as_str).collect(),
            ..loaded.builder()
        };
        let uki =
            policy.sign_with(builder).build().with_context(|| format!("cannot build {}", loaded.output.display()))?;
        warn_about_stub(&uki, context);
        file::write(&loaded.output, &uki, context)?;
        Ok(Outcome::Done)
    }
}

/// Warns if the boot stub of a new UKI is weaker than others.
pub(crate) fn warn_about_stub(uki: &[u8], context: &Context) {
    let Ok(pe) = Pe::parse(uki) else { return };
    let Ok(uki) = Uki::parse(&pe) else { return };
    if let Some(stub) = uki.stub_for_any_initramfs() {
        let finding = Finding::ForeignInitramfs { stub: stub.to_owned() };
        let text = format!("the UKI is weaker than it could be: {finding}; another one is given with --stub");
        context.observer.event(Event::Warning(&text));
    }
}

fn find_os_release(root: &Path) -> anyhow::Result<Vec<u8>> {
    let paths = OS_RELEASE.map(|path| root.join(path));
    match paths.iter().find(|path| path.is_file()) {
        Some(path) => read(path),
        None => Err(anyhow::anyhow!("there is no {}", paths[0].display()))
            .hint("say with --root where the operating system is, or give the text with --os-release"),
    }
}

/// The stub that systemd has for the kernel's processor; for profiles, the one that it has for addons.
fn find_stub(root: &Path, linux: Option<&[u8]>) -> anyhow::Result<Vec<u8>> {
    match linux {
        Some(linux) => {
            let pe = Pe::parse(linux).context("the kernel cannot be started by a boot stub")?;
            stub(root, "linux", pe.machine().efi_name().context("the kernel is for an unknown processor")?)
        }
        None => addon_stub(root),
    }
}

/// The stub for addons that is for this machine's processor.
pub(super) fn addon_stub(root: &Path) -> anyhow::Result<Vec<u8>> {
    let name = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "x86" => "ia32",
        "aarch64" => "aa64",
        other => other,
    };
    stub(root, "addon", name)
}

fn stub(root: &Path, kind: &str, machine: &str) -> anyhow::Result<Vec<u8>> {
    let path = root.join(STUBS).join(format!("{kind}{machine}.efi.stub"));
    if !path.exists() {
        return Err(anyhow::anyhow!("there is no boot stub {}", path.display()))
            .hint("install systemd-boot-efi, say with --root where it is installed, or give the stub with --stub");
    }
    read(&path)
}
