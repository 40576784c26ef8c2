//! The physical root: the file system that is mounted at /sysroot when we start.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxAttributes, StatxFlags, fstatvfs, major, makedev,
    minor, open, openat2, statx,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};

/// Where systemd's generators look for the disk below a root that is not on a disk itself.
const VOLATILE_ROOT: &str = "/run/systemd/volatile-root";
/// Devices may be stacked this deep (LUKS on LVM on RAID); a guard against loops.
const STACK_MAX: usize = 16;

/// How often a path is looked up that the kernel cannot follow at the moment, and the pause in between.
const LOOKUPS_MAX: u32 = 5000;
const LOOKUP_PAUSE: Duration = Duration::from_millis(1);

/// The mounted physical root.
#[derive(Debug)]
pub(crate) struct PhysicalRoot {
    directory: OwnedFd,
    path: PathBuf,
    mount_id: u64,
}

/// Opens a directory; links are followed as if `root` were the root.
///
/// While anything on the machine is mounted or renamed, the kernel cannot tell whether `..` in a link stays inside, and wants to be
/// asked again: `EAGAIN`, openat2(2).
fn open_inside(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut lookups = 1;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if lookups < LOOKUPS_MAX => {
                lookups += 1;
                thread::sleep(LOOKUP_PAUSE);
            }
            result => return result,
        }
    }
}

impl PhysicalRoot {
    /// Opens what is mounted at `path`; an error if nothing is.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let what = || format!("cannot open the physical root {path:?}");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty()).with_context(what)?;
        let stat = statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).with_context(what)?;
        ensure!(
            stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            "nothing is mounted at {path:?}; the kernel argument root= names the physical root"
        );
        Ok(Self { directory, path: path.to_owned(), mount_id: stat.stx_mnt_id })
    }

    /// Its top directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory at a relative path. Links are followed, and stay inside as if it were the root already.
    pub(crate) fn open_directory(&self, path: &str) -> Result<OwnedFd> {
        open_inside(self.directory.as_fd(), path)
            .with_context(|| format!("cannot open the directory {:?}", self.path.join(path)))
    }

    /// Makes it writable if it is mounted read-only, as without `rw` on the kernel command line.
    pub(crate) fn make_writable(&self) -> Result<()> {
        let what = || format!("cannot make the physical root {:?} writable", self.path);
        let mounted = fstatvfs(&self.directory).with_context(what)?.f_flag;
        if !mounted.contains(StatVfsMountFlags::RDONLY) {
            return Ok(());
        }
        let mut flags = MountFlags::empty();
        for (is, keep) in [
            (StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
            (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        ] {
            flags.set(keep, mounted.contains(is));
        }
        mount_remount(format!("/proc/self/fd/{}", self.directory.as_raw_fd()), flags, c"").with_context(what)
    }

    /// Tells systemd on which disk this root is, so that it finds the ESP, swap and other partitions of that disk
    /// although the final root is an overlay. One that is told already stays.
    pub(crate) fn publish_disk(&self) -> Result<()> {
        let Some(device) = self.block_device()? else {
            return Ok(());
        };
        let link = Path::new(VOLATILE_ROOT);
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {parent:?}"))?;
        }
        match symlink(format!("/dev/block/{}:{}", major(device), minor(device)), link) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                Err(err).with_context(|| format!("cannot create {link:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The partition or disk that it is on, below any device-mapper layers; `None` if it is on several or on none.
    fn block_device(&self) -> Result<Option<u64>> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        let Some(mounted) = Mounted::find(&mountinfo, self.mount_id) else {
            return Ok(None);
        };
        // btrfs has device numbers that belong to no device, always of major 0. Its source is one of its disks.
        let device = match mounted.device {
            device if major(device) != 0 => device,
            _ => match fs::metadata(&mounted.source) {
                Ok(metadata) if metadata.file_type().is_block_device() => metadata.rdev(),
                _ => return Ok(None),
            },
        };
        lowest_device(Path::new("/sys/dev/block"), device)
    }
}

/// What mountinfo says of one mount.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    device: u64,
    source: PathBuf,
}

impl Mounted {
    /// Finds a mount by its id: `36 35 98:0 /root /mount-point options optional… - type source options`.
    fn find(mountinfo: &str, mount_id: u64) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ');
            if fields.next()?.parse() != Ok(mount_id) {
                return None;
            }
            let device = parse_device(fields.nth(1)?)?;
            // Spaces in it would be escaped; devices that are named so are not found.
            Some(Self { device, source: after.split(' ').nth(1)?.into() })
        })
    }
}

