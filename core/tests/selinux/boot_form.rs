//! The boot form of a directory with a policy, compared with what cfsctl makes of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use osupdate_core::boot::{BootOptions, transform_for_boot};
use osupdate_core::erofs::{self, Format};
use osupdate_core::repository::{Repository, Verity};
use osupdate_core::selinux::FileType;
use osupdate_core::{Algorithm, Digest, dumpfile, fsverity};

use super::{policies, real_files};

/// Rules and aliases of our own, on top of those of the policy.
const LOCAL: &str = "\
/usr/lib/os-release\t--\tsystem_u:object_r:local_t:s0
/opt/(?!a)[^/]*\tsystem_u:object_r:look_ahead_t:s0
/opt/[[:alpha:]]{2}\\d?x* -- system_u:object_r:classes_t:s0
/srv/w.*x system_u:object_r:any_byte_t:s0
/srv/none <<none>>
";
const ALIASES: &str = "/srv/alias /opt\n/bin /usr/bin\n";

/// A small OS in a directory: files of this machine without their contents, hard links across labels, and a policy.
fn make_root(root: &Path, policy: Option<&Path>) {
    let place = |path: &str| {
        let place = root.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        place
    };
    for directory in
        ["boot", "sysroot", "usr/local/lib/x", "var/lib/private/y", "etc/init.d", "srv/alias", "opt", "run"]
    {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (path, file_type) in real_files(4000) {
        let Ok(path) = String::from_utf8(path) else { continue };
        let place = place(path.trim_start_matches('/'));
        if path.starts_with("/etc/selinux") || fs::symlink_metadata(&place).is_ok() {
            continue;
        }
        match file_type {
            FileType::Directory => fs::create_dir(place).unwrap(),
            FileType::Symlink => symlink("target", place).unwrap(),
            FileType::Regular => fs::write(place, "").unwrap(),
            _ => {}
        }
    }
    for name in ["opt/a1", "opt/b1", "opt/ab7xx", "srv/alias/b2", "srv/none", "srv/w\nx", "srv/wx", "srv/w\u{e9}x"] {
        fs::write(place(name), "").unwrap();
    }
    fs::write(place("etc/linked"), "some contents").unwrap();
    for name in ["etc/zz", "usr/bin/linked-1", "usr/bin/linked-2", "usr/share/linked", "var/linked", "srv/none-linked"]
    {
        fs::hard_link(root.join("etc/linked"), place(name)).unwrap();
    }
    if let Some(policy) = policy {
        fs::write(place("etc/selinux/config"), "# comment\nSELINUX=enforcing\nSELINUXTYPE = ours\n").unwrap();
        for entry in fs::read_dir(policy).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("file_contexts") {
                fs::copy(entry.path(), place(&format!("etc/selinux/ours/contexts/files/{name}"))).unwrap();
            }
        }
        fs::write(place("etc/selinux/ours/contexts/files/file_contexts.local"), LOCAL).unwrap();
        fs::write(place("etc/selinux/ours/contexts/files/file_contexts.subs"), ALIASES).unwrap();
    }
}

fn cfsctl(arguments: &[&str], root: &Path) -> Vec<u8> {
    let output = Command::new("cfsctl").arg("--no-repo").args(arguments).arg(root).output().unwrap();
    assert!(output.status.success(), "cfsctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A dumpfile line by line.
fn lines(dump: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(dump).lines().map(str::to_owned).collect()
}

#[test]
fn it_is_that_of_cfsctl() {
    if Command::new("cfsctl").arg("--version").output().is_err() {
        eprintln!("skipped: cfsctl is not on PATH");
        return;
    }
    for policy in policies().iter().map(Some).chain([None]) {
        let root = tempfile::tempdir().unwrap();
        make_root(root.path(), policy.map(|path| path.as_path()));

        let store = tempfile::tempdir().unwrap();
        Repository::init(store.path(), Algorithm::Sha512, Verity::Unverified).unwrap();
        let repository = Repository::open(store.path()).unwrap();
        let files = root.path().join("etc/selinux/ours/contexts/files");
        for entry in fs::read_dir(files).into_iter().flatten() {
            repository.put_object(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        }

        let mut tree = dumpfile::parse(&cfsctl(&["create-dumpfile"], root.path())).unwrap();
        transform_for_boot(&repository, &mut tree, &BootOptions { copy_nanoseconds: true }).unwrap();
        let mut ours = Vec::new();
        dumpfile::write(&tree, &mut ours).unwrap();
        let theirs = cfsctl(&["create-dumpfile", "--bootable"], root.path());
        let mut theirs_again = Vec::new();
        dumpfile::write(&dumpfile::parse(&theirs).unwrap(), &mut theirs_again).unwrap();
        for (ours, theirs) in std::iter::zip(lines(&ours), lines(&theirs_again)) {
            assert_eq!(ours, theirs);
        }

        let labels = lines(&ours).iter().filter(|line| line.contains("security.selinux=")).count();
        assert!(if policy.is_some() { labels > 2000 } else { labels == 0 }, "{labels} labels");
        let id = String::from_utf8(cfsctl(&["compute-id", "--bootable"], root.path())).unwrap();
        let image = erofs::write(&tree, Format::V1).unwrap();
        assert_eq!(fsverity::digest(Algorithm::Sha512, &image), id.trim().parse::<Digest>().unwrap());
    }
}
