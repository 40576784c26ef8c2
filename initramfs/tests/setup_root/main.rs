//! Runs `osupdate-setup-root` on a physical root as it would be in an initramfs, and looks at what it leaves.
//!
//! Needs root, loop devices and ext4; without fs-verity in the kernel the repository is one without, too. What the
//! kernel verifies is tested in machines of its own.

mod machine;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use machine::{Machine, argument, chmod, in_own_namespace, mounts, run};
use osupdate_core::Digest;

#[test]
fn the_image_becomes_the_root_and_the_physical_root_moves_into_it() {
    if !in_own_namespace("the_image_becomes_the_root_and_the_physical_root_moves_into_it") {
        return;
    }
    let machine = Machine::new();
    let disk = fs::metadata(machine.sysroot()).unwrap().dev();
    let image = machine.image(&[("hostname", "image\n")], "tool one");
    machine.deploy(&image, None);
    machine.boot_image(&image);

    let root = machine.mount_at("").unwrap();
    assert_eq!((root.kind.as_str(), root.source), ("overlay", format!("composefs:{image}")));
    assert!(root.options.starts_with("ro"), "{}", root.options);
    assert_eq!(machine.read("usr/bin/tool"), "tool one");
    assert!(fs::write(machine.path("usr/new"), "x").is_err());

    assert_eq!(machine.read("etc/hostname"), "image\n");
    fs::write(machine.path("etc/local"), "x").unwrap();
    assert_eq!(machine.read(&format!("sysroot/state/deploy/{image}/etc/upper/local")), "x");
    let etc = machine.mount_at("etc").unwrap().super_options;
    assert!(!etc.contains("metacopy=on") && !etc.contains("redirect_dir=on") && !etc.contains("index=on"), "{etc}");

    fs::write(machine.path("var/lib/data"), "kept").unwrap();
    assert_eq!(machine.read("sysroot/state/os/default/var/lib/data"), "kept");

    assert_eq!(machine.mount_at("sysroot").unwrap().kind, "ext4");
    fs::write(machine.path("sysroot/writable"), "x").unwrap();
    assert!(!mounts().iter().any(|(at, _)| at.starts_with("/run/osupdate-setup-root")));
    assert!(!Path::new("/run/osupdate-setup-root").exists());
    let link = fs::read_link("/run/systemd/volatile-root").unwrap();
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    assert_eq!(link.to_str().unwrap(), format!("/dev/block/{major}:{minor}"));
}

#[test]
fn mounts_below_var_do_not_show_in_the_physical_root() {
    if !in_own_namespace("mounts_below_var_do_not_show_in_the_physical_root") {
        return;
    }
    let machine = Machine::new();
    let image = machine.image(&[], "tool");
    machine.deploy(&image, None);
    machine.boot_image(&image);
    let groups: Vec<_> =
        ["", "etc", "var", "sysroot"].iter().filter_map(|at| machine.mount_at(at).unwrap().shared_with).collect();
    let distinct: std::collections::BTreeSet<_> = groups.iter().collect();
    assert_eq!(distinct.len(), groups.len(), "{groups:?}");
    run("mount", &["-t", "tmpfs", "below", machine.path("var/lib").to_str().unwrap()]);
    assert!(machine.mount_at("sysroot/state/os/default/var/lib").is_none());
}

