//! `osupdate image seal`

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::ValueHint;
use osupdate_core::durable;
use osupdate_core::observer::Event;
use osupdate_core::oci::{ImageSource, StoredImage};
use serde::Serialize;

use super::fetch_options::FetchOptions;
use super::lint;
use super::subject::{Kind, Loader, MountedFiles, Subject};
use super::tree_options::{TreeOptions, Xattrs};
use crate::cli::Context;
use crate::commands::policy_options::PolicyOptions;
use crate::commands::repository_path::RepositoryPath;
use crate::commands::signing_options::SigningOptions;
use crate::commands::uki::warn_about_stub;
use crate::completion;
use crate::exit::{Outcome, ResultExt as _};
use crate::lint::{Allow, Severity};
use crate::push::{PushOptions, Pushed, Sealed, push_sealed};
use crate::seal::{DIRECTORY, SealOptions, SealedLayer, SealedUki, seal};
use crate::transport::{ImageReference, SourceOptions, Target, open_source};

/// Annotation with the digest that a sealed image boots with, as composefs has it.
const ANNOTATION: &str = "composefs.merged.bootable.erofs.v1.fsverity-";
/// Annotation with the digest of the image that it was made of.
const BASE_ANNOTATION: &str = "org.opencontainers.image.base.digest";
/// The same, its name.
const BASE_NAME_ANNOTATION: &str = "org.opencontainers.image.base.name";

/// Add a UKI to an image that names the image's own digest
///
/// The unified kernel image is made of kernel, initramfs and os-release of the image. On its command line are the digest that
/// the kernel will check everything against, the arguments that the image asks for (/usr/lib/bootc/kargs.d), and those that
/// --karg adds. With --key it is signed for Secure Boot, with --pcr-private-key it carries signatures that a TPM asks for before it
/// gives the key of a volume. Nothing is made of an image with errors that image lint finds.
///
/// An image gets one layer more, all others stay as they are. In a build, with --rootfs, only the file of the UKI is written:
/// it belongs into /boot/EFI/Linux of the image that is made of the same files. The same input makes the same output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  osupdate image seal oci:base:1 docker://registry.example.com/os:1 --key db.key --certificate db.crt
  osupdate image seal my-tag oci:sealed:1 --karg console=ttyS0
  RUN --mount=type=bind,from=base,target=/run/base \\
      osupdate image seal --rootfs /run/base --output /boot/EFI/Linux/")]
pub(super) struct Args {
    /// Tag or digest of an image in the repository, or a reference (docker://, oci:)
    #[arg(required_unless_present = "rootfs", requires = "destination", add = completion::subjects())]
    image: Option<String>,

    /// Where the sealed image goes: docker://HOST/NAME[:TAG], oci:DIRECTORY[:TAG] or oci-archive:FILE[:TAG]
    #[arg(add = completion::references())]
    destination: Option<ImageReference>,

    /// Seal the image that will be made of the files in this directory; file systems that are mounted in it are left out, and so
    /// are fractions of seconds in times, as in layers
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "image", requires = "output")]
    rootfs: Option<PathBuf>,

    /// Where the UKI goes: a file whose name ends with .efi, or a directory
    #[arg(long, value_name = "FILE", requires = "rootfs")]
    output: Option<PathBuf>,

    /// Sign the UKI with this private key for RSA: a file in PEM or DER, or in a token, named by a PKCS#11 URI such as
    /// pkcs11:token=NAME;object=KEY?pin-source=file:FILE
    #[arg(long, value_name = "KEY", requires = "certificate", value_hint = ValueHint::FilePath)]
    key: Option<String>,

    /// The certificate of the key, in PEM or DER; certificates that issued it may follow in the file
    #[arg(long, value_name = "FILE", requires = "key", value_hint = ValueHint::FilePath)]
    certificate: Option<PathBuf>,

    #[command(flatten)]
    policy: PolicyOptions,

    /// Add a kernel argument; may be repeated
    #[arg(long = "karg", value_name = "ARGUMENT")]
    kargs: Vec<String>,

    /// Use this boot stub instead of systemd's in the image
    #[arg(long, value_name = "FILE")]
    stub: Option<PathBuf>,

    /// File name of the UKI [default: name and version of the image in its os-release]
    #[arg(long, value_name = "NAME.efi", conflicts_with = "rootfs")]
    name: Option<String>,

    /// Silence a kind of finding of image lint, everywhere or at a path and below it; may be repeated
    #[arg(long, value_name = "NAME[:/PATH]")]
    allow: Vec<Allow>,

    #[command(flatten)]
    fetch: FetchOptions,
}

