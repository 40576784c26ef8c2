//! Repositories on media that cannot be written, and on file systems that lack something.

use std::fs;
use std::process::Command;

use crate::docker_registry::have;
use crate::place::Place;

/// Runs a shell script in the place with mounts of its own; `$O` is the program. Returns what it wrote, errors included.
fn with_mounts(place: &Place, script: &str) -> String {
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &format!("exec 2>&1\n{script}")])
        .current_dir(place.path())
        .env("O", env!("CARGO_BIN_EXE_osupdate"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn can_mount(tools: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root, to mount");
        return false;
    }
    have(tools)
}

#[test]
fn a_repository_on_a_read_only_medium_is_read_and_changes_are_refused() {
    if !can_mount(&["unshare", "mount"]) {
        return;
    }
    let place = Place::with_repository();
    place.run(&["image", "pull", "oci:image:1", "--tag", "mine"]).done();
    fs::create_dir(place.path().join("mounted")).unwrap();
    let read = with_mounts(
        &place,
        "set -e; mount --bind repo repo; mount -o remount,bind,ro repo\n\
         $O repo fsck -q --repo repo; $O image list --repo repo; $O repo gc -q --dry-run --repo repo\n\
         $O repo why --in mine /usr/share/large --repo repo; $O repo init --unverified --repo repo\n\
         $O image mount mine mounted --repo repo; test -s mounted/usr/share/large; umount mounted; echo all read",
    );
    assert!(read.contains("nothing is wrong\n") && read.ends_with("all read\n"), "{read}");
    for change in
        ["repo gc", "image tag mine other", "image pull oci:image:1", "repo fsck --repair repo", "image untag mine"]
    {
        let text = with_mounts(
            &place,
            &format!(
                "mount --bind repo repo; mount -o remount,bind,ro repo; $O -q {change} --repo repo; echo status $?"
            ),
        );
        assert_eq!(text, "error: the repository repo is on a read-only file system\nstatus 1\n", "{change}");
    }
}

/// FUSE file systems mostly have no `O_TMPFILE`.
#[test]
fn a_file_system_without_nameless_files_will_do() {
    if !can_mount(&["unshare", "mount", "fuse-overlayfs"]) {
        return;
    }
    let place = Place::new();
    for directory in ["lower", "upper", "work", "fuse"] {
        fs::create_dir(place.path().join(directory)).unwrap();
    }
    let text = with_mounts(
        &place,
        "set -e; fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work fuse\n\
         $O -q repo init --unverified --repo fuse/repo\n\
         $O -q image pull oci:image:1 --tag mine --repo fuse/repo; $O -q repo fsck --repo fuse/repo\n\
         find fuse/repo -name '.tmp*' -o -name '.symlink*'; $O -q repo gc --repo fuse/repo; umount fuse",
    );
    assert!(text.contains("nothing is wrong\nremoved 0 objects"), "{text}");
}

#[test]
fn a_file_system_without_fs_verity_is_named_with_what_helps() {
    if !can_mount(&["unshare", "mount", "mkfs.ext4"]) {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path().join("disk")).unwrap();
    let text = with_mounts(
        &place,
        "truncate -s 16M image.ext4; mkfs.ext4 -q -O ^verity image.ext4; mount -o loop image.ext4 disk\n\
         $O repo init --repo disk/repo; echo status $?; ls disk/repo; umount disk",
    );
    let expected = "error: the ext4 file system at disk/repo has no fs-verity\n";
    assert!(text.starts_with(expected) && text.ends_with("\nstatus 1\n"), "{text}");
    assert!(text.contains("hint: enable it with `tune2fs -O verity"), "{text}");
    assert!(text.contains("or do without it: --unverified"), "{text}");
}

#[test]
fn what_is_strange_among_the_refs_is_a_finding_and_not_the_end_of_the_check() {
    let place = Place::with_repository();
    place.run(&["image", "pull", "oci:image:1", "--tag", "mine"]).done();
    fs::write(place.path().join("repo/streams/refs/oci/file"), "").unwrap();
    let run = place.run(&["repo", "fsck"]);
    assert_eq!(run.status, 3, "{}", run.stderr);
    assert!(run.stdout.starts_with("unexpected-file-type: streams/refs/oci/file\n"), "{}", run.stdout);
    assert!(run.stderr.contains("warning: the tagged images are not checked: "), "{}", run.stderr);
}
