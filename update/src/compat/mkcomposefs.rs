//! `mkcomposefs`: the image of a directory or a dumpfile.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroUsize;
use std::path::Path;

use osupdate_core::erofs::{self, Format};
use osupdate_core::observer::Silent;
use osupdate_core::scan::{Contents, HashOnly, ScanError, ScanOptions, ScanXattrs, scan};
use osupdate_core::tree::{LeafKind, Tree};
use osupdate_core::{Algorithm, dumpfile, fsverity};

use super::options::{Options, Spec};
use super::store::Store;
use super::{Failure, chain, plain};

pub(super) const USAGE: &str = "\
Usage: mkcomposefs [OPTIONS] SOURCE IMAGE
Options:
  --digest-store=PATH   Store content files in this directory
  --use-epoch           Make all mtimes zero
  --skip-devices        Don't store device nodes
  --skip-xattrs         Don't store file xattrs
  --user-xattrs         Only store user.* xattrs
  --print-digest        Print the digest of the image
  --print-digest-only   Print the digest of the image, don't write image
  --from-file           The source is a dump file, not a directory
  --min-version=N       Use this minimal format version (default=0)
  --max-version=N       Use this maximum format version (default=1)
  --hardlinks           Keep hard links of the directory
  --threads=N           Use this to override the default number of threads used to calculate digest and copy files
";

const SPECS: [Spec; 12] = [
    ("digest-store", true),
    ("use-epoch", false),
    ("skip-devices", false),
    ("skip-xattrs", false),
    ("user-xattrs", false),
    ("print-digest", false),
    ("print-digest-only", false),
    ("from-file", false),
    ("min-version", true),
    ("max-version", true),
    ("threads", true),
    ("hardlinks", false),
];

pub(super) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let options = Options::parse("mkcomposefs", arguments, &SPECS)?;
    let threads = options.number("threads", "threads count", 1)?;
    let (min, max) =
        (options.number("min-version", "min version", 0)?, options.number("max-version", "max version", 0)?);
    // Naming one of them takes back the default of the other.
    let (min, max) = match (min, max) {
        (None, None) => (0, 1),
        (min, max) => (min.unwrap_or(0), max.unwrap_or(0).max(min.unwrap_or(0))),
    };
    let only_digest = options.has("print-digest-only");
    let (source, target) = match &options.operands[..] {
        [] => return Err(Failure::Usage("No source path specified".to_owned())),
        [source] if only_digest => (source, None),
        [_] => return Err(Failure::Usage("No destination path specified".to_owned())),
        [_, _] if only_digest => {
            return Err(Failure::Usage("IMAGE must not be specified when using --print-digest-only".to_owned()));
        }
        [source, target] => (source, Some(Path::new(target))),
        _ => return Err(Failure::Usage("Too many arguments".to_owned())),
    };

    let tree = if options.has("from-file") {
        parse(Path::new(source))?
    } else {
        directory(Path::new(source), &options, threads)?
    };
    let whiteouts = tree.leaves.iter().any(|leaf| leaf.kind == LeafKind::CharDevice(0));
    let format = match (min, max) {
        (0, 1) if whiteouts => Format::V1,
        (0, _) => Format::V0,
        (1, _) => Format::V1,
        _ => return Err(Failure::because("cannot write file", "versions are 0 and 1")),
    };
    let image = erofs::write(&tree, format).map_err(|error| Failure::because("cannot write file", chain(&error)))?;
    match target {
        None => {}
        Some(target) if target.as_os_str() == "-" => {
            io::stdout().write_all(&image).map_err(|error| Failure::because("cannot write file", plain(&error)))?
        }
        Some(target) => {
            fs::write(target, &image).map_err(|error| Failure::because("failed to open output file", plain(&error)))?
        }
    }
    if only_digest || options.has("print-digest") {
        let digest = fsverity::digest(Algorithm::Sha256, &image);
        writeln!(io::stdout(), "{digest}").map_err(|error| Failure::because("cannot write digest", plain(&error)))?;
    }
    Ok(())
}

fn parse(path: &Path) -> Result<Tree, Failure> {
    let mut text = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin()
            .read_to_end(&mut text)
            .map_err(|error| Failure::because("Error reading from file", plain(&error)))?;
    } else {
        let mut file = fs::File::open(path)
            .map_err(|error| Failure::because(format!("open `{}`", path.display()), plain(&error)))?;
        file.read_to_end(&mut text).map_err(|error| Failure::because("Error reading from file", plain(&error)))?;
    }
    if text.is_empty() {
        return Err(Failure::Message("No files in dump file".to_owned()));
    }
    dumpfile::parse(&text).map_err(|error| Failure::Message(chain(&error)))
}

fn directory(path: &Path, options: &Options, threads: Option<u32>) -> Result<Tree, Failure> {
    let mut how = ScanOptions {
        xattrs: match (options.has("skip-xattrs"), options.has("user-xattrs")) {
            (true, true) => {
                return Err(Failure::Message("--skip-xattrs and --user-xattrs exclude each other".to_owned()));
            }
            (true, false) => ScanXattrs::None,
            (false, true) => ScanXattrs::UserOnly,
            (false, false) => ScanXattrs::All,
        },
        hard_links: options.has("hardlinks"),
        times: !options.has("use-epoch"),
        devices: !options.has("skip-devices"),
        ..ScanOptions::default()
    };
    if let Some(threads) = threads.and_then(|threads| NonZeroUsize::new(threads as usize)) {
        how.threads = threads;
    }
    let store;
    let contents: &dyn Contents = match options.value("digest-store") {
        None => &HashOnly(Algorithm::Sha256),
        Some(directory) => {
            store = Store::new(Path::new(directory));
            &store
        }
    };
    scan(path, &how, contents, &Silent).map_err(|error| match &error {
        ScanError::File(file) if file.path == path => {
            Failure::because(format!("error accessing {}", path.display()), plain(&file.source))
        }
        _ => Failure::Message(chain(&error)),
    })
}
