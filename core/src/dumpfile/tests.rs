use super::*;
use crate::tree::{Content, Entry, LeafKind, Tree};

const ROOT: &str = "/ 0 40755 2 0 0 0 0.0 - - -\n";

fn tree(lines: &str) -> Tree {
    parse(format!("{ROOT}{lines}").as_bytes()).unwrap()
}

fn problem(lines: &str) -> ParseProblem {
    parse(format!("{ROOT}{lines}").as_bytes()).unwrap_err().problem
}

fn text(tree: &Tree) -> String {
    let mut out = Vec::new();
    write(tree, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_canonical_dump_is_written_as_it_was() {
    let digest = "ab".repeat(32);
    let dump = format!(
        "/ 0 40755 3 0 0 0 0.0 - - -\n\
         /a 3 100644 2 1 2 0 -5.7 - x\\x20\\n - user.a=- user.b=\\x3d\n\
         /b 1000 100600 1 0 0 0 1.1 ab/cd - {digest}\n\
         /c 1 120777 1 0 0 0 0.0 \\x2d - -\n\
         /d 0 41777 2 0 0 0 0.0 - - - trusted.overlay.opaque=y\n\
         /d/e 0 @120000 - - - - 0.0 /a - -\n\
         /d/f 0 20600 1 0 0 1281 0.0 - - -\n\
         /d/g 4294967296 10600 1 0 0 0 0.0 - - -\n\
         /d/h 7 100644 1 0 0 0 0.0 - - -\n"
    );
    assert_eq!(text(&parse(dump.as_bytes()).unwrap()), dump);
}

#[test]
fn links_may_come_first_and_be_chained() {
    let tree = tree(
        "/a 0 @120000 - - - - 0.0 /b - -\n\
         /b 0 @120000 - - - - 0.0 /c - -\n\
         /c 1 100644 9 0 0 0 0.0 - x -\n",
    );
    assert_eq!(tree.leaves.len(), 1);
    assert_eq!(tree.leaves[0].primary_path.as_deref(), Some(&b"/c"[..]));
    assert_eq!(tree.leaves[0].stated_nlink, Some(9));
    for name in ["a", "b", "c"] {
        assert!(matches!(tree.lookup(name), Some(Entry::Leaf(id)) if id.0 == 0), "{name}");
    }
    assert_eq!(parse(text(&tree).as_bytes()).unwrap(), tree);
}

#[test]
fn correct_counts_and_first_names_are_not_remembered() {
    let tree = tree("/a 1 100644 2 0 0 0 0.0 - x -\n/b 0 @120000 - - - - 0.0 /a - -\n");
    assert_eq!((tree.leaves[0].stated_nlink, &tree.leaves[0].primary_path), (None, &None));
}

#[test]
fn links_to_nothing_to_directories_and_in_circles_are_refused() {
    assert_eq!(problem("/a 0 @100644 - - - - 0.0 /a - -\n"), ParseProblem::LinkCycle);
    assert_eq!(problem("/a 0 @100644 - - - - 0.0 /b - -\n"), ParseProblem::LinkMissing);
    assert_eq!(problem("/a 0 @100644 - - - - 0.0 / - -\n"), ParseProblem::LinkToDirectory);
    let error = parse(format!("{ROOT}/a 0 @100644 - - - - 0.0 /b - -\n/b 0 @100644 - - - - 0.0 /a - -\n").as_bytes());
    assert_eq!(error, Err(ParseError { line: 2, problem: ParseProblem::LinkCycle }));
}

#[test]
fn long_chains_of_links_take_linear_time() {
    let mut lines = String::new();
    for i in 0..100_000 {
        lines += &format!("/{i} 0 @100644 - - - - 0.0 /{} - -\n", i + 1);
    }
    lines += "/100000 0 100644 1 0 0 0 0.0 - - -\n";
    assert_eq!(tree(&lines).leaves.len(), 1);
}

#[test]
fn content_is_for_regular_files_and_has_its_size() {
    assert_eq!(problem("/a 0 40755 2 0 0 0 0.0 - x -\n"), ParseProblem::FieldUnexpected("CONTENT"));
    assert_eq!(problem("/a 2 100644 1 0 0 0 0.0 - x -\n"), ParseProblem::ContentSize { size: 2, content: 1 });
    let nul = tree("/a 1 100644 1 0 0 0 0.0 - \\x00 -\n");
    assert_eq!(nul.leaves[0].kind, LeafKind::Regular(Content::Inline(Box::new([0]))));
}

#[test]
fn errors_name_line_and_problem() {
    let error = parse(format!("{ROOT}/a 0 100644 1 0 x 0 0.0 - - -\n").as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "dumpfile line 2: field GID is not a number in range");
    assert_eq!(parse(b"").unwrap_err().problem, ParseProblem::Empty);
    assert_eq!(problem("/a 0 100644 1 0 0 0 0.0 - - - \n"), ParseProblem::XattrEquals);
    assert_eq!(problem("/a +0 100644 1 0 0 0 0.0 - - -\n"), ParseProblem::Number("SIZE"));
    assert_eq!(problem("/a 9 100644 1 0 0 0 0.0 a/../b - -\n"), ParseProblem::PayloadDotDot);
}