/// Parses `major:minor`.
fn parse_device(text: &str) -> Option<u64> {
    let (major, minor) = text.trim_end().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Follows a stack of devices down, below `sys` (/sys/dev/block), as long as each is on exactly one other.
fn lowest_device(sys: &Path, mut device: u64) -> Result<Option<u64>> {
    for _ in 0..STACK_MAX {
        let slaves = sys.join(format!("{}:{}/slaves", major(device), minor(device)));
        let mut below = match fs::read_dir(&slaves) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Some(device)),
            Err(err) => return Err(err).with_context(|| format!("cannot read {slaves:?}")),
        };
        let Some(slave) = below.next() else {
            return Ok(Some(device));
        };
        if below.next().is_some() {
            return Ok(None);
        }
        let path = slave.with_context(|| format!("cannot read {slaves:?}"))?.path().join("dev");
        let number = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
        device = parse_device(&number).with_context(|| format!("{path:?} has no device number: {number:?}"))?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn links_are_followed_while_others_rename() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["deploy", "var", "one", "two"] {
            fs::create_dir(path(name)).unwrap();
        }
        symlink("../var", path("deploy/var")).unwrap();
        fs::write(path("one/file"), "").unwrap();
        let root = open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::rename(path("one/file"), path("two/file")).unwrap();
                    fs::rename(path("two/file"), path("one/file")).unwrap();
                }
            });
            let failed = (0..2000).find_map(|_| open_inside(root.as_fd(), "deploy/var").err());
            over.store(true, Ordering::Relaxed);
            assert_eq!(failed, None);
        });
    }

    #[test]
    fn mounts_are_found_by_id() {
        let mountinfo = "\
22 1 0:2 / / rw shared:1 - rootfs rootfs rw
361 22 254:2 / /sysroot rw,relatime shared:7 master:3 - ext4 /dev/vda2 rw
362 22 0:41 /os /sysroot rw - btrfs /dev/vdb2 rw,subvol=/os
";
        let ext4 = Mounted { device: makedev(254, 2), source: "/dev/vda2".into() };
        assert_eq!(Mounted::find(mountinfo, 361), Some(ext4));
        let btrfs = Mounted { device: makedev(0, 41), source: "/dev/vdb2".into() };
        assert_eq!(Mounted::find(mountinfo, 362), Some(btrfs));
        assert_eq!(Mounted::find(mountinfo, 36), None);
    }

    #[test]
    fn stacked_devices_lead_to_the_partition() {
        let sys = tempfile::tempdir().unwrap();
        let device = |number: &str, slaves: &[(&str, &str)]| {
            let slaves_dir = sys.path().join(number).join("slaves");
            fs::create_dir_all(&slaves_dir).unwrap();
            for (name, number) in slaves {
                fs::create_dir(slaves_dir.join(name)).unwrap();
                fs::write(slaves_dir.join(name).join("dev"), format!("{number}\n")).unwrap();
            }
        };
        device("253:1", &[("dm-0", "253:0")]);
        device("253:0", &[("vda2", "254:2")]);
        device("9:0", &[("sda1", "8:1"), ("sdb1", "8:17")]);
        device("253:7", &[("dm-7", "253:7")]);
        fs::create_dir(sys.path().join("254:2")).unwrap();
        assert_eq!(lowest_device(sys.path(), makedev(253, 1)).unwrap(), Some(makedev(254, 2)));
        assert_eq!(lowest_device(sys.path(), makedev(254, 2)).unwrap(), Some(makedev(254, 2)));
        assert_eq!(lowest_device(sys.path(), makedev(9, 0)).unwrap(), None);
        assert_eq!(lowest_device(sys.path(), makedev(253, 7)).unwrap(), None);
    }
}
