use super::*;
use crate::tar::fake::Archive;
use crate::tar::{FormatError, Input, Reader, SparseMap};
use crate::tree::Content;

struct Memory(Vec<u8>, usize);

impl Input for Memory {
    type Error = FormatError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FormatError> {
        let rest = &self.0[self.1..];
        let n = buffer.len().min(rest.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.1 += n;
        Ok(n)
    }

    fn contents(&mut self, _: u64) -> Result<Option<Content>, FormatError> {
        panic!("no large files here");
    }

    fn expand(&mut self, _: Content, _: &SparseMap) -> Result<Content, FormatError> {
        panic!("no sparse files here");
    }
}

fn build(layers: &mut [Archive]) -> Result<Tree, ApplyErrorKind> {
    let mut builder = TreeBuilder::new(Some(XattrFilter::AllowlistOnly));
    for layer in layers {
        builder.next_layer();
        let mut reader = Reader::new(Memory(layer.end(), 0));
        while let Some(entry) = reader.next_entry().unwrap() {
            builder.add(entry).map_err(|error| error.kind)?;
        }
    }
    Ok(builder.finish())
}

fn layer(fill: impl FnOnce(&mut Archive) -> &mut Archive) -> Archive {
    let mut archive = Archive::default();
    fill(&mut archive);
    archive
}

/// All paths, directories with a slash behind, in depth-first order.
fn list(tree: &Tree) -> Vec<String> {
    fn visit(directory: &Directory, prefix: &str, out: &mut Vec<String>) {
        for (name, entry) in &directory.entries {
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            match entry {
                Entry::Directory(child) => {
                    out.push(format!("{path}/"));
                    visit(child, &format!("{path}/"), out);
                }
                Entry::Leaf(_) => out.push(path),
            }
        }
    }
    let mut out = Vec::new();
    visit(&tree.root, "", &mut out);
    out
}

#[track_caller]
fn check<const N: usize>(mut layers: [Archive; N], expected: &[&str]) {
    assert_eq!(list(&build(&mut layers).unwrap()), expected);
}

#[track_caller]
fn refused(fill: impl FnOnce(&mut Archive) -> &mut Archive, expected: ApplyErrorKind) {
    assert_eq!(build(&mut [layer(fill)]), Err(expected));
}

#[test]
fn names_may_be_absolute_or_dotted() {
    check([layer(|a| a.directory("./").directory("/d").file("./d//./f", b"").directory("e/"))], &["d/", "d/f", "e/"]);
}

#[test]
fn whiteouts_remove_single_names() {
    let lower = || layer(|a| a.directory("d").file("d/a", b"").file("d/b", b"").directory("d/c").file("d/c/x", b""));
    check([lower(), layer(|a| a.file("d/.wh.a", b"").file("d/.wh.c", b"").file("d/.wh.none", b""))], &["d/", "d/b"]);
    check([lower(), layer(|a| a.file(".wh.d", b"").file("none/.wh.x", b""))], &[]);
    check([lower(), layer(|a| a.file("d/.wh.a", b"").file("d/a", b""))], &["d/", "d/a", "d/b", "d/c/", "d/c/x"]);
}

#[test]
fn opaque_markers_hide_lower_layers_only() {
    let lower = || layer(|a| a.directory("d").directory("d/sub").file("d/sub/old", b"").file("d/old", b""));
    check([lower(), layer(|a| a.file("d/.wh..wh..opq", b"").file("d/new", b""))], &["d/", "d/new"]);
    check([lower(), layer(|a| a.file("d/new", b"").file("d/.wh..wh..opq", b""))], &["d/", "d/new"]);
    check(
        [lower(), layer(|a| a.directory("d/sub").file("d/sub/new", b"").file("d/.wh..wh..opq", b""))],
        &["d/", "d/sub/", "d/sub/new"],
    );
    check([lower(), layer(|a| a.file("d/.wh..wh..opq", b""))], &["d/"]);
}

#[test]
fn remains_of_aufs_are_passed_over() {
    check(
        [layer(|a| a.file(".wh..wh.aufs", b"").directory(".wh..wh.plnk").file(".wh..wh.plnk/1.2", b"").file("f", b""))],
        &["f"],
    );
    check([layer(|a| a.file("f", b"")), layer(|a| a.file(".wh..wh..opq", b"").file("g", b""))], &["g"]);
}

#[test]
fn an_opaque_marker_that_is_repeated_costs_nothing() {
    let mut archive = Archive::default();
    for i in 0..2000 {
        archive.file(&format!("d/{i}"), b"").file("d/.wh..wh..opq", b"");
    }
    let mut lower = Archive::default();
    lower.file("d/old", b"");
    let tree = build(&mut [lower, archive]).unwrap();
    assert_eq!(tree.directory("d").unwrap().entries.len(), 2000);
}

#[test]
fn only_wanted_extended_attributes_are_kept_in_memory() {
    let mut archive = Archive::default();
    let records: [(&str, &[u8]); 3] =
        [("SCHILY.xattr.trusted.x", b"1"), ("SCHILY.xattr.security.capability", b"2"), ("SCHILY.xattr.user.x", b"3")];
    archive.pax(&records).file("f", b"").pax(&records).directory("d");
    let tree = build(&mut [archive]).unwrap();
    for xattrs in [&tree.leaves[0].stat.xattrs, &tree.directory("d").unwrap().stat.xattrs] {
        assert_eq!(xattrs.keys().collect::<Vec<_>>(), [&b"security.capability"[..].into()]);
    }
}

#[test]
fn what_a_tree_takes_in_memory_is_bounded() {
    let mut budget = Budget::default();
    budget.take(TEXT_BYTES_MAX).unwrap();
    assert_eq!(budget.take(1), Err(ApplyErrorKind::TooMuchText));
    let mut budget = Budget { entries: ENTRIES_MAX, text_bytes: 0 };
    assert_eq!(budget.take(1), Err(ApplyErrorKind::TooMany));

    // Everything that takes memory is counted, also what is replaced and what is only implied.
    let mut builder = TreeBuilder::new(Some(XattrFilter::KeepUserXattrs));
    let value = vec![b'v'; 100_000];
    let mut archive = Archive::default();
    for _ in 0..3 {
        archive.pax(&[("SCHILY.xattr.user.x", &value)]).file("a/b/c", b"");
    }
    let mut reader = Reader::new(Memory(archive.end(), 0));
    while let Some(entry) = reader.next_entry().unwrap() {
        builder.add(entry).unwrap();
    }
    assert_eq!(builder.budget.entries, 3 + 2);
    assert!(builder.budget.text_bytes > 300_000);
}

#[test]
fn a_directory_that_an_opaque_marker_hides_keeps_nothing_but_new_children() {
    let mut lower = Archive::default();
    lower.pax(&[("mtime", b"77")]).directory("d/sub").file("d/sub/old", b"");
    let tree = build(&mut [lower, layer(|a| a.file("d/sub/new", b"").file("d/.wh..wh..opq", b""))]).unwrap();
    assert_eq!(list(&tree), ["d/", "d/sub/", "d/sub/new"]);
    assert_eq!(tree.directory("d/sub").unwrap().stat, implied());
}

#[test]
fn later_entries_replace_earlier_ones() {
    let lower = || layer(|a| a.directory("x").file("x/child", b"").file("y", b""));
    check([lower(), layer(|a| a.file("x", b"").directory("y").file("y/z", b""))], &["x", "y/", "y/z"]);
    check([layer(|a| a.directory("x").file("x/c", b"").file("x", b"").link(b'2', "x", "t"))], &["x"]);
    let mut metadata = Archive::default();
    metadata.pax(&[("mtime", b"77")]).directory("x");
    let tree = build(&mut [lower(), metadata]).unwrap();
    assert_eq!(list(&tree), ["x/", "x/child", "y"]);
    assert_eq!(tree.directory("x").unwrap().stat.mtime_secs, 77);
}

#[test]
fn missing_parents_are_made() {
    let tree = build(&mut [layer(|a| a.file("a/b/c", b""))]).unwrap();
    assert_eq!(list(&tree), ["a/", "a/b/", "a/b/c"]);
    let stat = &tree.directory("a/b").unwrap().stat;
    assert_eq!((stat.mode, stat.uid, stat.gid, stat.mtime_secs), (0o755, 0, 0, 0));
    // Described later in the same layer, it is as described.
    let tree = build(&mut [layer(|a| a.file("a/b", b"").directory("a"))]).unwrap();
    assert_eq!(tree.directory("a").unwrap().stat.mtime_secs, 1_700_000_000);
}

#[test]
fn hard_links_share_a_leaf_across_layers_and_removals() {
    let lower = layer(|a| a.file("a", b"x").link(b'1', "b", "./a"));
    let upper = layer(|a| a.link(b'1', "c", "/b").file(".wh.a", b"").link(b'1', "b", "b"));
    let tree = build(&mut [lower, upper]).unwrap();
    assert_eq!(list(&tree), ["b", "c"]);
    assert_eq!(tree.lookup("b"), tree.lookup("c"));
    assert_eq!(tree.regular_file("c"), Some(&Content::Inline(b"x"[..].into())));
}

#[test]
fn what_cannot_be_is_refused() {
    refused(|a| a.file("a/../b", b""), ApplyErrorKind::ParentReference);
    refused(|a| a.directory(".."), ApplyErrorKind::ParentReference);
    refused(|a| a.file("a", b"").link(b'1', "b", "../a"), ApplyErrorKind::ParentReference);
    refused(|a| a.file(".", b""), ApplyErrorKind::Root);
    refused(|a| a.file("a", b"").file("a/b/c", b""), ApplyErrorKind::NotDirectory("a".into()));
    refused(|a| a.link(b'2', "l", "/").file("l/.wh.b", b""), ApplyErrorKind::NotDirectory("l".into()));
    refused(|a| a.link(b'1', "b", "none"), ApplyErrorKind::HardLinkTarget("none".into()));
    refused(|a| a.directory("d").link(b'1', "b", "d"), ApplyErrorKind::HardLinkTarget("d".into()));
    refused(|a| a.link(b'1', "b", "/"), ApplyErrorKind::HardLinkTarget("/".into()));
    refused(|a| a.link(b'2', "b", ""), ApplyErrorKind::SymlinkTarget);
    refused(|a| a.file(".wh.", b""), ApplyErrorKind::Whiteout);
    refused(|a| a.file("d/.wh.a/b", b""), ApplyErrorKind::BelowWhiteout);
    refused(|a| a.entry(b'V', "label", b""), ApplyErrorKind::Type(b'V'));
    refused(|a| a.pax(&[("path", b"a\0b")]).file("x", b""), ApplyErrorKind::Name);
    refused(|a| a.pax(&[("path", &[b'n'; 256])]).file("x", b""), ApplyErrorKind::Name);
}

#[test]
fn depth_is_bounded() {
    let path = |depth: usize| "d/".repeat(depth);
    let deepest = path(DEPTH_MAX);
    let tree = build(&mut [layer(|a| a.pax(&[("path", deepest.as_bytes())]).directory("x"))]).unwrap();
    // The writer and everything else that recurses has room for it.
    crate::erofs::write(&tree, crate::erofs::Format::V1).unwrap();
    let deeper = path(DEPTH_MAX + 1);
    refused(|a| a.pax(&[("path", deeper.as_bytes())]).directory("x"), ApplyErrorKind::TooDeep);
}
