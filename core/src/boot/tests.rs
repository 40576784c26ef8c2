use super::*;
use crate::digest::Algorithm;
use crate::repository::{Repository, Verity};
use crate::tree::{Directory, Leaf, LeafKind, Stat};

/// A tree of files (`path`, contents), symlinks (`path`, `-> target`) and directories (`path/`, nothing).
fn tree(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (path, contents) in files {
        let kind = match contents.strip_prefix("-> ") {
            Some(target) => LeafKind::Symlink(target.as_bytes().into()),
            None => LeafKind::Regular(Content::Inline(contents.as_bytes().into())),
        };
        let (parents, name) = path.rsplit_once('/').unwrap();
        let mut directory = &mut tree.root;
        for parent in parents.split('/') {
            let entry = directory.entries.entry(parent.as_bytes().into());
            let Entry::Directory(child) = entry.or_insert_with(|| Entry::Directory(Directory::default())) else {
                panic!("{parent} is a file")
            };
            directory = child;
        }
        if !name.is_empty() {
            let xattrs = [(b"security.selinux"[..].into(), b"label"[..].into())].into();
            directory.entries.insert(name.as_bytes().into(), Entry::Leaf(crate::tree::LeafId(tree.leaves.len())));
            tree.leaves.push(Leaf::new(Stat { xattrs, ..Stat::default() }, kind));
        }
    }
    tree
}

fn repository() -> (tempfile::TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path(), Algorithm::Sha256, Verity::Unverified).unwrap();
    let repository = Repository::open(dir.path()).unwrap();
    (dir, repository)
}

fn inline(bytes: &str) -> Content {
    Content::Inline(bytes.as_bytes().into())
}

#[test]
fn the_only_kernel_is_found() {
    let found = find_kernel(&tree(&[
        ("usr/lib/modules/6.12.1/vmlinuz", "kernel"),
        ("usr/lib/modules/6.12.1/initramfs.img", "-> /usr/lib/initramfs"),
        ("usr/lib/initramfs", "init"),
        ("usr/lib/modules/extra/module.ko", "no kernel here"),
        ("usr/lib/modules/file", "not a directory"),
    ]));
    let kernel = Kernel { version: "6.12.1".into(), vmlinuz: inline("kernel"), initramfs: inline("init") };
    assert_eq!(found.unwrap(), kernel);
}

#[test]
fn ukis_are_found_where_the_specification_has_them_with_their_addons() {
    let found = find_ukis(&tree(&[
        ("boot/EFI/Linux/os.efi", "one"),
        ("boot/EFI/Linux/os.efi.extra.d/b.addon.efi", "addon"),
        ("boot/EFI/Linux/os.efi.extra.d/machine.cred", "no addon"),
        ("boot/EFI/Linux/vendor/OTHER.EFI", "two"),
        ("boot/EFI/Linux/readme.txt", "none"),
        ("boot/EFI/BOOT/BOOTX64.EFI", "a loader"),
        ("usr/lib/modules/6.12/vmlinuz-virt.efi", "-> /usr/lib/uki"),
        ("usr/lib/uki", "three"),
        ("usr/lib/modules/6.12/extra/deep.efi", "not looked at"),
        ("usr/lib/modules/6.12/dangling.efi", "-> /nowhere"),
        ("usr/lib/modules/6.12/x.addon.efi", "an addon"),
    ]));
    let short: Vec<_> = found.iter().map(|uki| (uki.path.as_str(), uki.addons.len(), uki.is_in_boot_form())).collect();
    assert_eq!(
        short,
        [
            ("boot/EFI/Linux/os.efi", 1, false),
            ("boot/EFI/Linux/vendor/OTHER.EFI", 0, false),
            ("usr/lib/modules/6.12/vmlinuz-virt.efi", 0, true),
        ]
    );
    assert_eq!(found[0].addons, [("b.addon.efi".to_owned(), inline("addon"))]);
    assert_eq!(found[2].content, inline("three"));
    assert_eq!(find_ukis(&tree(&[])), []);
}

#[test]
fn other_numbers_of_kernels_are_errors_that_say_what_is_needed() {
    let message = |files: &[(&str, &str)]| find_kernel(&tree(files)).unwrap_err().to_string();
    let none = "the image has no kernel; a bootable image has one as /usr/lib/modules/<version>/vmlinuz";
    assert_eq!(message(&[]), none);
    assert_eq!(message(&[("usr/lib/modules/6.1/initramfs.img", "x")]), none);
    assert_eq!(
        message(&[("usr/lib/modules/6.1/vmlinuz", "x"), ("usr/lib/modules/6.2/vmlinuz", "x")]),
        "the image has several kernels (6.1, 6.2); a bootable image has one in /usr/lib/modules"
    );
    let no_initramfs = message(&[("usr/lib/modules/6.1/vmlinuz", "x")]);
    assert!(no_initramfs.starts_with("the image has no /usr/lib/modules/6.1/initramfs.img,"), "{no_initramfs}");
}

