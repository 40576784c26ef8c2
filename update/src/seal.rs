//! Sealing an image: a UKI for it, whose command line has the digest of what the UKI boots.
//!
//! The UKI is put into `/boot/EFI/Linux`. What an image has in `/boot` is not part of what is booted, so that the digest is the
//! same before and after; and a layer with nothing but the UKI turns an image into a sealed one.

mod image;

use std::io::Read as _;

use osupdate_core::boot::{BootError, BootOptions, Kernel, find_kernel, os_release, read_file, transform_for_boot};
use osupdate_core::erofs::{self, Format};
use osupdate_core::kernel_args::{ArgFormat, ComposefsArg};
use osupdate_core::repository::{ObjectError, OpenContent};
use osupdate_core::transform::{TransformError, XattrFilter, transform_for_oci};
use osupdate_core::tree::{Content, Stat, Tree};
use osupdate_core::{Algorithm, Digest, fsverity};
use osupdate_deploy::kargs::{KargsError, image_arguments, is_composefs};
use osupdate_efi::authenticode::{SignError, Signer};
use osupdate_efi::loader_install::Architecture;
use osupdate_efi::measure::{Bank, PhasePath, PolicyKey};
use osupdate_efi::uki::{BuildError, Builder};
use thiserror::Error;

pub use image::{ConfigError, SealedLayer};

/// Where an image has the boot stubs of systemd.
const STUBS: &str = "usr/lib/systemd/boot/efi";
/// Where UKIs go.
pub const DIRECTORY: &str = "boot/EFI/Linux";
/// Larger than any stub, in bytes.
const STUB_MAX_BYTES: u64 = 16 << 20;
/// Larger than any os-release, in bytes.
const OS_RELEASE_MAX_BYTES: u64 = 64 << 10;

/// Who signs which expected values of PCR 11. Without signers, nobody does.
#[derive(Default)]
#[allow(missing_debug_implementations, reason = "keys are secret")]
pub struct Policy {
    /// Keys, each with the phases of the boot that it signs for.
    pub signers: Vec<(PolicyKey, Vec<PhasePath>)>,
    /// Banks to sign for; empty: all.
    pub banks: Vec<Bank>,
    /// Public key in PEM that is put into the UKI; `None`: that of the only signer.
    pub public_key: Option<Vec<u8>>,
}

impl Policy {
    /// A builder of UKIs that signs so, too.
    pub fn sign_with<'a>(&'a self, builder: Builder<'a>) -> Builder<'a> {
        Builder {
            signers: self.signers.iter().map(|(key, phases)| (key, phases.clone())).collect(),
            banks: self.banks.clone(),
            pcr_public_key: self.public_key.as_deref(),
            ..builder
        }
    }
}

/// How an image is sealed.
#[allow(missing_debug_implementations, reason = "a signer is secret")]
pub struct SealOptions<'a> {
    /// Digests of files and image; that of the tree.
    pub algorithm: Algorithm,
    /// Kernel arguments besides those that the image asks for.
    pub arguments: &'a [String],
    /// The boot stub; `None`: that of the image.
    pub stub: Option<&'a [u8]>,
    /// Who signs the values that PCR 11 will have.
    pub policy: &'a Policy,
    /// Who signs the UKI.
    pub signer: Option<&'a Signer>,
    /// File name of the UKI; `None`: made of the image's name and version.
    pub name: Option<&'a str>,
}

/// The UKI of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedUki {
    /// File name.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// What it boots.
    pub image: Digest,
    /// The whole command line.
    pub command_line: String,
    /// Metadata of `/boot` in the image, with the time of `/usr`, for the layer.
    pub(crate) boot: Stat,
}

impl std::fmt::Debug for SealedUki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedUki").field("name", &self.name).field("image", &self.image).finish_non_exhaustive()
    }
}

