use super::*;
use crate::digest::Algorithm;
use crate::dumpfile;
use crate::fsverity;

fn tree(lines: &str) -> Tree {
    dumpfile::parse(format!("/ 0 40755 3 0 0 0 1.0 - - -\n{lines}").as_bytes()).unwrap()
}

fn show(diff: &Diff) -> Vec<String> {
    let one = |one: &Difference| format!("{} {}", one.path.escape_ascii(), one.change.field());
    diff.differences.iter().map(one).collect()
}

fn compare(left: &str, right: &str) -> Diff {
    diff(&tree(left), &tree(right), &DiffOptions::default())
}

const FILE: &str = "/f 2 100644 1 0 0 0 1.5 - ab - user.a=1\n";

#[test]
fn equal_trees_have_no_differences() {
    let all =
        format!("/d 0 40755 2 0 0 0 1.0 - - -\n{FILE}/g 0 @100644 - - - - 0.0 /f - -\n/s 1 120777 1 0 0 0 1.0 f - -\n");
    let diff = compare(&all, &all);
    assert!(diff.is_empty());
    assert_eq!(diff.compared, 5);
    assert_eq!(Causes::of(&diff), Causes::default());
}

#[test]
fn every_field_is_named() {
    for (changed, field) in [
        ("/f 2 100600 1 0 0 0 1.5 - ab - user.a=1\n", "mode"),
        ("/f 2 100644 1 7 0 0 1.5 - ab - user.a=1\n", "uid"),
        ("/f 2 100644 1 0 7 0 1.5 - ab - user.a=1\n", "gid"),
        ("/f 2 100644 1 0 0 0 1.6 - ab - user.a=1\n", "mtime"),
        ("/f 2 100644 1 0 0 0 1.5 - ab - user.a=2\n", "xattr"),
        ("/f 2 100644 1 0 0 0 1.5 - ab -\n", "xattr"),
        ("/f 2 100644 1 0 0 0 1.5 - ab - user.a=1 user.b=\n", "xattr"),
        ("/f 2 100644 1 0 0 0 1.5 - xx - user.a=1\n", "contents"),
        ("/f 2 100644 3 0 0 0 1.5 - ab - user.a=1\n", "link count"),
        ("/f 0 10644 1 0 0 0 1.5 - - - user.a=1\n", "type"),
    ] {
        assert_eq!(show(&compare(FILE, changed)), [format!("/f {field}")], "{changed}");
    }
    let size = compare(FILE, "/f 3 100644 1 0 0 0 1.5 - abc - user.a=1\n");
    assert_eq!(show(&size), ["/f size", "/f contents"]);
    let link = |target| format!("/s 1 120777 1 0 0 0 1.0 {target} - -\n");
    assert_eq!(show(&compare(&link("a"), &link("b"))), ["/s target"]);
    let device = |number| format!("/c 0 20644 1 0 0 {number} 1.0 - - -\n");
    assert_eq!(show(&compare(&device(1), &device(2))), ["/c device"]);
    assert_eq!(show(&compare(&device(1), &device(0))), ["/c type"]);
}

#[test]
fn the_root_is_compared_too() {
    let other = dumpfile::parse(b"/ 0 40700 2 0 0 0 1.0 - - -\n").unwrap();
    let diff = diff(&tree(""), &other, &DiffOptions::default());
    assert_eq!(show(&diff), ["/ mode"]);
    assert!(diff.differences[0].directory);
}

#[test]
fn what_one_side_lacks_is_named_with_all_that_is_in_it() {
    let directory = "/d 0 40755 3 0 0 0 1.0 - - -\n/d/e 0 40755 2 0 0 0 1.0 - - -\n/d/e/f 0 10644 1 0 0 0 1.0 - - -\n";
    let one = compare(&format!("{directory}{FILE}"), FILE);
    let kinds = [FileKind::Directory, FileKind::Directory, FileKind::Fifo];
    let changes: Vec<_> = one.differences.iter().map(|one| one.change.clone()).collect();
    assert_eq!(changes, kinds.map(Change::OnlyLeft));
    assert_eq!(show(&one), ["/d path", "/d/e path", "/d/e/f path"]);
    assert_eq!(Causes::of(&one).only, Some(Only::Paths));
    let other = compare(FILE, &format!("{directory}{FILE}"));
    assert_eq!(other.differences[2].change, Change::OnlyRight(FileKind::Fifo));
    // A directory against a file.
    let replaced = compare(directory, "/d 0 100644 1 0 0 0 1.0 - - -\n");
    assert_eq!(show(&replaced), ["/d type", "/d/e path", "/d/e/f path"]);
}

