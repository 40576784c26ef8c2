//! What a command about an image is given: a directory, a dumpfile, an EROFS file, a stored image, a reference.
//!
//! A name that begins with `/`, `./` or `../` is a path. What begins with `docker://`, `oci:` or another transport is a
//! reference: the image is taken from the repository if it is there under that tag, else it is fetched into a repository
//! for the purpose, as the image in an archive is. Any other name is looked for in the repository, as a tag, a digest or a
//! ref, and then as a path.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use osupdate_core::boot::{BootOptions, transform_for_boot};
use osupdate_core::erofs::{self, Format};
use osupdate_core::oci::{ArchiveForm, ImageArchive, StoredImage, plain_image_tree};
use osupdate_core::repository::{OpenContent, Repository};
use osupdate_core::scan::{HashOnly, scan};
use osupdate_core::transform::truncate_times;
use osupdate_core::tree::{Content, LeafKind, Tree};
use osupdate_core::{Algorithm, Digest, dumpfile};

use super::directory_files::DirectoryFiles;
use super::fetch_options::FetchOptions;
use super::scratch::Scratch;
use super::tree_options::TreeOptions;
use super::{mounted, open};
use crate::cli::Context;
use crate::commands::repository_path::RepositoryPath;
use crate::exit::ResultExt as _;
use crate::transport::ImageReference;
use crate::transport::reference::ArchiveReference;

/// Largest dumpfile or EROFS file that is read. Images of whole operating systems have some 20 MiB.
const FILE_MAX_BYTES: u64 = 1 << 30;
/// Begins every composefs image.
const IMAGE_MAGIC: [u8; 4] = 0xd078_629a_u32.to_le_bytes();
/// Where an EROFS superblock is, and what it begins with.
const EROFS_MAGIC: (usize, [u8; 4]) = (1024, 0xe0f5_e1e2_u32.to_le_bytes());

/// Where a name leads.
pub(super) enum Place {
    Path(PathBuf),
    Stdin,
    Image(Repository, Box<StoredImage>),
    Erofs(Repository, Digest),
    Reference(ImageReference),
}

/// What a tree was made of.
pub(super) enum Kind {
    Directory,
    Dumpfile,
    /// An EROFS file, or one in the repository.
    Erofs {
        format: Format,
        digest: Option<Digest>,
        bytes: Vec<u8>,
    },
    /// An image in layers.
    Layers {
        image: Box<StoredImage>,
    },
}

impl Kind {
    pub(super) fn describe(&self) -> Cow<'static, str> {
        match self {
            Self::Directory => "directory".into(),
            Self::Dumpfile => "dumpfile".into(),
            Self::Erofs { format, .. } => format!("EROFS image, version {}", format.number()).into(),
            Self::Layers { .. } => "OCI image".into(),
        }
    }
}

/// What is done about files on which others are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MountedFiles {
    /// They are left out.
    LeaveOut,
    /// They are an error.
    Refuse,
}

/// An image with its tree.
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) tree: Tree,
    /// What its files are named by, if it has any.
    pub(super) algorithm: Option<Algorithm>,
    files: Files,
}

/// Where the contents of a subject's files are.
enum Files {
    /// In dumpfiles there are only their digests, as in EROFS files.
    Nowhere,
    Repository(Repository),
    Scratch(Scratch),
    Directory(DirectoryFiles),
}

/// What to do to load a subject.
pub(super) struct Loader<'a> {
    pub(super) repository: &'a RepositoryPath,
    pub(super) options: &'a TreeOptions,
    /// For directories, and images that are fetched.
    pub(super) algorithm: Algorithm,
    pub(super) fetch: &'a FetchOptions,
    pub(super) context: &'a Context,
}

impl<'a> Loader<'a> {
    /// With the algorithm that the user wants, else SHA-512.
    pub(super) fn new(
        repository: &'a RepositoryPath,
        options: &'a TreeOptions,
        fetch: &'a FetchOptions,
        context: &'a Context,
    ) -> Self {
        let algorithm = repository.wanted_algorithm().unwrap_or(Algorithm::Sha512);
        Self { repository, options, algorithm, fetch, context }
    }
}

