//! Pulls from a registry on loopback. skopeo only copies the image to a directory: what a pull does apart from storing.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use osupdate_tests::registry::Registry;

use crate::compare::{Row, Side};
use crate::input::{Input, TAG};
use crate::measure::{Series, measure};
use crate::say;

/// One row for each compression.
pub(crate) fn rows(sides: &[Side<'_>], input: &Input, work: &Path, runs: usize) -> Result<Vec<Row>> {
    let compressions = [("pull from a registry, gzip", input.gzip()), ("pull from a registry, zstd", input.zstd())];
    compressions.into_iter().map(|(name, layout)| row(name, sides, &layout, work, runs)).collect()
}

fn row(name: &'static str, sides: &[Side<'_>], layout: &Path, work: &Path, runs: usize) -> Result<Row> {
    say(name);
    // One of its own: where another form of a layer is there, skopeo does not push.
    let registry = Registry::start()?;
    registry.push(&format!("oci:{}:{TAG}", layout.display()), "os:1")?;
    let host = format!("127.0.0.1:{}", registry.port());
    let reference = format!("docker://{host}/os:1");
    let home = work.join("home");
    let configuration = home.join(".config/containers");
    fs::create_dir_all(&configuration).with_context(|| format!("making {}", configuration.display()))?;
    let insecure = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    fs::write(configuration.join("registries.conf"), insecure).context("writing registries.conf")?;
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

fn copy_with_skopeo(reference: &str, to: &Path) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", reference]);
    let mut target = OsString::from("dir:");
    target.push(to);
    command.arg(target);
    command
}