#[test]
fn hard_links() {
    let file = |name: &str| format!("/{name} 0 100644 1 0 0 0 1.0 - - -\n");
    let link = |name: &str, target: &str| format!("/{name} 0 @100644 - - - - 0.0 /{target} - -\n");
    let (one, two) = (file("a") + &link("b", "a") + &link("c", "a"), file("a") + &file("b") + &link("c", "b"));
    let found = compare(&one.replace(" 1 0 0 0", " 3 0 0 0"), &two);
    let links: Vec<_> = found.differences.iter().filter(|one| one.change.field() == "hard link").collect();
    assert_eq!(links.len(), 2);
    let some = |path: &[u8]| Some(path.to_vec());
    assert_eq!(links[0].change, Change::HardLink { left: some(b"/a"), right: None });
    assert_eq!(links[1].change, Change::HardLink { left: some(b"/a"), right: some(b"/b") });
    assert!(Causes::of(&found).causes.contains(&Cause::HardLinksSplit));

    // What differs in a file with several names is told once; a name that is missing does not make others differ.
    let changed = one.replace("100644", "100600");
    assert_eq!(show(&compare(&one, &changed)), ["/a mode"]);
    let fewer = link("b", "a").replace("/b", "/a").replace("/a -", "/b -");
    let missing = compare(&one, &(file("b") + &link("c", "b")));
    assert_eq!(show(&missing), ["/a path"], "{fewer}");
}

#[test]
fn contents_of_different_algorithms_cannot_be_compared() {
    let object = |algorithm, data: &[u8]| {
        let digest = fsverity::digest(algorithm, data);
        format!("/f {} 100644 1 0 0 0 1.0 {} - {digest}\n", data.len(), digest.object_path())
    };
    let one = compare(&object(Algorithm::Sha256, b"x"), &object(Algorithm::Sha512, b"x"));
    assert_eq!((show(&one).len(), one.incomparable), (0, 1));
    let other = compare(&object(Algorithm::Sha256, b"x"), &object(Algorithm::Sha512, b"xy"));
    assert_eq!((show(&other), other.incomparable), (vec!["/f size".to_owned()], 1));
    // Contents in the image can: they are at hand.
    let inline = "/f 1 100644 1 0 0 0 1.0 - x -\n";
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        assert_eq!(show(&compare(inline, &object(algorithm, b"x"))), ["/f stored"]);
        assert_eq!(show(&compare(inline, &object(algorithm, b"y"))), ["/f contents"]);
    }
    let digest = fsverity::digest(Algorithm::Sha256, b"x");
    let elsewhere = format!("/f 1 100644 1 0 0 0 1.0 some/where - {digest}\n");
    assert_eq!(show(&compare(&elsewhere, &object(Algorithm::Sha256, b"x"))), ["/f payload"]);
    let unnamed = "/f 1 100644 1 0 0 0 1.0 some/where - -\n";
    assert_eq!(compare(unnamed, &object(Algorithm::Sha256, b"x")).incomparable, 1);
}

#[test]
fn nanoseconds_are_left_out_when_asked() {
    let options = DiffOptions { nanoseconds: false };
    assert!(diff(&tree(FILE), &tree(&FILE.replace("1.5", "1.0")), &options).is_empty());
    assert_eq!(show(&diff(&tree(FILE), &tree(&FILE.replace("1.5", "2.5")), &options)), ["/f mtime"]);
}

#[test]
fn causes_are_told() {
    let directory = |mtime| format!("/d 0 40755 2 0 0 0 {mtime} - - -\n");
    let times = compare(&directory("5.0"), &directory("6.0"));
    assert_eq!(
        Causes::of(&times),
        Causes { only: Some(Only::DirectoryTimes), causes: vec![Cause::ImplicitDirectories] }
    );
    let nanoseconds = compare(FILE, &FILE.replace("1.5", "1.0"));
    assert_eq!(Causes::of(&nanoseconds), Causes { only: Some(Only::Times), causes: vec![Cause::NanosecondsLost] });
    let labels = compare(FILE, &FILE.replace("user.a=1", "security.selinux=x user.a=1"));
    assert_eq!(Causes::of(&labels), Causes { only: Some(Only::Xattrs), causes: vec![Cause::SelinuxLabels] });
    let masked = compare(FILE, &FILE.replace("100644", "100600"));
    assert_eq!(Causes::of(&masked), Causes { only: Some(Only::Metadata), causes: vec![Cause::Umask] });
    let copied = compare(&(directory("5.0") + FILE), &(directory("6.0") + &FILE.replace(" 1.5", " 2.5")));
    assert_eq!(Causes::of(&copied), Causes { only: Some(Only::Times), causes: vec![Cause::TimesNotKept] });
    let contents = compare(FILE, &FILE.replace("ab", "cd"));
    assert_eq!(Causes::of(&contents), Causes::default());
}
