//! Labels, compared with those that libselinux finds in the policies of this machine.

mod boot_form;
mod libselinux;
mod samples;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use osupdate_core::selinux::{ALIAS_FILES, FileType, LABEL_XATTR, Policy, RULE_FILES};
use osupdate_core::tree::{Content, Directory, Entry, Leaf, LeafId, LeafKind, Stat, Tree};

use libselinux::Libselinux;

/// A path and the type of the file there.
type Question = (Vec<u8>, FileType);

/// The `contexts/files` directories of the policies that are installed.
fn policies() -> Vec<PathBuf> {
    let entries = fs::read_dir("/etc/selinux").into_iter().flatten();
    let directories = entries.map(|entry| entry.unwrap().path().join("contexts/files"));
    let mut found: Vec<_> = directories.filter(|directory| directory.join(RULE_FILES[0]).exists()).collect();
    found.sort();
    found
}

/// The policies to test with; none, with a message, where there are none.
fn policies_or_skip() -> Vec<PathBuf> {
    let found = policies();
    if found.is_empty() || !Libselinux::is_usable() {
        assert!(std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_none(), "run tests/install-deps");
        eprintln!("skipped: needs python3, libselinux and a policy in /etc/selinux; tests/install-deps installs them");
        return Vec::new();
    }
    found
}

fn read(directory: &Path, names: &[&'static str]) -> Vec<(&'static str, Vec<u8>)> {
    let read = |name: &&'static str| fs::read(directory.join(name)).ok().map(|text| (*name, text));
    names.iter().filter_map(read).collect()
}

/// Files of this machine, at most so many.
fn real_files(max: usize) -> Vec<Question> {
    let mut files = Vec::new();
    let mut pending: Vec<PathBuf> =
        ["/usr", "/etc", "/var/lib", "/dev", "/boot", "/bin", "/sbin", "/lib"].map(PathBuf::from).into();
    while let Some(path) = pending.pop()
        && files.len() < max
    {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let file_type = metadata.file_type();
        let file_type = match () {
            () if file_type.is_dir() => FileType::Directory,
            () if file_type.is_symlink() => FileType::Symlink,
            () if file_type.is_fifo() => FileType::Fifo,
            () if file_type.is_socket() => FileType::Socket,
            () if file_type.is_char_device() => FileType::CharDevice,
            () if file_type.is_block_device() => FileType::BlockDevice,
            () => FileType::Regular,
        };
        files.push((path.as_os_str().as_bytes().to_vec(), file_type));
        if file_type == FileType::Directory {
            let mut children: Vec<_> =
                fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
            children.sort();
            pending.extend(children);
        }
    }
    files
}

fn text(label: Option<&[u8]>) -> String {
    label.map_or_else(|| "none".to_owned(), |label| String::from_utf8_lossy(label).into_owned())
}

/// The rules of one file that are plain paths: libselinux asks those first.
fn plain_rules(rules: &[u8]) -> BTreeMap<Vec<u8>, Vec<(Option<u8>, String)>> {
    let mut plain: BTreeMap<Vec<u8>, Vec<(Option<u8>, String)>> = BTreeMap::new();
    for line in String::from_utf8_lossy(rules).lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [pattern, types @ .., context] = &fields[..] else { continue };
        if !pattern.starts_with('#')
            && !pattern.replace("\\.", "").contains(['.', '^', '$', '?', '*', '+', '|', '[', '(', '{'])
        {
            let letter = types.first().map(|type_| type_.as_bytes()[1]);
            plain.entry(pattern.replace('\\', "").into()).or_default().push((letter, (*context).to_owned()));
        }
    }
    plain
}

