//! The table in CLI.md of what stands for the commands of cfsctl: it names what there is.

use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use osupdate::cli::Cli;

use crate::place::Run;

/// The rows of the table: what cfsctl has, and what is said about it.
fn rows() -> Vec<(&'static str, &'static str)> {
    let document = include_str!("../../CLI.md");
    let lines = document.lines().skip_while(|line| *line != "| cfsctl | osupdate |").skip(2);
    let rows = lines.take_while(|line| line.starts_with("| "));
    // Bars within code are escaped.
    rows.filter_map(|row| row.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")).collect()
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_command_that_the_table_names_is_there_with_its_options() {
    assert!(rows().len() > 30);
    let mut program = Cli::command();
    program.build();
    let mut named = 0;
    for (theirs, ours) in rows() {
        let mut command = &program;
        for code in code(ours) {
            let mut words = code.split_whitespace().peekable();
            if words.peek().is_some_and(|word| program.find_subcommand(word).is_some()) {
                command = &program;
                while let Some(subcommand) = words.peek().and_then(|word| command.find_subcommand(word)) {
                    command = subcommand;
                    words.next();
                }
                assert!(!command.has_subcommands(), "{theirs}: {code} is no command");
                named += 1;
            }
            for option in words.filter_map(|word| word.trim_matches(['[', ']', '\\', '|']).strip_prefix("--")) {
                let option = option.split(['\\', '|', ']']).next().unwrap();
                let has = |command: &clap::Command| {
                    command.get_arguments().any(|argument| {
                        argument.get_long_and_visible_aliases().is_some_and(|names| names.contains(&option))
                    })
                };
                // A row about options of all commands names none.
                let anywhere = std::ptr::eq(command, &program)
                    && program.get_subcommands().any(|group| has(group) || group.get_subcommands().any(has));
                let foreign = code.starts_with("skopeo");
                assert!(has(command) || anywhere || foreign, "{theirs}: {code} has no option --{option}");
            }
        }
    }
    assert!(named > 25, "{named}");
}

#[test]
fn every_command_of_cfsctl_is_in_the_table() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(cfsctl) = std::env::split_paths(&path).map(|dir| dir.join("cfsctl")).find(|path| path.exists()) else {
        println!("skipped: cfsctl is not installed");
        return;
    };
    let theirs: Vec<_> = rows().iter().flat_map(|(theirs, _)| code(theirs)).collect();
    for group in ["", "oci"] {
        for name in subcommands(&cfsctl, group) {
            let full = format!("{group} {name}");
            let full = full.trim();
            let is_named = |code: &str| code == full || code.starts_with(&format!("{full} "));
            let whole_group = matches!(full, "oci" | "help" | "oci help");
            assert!(whole_group || theirs.iter().any(|code| is_named(code)), "{full}");
        }
    }
}

fn subcommands(cfsctl: &Path, group: &str) -> Vec<String> {
    let mut command = Command::new(cfsctl);
    let help = Run::of(command.args(group.split_whitespace()).arg("--help")).done();
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let first = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    first.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}
