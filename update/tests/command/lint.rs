//! `image lint` on directories, images and references; what it finds is tested beside it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use osupdate_core::oci::Platform;
use serde_json::Value;

use crate::docker_registry::have;
use crate::layout::Layout;
use crate::place::{Place, Run};
use crate::rootfs;

/// A directory `root` in which nothing is wrong.
fn place() -> Place {
    let place = Place::new();
    rootfs::make(&place.path().join("root"));
    place
}

/// Status and names of findings that are not silenced.
fn names(run: Run) -> (i32, Vec<String>) {
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
    let findings = report["findings"].as_array().unwrap().iter();
    let told = findings.filter(|finding| finding["allowed"] == false);
    (run.status, told.map(|finding| finding["name"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn a_directory_with_nothing_wrong_is_done() {
    let place = place();
    assert_eq!(place.run_bare(&["image", "lint", "--rootfs", "root"]).done(), "nothing is wrong\n");
    assert_eq!(place.run_bare(&["image", "lint", "./root"]).done(), "nothing is wrong\n");
    // Nothing is left anywhere, and nothing is needed.
    assert!(!place.path().join("repo").exists());
}

#[test]
fn errors_are_findings_and_warnings_are_told() {
    let place = place();
    fs::create_dir_all(place.path().join("root/var/lib/app/data")).unwrap();
    fs::write(place.path().join("root/var/lib/app/data/file"), "x").unwrap();
    let warned = place.run_bare(&["image", "lint", "--rootfs", "root"]).done();
    assert!(
        warned.starts_with("warning: var-content\n  /var/lib: a directory with 1 file that no tmpfiles.d"),
        "{warned}"
    );
    assert!(warned.ends_with("\n0 errors, 1 warning\n"), "{warned}");
    let fatal = place.run_bare(&["image", "lint", "--rootfs", "root", "--fatal-warnings"]);
    assert_eq!((fatal.status, fatal.stdout), (3, warned));

    fs::remove_file(place.path().join("root/usr/lib/modules/6.1/vmlinuz")).unwrap();
    let found = place.run_bare(&["image", "lint", "--rootfs", "root"]);
    assert_eq!(found.status, 3, "{}", found.stderr);
    assert!(found.stdout.starts_with("error: kernel-missing\n  there is no "), "{}", found.stdout);
    assert!(found.stdout.contains("\n  why: there is nothing to boot\n  fix: install a kernel"), "{}", found.stdout);
    assert!(found.stdout.ends_with("\n1 error, 1 warning\n"), "{}", found.stdout);
}

#[test]
fn what_is_meant_is_silenced_by_the_image_and_by_the_user() {
    let place = place();
    let root = place.path().join("root");
    fs::write(root.join("usr/bin-own"), "x").unwrap();
    fs::set_permissions(root.join("usr/bin-own"), Permissions::from_mode(0o4755)).unwrap();
    fs::create_dir_all(root.join("var/lib/app")).unwrap();
    let lint = |more: &[&str]| {
        let words = [&["image", "lint", "--rootfs", "root", "--json", "--fatal-warnings"], more].concat();
        names(place.run_bare(&words))
    };
    let both = vec!["set-id-unusual".to_owned(), "var-content".to_owned()];
    assert_eq!(lint(&[]), (3, both));
    assert_eq!(lint(&["--allow", "set-id-unusual:/usr", "--allow", "var-content"]), (0, vec![]));
    assert_eq!(lint(&["--allow", "set-id-unusual:/opt", "--allow", "var-content"]).0, 3);
    fs::create_dir_all(root.join("usr/lib/osupdate")).unwrap();
    fs::write(root.join("usr/lib/osupdate/lint-allow"), "# ours\nvar-content:/var/lib # filled at installation\n")
        .unwrap();
    assert_eq!(lint(&[]), (3, vec!["set-id-unusual".to_owned()]));
    let text = place.run_bare(&["image", "lint", "--rootfs", "root", "--allow", "set-id-unusual"]).done();
    assert_eq!(text, "nothing is wrong; 2 allowed\n");

    let error = place.run_bare(&["image", "lint", "--rootfs", "root", "--allow", "set-id-unusal"]).failed(2);
    assert!(error.contains("perhaps set-id-unusual is meant"), "{error}");
    fs::write(root.join("usr/lib/osupdate/lint-allow"), "var-contents\n").unwrap();
    let warned = place.run_bare(&["image", "lint", "--rootfs", "root"]);
    assert!(
        warned.stderr.contains("has the line \"var-contents\", ignoring: there is no finding"),
        "{}",
        warned.stderr
    );
}

#[test]
fn images_are_looked_at_wherever_they_are() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = Place::with_repository();
    let (status, fetched) = names(place.run_bare(&["image", "lint", "oci:image", "--json"]));
    assert_eq!(status, 3);
    assert!(fetched.contains(&"initramfs-setup-root".to_owned()) || fetched.contains(&"directory-missing".to_owned()));
    place.run(&["image", "pull", "oci:image", "--tag", "test"]).done();
    assert_eq!(names(place.run(&["image", "lint", "test", "--json"])), (3, fetched));
    fs::write(place.path().join("dump"), place.run(&["image", "dump", "test"]).done()).unwrap();
    let error = place.run(&["image", "lint", "./dump"]).failed(1);
    assert!(error.contains("is a dumpfile, in which the files of the image are not"), "{error}");
    let error = place.run_bare(&["image", "lint", "--rootfs", "nowhere"]).failed(1);
    assert!(error.contains("nowhere is not a directory"), "{error}");
    place.run_bare(&["image", "lint"]).failed(2);
}

#[test]
fn directories_that_layers_leave_open_are_found() {
    if !have(&["tar", "gzip"]) {
        return;
    }
    let place = place();
    let tar = |paths: &[&str]| {
        let mut archive = tar::Builder::new(Vec::new());
        for path in paths {
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            header.set_mode(0o755);
            header.set_mtime(0);
            let is_directory = path.ends_with('/');
            header.set_entry_type(if is_directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
            archive.append_data(&mut header, path, std::io::empty()).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let mut layout = Layout::create(&place.path().join("loose"));
    let layers = [tar(&["usr/", "usr/bin/", "usr/bin/a", "usr/lib/b"]), tar(&["usr/bin/c"])];
    let image = layout.image_of(&Platform::host().architecture, &layers);
    layout.tag("1", &image);
    let run = place.run_bare(&["image", "lint", "oci:loose", "--json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let found: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| {
            finding["name"].as_str().unwrap().starts_with("directory-") && finding["severity"] == "warning"
        })
        .map(|finding| format!("{} {} {}", finding["name"], finding["path"], finding["detail"]).replace('"', ""))
        .collect();
    assert_eq!(
        found,
        ["directory-without-entry /usr/lib layer 1 has b in it", "directory-time-open /usr/bin layer 2 has c in it"]
    );
}

#[test]
fn all_kinds_are_listed() {
    let place = Place::new();
    let listed = place.run_bare(&["image", "lint", "--list"]).done();
    assert!(listed.contains("kernel-missing (error)\n  why: there is nothing to boot\n"), "{listed}");
    let json = place.run_bare(&["image", "lint", "--list", "--json"]).json();
    assert_eq!(json["lints"].as_array().unwrap().len(), osupdate::lint::LINTS.len());
}

#[test]
fn what_a_builder_mounts_is_left_out() {
    if !have(&["unshare", "mount"]) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let place = place();
    let root = place.path().join("root");
    for directory in ["var/cache/app", "cache"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::create_dir_all(root.join("usr/lib/tmpfiles.d")).unwrap();
    fs::write(root.join("usr/lib/tmpfiles.d/app.conf"), "d /var/cache/app\n").unwrap();
    fs::create_dir(place.path().join("of-builder")).unwrap();
    fs::write(place.path().join("of-builder/file"), "x").unwrap();
    fs::write(root.join("etc/hosts"), "").unwrap();
    // Of the same file system, so that devices tell nothing.
    let mounts =
        "mount --bind of-builder root/var/cache/app && mount --bind of-builder/file root/etc/hosts && exec \"$@\"";
    let run = |words: &[&str]| {
        let osupdate = place.command(&[]);
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-ec", mounts, "sh"]).arg(osupdate.get_program()).args(words);
        command.current_dir(place.path());
        Run::of(&mut command)
    };
    assert_eq!(run(&["image", "lint", "--rootfs", "root", "--quiet"]).done(), "nothing is wrong\n");
    let error = run(&["image", "digest", "--rootfs", "root", "--quiet"]).failed(1);
    assert!(
        error.contains("another file is mounted on /etc/hosts in root, so what the image has there is not known"),
        "{error}"
    );
}