/// Finds out where a name leads, without reading anything.
pub(super) fn find(name: &str, repository: &RepositoryPath) -> anyhow::Result<Place> {
    if name == "-" {
        return Ok(Place::Stdin);
    }
    if matches!(name, "." | "..") || ["/", "./", "../"].iter().any(|start| name.starts_with(start)) {
        return Ok(path_or_archive(name));
    }
    let stored = repository.open_if_there()?;
    let exists = Path::new(name).exists();
    if let Some(repository) = stored {
        match open(&repository, name) {
            Ok(image) => return Ok(Place::Image(repository, Box::new(image))),
            Err(error) if ImageReference::has_transport(name) || exists => {
                tracing::debug!("{name} is not in the repository: {error}");
            }
            Err(error) => match repository.image(name)? {
                Some(digest) => return Ok(Place::Erofs(repository, digest)),
                None if is_digest(name) => {}
                None => return Err(error),
            },
        }
        if let Some(digest) = repository.image(name)? {
            return Ok(Place::Erofs(repository, digest));
        }
    }
    if ImageReference::has_transport(name) {
        return Ok(Place::Reference(name.parse()?));
    }
    if is_digest(name) && !exists {
        return Err(anyhow!("there is no image {name} in the repository"))
            .hint("a digest tells nothing of the files: pull the image, or name its EROFS file");
    }
    match exists {
        true => Ok(path_or_archive(name)),
        false => Err(anyhow!("there is no file {name}, and no repository in which an image could have that name"))
            .hint("name a directory, a dumpfile, an EROFS file, an image archive, docker://HOST/NAME, oci:PATH, or use --repo"),
    }
}

/// An archive has an image in it, which may be named behind a colon.
fn path_or_archive(name: &str) -> Place {
    let path: PathBuf = name.into();
    let archive = match (path.exists(), name.parse()) {
        (true, _) => ArchiveReference { form: ArchiveForm::Any, path: path.clone(), name: None },
        (false, Ok(ImageReference::Archive(archive))) => archive,
        (false, _) => return Place::Path(path),
    };
    match ImageArchive::is_archive(&archive.path) {
        true => Place::Reference(ImageReference::Archive(archive)),
        false => Place::Path(path),
    }
}

fn is_digest(name: &str) -> bool {
    name.parse::<Digest>().is_ok()
}

impl Loader<'_> {
    /// Loads what a name stands for.
    pub(super) fn load(&self, name: &str) -> anyhow::Result<Subject> {
        let place = find(name, self.repository)?;
        self.load_place(name, place)
    }

    /// Loads a directory as the image that will be made of it: with times as they are in layers. What is mounted there is left
    /// out, also where it is of the same file system.
    pub(super) fn rootfs(&self, path: &Path, mounted: MountedFiles) -> anyhow::Result<Subject> {
        if !path.is_dir() {
            bail!("{} is not a directory", path.display());
        }
        let mut subject = self.directory(&path.display().to_string(), path)?;
        let files = mounted::leave_out(&mut subject.tree, path).context("cannot find out what is mounted there")?;
        if let (MountedFiles::Refuse, Some(file)) = (mounted, files.first()) {
            let text = format!("another file is mounted on {} in {}", file.display(), path.display());
            return Err(anyhow!("{text}, so what the image has there is not known"))
                .hint("in a build, name a stage that is mounted: RUN --mount=type=bind,from=STAGE,target=/run/base");
        }
        truncate_times(&mut subject.tree);
        Ok(subject)
    }

    pub(super) fn load_place(&self, name: &str, place: Place) -> anyhow::Result<Subject> {
        match place {
            Place::Path(path) if path.is_dir() => self.directory(name, &path),
            Place::Path(path) => file(name, &read_file(&path)?),
            Place::Stdin => {
                let bytes = read_limited(io::stdin().lock()).context("cannot read standard input")?;
                file("standard input", &bytes)
            }
            Place::Image(repository, image) => self.layers(name, repository, image),
            Place::Erofs(repository, digest) => {
                let bytes = repository.read_image(&digest).with_context(|| format!("cannot read {name}"))?;
                let mut subject = image(name, bytes)?;
                if let Kind::Erofs { digest: of_image, .. } = &mut subject.kind {
                    *of_image = Some(digest);
                }
                Ok(Subject { files: Files::Repository(repository), ..subject })
            }
            Place::Reference(reference) => self.fetch(name, &reference),
        }
    }

    fn directory(&self, name: &str, path: &Path) -> anyhow::Result<Subject> {
        let contents = HashOnly(self.algorithm);
        let result = scan(path, &self.options.scan_options(), &contents, &*self.context.observer);
        let mut tree = super::scanned(result)?;
        let files = Files::Directory(DirectoryFiles::new(path, &tree));
        self.options.transform(&mut tree).with_context(|| format!("cannot make an image of {name}"))?;
        Ok(Subject { name: name.to_owned(), kind: Kind::Directory, tree, algorithm: Some(self.algorithm), files })
    }

    fn layers(&self, name: &str, repository: Repository, image: Box<StoredImage>) -> anyhow::Result<Subject> {
        let mut tree = plain_image_tree(&repository, &image, self.options.filter())?;
        self.options.transform(&mut tree).with_context(|| format!("cannot make an image of {name}"))?;
        Ok(Subject {
            name: name.to_owned(),
            kind: Kind::Layers { image },
            tree,
            algorithm: Some(repository.algorithm()),
            files: Files::Repository(repository),
        })
    }

    /// Fetches an image for this command only.
    pub(super) fn fetch(&self, name: &str, reference: &ImageReference) -> anyhow::Result<Subject> {
        let (scratch, image) = Scratch::fetch(reference, self.algorithm, false, self.fetch, self.context)?;
        let mut tree = plain_image_tree(&scratch.repository, &image, self.options.filter())?;
        self.options.transform(&mut tree).with_context(|| format!("cannot make an image of {name}"))?;
        Ok(Subject {
            name: name.to_owned(),
            kind: Kind::Layers { image: Box::new(image) },
            tree,
            algorithm: Some(self.algorithm),
            files: Files::Scratch(scratch),
        })
    }
}

