//! [`SealedUki`]: the unified kernel image of an OS image, and the digest that is sealed into it.
//!
//! What an image boots with is decided here. One UKI with a composefs argument is it, whatever kernels are beside it. Without
//! one it is the kernel with its initramfs; a UKI in `/usr/lib/modules`, where distributions put theirs, does not matter then.
//! Everything else is refused: several, and one in `/boot/EFI/Linux` that names no image.

mod mismatch;

use std::collections::BTreeSet;

use osupdate_core::boot::{UkiFile, find_kernel, find_ukis};
use osupdate_core::kernel_args::{ComposefsArg, KernelArgError, composefs_args, split};
use osupdate_core::repository::{ObjectError, Repository};
use osupdate_core::tree::{Content, Tree};
use osupdate_core::{Algorithm, Digest};
use osupdate_efi::pe::{self, Pe, PeError, ReadError};
use osupdate_efi::uki::{Kind, ParseUkiError, Uki, names};
use osupdate_record::{Addon, Uki as Record};
use thiserror::Error;

pub use mismatch::{Difference, Mismatch};

/// Begins the name of the addon that is made on a machine, which an image's may not have.
const LOCAL_PREFIX: &str = "zz-local";

/// Why it is not clear which UKI an image boots with, or why it cannot be deployed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UkiError {
    /// It cannot be opened in the repository.
    #[error("cannot open /{path} of the image")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: ObjectError,
    },
    /// It cannot be read.
    #[error("cannot read /{path} of the image")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// It is not a PE file, or a damaged one.
    #[error("/{path} of the image is no UKI that firmware can start")]
    Damaged {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: PeError,
    },
    /// It is a PE file, and no UKI.
    #[error("/{path} of the image is not a UKI")]
    NotUki {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: ParseUkiError,
    },
    /// It has no kernel, or should have none.
    #[error("/{path} of the image is of the kind {}, which cannot be there", kind.name())]
    Kind {
        /// The file.
        path: String,
        /// What it is.
        kind: Kind,
    },
    /// A composefs argument is malformed.
    #[error("the command line in /{path} of the image has a malformed composefs argument")]
    Argument {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: KernelArgError,
    },
    /// It names no image.
    #[error("the UKI /{path} of the image names no image: a composefs.digest= argument must be in its command line")]
    Unsealed {
        /// The file.
        path: String,
    },
    /// One of its profiles names no image.
    #[error(
        "profile {profile} of the UKI /{path} names no image: every command line in it needs the composefs.digest= argument"
    )]
    UnsealedProfile {
        /// The file.
        path: String,
        /// Number of the profile.
        profile: usize,
    },
    /// It names several images.
    #[error("the UKI /{path} of the image names several images: {}", join(digests))]
    SeveralImages {
        /// The file.
        path: String,
        /// The digests.
        digests: Vec<Digest>,
    },
    /// The digest is of another algorithm than the repository's.
    #[error("the digest in the UKI /{path} is of {found}, this repository is for {expected}")]
    Algorithm {
        /// The file.
        path: String,
        /// In the UKI.
        found: Algorithm,
        /// Of the repository.
        expected: Algorithm,
    },
    /// There are several.
    #[error("the image has several UKIs with a digest ({}), so it is not clear which one to boot; leave one", paths.join(", "))]
    Several {
        /// The files.
        paths: Vec<String>,
    },
    /// A profile has no initial ramdisk: nothing would look at the digest.
    #[error("profile {profile} of the UKI /{path} of the image has no initrd, which is what verifies the image")]
    NoInitrd {
        /// The file.
        path: String,
        /// Number of the profile.
        profile: usize,
    },
    /// It accepts a repository without fs-verity.
    #[error(
        "the digest in the UKI /{path} of the image is marked with ?: whoever can write to the disk could give it any files. \
         Seal it without the mark"
    )]
    Optional {
        /// The file.
        path: String,
    },
    /// An addon has a name that it cannot have on the boot partition.
    #[error(
        "the addon /{path} of the image cannot have this name: only letters, digits, +, -, _ and . may be in it, and it may not begin with zz-local, or be that of another one in other letters"
    )]
    AddonName {
        /// The file.
        path: String,
    },
    /// An addon has a composefs argument.
    #[error("the addon /{path} of the image has a composefs argument, which only the UKI may have")]
    AddonNamesImage {
        /// The file.
        path: String,
    },
}

