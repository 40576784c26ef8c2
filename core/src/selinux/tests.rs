use std::time::{Duration, Instant};

use super::*;
use crate::tree::{Content, Directory, Entry, Leaf, LeafId, Stat, Tree};

fn policy(rules: &[u8]) -> Policy {
    Policy::parse(&[("file_contexts", rules.to_vec())], 1000).unwrap()
}

fn refused(rules: &[u8]) -> String {
    Policy::parse(&[("file_contexts", rules.to_vec())], 1000).unwrap_err().to_string()
}

fn look_up(policy: &mut Policy, path: &[u8], file_type: FileType) -> Option<String> {
    let label = policy.lookup(path, file_type).unwrap();
    label.map(|label| String::from_utf8(label.to_vec()).unwrap())
}

#[test]
fn the_last_rule_that_fits_wins() {
    let mut policy = policy(
        b"# comment\n\n/.* any\n/exact exact\n/e.* -- regular\n  /e.*\t-d   directory  \n/none(/.*)? <<none>>\n/none/but but\r\n",
    );
    let mut label = |path: &str, file_type| look_up(&mut policy, path.as_bytes(), file_type);
    assert_eq!(label("/exact", FileType::Regular).as_deref(), Some("regular"));
    assert_eq!(label("/exact", FileType::Directory).as_deref(), Some("directory"));
    assert_eq!(label("/exact", FileType::Symlink).as_deref(), Some("exact"));
    assert_eq!(label("/other", FileType::Fifo).as_deref(), Some("any"));
    assert_eq!(label("/none", FileType::Regular), None);
    assert_eq!(label("/none/x", FileType::Regular), None);
    assert_eq!(label("/none/but", FileType::Socket).as_deref(), Some("but"));
    assert_eq!(label("", FileType::Regular), None);
    assert_eq!(label("relative", FileType::Regular), None);
}

#[test]
fn files_of_a_policy_are_read_in_their_order() {
    let files = [
        ("file_contexts.homedirs", b"/a/b homedirs\n".to_vec()),
        ("file_contexts.local", b"/a/.* local\n".to_vec()),
        ("file_contexts", b"/a.* main\n".to_vec()),
    ];
    let mut policy = Policy::parse(&files, 10).unwrap();
    assert_eq!(look_up(&mut policy, b"/a/b", FileType::Regular).as_deref(), Some("homedirs"));
    assert_eq!(look_up(&mut policy, b"/a/c", FileType::Regular).as_deref(), Some("local"));
    assert_eq!(look_up(&mut policy, b"/a", FileType::Regular).as_deref(), Some("main"));
    let missing = Policy::parse(&files[..2], 10).unwrap_err();
    assert_eq!(missing.to_string(), "the SELinux policy has no file_contexts");
}

#[test]
fn paths_are_bytes() {
    let mut policy = policy(b"/a.b one\n/\xff+ two\n/[^a-z]{2} three\n/(?!q).\xc3\xa9 four\n");
    for (path, expected) in [
        (&b"/a\xffb"[..], Some("one")),
        (b"/a\nb", Some("one")),
        (b"/\xff\xff", Some("three")),
        (b"/\xff\xff\xff", Some("two")),
        (b"/a\xc3\xa9b", None),
        (b"/x\xc3\xa9", Some("four")),
        (b"/\n\xc3\xa9", Some("four")),
    ] {
        assert_eq!(look_up(&mut policy, path, FileType::Regular).as_deref(), expected, "{path:?}");
    }
}

