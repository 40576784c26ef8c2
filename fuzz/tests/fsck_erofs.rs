//! What our reader accepts, `fsck.erofs` accepts: over images that are good, and images that are a few bytes off.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use osupdate_core::erofs;
use osupdate_fuzz::{Target, seeds};

/// Images looked at, and mutations of each.
const IMAGES: usize = 150;
const MUTATIONS: usize = 12;

fn fsck(path: &Path) -> Option<bool> {
    let fsck = Command::new("fsck.erofs").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).status();
    fsck.ok().map(|status| status.success())
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

/// A few bytes changed, mostly where there is something.
fn mutate(image: &[u8], random: &mut Random) -> Vec<u8> {
    let mut mutated = image.to_vec();
    for _ in 0..=random.below(3) {
        let mut at = random.below(image.len());
        for _ in 0..20 {
            if image[at] != 0 && image[at] != 0xff {
                break;
            }
            at = random.below(image.len());
        }
        mutated[at] = match random.below(3) {
            0 => mutated[at] ^ 1 << random.below(8),
            1 => mutated[at].wrapping_add(1),
            _ => random.below(256) as u8,
        };
    }
    mutated
}

#[test]
fn what_is_accepted_passes_fsck_erofs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, b"").unwrap();
    if fsck(&path).is_none() {
        assert!(std::env::var_os("OSUPDATE_REQUIRE_TOOLS").is_none(), "run tests/install-deps");
        println!("skipped: fsck.erofs is not there; tests/install-deps installs it");
        return;
    }
    let seeds = seeds::of(&Target::find("erofs").unwrap());
    let mut random = Random(1);
    let mut differences = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    for seed in seeds.iter().step_by(seeds.len().div_ceil(IMAGES)) {
        // What fsck.erofs refuses before it was changed says nothing: it knows no symlinks above a block, for instance.
        fs::write(&path, seed).unwrap();
        if erofs::read(seed).is_err() || fsck(&path) != Some(true) {
            continue;
        }
        for _ in 0..MUTATIONS {
            let image = mutate(seed, &mut random);
            if erofs::read(&image).is_err() {
                refused += 1;
                continue;
            }
            accepted += 1;
            fs::write(&path, &image).unwrap();
            if fsck(&path) != Some(true) {
                let kept = std::env::temp_dir().join(format!("osupdate-fsck-erofs-{accepted}.img"));
                fs::copy(&path, &kept).unwrap();
                differences.push(kept);
            }
        }
    }
    assert!(differences.is_empty(), "read, but fsck.erofs refuses them: {differences:?}");
    println!("{accepted} mutated images are good for both, {refused} are refused");
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}