#[derive(Serialize)]
struct Report {
    uki: String,
    size_bytes: usize,
    boot_image_digest: String,
    command_line: String,
    signed: bool,
    /// Of the sealed image; `None` with --rootfs, as are the others.
    destination: Option<String>,
    manifest_digest: Option<String>,
    config_digest: Option<String>,
    sent_bytes: Option<u64>,
}

impl Args {
    pub(super) fn run(self, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let what = match (&self.rootfs, &self.image) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => unreachable!("clap requires one of the two"),
        };
        self.seal(&what, repository, context).with_context(|| format!("cannot seal {what}"))
    }

    fn seal(&self, what: &str, repository: &RepositoryPath, context: &Context) -> anyhow::Result<Outcome> {
        let options =
            TreeOptions { no_transform: true, xattrs: Xattrs::AllowlistOnly, one_file_system: self.rootfs.is_some() };
        let loader = Loader::new(repository, &options, &self.fetch, context);
        let signer = match (&self.key, &self.certificate) {
            (Some(key), Some(certificate)) => Some(SigningOptions::new(key.clone(), certificate.clone()).signer()?),
            _ => None,
        };
        let policy = self.policy.policy()?;
        let stub = self.stub.as_deref().map(read).transpose()?;
        let subject = match &self.rootfs {
            Some(path) => loader.rootfs(path, MountedFiles::Refuse)?,
            None => loader.load(what)?,
        };
        self.lint(&subject, context)?;
        context.observer.event(Event::Step("making the UKI"));
        let options = SealOptions {
            algorithm: subject.algorithm.unwrap_or(loader.algorithm),
            arguments: &self.kargs,
            stub: stub.as_deref(),
            policy: &policy,
            signer: signer.as_ref(),
            name: self.name.as_deref().or(self.output_name()),
        };
        let uki = seal(&subject.tree, subject.files()?, &options)?;
        warn_about_stub(&uki.bytes, context);
        let (path, pushed) = match (&self.output, &self.destination) {
            (Some(output), _) => (write(output, &uki)?, None),
            (None, Some(destination)) => {
                refuse_others(&subject, &uki)?;
                let pushed = self.push(&subject, &uki, destination, context)?;
                (format!("/{DIRECTORY}/{}", uki.name), Some((destination, pushed)))
            }
            (None, None) => unreachable!("clap requires one of the two"),
        };
        let report = Report {
            uki: path,
            size_bytes: uki.bytes.len(),
            boot_image_digest: uki.image.to_string(),
            command_line: uki.command_line.clone(),
            signed: signer.is_some(),
            destination: pushed.as_ref().map(|(destination, _)| destination.to_string()),
            manifest_digest: pushed.as_ref().map(|(_, pushed)| pushed.manifest_digest.to_string()),
            config_digest: pushed.as_ref().map(|(_, pushed)| pushed.config_digest.to_string()),
            sent_bytes: pushed.as_ref().map(|(_, pushed)| pushed.sent_bytes),
        };
        context.output.write(&report, |out| {
            if let (Some(destination), Some(manifest)) = (&report.destination, &report.manifest_digest) {
                writeln!(out, "{destination}\n  manifest      {manifest}")?;
            }
            writeln!(out, "  UKI           {}", report.uki)?;
            writeln!(out, "  boot image    {}", report.boot_image_digest)?;
            writeln!(out, "  command line  {}", report.command_line)?;
            writeln!(out, "  signed        {}", if report.signed { "yes" } else { "no" })
        })?;
        Ok(Outcome::Done)
    }

    /// Fails if something is wrong with the image; warnings are counted.
    fn lint(&self, subject: &Subject, context: &Context) -> anyhow::Result<()> {
        let (mut findings, allowed) = lint::check(subject, &self.allow, context)?;
        findings.retain(|finding| !allowed.iter().any(|allow| allow.silences(finding)));
        let (errors, warnings): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|finding| finding.lint.severity == Severity::Error);
        if let Some(first) = errors.first() {
            let place = first.path.as_deref().map(|path| format!("{path}: ")).unwrap_or_default();
            let more = match errors.len() - 1 {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            return Err(anyhow!("the image has errors: {}: {place}{}{more}", first.lint.name, first.detail))
                .hint("osupdate image lint tells all of them, with reason and remedy; --allow NAME silences one");
        }
        if !warnings.is_empty() {
            let text = format!("osupdate image lint has {} warnings about the image", warnings.len());
            context.observer.event(Event::Warning(&text));
        }
        Ok(())
    }

    /// The name in --output, if it has one.
    fn output_name(&self) -> Option<&str> {
        let output = self.output.as_deref().filter(|output| !is_directory(output))?;
        output.file_name()?.to_str()
    }

    fn push(
        &self,
        subject: &Subject,
        uki: &SealedUki,
        destination: &ImageReference,
        context: &Context,
    ) -> anyhow::Result<Pushed> {
        let (Kind::Layers { image }, Some(repository)) = (&subject.kind, subject.repository()) else {
            bail!("it has no layers: name an image, or write the UKI alone with --rootfs and --output");
        };
        let plain_http = self.fetch.source_options().plain_http;
        let target = Target::open(destination, plain_http)?;
        let layer = SealedLayer::new(uki)?;
        let origin = self.image.as_deref().and_then(|name| name.parse().ok());
        // Blobs that these have are copied as they are.
        let source = match &origin {
            Some(
                reference @ (ImageReference::Registry(_) | ImageReference::OciLayout(_) | ImageReference::Directory(_)),
            ) if subject.is_fetched() => Some(open_source(reference, &self.source_options())?),
            _ => None,
        };
        let options = PushOptions {
            origin: match &origin {
                Some(ImageReference::Registry(reference)) => Some(reference.clone()),
                _ => None,
            },
            ..PushOptions::default()
        };
        let annotations = annotations(image, uki, origin.as_ref());
        let source = source.as_ref().map(|source| source as &dyn ImageSource);
        let sealed = Sealed { image, source, layer: &layer, annotations: &annotations };
        Ok(push_sealed(repository, &sealed, target, &options, &context.observer)?)
    }

    fn source_options(&self) -> SourceOptions {
        self.fetch.source_options()
    }
}