#[test]
fn boot_form_has_empty_mount_points_with_the_time_of_usr() {
    let (_dir, repository) = repository();
    let original = || {
        let mut tree = tree(&[("boot/vmlinuz", "x"), ("sysroot/", ""), ("usr/bin/sh", "sh")]);
        let Some(Entry::Directory(usr)) = tree.root.entries.get_mut(&b"usr"[..]) else { panic!() };
        (usr.stat.mtime_secs, usr.stat.mtime_nanos) = (5, 6);
        let Some(Entry::Directory(boot)) = tree.root.entries.get_mut(&b"boot"[..]) else { panic!() };
        (boot.stat.mtime_secs, boot.stat.mtime_nanos, boot.stat.mode) = (1, 2, 0o700);
        tree
    };
    let mut tree = original();
    transform_for_boot(&repository, &mut tree, &BootOptions::default()).unwrap();
    let boot = tree.directory("boot").unwrap();
    assert!(boot.entries.is_empty());
    assert_eq!((boot.stat.mtime_secs, boot.stat.mtime_nanos, boot.stat.mode), (5, 6, 0o700));
    assert_eq!(tree.directory("sysroot").unwrap().stat.mtime_secs, 5);
    assert_eq!(tree.leaves.len(), 1);
    assert!(tree.leaves[0].stat.xattrs.is_empty());

    let mut tree = original();
    transform_for_boot(&repository, &mut tree, &BootOptions { copy_nanoseconds: false }).unwrap();
    let boot = tree.directory("boot").unwrap();
    assert_eq!((boot.stat.mtime_secs, boot.stat.mtime_nanos), (5, 2));
}

#[test]
fn mount_points_must_be_there() {
    let (_dir, repository) = repository();
    let message = |files: &[(&str, &str)]| {
        let error = transform_for_boot(&repository, &mut tree(files), &BootOptions::default()).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        message(&[("boot/", ""), ("usr/x", "")]),
        "the image has no directory /sysroot, which an OS image needs"
    );
    assert!(message(&[("usr/x", ""), ("sysroot/", "")]).contains("/boot"));
}

/// The labels of `/usr/x`, and what went wrong, with this `/etc/selinux/config`, policy and `file_contexts`.
fn labelled(config: &str, policy: &str, rules: &str) -> Result<Option<String>, BootError> {
    let (_dir, repository) = repository();
    let file = format!("etc/selinux/{policy}/contexts/files/file_contexts");
    let files = [("boot/", ""), ("sysroot/", ""), ("usr/x", ""), ("etc/selinux/config", config), (&file, rules)];
    let mut tree = tree(&files);
    transform_for_boot(&repository, &mut tree, &BootOptions::default())?;
    let Some(Entry::Leaf(id)) = tree.lookup("usr/x") else { panic!() };
    let label = tree.leaf(*id).stat.xattrs.get(LABEL_XATTR);
    Ok(label.map(|label| String::from_utf8(label.to_vec()).unwrap()))
}

#[test]
fn files_are_labelled_by_the_policy_of_the_image() {
    let config = "# SELINUXTYPE=mls\nSELINUX=enforcing\nselinuxtype = targeted\nSELINUXTYPE=mls\n";
    assert_eq!(labelled(config, "targeted", "/usr/.* usr_t\n").unwrap().as_deref(), Some("usr_t"));
    assert_eq!(labelled(config, "targeted", "/other usr_t\n").unwrap(), None);
}

#[test]
fn without_a_policy_there_are_no_labels() {
    for (config, policy) in [
        ("SELINUXTYPE=targeted\n", "other"),
        ("SELINUX=disabled\n", "targeted"),
        ("SELINUXTYPE=\n", "targeted"),
        ("SELINUXTYPE=..\n", "targeted"),
    ] {
        assert_eq!(labelled(config, policy, "/usr/.* usr_t\n").unwrap(), None, "{config}");
    }
}

#[test]
fn a_policy_that_is_wrong_is_named() {
    let error = labelled("SELINUXTYPE=targeted\n", "targeted", "/usr usr_t\n/(usr usr_t\n").unwrap_err();
    assert_eq!(error.to_string(), "cannot label files by the SELinux policy \"targeted\" of the image");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "file_contexts:2: pattern \"/(usr\" is not a regular expression");
    let (_dir, repository) = repository();
    let files = [
        ("boot/", ""),
        ("sysroot/", ""),
        ("usr/x", ""),
        ("etc/selinux/config", "SELINUXTYPE=t\n"),
        ("etc/selinux/t/contexts/files/", ""),
    ];
    let error = transform_for_boot(&repository, &mut tree(&files), &BootOptions::default()).unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the SELinux policy has no file_contexts");
}

#[test]
fn os_release_is_found_through_links_and_in_objects() {
    let (_dir, repository) = repository();
    let text = "PRETTY_NAME=\"A name\"\nVERSION_ID=13\n";
    let linked = tree(&[
        ("etc/os-release", "-> ../usr/lib/os-release"),
        ("usr/lib/os-release", "-> ./os.d/os-release-a"),
        ("usr/lib/os.d/os-release-a", text),
    ]);
    let release = os_release(&repository, &linked).unwrap();
    assert_eq!((release.title(), release.version()), (Some("A name"), Some("13")));

    let mut stored = tree(&[("usr/lib/os-release", "")]);
    let object = repository.put_object(text.as_bytes()).unwrap();
    stored.leaves[0].kind = LeafKind::Regular(Content::object(object.digest, object.size_bytes));
    assert_eq!(os_release(&repository, &stored).unwrap().title(), Some("A name"));
    assert_eq!(os_release(&repository, &tree(&[("usr/x", "")])).unwrap(), OsRelease::default());
}