fn join(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A UKI that names one image, the same in all its profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedUki {
    /// Where it and its addons are in the image.
    pub file: UkiFile,
    /// The image that it names.
    pub image: Digest,
    /// It accepts a repository without fs-verity.
    pub optional: bool,
    /// Its kernel arguments without composefs arguments: those of the first profile.
    pub arguments: Vec<String>,
    /// Version of the kernel in it.
    pub kernel_version: Option<String>,
}

/// What is read of a UKI or addon.
struct Contents {
    /// The command line of each profile.
    lines: Vec<String>,
    kernel_version: Option<String>,
}

/// Finds the UKI that an image boots with; `None`: it boots with a kernel and an initramfs. `tree` is that of the image as
/// it was pulled: the boot form has nothing in `/boot`.
pub fn find(repository: &Repository, tree: &Tree) -> Result<Option<SealedUki>, UkiError> {
    let has_kernel = find_kernel(tree).is_ok();
    let mut sealed = Vec::new();
    let mut unsealed = Vec::new();
    for file in find_ukis(tree) {
        let contents = match Contents::read(repository, &file.path, &file.content, Kind::Uki) {
            // With a kernel beside it, a UKI of the distribution is left alone.
            Err(err) if file.is_in_boot_form() && has_kernel => {
                tracing::debug!("{err}, ignoring");
                continue;
            }
            result => result?,
        };
        let names_image = contents.lines.iter().any(|line| names_image(line));
        if names_image { sealed.push((file, contents)) } else { unsealed.push(file) }
    }
    let Some((file, contents)) = sealed.pop() else {
        let wanted = unsealed.into_iter().find(|file| !file.is_in_boot_form() || !has_kernel);
        return wanted.map_or(Ok(None), |file| Err(UkiError::Unsealed { path: file.path }));
    };
    if !sealed.is_empty() {
        let others = sealed.into_iter().map(|(file, _)| file.path);
        return Err(UkiError::Several { paths: others.chain([file.path]).map(|path| format!("/{path}")).collect() });
    }
    let mut seen = BTreeSet::new();
    for (name, content) in &file.addons {
        let path = format!("{}.extra.d/{name}", file.path);
        let lower = name.to_ascii_lowercase();
        let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_.".contains(&byte));
        if !fits || lower.starts_with(LOCAL_PREFIX) || !seen.insert(lower) {
            return Err(UkiError::AddonName { path });
        }
        let addon = Contents::read(repository, &path, content, Kind::Addon)?;
        if addon.lines.iter().any(|line| names_image(line)) {
            return Err(UkiError::AddonNamesImage { path });
        }
    }
    SealedUki::of(file, contents, repository.algorithm()).map(Some)
}

impl Contents {
    /// Reads a UKI or addon.
    fn read(repository: &Repository, path: &str, content: &Content, kind: Kind) -> Result<Self, UkiError> {
        let path = || path.to_owned();
        let file = repository.open_content(content).map_err(|source| UkiError::Open { path: path(), source })?;
        let file = pe::read(file).map_err(|source| UkiError::Read { path: path(), source })?;
        let program = Pe::parse(&file).map_err(|source| UkiError::Damaged { path: path(), source })?;
        let uki = Uki::parse(&program).map_err(|source| UkiError::NotUki { path: path(), source })?;
        if uki.kind() != kind {
            return Err(UkiError::Kind { path: path(), kind: uki.kind() });
        }
        let without = uki.profiles().iter().find(|profile| profile.section(names::INITRD).is_none());
        if let Some(profile) = without.filter(|_| kind == Kind::Uki) {
            return Err(UkiError::NoInitrd { path: path(), profile: profile.number() });
        }
        let line = |profile: &osupdate_efi::uki::Profile<'_>| profile.command_line().unwrap_or_default().to_owned();
        let kernel_version = uki.profiles().first().and_then(|profile| profile.uname()).map(str::to_owned);
        Ok(Self { lines: uki.profiles().iter().map(line).collect(), kernel_version })
    }
}

fn names_image(line: &str) -> bool {
    crate::kargs::is_composefs(line)
}

impl SealedUki {
    fn of(file: UkiFile, contents: Contents, algorithm: Algorithm) -> Result<Self, UkiError> {
        let Contents { lines, kernel_version } = contents;
        let path = || file.path.clone();
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut named: Vec<ComposefsArg> = Vec::new();
        for (profile, line) in lines.iter().enumerate() {
            let args = composefs_args(line).map_err(|source| UkiError::Argument { path: path(), source })?;
            if args.is_empty() {
                return Err(UkiError::UnsealedProfile { path: path(), profile });
            }
            named.extend(args.into_iter().filter(|arg| found.insert(arg.to_string())));
        }
        let Some(first) = named.first() else { return Err(UkiError::Unsealed { path: path() }) };
        let image = first.digest;
        if named.iter().any(|arg| arg.digest != image) {
            let mut digests: Vec<Digest> = named.iter().map(|arg| arg.digest).collect();
            digests.dedup();
            return Err(UkiError::SeveralImages { path: path(), digests });
        }
        if image.algorithm() != algorithm {
            return Err(UkiError::Algorithm { path: path(), found: image.algorithm(), expected: algorithm });
        }
        let arguments = lines.first().map(|line| other_arguments(line)).unwrap_or_default();
        Ok(Self { image, optional: named.iter().any(|arg| arg.optional), arguments, kernel_version, file })
    }

    /// What in its command line may keep a machine from booting as it should.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let path = &self.file.path;
        let mut doubts = Vec::new();
        let one_disk = |argument: &&String| {
            let value = argument.strip_prefix("root=");
            value.is_some_and(|value| value.starts_with("UUID=") || value.starts_with("PARTUUID="))
        };
        if let Some(argument) = self.arguments.iter().find(one_disk) {
            doubts.push(format!("{argument} is sealed into /{path}: only the machine with this disk can boot it"));
        }
        if !self.arguments.iter().any(|argument| argument == "rw") {
            doubts.push(format!("rw is not in the command line of /{path}: systemd will fail to remount the root"));
        }
        doubts
    }

    /// What a record says of it.
    pub(crate) fn record(&self) -> Option<Record> {
        let object = |content: &Content| match content {
            Content::External { digest: Some(digest), .. } => Some(digest.to_string()),
            _ => None,
        };
        let addon = |(name, content): &(String, Content)| Some(Addon { name: name.clone(), object: object(content)? });
        Some(Record {
            path: self.file.path.clone(),
            object: object(&self.file.content)?,
            addons: self.file.addons.iter().map(addon).collect::<Option<_>>()?,
            ..Record::default()
        })
    }
}

