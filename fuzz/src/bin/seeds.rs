//! Writes the seeds of a target into a directory: `osupdate-fuzz-seeds TARGET DIRECTORY`.

use std::path::PathBuf;

use osupdate_fuzz::{Target, seeds};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().expect("a target");
    let directory = PathBuf::from(arguments.next().expect("a directory"));
    let target = Target::find(&name).unwrap_or_else(|| panic!("there is no target {name:?}"));
    std::fs::create_dir_all(&directory)?;
    for (number, seed) in seeds::of(&target).iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number:04}")), seed)?;
    }
    Ok(())
}