impl Subject {
    /// The tree in the form that is booted.
    pub(super) fn boot_form(&self) -> anyhow::Result<Tree> {
        if matches!(self.kind, Kind::Dumpfile | Kind::Erofs { .. }) {
            bail!("a {} is taken as it is: it has one form only", self.kind.describe());
        }
        let mut tree = self.tree.clone();
        transform_for_boot(self.files()?, &mut tree, &BootOptions::default())?;
        Ok(tree)
    }

    /// The contents of its files.
    pub(super) fn files(&self) -> anyhow::Result<&dyn OpenContent> {
        match &self.files {
            Files::Nowhere => bail!("the files of {} are not at hand", self.name),
            Files::Directory(files) => Ok(files),
            Files::Repository(repository) => Ok(repository),
            Files::Scratch(scratch) => Ok(&scratch.repository),
        }
    }

    /// Whether it was fetched for this command.
    pub(super) fn is_fetched(&self) -> bool {
        matches!(self.files, Files::Scratch(_))
    }

    /// The repository that it is in.
    pub(super) fn repository(&self) -> Option<&Repository> {
        match &self.files {
            Files::Repository(repository) => Some(repository),
            Files::Scratch(scratch) => Some(&scratch.repository),
            Files::Directory(_) | Files::Nowhere => None,
        }
    }
}

/// Reads a dumpfile or EROFS file.
pub(super) fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let doing = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(doing)?;
    read_limited(file).with_context(doing)
}

fn read_limited(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(io::Error::other("it has more than 1 GiB, which no image needs"));
    }
    Ok(bytes)
}

/// Whether bytes are those of an image, sound or not, and not those of a dumpfile.
pub(super) fn looks_like_image(bytes: &[u8]) -> bool {
    let (at, magic) = EROFS_MAGIC;
    bytes.starts_with(&IMAGE_MAGIC) || bytes.get(at..).is_some_and(|bytes| bytes.starts_with(&magic))
}

fn file(name: &str, bytes: &[u8]) -> anyhow::Result<Subject> {
    if looks_like_image(bytes) {
        return image(name, bytes.to_vec());
    }
    if !bytes.starts_with(b"/") {
        return Err(anyhow!("{name} is neither a composefs image nor a dumpfile"))
            .hint("an image begins with the bytes 9a 62 78 d0, a dumpfile with the line of the directory /");
    }
    let tree = dumpfile::parse(bytes).with_context(|| format!("cannot read {name}"))?;
    Ok(subject(name, Kind::Dumpfile, tree))
}

fn image(name: &str, bytes: Vec<u8>) -> anyhow::Result<Subject> {
    let (tree, format) = erofs::read(&bytes).with_context(|| format!("{name} is refused"))?;
    Ok(subject(name, Kind::Erofs { format, digest: None, bytes }, tree))
}

fn subject(name: &str, kind: Kind, tree: Tree) -> Subject {
    let algorithm = tree.leaves.iter().find_map(|leaf| match &leaf.kind {
        LeafKind::Regular(Content::External { digest, .. }) => digest.map(|digest| digest.algorithm()),
        _ => None,
    });
    Subject { name: name.to_owned(), kind, tree, algorithm, files: Files::Nowhere }
}