/// All arguments of a command line but those that name an image.
fn other_arguments(line: &str) -> Vec<String> {
    split(line).filter(|argument| !names_image(argument)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        digit.to_string().repeat(128)
    }

    fn of(lines: &[String]) -> Result<SealedUki, UkiError> {
        let file = UkiFile {
            path: "boot/EFI/Linux/os.efi".to_owned(),
            content: Content::Inline([].into()),
            addons: Vec::new(),
        };
        let contents = Contents { lines: lines.to_vec(), kernel_version: None };
        SealedUki::of(file, contents, Algorithm::Sha512)
    }

    #[test]
    fn digest_is_read_in_every_form() {
        let hex = digest('a');
        for (argument, optional) in [
            (format!("composefs.digest=v1-sha512-12:{hex}"), false),
            (format!("composefs.digest=?v1-sha512-12:{hex}"), true),
            (format!("composefs={hex}"), false),
            (format!("composefs=?{hex}"), true),
        ] {
            let sealed = of(&[format!("quiet {argument} rw")]).unwrap();
            assert_eq!((sealed.image.to_string(), sealed.optional), (hex.clone(), optional), "{argument}");
            assert_eq!(sealed.arguments, ["quiet", "rw"]);
        }
    }

    #[test]
    fn all_profiles_must_name_the_same_image() {
        let line = |digit| format!("composefs={}", digest(digit));
        assert!(of(&[line('a'), line('a') + " debug"]).is_ok());
        assert!(matches!(of(&[line('a'), "rescue".into()]), Err(UkiError::UnsealedProfile { profile: 1, .. })));
        assert!(matches!(of(&[line('a'), line('b')]), Err(UkiError::SeveralImages { .. })));
        assert!(matches!(of(&[line('a') + " " + &line('b')]), Err(UkiError::SeveralImages { .. })));
        assert!(matches!(of(&["composefs=x".into()]), Err(UkiError::Argument { .. })));
        let short = "a".repeat(64);
        assert!(matches!(of(&[format!("composefs={short}")]), Err(UkiError::Algorithm { .. })));
    }
}