/// Why an image was not sealed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// It cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// It is not an OS.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// It cannot be written as a file system.
    #[error("the image that is booted cannot be made")]
    Write(#[from] erofs::WriteError),
    /// Its kernel arguments cannot be used.
    #[error(transparent)]
    Kargs(#[from] KargsError),
    /// An argument selects an image.
    #[error("the kernel argument {0:?} selects the image, which is not for the user to choose")]
    Composefs(String),
    /// An argument would be several lines.
    #[error("a kernel argument has a line break or control character")]
    Control,
    /// There is no stub.
    #[error(
        "the image has no boot stub for UKIs, /{STUBS}/{name}; install systemd-boot-efi in it, or name one with --stub"
    )]
    NoStub {
        /// The file.
        name: String,
    },
    /// The image says nothing about itself.
    #[error("the image has no /usr/lib/os-release, from which a UKI has its name")]
    NoOsRelease,
    /// A file of it cannot be opened.
    #[error("cannot open the {what} of the image")]
    Open {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// Why.
        source: ObjectError,
    },
    /// A file of it cannot be read.
    #[error("cannot read the {what} of the image")]
    Read {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The name would not be found, or would be counted.
    #[error("{0:?} cannot be the name of a UKI: it ends with .efi and is made of letters, digits and . _ -")]
    Name(String),
    /// The UKI cannot be built.
    #[error("cannot build the UKI")]
    Build(#[from] BuildError),
    /// The UKI cannot be signed.
    #[error("cannot sign the UKI")]
    Sign(#[from] SignError),
}

/// Makes the UKI of an image: `tree` is as its layers or directory have it, with times as they are in layers. The same image and
/// options make the same bytes.
///
/// # Errors
/// When the image lacks something that a UKI needs, or it cannot be made.
pub fn seal(tree: &Tree, files: &dyn OpenContent, options: &SealOptions<'_>) -> Result<SealedUki, SealError> {
    let mut booted = tree.clone();
    transform_for_oci(&mut booted, XattrFilter::AllowlistOnly)?;
    transform_for_boot(files, &mut booted, &BootOptions::default())?;
    let image = fsverity::digest(options.algorithm, &erofs::write(&booted, Format::V1)?);
    let command_line = command_line(image, &image_arguments(files, tree)?, options.arguments)?;

    let Kernel { version, vmlinuz, initramfs } = find_kernel(tree)?;
    let linux = read(files, &vmlinuz, "kernel")?;
    let initrd = read(files, &initramfs, "initramfs")?;
    let own_stub;
    let stub = match options.stub {
        Some(stub) => stub,
        None => {
            own_stub = stub_of(tree, files)?;
            &own_stub
        }
    };
    let release = os_release_text(tree, files)?;
    let name = match options.name {
        Some(name) => name.to_owned(),
        None => name_of(tree, files)?,
    };
    check_name(&name)?;
    let builder = Builder {
        stub,
        linux: Some(&linux),
        initrds: vec![&initrd],
        os_release: Some(&release),
        command_line: Some(command_line.as_bytes()),
        uname: Some(&version),
        ..Builder::default()
    };
    let mut bytes = options.policy.sign_with(builder).build()?;
    if let Some(signer) = options.signer {
        bytes = signer.sign(&bytes)?;
    }
    let boot = tree.directory("boot").map(|boot| boot.stat.clone()).ok_or(TransformError::NoDirectory("boot"))?;
    let (mtime_secs, mtime_nanos) = (booted.root.stat.mtime_secs, 0);
    Ok(SealedUki { name, bytes, image, command_line, boot: Stat { mtime_secs, mtime_nanos, ..boot } })
}

/// First what selects the image, then what the image asks for, then what the user adds. The physical root is mounted for
/// writing unless one of them says otherwise: /var and the deployments are on it.
fn command_line(image: Digest, of_image: &[String], of_user: &[String]) -> Result<String, SealError> {
    for argument in of_user {
        if argument.chars().any(char::is_control) {
            return Err(SealError::Control);
        }
        if is_composefs(argument) {
            return Err(SealError::Composefs(argument.clone()));
        }
    }
    let mut words = vec![ComposefsArg { digest: image, format: ArgFormat::V1, optional: false }.to_string()];
    let others: Vec<&String> = of_image.iter().chain(of_user).collect();
    if !others.iter().any(|argument| matches!(argument.as_str(), "ro" | "rw")) {
        words.push("rw".to_owned());
    }
    words.extend(others.into_iter().cloned());
    Ok(words.join(" "))
}

fn read(files: &dyn OpenContent, content: &Content, what: &'static str) -> Result<Vec<u8>, SealError> {
    let mut bytes = Vec::new();
    let mut contents = files.open_content(content).map_err(|source| SealError::Open { what, source })?;
    contents.read_to_end(&mut bytes).map_err(|source| SealError::Read { what, source })?;
    Ok(bytes)
}

fn stub_of(tree: &Tree, files: &dyn OpenContent) -> Result<Vec<u8>, SealError> {
    let name = format!("linux{}.efi.stub", Architecture::native().map_or("x64", Architecture::efi_name));
    let stub = read_file(files, tree, &format!("{STUBS}/{name}"), STUB_MAX_BYTES)?;
    stub.ok_or(SealError::NoStub { name })
}

fn os_release_text(tree: &Tree, files: &dyn OpenContent) -> Result<Vec<u8>, SealError> {
    for path in ["usr/lib/os-release", "etc/os-release"] {
        if let Some(text) = read_file(files, tree, path, OS_RELEASE_MAX_BYTES)? {
            return Ok(text);
        }
    }
    Err(SealError::NoOsRelease)
}

/// `debian-13.efi`: what the image is and its version, with `-` for characters that a name on the ESP cannot have.
fn name_of(tree: &Tree, files: &dyn OpenContent) -> Result<String, SealError> {
    let release = os_release(files, tree)?;
    let id = release.get("IMAGE_ID").or_else(|| release.get("ID")).unwrap_or("linux");
    let parts = [Some(id), release.version()];
    let name: Vec<&str> = parts.into_iter().flatten().collect();
    let usable = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    Ok(format!("{}.efi", name.join("-").chars().map(usable).collect::<String>()))
}

/// Names that the boot loader finds. A `+` would be read as a count of tries.
fn check_name(name: &str) -> Result<(), SealError> {
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.strip_suffix(".efi") {
        Some(stem) if !stem.is_empty() && !stem.starts_with('.') && name.chars().all(usable) => Ok(()),
        _ => Err(SealError::Name(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_comes_first_and_nobody_selects_another() {
        let image = Digest::new(Algorithm::Sha512, &[0xab; 64]).unwrap();
        let of = |of_image: &[&str], of_user: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            command_line(image, &owned(of_image), &owned(of_user))
        };
        let argument = format!("composefs.digest=v1-sha512-12:{image}");
        assert_eq!(of(&[], &[]).unwrap(), format!("{argument} rw"));
        assert_eq!(of(&["console=ttyS0"], &["quiet"]).unwrap(), format!("{argument} rw console=ttyS0 quiet"));
        assert_eq!(of(&["ro"], &[]).unwrap(), format!("{argument} ro"));
        assert!(matches!(of(&[], &["composefs=00"]), Err(SealError::Composefs(_))));
        assert!(matches!(of(&[], &["a\nb"]), Err(SealError::Control)));
    }

    #[test]
    fn names_are_those_that_loaders_find() {
        for good in ["debian-13.efi", "a.efi", "A_1.2-x.efi"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["debian+3.efi", "a", ".efi", "../a.efi", "a b.efi", ".a.efi", "a.EFI", "é.efi"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