#[test]
fn rules_are_found_as_libselinux_finds_them() {
    for directory in policies_or_skip() {
        // One file, for libselinux would read these in another order, and no aliases.
        let rules: Vec<u8> = read(&directory, &RULE_FILES).into_iter().flat_map(|(_, text)| text).collect();
        let plain = plain_rules(&rules);
        let mut questions = real_files(20_000);
        questions.extend(samples::of_rules(&rules));
        let mut policy = Policy::parse(&[(RULE_FILES[0], rules.clone())], questions.len()).unwrap();

        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join(RULE_FILES[0]), &rules).unwrap();
        let answers = Libselinux::ask(copy.path(), &questions);
        let started = Instant::now();
        let mut differences = Vec::new();
        let mut exceptions = 0;
        for ((path, file_type), theirs) in std::iter::zip(&questions, answers) {
            let ours = text(policy.lookup(path, *file_type).unwrap());
            if ours == theirs {
                continue;
            }
            let exception = plain.get(path).and_then(|rules| {
                let letter = file_type.letter();
                rules.iter().rfind(|(of_type, _)| of_type.is_none_or(|of_type| of_type == letter))
            });
            if exception.is_some_and(|(_, context)| context.replace("<<none>>", "none") == theirs) {
                exceptions += 1;
            } else {
                differences.push(format!("{} {file_type:?}: {ours}, not {theirs}", String::from_utf8_lossy(path)));
            }
        }
        eprintln!(
            "{}: {} paths, {exceptions} where a plain path goes before a later pattern, looked up in {:?}",
            directory.display(),
            questions.len(),
            started.elapsed()
        );
        assert!(
            differences.is_empty(),
            "{} differences: {:#?}",
            differences.len(),
            &differences[..differences.len().min(20)]
        );
    }
}

/// A tree with these files, and the directories that they need.
fn tree_of(files: &[Question]) -> Tree {
    let mut tree = Tree::default();
    for (path, file_type) in files {
        let kind = match file_type {
            FileType::Directory => None,
            FileType::Symlink => Some(LeafKind::Symlink(b"target"[..].into())),
            FileType::Fifo => Some(LeafKind::Fifo),
            FileType::Socket => Some(LeafKind::Socket),
            FileType::CharDevice => Some(LeafKind::CharDevice(1)),
            FileType::BlockDevice => Some(LeafKind::BlockDevice(1)),
            FileType::Regular => Some(LeafKind::Regular(Content::Inline([].into()))),
        };
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
        let mut directory = &mut tree.root;
        while let Some(name) = names.next() {
            let new = match &kind {
                Some(kind) if names.peek().is_none() => {
                    tree.leaves.push(Leaf::new(Stat::default(), kind.clone()));
                    Entry::Leaf(LeafId(tree.leaves.len() - 1))
                }
                _ => Entry::Directory(Directory::default()),
            };
            match directory.entries.entry(name.into()).or_insert(new) {
                Entry::Directory(child) => directory = child,
                Entry::Leaf(_) => break,
            }
        }
    }
    tree
}

/// The label of every file of a tree.
fn labels(tree: &Tree) -> Vec<(Question, String)> {
    let label = |stat: &Stat| text(stat.xattrs.get(LABEL_XATTR).map(|label| &**label));
    let mut found = Vec::new();
    let mut pending = vec![(b"/".to_vec(), &tree.root)];
    while let Some((path, directory)) = pending.pop() {
        for (name, entry) in &directory.entries {
            let child_path = [path.strip_suffix(b"/").unwrap_or(&path), b"/", name].concat();
            match entry {
                Entry::Directory(child) => pending.push((child_path, child)),
                Entry::Leaf(id) => {
                    let Leaf { stat, kind, .. } = tree.leaf(*id);
                    found.push(((child_path, FileType::from(kind)), label(stat)));
                }
            }
        }
        found.push(((path, FileType::Directory), label(&directory.stat)));
    }
    found
}

#[test]
fn a_machine_is_labelled_as_libselinux_labels_it() {
    for directory in policies_or_skip() {
        let mut files = read(&directory, &RULE_FILES);
        files.extend(read(&directory, &ALIAS_FILES));
        let mut tree = tree_of(&real_files(60_000));
        let started = Instant::now();
        Policy::parse(&files, tree.leaves.len()).unwrap().label(&mut tree).unwrap();
        let elapsed = started.elapsed();
        let (questions, ours): (Vec<_>, Vec<_>) = labels(&tree).into_iter().unzip();
        let copy = tempfile::tempdir().unwrap();
        for (name, text) in &files {
            fs::write(copy.path().join(name), text).unwrap();
        }
        let theirs = Libselinux::ask(copy.path(), &questions);
        let mut differences = Vec::new();
        for (((path, file_type), ours), theirs) in questions.iter().zip(&ours).zip(&theirs) {
            if ours != theirs {
                differences.push(format!("{} {file_type:?}: {ours}, not {theirs}", String::from_utf8_lossy(path)));
            }
        }
        eprintln!("{}: {} files labelled in {elapsed:?}", directory.display(), questions.len());
        assert!(
            differences.is_empty(),
            "{} differences: {:#?}",
            differences.len(),
            &differences[..differences.len().min(20)]
        );
    }
}
