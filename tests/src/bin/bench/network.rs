//! Pulls from servers on loopback: a registry, of which skopeo only copies the image to a directory, which is what a pull does
//! apart from storing; and a web server with a published tree.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use osupdate_tests::registry::Registry;
use osupdate_tests::tool;
use osupdate_tests::web_server::WebServer;

use crate::compare::{Row, Side, remove_parked};
use crate::input::{Input, TAG};
use crate::measure::{Series, measure};
use crate::say;

/// One row for each compression.
pub(crate) fn rows(sides: &[Side<'_>], input: &Input, work: &Path, runs: usize) -> Result<Vec<Row>> {
    let compressions = [("pull from a registry, gzip", input.gzip()), ("pull from a registry, zstd", input.zstd())];
    compressions.into_iter().map(|(name, layout)| row(name, sides, &layout, work, runs)).collect()
}

fn row(name: &'static str, sides: &[Side<'_>], layout: &Path, work: &Path, runs: usize) -> Result<Row> {
    // All runs of one row are many gigabytes.
    remove_parked(work)?;
    say(name);
    // One of its own: where another form of a layer is there, skopeo does not push.
    let registry = Registry::start()?;
    registry.push(&format!("oci:{}:{TAG}", layout.display()), "os:1")?;
    let host = format!("127.0.0.1:{}", registry.port());
    let reference = format!("docker://{host}/os:1");
    let home = insecure_home(work, &host)?;
    let copy = work.join("skopeo-copy");

    let mut figures: Vec<_> = sides.iter().map(|side| (side.name, Series::default())).collect();
    let mut skopeo = Series::default();
    for _ in 0..runs {
        for (side, (_, series)) in sides.iter().zip(&mut figures) {
            side.init()?;
            series.0.push(measure(&side.pull(&reference, &home), work)?);
        }
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        skopeo.0.push(measure(&copy_with_skopeo(&reference, &copy), work)?);
    }
    fs::remove_dir_all(&copy)?;
    figures.push(("skopeo copy", skopeo));
    Ok(Row { name, figures })
}

/// The second version on top of the first: from a published tree over HTTP/2, and, as cfsctl has no such thing, from a registry.
/// `sides` have the first version after `prepare`; the repository `complete` has the second.
pub(crate) fn update<'a>(
    sides: &[Side<'a>],
    complete: &Side<'_>,
    second: &Path,
    work: &Path,
    runs: usize,
    prepare: impl Fn(&Side<'a>) -> Result<()>,
) -> Result<Row> {
    remove_parked(work)?;
    say("update to the second version over the network");
    let tree = work.join("published");
    tool::run(&mut complete.publish(&tree.join("os")))?;
    let server = WebServer::start(&tree)?;
    let from_tree = format!("{}/os/bench:{TAG}", server.address());
    let registry = Registry::start()?;
    registry.push(&format!("oci:{}:{TAG}", second.display()), "os:2")?;
    let host = format!("127.0.0.1:{}", registry.port());
    let from_registry = format!("docker://{host}/os:2");
    let home = insecure_home(work, &host)?;

    let mut figures: Vec<_> = sides.iter().map(|side| (side.name, Series::default())).collect();
    let mut ours_from_registry = Series::default();
    for run in 0..runs {
        for (side, (_, series)) in sides.iter().zip(&mut figures) {
            prepare(side)?;
            if !side.is_ours() {
                series.0.push(measure(&side.pull(&from_registry, &home), work)?);
                continue;
            }
            series.0.push(measure(&side.pull_tree(&from_tree, &server.authority()), work)?);
            if run == 0 {
                let ((all, _), (objects, number)) = (server.sent("/")?, server.sent("/objects/")?);
                let metadata = (all - objects) >> 10;
                say(&format!("{} KiB in {number} objects and {metadata} KiB of metadata were sent", objects >> 10));
            }
            prepare(side)?;
            ours_from_registry.0.push(measure(&side.pull(&from_registry, &home), work)?);
        }
    }
    figures.push(("osupdate, registry", ours_from_registry));
    fs::remove_dir_all(&tree)?;
    Ok(Row { name: "update over HTTP (cfsctl: registry)", figures })
}

/// A home directory whose configuration tells skopeo that a registry has no TLS.
fn insecure_home(work: &Path, host: &str) -> Result<PathBuf> {
    let home = work.join("home");
    let configuration = home.join(".config/containers");
    fs::create_dir_all(&configuration).with_context(|| format!("making {}", configuration.display()))?;
    let insecure = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    fs::write(configuration.join("registries.conf"), insecure).context("writing registries.conf")?;
    Ok(home)
}

fn copy_with_skopeo(reference: &str, to: &Path) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", reference]);
    let mut target = OsString::from("dir:");
    target.push(to);
    command.arg(target);
    command
}
