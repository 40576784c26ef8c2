//! Every dumpfile of the vectors, through both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::Tools;

/// Dumpfiles for which the C tools do something else, and why that is not done here; among the vectors that are kept outside
/// of the project.
const DIFFERENT: [(&str, &str); 1] =
    [("xattr-acl-empty", "composefs-info loses an attribute that has neither suffix nor value")];

/// Larger ones take too long without optimization.
const DUMP_MAX_BYTES: u64 = 1 << 20;

/// Dumpfiles of this project and, where they are, those beside it.
fn dumps() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directories = ["core/tests/vectors/gen", "../shared/vectors/image/gen", "../shared/vectors/image/peer"];
    let mut dumps = Vec::new();
    let mut names = Vec::new();
    for directory in directories {
        let Ok(entries) = fs::read_dir(root.join(directory)) else {
            println!("skipped {directory}: not here");
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            let is_dump = [".dump", ".dump.gz"].iter().any(|end| name.to_string_lossy().ends_with(end));
            if is_dump && !names.contains(&name) {
                names.push(name);
                dumps.push(path);
            }
        }
    }
    dumps.sort();
    dumps
}

#[test]
fn dumpfiles_of_the_vectors() {
    let Some(tools) = Tools::find() else { return };
    let place = tempfile::tempdir().unwrap();
    let dump = place.path().join("dump");
    let mut failed = Vec::new();
    let mut compared = 0;
    for path in dumps() {
        let name = path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
        if path.extension().is_some_and(|extension| extension == "gz") {
            let plain = Command::new("gzip").arg("-dc").arg(&path).output().unwrap();
            assert!(plain.status.success());
            fs::write(&dump, plain.stdout).unwrap();
        } else {
            fs::copy(&path, &dump).unwrap();
        }
        if fs::metadata(&dump).unwrap().len() > DUMP_MAX_BYTES {
            println!("skipped {name}: its images are compared by digest, in the tests of the vectors");
            continue;
        }
        for version in [None, Some("--min-version=0"), Some("--min-version=1")] {
            let mut arguments = vec!["--from-file", "dump", "image"];
            arguments.extend(version);
            let run = |mut command: Command, image: &str| {
                let output = command.args(&arguments).arg("--print-digest").current_dir(place.path()).output().unwrap();
                let image = fs::rename(place.path().join("image"), place.path().join(image));
                (output, image.is_ok())
            };
            let (theirs, _) = run(tools.c("mkcomposefs"), "theirs");
            let (ours, made) = run(Tools::ours("mkcomposefs"), "ours");
            compared += 1;
            if (theirs.status.code(), &theirs.stdout) != (ours.status.code(), &ours.stdout) {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                failed.push(format!("{name} {version:?}: {} / {}", text(&theirs.stderr), text(&ours.stderr)));
                continue;
            }
            if !made {
                continue;
            }
            assert_eq!(
                fs::read(place.path().join("theirs")).unwrap(),
                fs::read(place.path().join("ours")).unwrap(),
                "{name}: equal digests of different images"
            );
            for command in ["ls", "dump", "objects", "missing-objects"] {
                let (theirs, ours) = tools.both("composefs-info", &[&command, &"ours"], place.path());
                if !theirs.same(&ours) {
                    let differing =
                        theirs.stdout.split(|&byte| byte == b'\n').zip(ours.stdout.split(|&byte| byte == b'\n'));
                    let first = differing.into_iter().find(|(theirs, ours)| theirs != ours);
                    let first = first.map(|(theirs, ours)| {
                        let short = |line: &[u8]| line.escape_ascii().to_string().chars().take(300).collect::<String>();
                        (short(theirs), short(ours))
                    });
                    failed.push(format!("{name} {version:?} {command}: {first:?} {} {}", theirs.stderr, ours.stderr));
                }
            }
        }
    }
    println!("{compared} images compared");
    failed.retain(|text| {
        let different = DIFFERENT.iter().find(|(name, _)| text.starts_with(&format!("{name} ")));
        if let Some((_, reason)) = different {
            println!("different: {text}: {reason}");
        }
        different.is_none()
    });
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}
