//! Every target on its seeds and on the kept corpus. One test: the memory of a process is measured, not that of a thread.

use std::fs;
use std::path::Path;

use osupdate_fuzz::{TARGETS, seeds};

#[test]
fn every_target_holds_on_its_seeds_and_the_kept_corpus() {
    for target in TARGETS {
        let mut inputs = seeds::of(&target);
        let seeds = inputs.len();
        assert!(seeds >= 3, "{}: {seeds} seeds", target.name);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        for entry in fs::read_dir(folder).expect("a corpus") {
            inputs.push(fs::read(entry.unwrap().path()).unwrap());
        }
        for input in &inputs {
            target.run(input);
        }
        println!("{}: {seeds} seeds, {} in the corpus", target.name, inputs.len() - seeds);
    }
}