fn annotations(image: &StoredImage, uki: &SealedUki, origin: Option<&ImageReference>) -> Vec<(String, String)> {
    let mut annotations = vec![
        (format!("{ANNOTATION}{}-12", uki.image.algorithm()), uki.image.to_string()),
        (BASE_ANNOTATION.to_owned(), image.manifest_digest.to_string()),
    ];
    if let Some(ImageReference::Registry(reference)) = origin {
        annotations.push((BASE_NAME_ANNOTATION.to_owned(), reference.to_string()));
    }
    annotations
}

/// An image boots with one UKI.
fn refuse_others(subject: &Subject, uki: &SealedUki) -> anyhow::Result<()> {
    let names = subject.tree.directory(DIRECTORY).map(|directory| directory.entries.keys());
    let mut others =
        names.into_iter().flatten().filter(|name| name.ends_with(b".efi") && ***name != *uki.name.as_bytes());
    match others.next() {
        Some(other) => Err(anyhow!("the image has a UKI already, /{DIRECTORY}/{}", String::from_utf8_lossy(other)))
            .hint("seal the image that it was made of, or give this one the same --name to replace it"),
        None => Ok(()),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn is_directory(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Writes the UKI to a file, or with its own name to a directory, which is made; returns the path.
fn write(output: &Path, uki: &SealedUki) -> anyhow::Result<String> {
    let path = if is_directory(output) { output.join(&uki.name) } else { output.to_owned() };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("cannot make the directory {}", parent.display()))?;
    let written = fs::File::open(parent).and_then(|dir| durable::write_file(dir.as_fd(), &uki.name, 0o644, &uki.bytes));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}
