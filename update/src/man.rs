//! Manual pages, made from the definition of the command line: one for the program and one for every command.
//!
//! Options and descriptions come from the help; the titled blocks after a command's help ("Examples:") become sections.
//! What is the same for all commands is here.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::cli::Cli;
use crate::exit::STATUSES;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Variables that the program reads.
const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "OSUPDATE_LOG",
        "A filter, as debug or osupdate=trace,hyper=debug: writes the log of the libraries to standard error.",
    ),
    ("HOME", "Where the repository of the user and the credentials of container tools are."),
    ("TMPDIR", "Where a repository for one command is made; /var/tmp if it is not set."),
    ("REGISTRY_AUTH_FILE", "The only file that credentials for registries are read from."),
    ("XDG_RUNTIME_DIR", "Below it, containers/auth.json is the first file that credentials are searched in."),
    ("http_proxy, https_proxy, no_proxy", "Proxies for registries, and hosts that are reached without one."),
];

/// Files that are the program's own, or that it reads.
const FILES: &[(&str, &str)] = &[
    ("/sysroot/composefs", "The repository of an osupdate system."),
    ("~/.var/lib/composefs", "The repository of a user."),
    ("/sysroot/state", "The deployments, /etc of each, and /var."),
    (
        "$XDG_RUNTIME_DIR/containers/auth.json, /run/containers/0/auth.json, /etc/osupdate/auth.json, \
         /etc/ostree/auth.json, ~/.docker/config.json",
        "Credentials for registries; the first of these files with an entry for the image counts.",
    ),
];

/// Writes all pages into a directory, `osupdate.1` and `osupdate-<command>.1`; returns their paths.
///
/// # Errors
/// When a file cannot be written.
pub fn write_pages(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut paths = Vec::new();
    write_page(&command, &[], directory, &mut paths)?;
    Ok(paths)
}

/// Writes the page of a command, which has these parents, and those of its subcommands.
fn write_page(command: &Command, parents: &[String], directory: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    let man = Man::new(command.clone());
    let path = directory.join(man.get_filename());
    fs::write(&path, page(&man, command, parents)?)?;
    paths.push(path);
    let mut family = parents.to_vec();
    family.push(name(command));
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_page(subcommand, &family, directory, paths)?;
    }
    Ok(())
}

/// A command with its parents, joined by dashes: the name of its page.
fn name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn page(man: &Man, command: &Command, parents: &[String]) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    // Without a date, so that the pages of one version are the same wherever they are made.
    writeln!(page, ".TH \"{}\" \"1\" \"\" \"osupdate {VERSION}\" \"osupdate\"", name(command))?;
    // Names of commands are not to be hyphenated.
    writeln!(page, ".nh")?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let visible = |subcommand: &Command| !subcommand.is_hide_set();
    if command.get_subcommands().any(visible) {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    exit_status(&mut roff);
    if parents.is_empty() {
        terms(&mut roff, "ENVIRONMENT", ENVIRONMENT, bold);
        terms(&mut roff, "FILES", FILES, italic);
    }
    for (title, lines) in blocks(command) {
        block(&mut roff, &title, &lines);
    }
    see_also(&mut roff, command, parents);
    roff.to_writer(&mut page)?;
    Ok(page)
}

fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in STATUSES {
        roff.control("TP", []);
        roff.text([bold(status.to_string())]);
        roff.text([roman(format!("{meaning}."))]);
    }
}

fn terms(roff: &mut Roff, title: &str, terms: &[(&str, &str)], style: impl Fn(String) -> Inline) {
    roff.control("SH", [title]);
    for (term, text) in terms {
        roff.control("TP", []);
        roff.text([style((*term).to_owned())]);
        roff.text([roman(*text)]);
    }
}

/// The titled blocks after a command's help: an unindented line that ends with a colon, then indented lines.
fn blocks(command: &Command) -> Vec<(String, Vec<String>)> {
    let help = command.get_after_long_help().or_else(|| command.get_after_help());
    let text = help.map(ToString::to_string).unwrap_or_default();
    let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match (line.strip_suffix(':'), blocks.last_mut()) {
            (Some(title), _) if !line.starts_with(' ') => blocks.push((title.to_uppercase(), Vec::new())),
            (_, Some((_, lines))) => lines.push(line.strip_prefix("  ").unwrap_or(line).to_owned()),
            // Not in a block: it is about exit statuses, which have a section.
            (_, None) => {}
        }
    }
    blocks
}

/// Lines as they are.
fn block(roff: &mut Roff, title: &str, lines: &[String]) {
    roff.control("SH", [title]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line.as_str())]);
    }
    roff.control("fi", []);
}

fn see_also(roff: &mut Roff, command: &Command, parents: &[String]) {
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).map(name);
    let pages: Vec<String> = parents.iter().cloned().chain(subcommands).collect();
    if pages.is_empty() {
        return;
    }
    roff.control("SH", ["SEE ALSO"]);
    let last = pages.len() - 1;
    for (number, page) in pages.into_iter().enumerate() {
        let comma = if number == last { "" } else { "," };
        roff.text([bold(page), roman(format!("(1){comma}"))]);
    }
}
