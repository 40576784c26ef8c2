//! The manual pages that the program writes about itself.

use std::fs;
use std::process::Command;

use crate::docker_registry::have;
use crate::place::{Place, Run};

#[test]
fn every_command_has_a_page_with_its_options_and_examples() {
    let place = Place::new();
    fs::create_dir(place.path().join("man")).unwrap();
    let pages = place.run_bare(&["man-pages", "man"]).done();
    let help = place.run_bare(&["image", "--help"]).done();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).collect();
    assert!(commands.len() > 5, "{help}");
    for command in commands {
        let name = command.split_whitespace().next().unwrap();
        let page = format!("man/osupdate-image-{name}.1");
        assert_eq!(pages.lines().any(|line| line == page), name != "help", "{page}");
    }
    let page = fs::read_to_string(place.path().join("man/osupdate-image-pull.1")).unwrap();
    for part in [
        ".TH \"osupdate-image-pull\" \"1\"",
        "osupdate\\-image\\-pull \\- Fetch an image",
        "\\-\\-bootable",
        ".SH \"EXIT STATUS\"",
        ".SH EXAMPLES\n.nf\nosupdate image pull",
        ".SH REFERENCES\n.nf\ndocker://HOST",
        "\\fBosupdate\\-image\\fR(1)",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = fs::read_to_string(place.path().join("man/osupdate.1")).unwrap();
    for part in [".SH ENVIRONMENT", "OSUPDATE_LOG", ".SH FILES", "\\fBosupdate\\-image\\fR(1)"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Hidden commands are no business of users.
    assert!(!pages.contains("man-pages") && !pages.contains("complete.1"), "{pages}");
}

#[test]
fn the_pages_are_good_roff() {
    let place = Place::new();
    fs::create_dir(place.path().join("man")).unwrap();
    let pages = place.run_bare(&["man-pages", "man"]).done();
    let pages: Vec<_> = pages.lines().collect();
    if have(&["mandoc"]) {
        let mut mandoc = Command::new("mandoc");
        let run = Run::of(mandoc.args(["-T", "lint", "-W", "error"]).args(&pages).current_dir(place.path()));
        assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    }
    if have(&["man", "groff"]) {
        for page in &pages {
            let mut man = Command::new("man");
            man.args(["--warnings", "--local-file", page]).current_dir(place.path()).env("MANROFFOPT", "");
            let run = Run::of(man.env("PAGER", "cat").env("LC_ALL", "C.UTF-8"));
            assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{page}");
            assert!(run.stdout.contains("EXIT STATUS"), "{page}: {}", run.stdout);
        }
    }
}

#[test]
fn the_document_says_the_same_of_exit_statuses_as_the_program() {
    let document = include_str!("../../CLI.md");
    for (status, meaning) in osupdate::exit::STATUSES {
        assert!(document.contains(&format!("| {status} | {meaning}")), "{status} {meaning}");
    }
}