#[test]
fn patterns_for_pcre2_have_their_place_among_the_others() {
    let mut policy = policy(
        b"/.* any\n/(?!b)..* not-b\n/a. late\n/(x)(y)\\2 pair\n/q(?=d)d -d directory\n/z++z never\n/{2} braces\n/w(?<=w) -l link\n",
    );
    for (path, file_type, expected) in [
        ("/cc", FileType::Regular, "not-b"),
        ("/bc", FileType::Regular, "any"),
        ("/ab", FileType::Regular, "late"),
        ("/xyy", FileType::Regular, "pair"),
        ("/xyx", FileType::Regular, "not-b"),
        ("/qd", FileType::Directory, "directory"),
        ("/qd", FileType::Regular, "not-b"),
        ("/zzz", FileType::Regular, "not-b"),
        ("//", FileType::Regular, "braces"),
        ("/w", FileType::Symlink, "link"),
    ] {
        assert_eq!(look_up(&mut policy, path.as_bytes(), file_type).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn errors_say_which_line_is_wrong() {
    for (rules, expected) in [
        (
            &b"/a b\n\n/b"[..],
            "file_contexts:3: a rule has a pattern, a file type if need be, and a context; the context is missing",
        ),
        (
            b"/a --\n",
            "file_contexts:1: a rule has a pattern, a file type if need be, and a context; the context is missing",
        ),
        (b"/a -x b\n", "file_contexts:1: the file type of a rule is one of -b -c -d -p -l -s --"),
        (b"#\n/a -- b c\n", "file_contexts:2: the line has more fields than expected"),
        (b"/a\0 b\n", "file_contexts:1: the line has a NUL byte"),
        (b"/x y\n/a( b\n", "file_contexts:2: pattern \"/a(\" is not a regular expression"),
        (b"/x y\n/a)|(b b\n", "file_contexts:2: pattern \"/a)|(b\" is not a regular expression"),
        (b"/[a b\n", "file_contexts:1: pattern \"/[a\" is not a regular expression"),
    ] {
        assert_eq!(refused(rules), expected);
    }
    let long = [b"/a ", &b"x".repeat(5000)[..]].concat();
    assert_eq!(refused(&long), "file_contexts:1: the context is longer than 4095 bytes");
    let aliases = |text: &[u8]| {
        let files = [("file_contexts", Vec::new()), ("file_contexts.subs_dist", text.to_vec())];
        Policy::parse(&files, 1).unwrap_err().to_string()
    };
    assert_eq!(aliases(b"# x\n/a\n"), "file_contexts.subs_dist:2: an alias has two paths; the second is missing");
    assert_eq!(aliases(b"/a /b /c\n"), "file_contexts.subs_dist:1: the line has more fields than expected");
}

/// Refused by `parse`, or by the look-up of a long path, within a few seconds.
fn refused_soon(rules: &[u8], path: &[u8]) -> String {
    let started = Instant::now();
    let error = Policy::parse(&[("file_contexts", rules.to_vec())], 30_000).and_then(|mut policy| {
        for _ in 0..30_000 {
            policy.lookup(path, FileType::Regular)?;
        }
        Ok(())
    });
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    error.unwrap_err().to_string()
}

#[test]
fn patterns_that_take_too_much_are_refused() {
    let path = b"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    assert_eq!(
        refused_soon(b"/x y\n/((a{1000}){1000}){1000} b\n/z z\n", path),
        "file_contexts:2: the patterns of the SELinux policy are too large together, up to this one"
    );
    let many = "/(a{1,60000}|b) c\n".repeat(40);
    assert!(refused_soon(many.as_bytes(), path).contains("too large together"));
    assert!(
        refused_soon(b"/(?=a)(a+)+[xy] b\n", path).starts_with("file_contexts:1: the pattern takes too many steps")
    );
    let many = "/(?=a)(a+)+[xy] b\n".repeat(2000);
    assert!(refused_soon(many.as_bytes(), path).contains("too many patterns with look-around"));
    let deep = [b"(".repeat(5000), b"a".to_vec(), b")".repeat(5000), b" b\n".to_vec()].concat();
    assert!(refused_soon(&deep, path).contains("is not a regular expression"));
    let many = "/a b\n".repeat(RULES_MAX + 1);
    assert_eq!(
        refused_soon(many.as_bytes(), path),
        "file_contexts:100001: the SELinux policy has more than 100000 rules"
    );
    assert_eq!(
        refused_soon(&b"#".repeat(FILE_MAX_BYTES as usize + 1), path),
        "file_contexts of the SELinux policy is larger than 8388608 bytes"
    );
}

#[test]
fn the_cache_of_the_automaton_is_not_filled_for_ever() {
    // The set of positions among the last twenty bytes with an `a`: a state for each of a million combinations.
    let mut policy = policy("/.*a.{20} one\n/.*b.{19}c.{300} two\n".repeat(50).as_bytes());
    let mut random = 1_u64;
    let started = Instant::now();
    let refused = (0..1_000_000).find_map(|_| {
        let mut path = b"/".to_vec();
        for _ in 0..400 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            path.push(b"abc"[(random >> 33) as usize % 3]);
        }
        policy.lookup(&path, FileType::Regular).err()
    });
    assert!(refused.unwrap().to_string().starts_with("the patterns of the SELinux policy are too complex"));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

fn stat() -> Stat {
    let xattrs = [("security.selinux", "stale"), ("user.x", "y")];
    let xattrs = xattrs.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect();
    Stat { xattrs, ..Stat::default() }
}

/// A tree of leaves, each with the paths of its names; directories are made as needed.
fn tree(leaves: &[(LeafKind, &[&str])]) -> Tree {
    let mut tree = Tree { root: Directory { stat: stat(), ..Directory::default() }, ..Tree::default() };
    for (kind, paths) in leaves {
        let id = tree.push_leaf(Leaf { stated_nlink: Some(7), ..Leaf::new(stat(), kind.clone()) });
        for path in *paths {
            let (parents, name) = path.rsplit_once('/').unwrap();
            let mut directory = &mut tree.root;
            for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
                let new = || Entry::Directory(Directory { stat: stat(), ..Directory::default() });
                let Entry::Directory(child) = directory.entries.entry(parent.as_bytes().into()).or_insert_with(new)
                else {
                    panic!("{parent} is a file")
                };
                directory = child;
            }
            directory.entries.insert(name.as_bytes().into(), Entry::Leaf(id));
        }
    }
    tree
}

fn leaf(tree: &Tree, path: &str) -> LeafId {
    match tree.lookup(path.trim_start_matches('/')) {
        Some(Entry::Leaf(id)) => *id,
        other => panic!("{path}: {other:?}"),
    }
}

fn label(stat: &Stat) -> Option<&str> {
    assert!(stat.xattrs.contains_key(&b"user.x"[..]), "other attributes stay");
    stat.xattrs.get(LABEL_XATTR).map(|label| std::str::from_utf8(label).unwrap())
}

fn file() -> LeafKind {
    LeafKind::Regular(Content::Inline(b"contents"[..].into()))
}

#[test]
fn every_kind_of_file_is_labelled() {
    let kinds = [
        ("/file", file(), "--"),
        ("/link", LeafKind::Symlink(b"x"[..].into()), "-l"),
        ("/char", LeafKind::CharDevice(1), "-c"),
        ("/block", LeafKind::BlockDevice(1), "-b"),
        ("/fifo", LeafKind::Fifo, "-p"),
        ("/socket", LeafKind::Socket, "-s"),
    ];
    let leaves: Vec<_> = kinds.iter().map(|(path, kind, _)| (kind.clone(), [*path])).collect();
    let leaves: Vec<_> = leaves.iter().map(|(kind, paths)| (kind.clone(), &paths[..])).collect();
    let mut tree = tree(&leaves);
    let mut rules = String::from("/ -d root\n");
    for (path, _, letter) in &kinds {
        rules.push_str(&format!("{path} {letter} is{letter}\n{path} -d wrong\n"));
    }
    policy(rules.as_bytes()).label(&mut tree).unwrap();
    for (path, _, letter) in &kinds {
        assert_eq!(label(&tree.leaf(leaf(&tree, path)).stat), Some(&*format!("is{letter}")));
    }
    assert_eq!(label(&tree.root.stat), Some("root"));
}

#[test]
fn files_below_an_alias_are_labelled_as_elsewhere() {
    let files = [
        ("file_contexts", b"/.* any\n/usr/.* usr\n/usr/lib/x lib-x\n/data/x data-x\n/lib/x wrong\n".to_vec()),
        ("file_contexts.subs", b"/lib /data\n/link /usr/link\n".to_vec()),
        ("file_contexts.subs_dist", b"# aliases\n/lib /usr/lib\n/usr/lib/deep /data\n/slash /data/\n".to_vec()),
    ];
    let paths: &[&[&str]] = &[&["/lib/x"], &["/lib/deep/x"], &["/link"], &["/libs/x"], &["/slash/x"]];
    let leaves: Vec<_> = paths.iter().map(|paths| (file(), *paths)).collect();
    let mut tree = tree(&leaves);
    Policy::parse(&files, 10).unwrap().label(&mut tree).unwrap();
    let label_of = |path| label(&tree.leaf(leaf(&tree, path)).stat);
    assert_eq!(label_of("/lib/x"), Some("lib-x"));
    assert_eq!(label_of("/lib/deep/x"), Some("data-x"), "an alias below an alias");
    assert_eq!(label_of("/link"), Some("usr"));
    assert_eq!(label_of("/libs/x"), Some("any"));
    assert_eq!(label_of("/slash/x"), Some("data-x"));
    assert_eq!(label(&tree.directory("lib").unwrap().stat), Some("usr"));
}

#[test]
fn hard_links_with_different_labels_are_split() {
    let names: &[&str] = &["/a/1", "/a/2", "/b/1", "/b/2", "/c/none", "/d/1"];
    let mut tree = tree(&[(file(), names), (file(), &["/c/none-1", "/c/none-2"])]);
    policy(b"/.* a\n/b/.* b\n/c/.* <<none>>\n").label(&mut tree).unwrap();
    let ids: Vec<LeafId> = names.iter().map(|name| leaf(&tree, name)).collect();
    assert_eq!(ids[..2], [LeafId(0), LeafId(0)], "the first name keeps the inode");
    assert_eq!(ids[5], LeafId(0), "so does every name with its label");
    assert!(ids[2] != ids[3] && ids[2] != ids[0] && ids[4] != ids[0], "others get their own, each: {ids:?}");
    let labels: Vec<_> = ids.iter().map(|id| label(&tree.leaf(*id).stat)).collect();
    assert_eq!(labels, [Some("a"), Some("a"), Some("b"), Some("b"), None, Some("a")]);
    assert!(ids.iter().all(|id| tree.leaf(*id).kind == file() && tree.leaf(*id).stated_nlink.is_none()));
    assert_eq!(leaf(&tree, "/c/none-1"), leaf(&tree, "/c/none-2"), "links without a label stay links");
    assert_eq!(tree.leaf(leaf(&tree, "/c/none-1")).stated_nlink, Some(7));
}