#[test]
fn local_changes_in_etc_come_along() {
    if !in_own_namespace("local_changes_in_etc_come_along") {
        return;
    }
    let machine = Machine::new();
    let etc = [("changed", "1"), ("deleted", "1"), ("kept", "1"), ("dir/a", "1"), ("gone/b", "1")];
    let one = machine.image(&etc, "tool one");
    let etc: Vec<_> = etc.iter().map(|(name, _)| (*name, "2")).chain([("dir/new", "2"), ("new", "2")]).collect();
    let two = machine.image(&etc, "tool two");
    machine.deploy(&one, None);
    machine.deploy(&two, Some(&one));

    machine.boot_image(&one);
    fs::write(machine.path("etc/changed"), "local").unwrap();
    chmod(&machine.path("etc/changed"), 0o600);
    fs::write(machine.path("etc/added"), "local").unwrap();
    fs::hard_link(machine.path("etc/added"), machine.path("etc/linked")).unwrap();
    fs::remove_file(machine.path("etc/deleted")).unwrap();
    fs::remove_dir_all(machine.path("etc/dir")).unwrap();
    fs::create_dir(machine.path("etc/dir")).unwrap();
    fs::write(machine.path("etc/dir/mine"), "local").unwrap();
    fs::remove_dir_all(machine.path("etc/gone")).unwrap();
    machine.shut_down();

    // A power cut in the first boot of the new deployment.
    let half = machine.path(&format!("state/deploy/{two}/etc/upper.tmp"));
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("stale"), "half").unwrap();

    let see = || {
        assert_eq!(machine.read("usr/bin/tool"), "tool two");
        assert_eq!(machine.read("etc/changed"), "local");
        assert_eq!(fs::metadata(machine.path("etc/changed")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(machine.read("etc/added"), "local");
        let inode = |name: &str| fs::metadata(machine.path(name)).unwrap().ino();
        assert_eq!(inode("etc/added"), inode("etc/linked"));
        assert_eq!((machine.read("etc/kept"), machine.read("etc/new")), ("2".into(), "2".into()));
        assert_eq!(machine.read("etc/dir/mine"), "local");
        for name in ["deleted", "dir/a", "dir/new", "gone", "stale"] {
            assert!(!machine.path("etc").join(name).exists(), "{name}");
        }
    };
    machine.boot_image(&two);
    see();
    let upper = machine.path(&format!("sysroot/state/deploy/{two}/etc/upper"));
    let whiteout = fs::symlink_metadata(upper.join("deleted")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);

    // Later changes stay with the deployment in which they were made.
    fs::write(machine.path("etc/added-later"), "x").unwrap();
    machine.shut_down();
    machine.boot_image(&one);
    assert_eq!((machine.read("usr/bin/tool"), machine.read("etc/kept")), ("tool one".into(), "1".into()));
    assert_eq!(machine.read("etc/changed"), "local");
    assert!(!machine.path("etc/added-later").exists() && !machine.path("etc/new").exists());
    machine.shut_down();
    machine.boot_image(&two);
    see();
    assert_eq!(machine.read("etc/added-later"), "x");
}

#[test]
fn a_read_only_physical_root_is_made_writable() {
    if !in_own_namespace("a_read_only_physical_root_is_made_writable") {
        return;
    }
    let machine = Machine::new();
    let image = machine.image(&[], "tool");
    machine.deploy(&image, None);
    machine.shut_down();
    run("mount", &["-o", "remount,ro,nosuid", machine.sysroot().to_str().unwrap()]);
    machine.boot_image(&image);
    for name in ["etc/x", "var/x", "sysroot/x"] {
        fs::write(machine.path(name), "x").unwrap();
    }
    assert!(machine.mount_at("sysroot").unwrap().options.starts_with("rw,nosuid"));
}

#[test]
fn configurations_decide_what_is_writable_and_what_is_kept() {
    if !in_own_namespace("configurations_decide_what_is_writable_and_what_is_kept") {
        return;
    }
    let machine = Machine::new();
    let image = machine.image(&[("hostname", "image\n")], "tool");
    machine.deploy(&image, None);

    let boot = |config: &str| {
        let outcome = machine.boot(&argument(&image), config);
        assert!(outcome.success, "{}", outcome.said);
    };
    boot("[etc]\nmount = \"none\"\n[var]\nmount = \"none\"\n");
    assert!(machine.mount_at("etc").is_none() && machine.mount_at("var").is_none());
    assert!(fs::write(machine.path("etc/x"), "x").is_err() && fs::write(machine.path("var/x"), "x").is_err());
    machine.shut_down();

    boot("[root]\ntransient = true\n[etc]\ntransient = true\n[var]\nmount = \"transient\"\n");
    for name in ["usr/x", "etc/x", "var/x"] {
        fs::write(machine.path(name), "x").unwrap();
    }
    assert_eq!(machine.read("etc/hostname"), "image\n");
    machine.shut_down();

    boot("[etc]\nmount = \"transient\"\n[var]\nmount = \"overlay\"\n");
    assert!(!machine.path("etc/x").exists() && !machine.path("usr/x").exists() && !machine.path("var/x").exists());
    fs::write(machine.path("var/x"), "x").unwrap();
    assert_eq!(machine.read("sysroot/state/os/default/var/upper/x"), "x");
    machine.shut_down();

    let outcome = machine.boot(&argument(&image), "[etc]\nmount = \"bind\"\n");
    assert!(outcome.said.contains("cannot open the directory"), "{}", outcome.said);
    let etc = machine.path(&format!("state/deploy/{image}/etc"));
    fs::create_dir(&etc).unwrap();
    let outcome = machine.boot(&argument(&image), "[etc]\nmount = \"bind\"\n");
    assert!(outcome.said.contains("not a complete /etc"), "{}", outcome.said);
    fs::write(etc.join("hostname"), "bound\n").unwrap();
    boot("[etc]\nmount = \"bind\"\n");
    assert_eq!(machine.read("etc/hostname"), "bound\n");
}

#[test]
fn the_first_image_that_is_there_is_taken() {
    if !in_own_namespace("the_first_image_that_is_there_is_taken") {
        return;
    }
    let machine = Machine::new();
    let (one, two) = (machine.image(&[], "one"), machine.image(&[], "two"));
    machine.deploy(&one, None);
    machine.deploy(&two, None);
    let missing = "0".repeat(128);
    let other_algorithm = "0".repeat(64);
    let cmdline = format!(
        "quiet composefs=?{other_algorithm} composefs.digest=?v1-sha512-12:{missing} composefs=?{two} {}",
        argument(&one)
    );
    let outcome = machine.boot(&cmdline, "");
    assert!(outcome.success, "{}", outcome.said);
    assert_eq!(machine.read("usr/bin/tool"), "two");
    assert!(outcome.said.contains("NOT verified"), "{}", outcome.said);
}

#[test]
fn refusals_say_why_and_leave_the_physical_root_alone() {
    if !in_own_namespace("refusals_say_why_and_leave_the_physical_root_alone") {
        return;
    }
    let machine = Machine::new();
    let image = machine.image(&[("hostname", "image\n")], "tool");
    let refused = |cmdline: &str, config: &str, why: &[&str]| {
        let before = mounts().len();
        let outcome = machine.boot(cmdline, config);
        fs::remove_file(machine.sysroot().parent().unwrap().join("conf.toml")).ok();
        assert!(!outcome.success);
        assert!(outcome.said.contains("error: ") && outcome.said.contains("the boot menu offers"));
        for text in why {
            assert!(outcome.said.contains(text), "{text:?} is not in: {}", outcome.said);
        }
        assert_eq!(mounts().len(), before);
        assert_eq!(machine.mount_at("").unwrap().kind, "ext4");
        assert!(!Path::new("/run/osupdate-setup-root").exists());
    };

    refused("quiet root=/dev/vda2", "", &["names no image"]);
    refused("composefs.digest=v1-sha512-12:abc", "", &["\"composefs.digest=v1-sha512-12:abc\" has a malformed digest"]);
    refused(&argument(&image), "[etc]\nmount = \"x\"", &["conf.toml", "etc.mount"]);
    let required = format!("composefs.digest=v1-sha512-12:{image}");
    refused(&required, "", &["has no fs-verity, but the kernel argument requires it", &required]);
    let missing = argument(&format!("{:0128}", 1).parse::<Digest>().unwrap());
    refused(&missing, "", &["has no image that the kernel command line names", &missing]);
    refused(&argument(&image), "", &[&format!("there is no deployment {image}")]);

    machine.deploy(&image, Some(&format!("{:0128}", 2).parse().unwrap()));
    refused(&argument(&image), "", &["cannot open the local changes in /etc of deployment 000"]);
    fs::remove_file(machine.path(&format!("state/deploy/{image}/deployment.toml"))).unwrap();
    fs::remove_dir_all(machine.path("state/os/default/var")).unwrap();
    refused(&argument(&image), "", &["cannot open the directory", "/var\"", "No such file or directory"]);
    assert!(!machine.path(&format!("state/deploy/{image}/etc/upper")).exists(), "it was not booted");
    fs::create_dir(machine.path("state/os/default/var")).unwrap();

    let object = machine.path(&format!("composefs/objects/{}", image.object_path()));
    let good = fs::read(&object).unwrap();
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    let found = osupdate_core::fsverity::digest(image.algorithm(), &damaged);
    fs::write(&object, &damaged).unwrap();
    let (expected, measured) = (format!("expected the fs-verity digest {image}"), format!("measured {found}"));
    refused(&argument(&image), "", &[&format!("the image {image} is refused"), &expected, &measured]);
    fs::write(&object, &good).unwrap();

    machine.boot_image(&image);
}

#[test]
fn without_a_physical_root_nothing_happens() {
    if !in_own_namespace("without_a_physical_root_nothing_happens") {
        return;
    }
    let machine = Machine::new();
    let image = machine.image(&[], "tool");
    run("umount", &["-l", machine.sysroot().to_str().unwrap()]);
    let outcome = machine.boot(&argument(&image), "");
    assert!(!outcome.success && outcome.said.contains("nothing is mounted at"), "{}", outcome.said);
}
