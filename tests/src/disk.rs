//! Looks at and damages the raw disk of a machine that is off.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::tool;

/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;
/// Bytes of a block of the root file system, as installation makes it.
const BLOCK_BYTES: u64 = 4096;
/// First bytes of the type GUIDs, as they lie on disk.
const ESP_TYPE: [u8; 4] = [0x28, 0x73, 0x2a, 0xc1];

/// A partition's place on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// First byte.
    pub offset_bytes: u64,
    /// Size.
    pub size_bytes: u64,
    /// Whether it is the EFI system partition.
    pub is_esp: bool,
}

/// The partitions of a raw disk with a GPT.
pub fn partitions(disk: &Path) -> Result<Vec<Partition>> {
    let file = File::open(disk).with_context(|| format!("opening {}", disk.display()))?;
    let mut header = [0; 512];
    file.read_exact_at(&mut header, SECTOR_BYTES)?;
    ensure!(header.starts_with(b"EFI PART"), "{} has no GPT", disk.display());
    let table = u64_at(&header, 72) * SECTOR_BYTES;
    let (count, size) = (u32_at(&header, 80), u32_at(&header, 84));
    ensure!(size >= 128 && count <= 1024, "{} has an odd GPT", disk.display());
    let mut found = Vec::new();
    for number in 0..count {
        let mut entry = [0; 128];
        file.read_exact_at(&mut entry, table + u64::from(number) * u64::from(size))?;
        if entry[..16] == [0; 16] {
            continue;
        }
        let (first, last) = (u64_at(&entry, 32), u64_at(&entry, 40));
        found.push(Partition {
            offset_bytes: first * SECTOR_BYTES,
            size_bytes: (last + 1 - first) * SECTOR_BYTES,
            is_esp: entry.starts_with(&ESP_TYPE),
        });
    }
    Ok(found)
}

/// The partition with the root file system: the one that is not the ESP.
pub fn root_partition(disk: &Path) -> Result<Partition> {
    partitions(disk)?.into_iter().find(|p| !p.is_esp).with_context(|| format!("{} has no root", disk.display()))
}

/// Inverts the bits of one byte of a file on the ext4 root partition, on the raw disk, and returns the byte's place on the
/// disk. The file system knows nothing of it.
pub fn flip_byte(disk: &Path, path: &str, offset_in_file: u64) -> Result<u64> {
    let root = root_partition(disk)?;
    let file_system = format!("{}?offset={}", disk.display(), root.offset_bytes);
    let logical = offset_in_file / BLOCK_BYTES;
    let request = format!("bmap \"{path}\" {logical}");
    let block = tool::run(Command::new("debugfs").arg("-R").arg(&request).arg(&file_system))?;
    let block: u64 = match block.trim().parse() {
        Ok(0) | Err(_) => bail!("debugfs finds no block {logical} of {path}: {block:?}"),
        Ok(block) => block,
    };
    let place = root.offset_bytes + block * BLOCK_BYTES + offset_in_file % BLOCK_BYTES;
    let raw = OpenOptions::new().read(true).write(true).open(disk)?;
    let mut byte = [0];
    raw.read_exact_at(&mut byte, place)?;
    raw.write_all_at(&[!byte[0]], place)?;
    raw.sync_all()?;
    Ok(place)
}

/// The ESP of a raw disk, as mtools want it.
fn esp(disk: &Path) -> Result<String> {
    let esp = partitions(disk)?.into_iter().find(|p| p.is_esp);
    let esp = esp.with_context(|| format!("{} has no ESP", disk.display()))?;
    Ok(format!("{}@@{}", disk.display(), esp.offset_bytes))
}

/// Names in a directory of the ESP.
pub fn esp_names(disk: &Path, directory: &str) -> Result<Vec<String>> {
    let image = esp(disk)?;
    let listing = tool::run(Command::new("mdir").args(["-b", "-i", &image]).arg(format!("::{directory}")))?;
    Ok(listing.lines().filter_map(|line| line.trim_end_matches('/').rsplit('/').next()).map(str::to_owned).collect())
}

/// Contents of a file on the ESP.
pub fn read_esp(disk: &Path, path: &str) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("file");
    tool::run(Command::new("mcopy").args(["-n", "-i", &esp(disk)?, &format!("::{path}")]).arg(&copy))?;
    fs::read(&copy).with_context(|| format!("reading {}", copy.display()))
}

/// Puts a file on the ESP, in place of another one if there is one, as whoever has the disk can.
pub fn write_esp(disk: &Path, path: &str, contents: &[u8]) -> Result<()> {
    write_fat(&esp(disk)?, path, contents)
}

/// Removes a file from the ESP.
pub fn remove_esp(disk: &Path, path: &str) -> Result<()> {
    tool::run(Command::new("mdel").args(["-i", &esp(disk)?, &format!("::{path}")]))?;
    Ok(())
}

/// Makes a disk without partitions on which the firmware finds this program, and nothing else.
pub fn bootable_disk(disk: &Path, program: &[u8]) -> Result<()> {
    let file = File::create(disk).with_context(|| format!("creating {}", disk.display()))?;
    file.set_len((program.len() as u64).next_multiple_of(1 << 20) + (64 << 20))?;
    tool::run(Command::new("mkfs.vfat").args(["-F", "32"]).arg(disk))?;
    write_fat(&disk.display().to_string(), "EFI/BOOT/BOOTX64.EFI", program)
}

fn write_fat(image: &str, path: &str, contents: &[u8]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    fs::write(&file, contents)?;
    for (end, _) in path.match_indices('/') {
        // One that is there is left.
        tool::run(Command::new("mmd").args(["-D", "s", "-i", image, &format!("::{}", &path[..end])])).ok();
    }
    tool::run(Command::new("mcopy").args(["-o", "-i", image]).arg(&file).arg(format!("::{path}")))?;
    Ok(())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
