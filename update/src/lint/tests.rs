use std::io::{Cursor, Read};

use osupdate_core::boot::{BootOptions, transform_for_boot};
use osupdate_core::erofs::{self, Format};
use osupdate_core::oci::LooseDirectory;
use osupdate_core::repository::{ObjectError, OpenContent};
use osupdate_core::transform::{XattrFilter, transform_for_oci};
use osupdate_core::tree::{Content, Directory, Entry, Leaf, LeafKind, Stat, Tree};
use osupdate_core::{Algorithm, fsverity};
use osupdate_efi::pe::fake::pe;

use super::*;

/// Contents in the tree itself.
struct InTree;

impl OpenContent for InTree {
    fn open_content<'a>(&self, content: &'a Content) -> Result<Box<dyn Read + Send + 'a>, ObjectError> {
        match content {
            Content::Inline(bytes) => Ok(Box::new(Cursor::new(&bytes[..]))),
            Content::External { .. } => Err(ObjectError::Stub),
        }
    }
}

fn put(tree: &mut Tree, path: &[u8], stat: Stat, kind: Option<LeafKind>) {
    let mut directory = &mut tree.root;
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let (name, parents) = names.split_last().unwrap();
    for parent in parents {
        let made =
            || Entry::Directory(Directory { stat: Stat { mode: 0o755, ..Stat::default() }, ..Directory::default() });
        let Entry::Directory(child) = directory.entries.entry((*parent).into()).or_insert_with(made) else { panic!() };
        directory = child;
    }
    let entry = match kind {
        Some(kind) => {
            tree.leaves.push(Leaf::new(stat, kind));
            Entry::Leaf(osupdate_core::tree::LeafId(tree.leaves.len() - 1))
        }
        None => Entry::Directory(Directory { stat, ..Directory::default() }),
    };
    directory.entries.insert((*name).into(), entry);
}

fn mode(mode: u16) -> Stat {
    Stat { mode, ..Stat::default() }
}

fn regular(contents: impl AsRef<[u8]>) -> Option<LeafKind> {
    Some(LeafKind::Regular(Content::Inline(contents.as_ref().into())))
}

fn initramfs(file: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for name in [file, "TRAILER!!!"] {
        out.extend(format!("070701{:088x}{:08x}{:08x}", 0, name.len() + 1, 0).bytes());
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// An image with which nothing is wrong.
fn good() -> Tree {
    let mut tree = Tree::default();
    for directory in ["boot", "dev", "etc", "proc", "run", "sys", "sysroot", "usr", "var"] {
        put(&mut tree, directory.as_bytes(), mode(0o755), None);
    }
    put(&mut tree, b"tmp", mode(0o1777), None);
    for (path, contents) in [
        ("usr/lib/os-release", "ID=test\n"),
        ("usr/lib/modules/6.1/vmlinuz", "kernel"),
        ("usr/lib/systemd/boot/efi/systemd-bootx64.efi", "loader"),
        ("etc/machine-id", ""),
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nsystemd-network:x:998:998::/:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\nusers:x:100:\nsystemd-network:x:998:\nnogroup:x:65534:\n"),
        ("etc/shadow", "root:*:1:0:99999:7:::\ndaemon:!:::::::\n"),
        ("etc/fstab", "# nothing here\nUUID=1 /home ext4 defaults 0 0\n"),
        ("usr/lib/sysusers.d/network.conf", "# users\ng users 100\nu! systemd-network 998 \"Network\"\n"),
        (
            "usr/lib/tmpfiles.d/var.conf",
            "d /var/cache 0755\nf /var/log/wtmp 0664\nL /var/lib/db - - - - ../../usr/lib/db\n",
        ),
        ("var/log/wtmp", ""),
        ("usr/lib/bootc/kargs.d/10.toml", "kargs = [\"quiet\"]\n"),
    ] {
        put(&mut tree, path.as_bytes(), mode(0o644), regular(contents));
    }
    put(
        &mut tree,
        b"usr/lib/modules/6.1/initramfs.img",
        mode(0o600),
        regular(initramfs("usr/lib/osupdate/osupdate-setup-root")),
    );
    put(&mut tree, b"usr/bin/su", mode(0o4755), regular("su"));
    put(&mut tree, b"var/cache", mode(0o755), None);
    put(&mut tree, b"var/lib/db", mode(0o777), Some(LeafKind::Symlink(b"../../usr/lib/db"[..].into())));
    put(&mut tree, b"run/secrets", mode(0o755), None);
    tree
}

/// Adds a UKI with this command line, in which DIGEST stands for the digest of what is booted.
fn add_uki(tree: &mut Tree, path: &str, line: &str) {
    add_uki_with_stub(tree, path, line, "systemd-stub 257.13-1");
}

fn add_uki_with_stub(tree: &mut Tree, path: &str, line: &str, stub: &str) {
    let mut booted = tree.clone();
    transform_for_oci(&mut booted, XattrFilter::AllowlistOnly).unwrap();
    transform_for_boot(&InTree, &mut booted, &BootOptions::default()).unwrap();
    let digest = fsverity::digest(Algorithm::Sha512, &erofs::write(&booted, Format::V1).unwrap());
    let line = line.replace("DIGEST", &format!("composefs.digest=v1-sha512-12:{digest}"));
    let stub = format!("#### LoaderInfo: {stub} ####");
    let uki = pe(&[(".sdmagic", stub.as_bytes()), (".linux", b"kernel"), (".cmdline", line.as_bytes())]);
    put(tree, path.as_bytes(), mode(0o644), regular(uki));
}

fn remove(tree: &mut Tree, path: &str) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut directory = &mut tree.root;
    for part in parent.split('/').filter(|part| !part.is_empty()) {
        let Some(Entry::Directory(child)) = directory.entries.get_mut(part.as_bytes()) else { panic!("{path}") };
        directory = child;
    }
    assert!(directory.entries.remove(name.as_bytes()).is_some(), "{path}");
}

fn look(tree: &Tree, loose: &[LooseDirectory]) -> Vec<Finding> {
    check(&Image { tree, files: &InTree, loose }).unwrap()
}

/// Name, path and detail of what is found in a good image that was changed.
fn found(change: impl FnOnce(&mut Tree)) -> Vec<(&'static str, String, String)> {
    let mut tree = good();
    change(&mut tree);
    let findings = look(&tree, &[]).into_iter();
    findings.map(|finding| (finding.lint.name, finding.path.unwrap_or_default(), finding.detail)).collect()
}

/// Asserts that just one thing is found, and returns its detail.
#[track_caller]
fn only(name: &str, path: &str, change: impl FnOnce(&mut Tree)) -> String {
    let found = found(change);
    assert_eq!(
        found.iter().map(|(name, path, _)| (*name, path.as_str())).collect::<Vec<_>>(),
        [(name, path)],
        "{found:?}"
    );
    found.into_iter().next().unwrap().2
}

#[track_caller]
fn file(name: &str, path: &str, contents: &str) -> String {
    only(name, &format!("/{path}"), |tree| put(tree, path.as_bytes(), mode(0o644), regular(contents)))
}

#[test]
fn a_good_image_has_nothing() {
    assert_eq!(found(|_| ()), []);
}

#[test]
fn directories_must_be_there() {
    for name in ["dev", "proc", "sys", "sysroot", "tmp"] {
        assert_eq!(only("directory-missing", &format!("/{name}"), |tree| remove(tree, name)), "is not there");
    }
    let link = |target: &[u8]| Some(LeafKind::Symlink(target.into()));
    let detail = only("directory-missing", "/sysroot", |tree| put(tree, b"sysroot", mode(0o777), link(b"x")));
    assert_eq!(detail, "is a symbolic link, not a directory");
    assert_eq!(found(|tree| put(tree, b"tmp", mode(0o777), link(b"var/tmp"))), []);
}

#[test]
fn there_is_one_kernel_with_an_initramfs() {
    let detail = only("kernel-missing", "", |tree| remove(tree, "usr/lib/modules/6.1/vmlinuz"));
    assert!(detail.contains("/usr/lib/modules/<version>/vmlinuz"), "{detail}");
    // That of the UKI will do.
    let sealed = |tree: &mut Tree| {
        remove(tree, "usr/lib/modules/6.1");
        add_uki(tree, "boot/EFI/Linux/os.efi", "DIGEST rw");
    };
    assert_eq!(found(sealed), []);
    only("initramfs-missing", "/usr/lib/modules/6.1/initramfs.img", |tree| {
        remove(tree, "usr/lib/modules/6.1/initramfs.img");
    });
    let detail = only("kernel-several", "/usr/lib/modules", |tree| {
        put(tree, b"usr/lib/modules/6.2/vmlinuz", mode(0o644), regular("x"));
        put(tree, b"usr/lib/modules/6.2/initramfs.img", mode(0o644), regular("\x07not looked into"));
    });
    assert_eq!(detail, "has kernels for 6.1, 6.2");
    only("initramfs-setup-root", "/usr/lib/modules/6.1/initramfs.img", |tree| {
        put(tree, b"usr/lib/modules/6.1/initramfs.img", mode(0o600), regular(initramfs("usr/bin/init")));
    });
    // What cannot be looked into is not judged.
    let xz = |tree: &mut Tree| put(tree, b"usr/lib/modules/6.1/initramfs.img", mode(0o600), regular(b"\xfd7zXZ\0 and"));
    assert_eq!(found(xz), []);
}

#[test]
fn the_system_must_start_and_be_installed() {
    only("os-release-missing", "/usr/lib/os-release", |tree| remove(tree, "usr/lib/os-release"));
    only("boot-loader-missing", "/usr/lib/systemd/boot/efi", |tree| remove(tree, "usr/lib/systemd/boot/efi"));
    assert_eq!(file("fstab-root", "etc/fstab", "#x / y\nUUID=1 / ext4 defaults 0 1\n"), "mounts UUID=1 on /");
    let path = "usr/lib/bootc/kargs.d/10.toml";
    file("kernel-arguments", path, "kargs = 3\n");
    let detail = file("kernel-arguments", path, "kargs = [\"composefs=00\"]\n");
    assert!(detail.contains("composefs argument"), "{detail}");
}

#[test]
fn what_makes_machines_different_is_not_in_the_image() {
    only("machine-id-missing", "/etc/machine-id", |tree| remove(tree, "etc/machine-id"));
    file("machine-id-set", "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    assert_eq!(found(|tree| put(tree, b"etc/machine-id", mode(0o444), regular("uninitialized\n"))), []);
    file("builder-leftover", "etc/resolv.conf", "");
    assert_eq!(found(|tree| put(tree, b"etc/hosts", mode(0o644), regular("127.0.0.1 localhost\n"))), []);
    file("ssh-host-key", "etc/ssh/ssh_host_rsa_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    assert_eq!(found(|tree| put(tree, b"etc/ssh/ssh_host_rsa_key.pub", mode(0o644), regular("ssh-rsa A"))), []);
}

#[test]
fn secrets_are_found_by_place_and_by_contents() {
    assert_eq!(file("secret", "etc/osupdate/auth.json", "{}"), "a login to a registry");
    assert_eq!(file("secret", "root/.netrc", "machine a"), "passwords");
    for key in ["PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"] {
        let pem = format!("a comment\n-----BEGIN {key}-----\nMII\n");
        assert_eq!(file("secret", "etc/ssl/private/a.pem", &pem), "a private key");
    }
    for public in ["-----BEGIN CERTIFICATE-----\nMII\n", "how to write -----BEGIN PRIVATE KEY-----", ""] {
        assert_eq!(found(|tree| put(tree, b"etc/ssl/a.pem", mode(0o644), regular(public))), []);
    }
    // An example.
    let key = regular("-----BEGIN PRIVATE KEY-----\n");
    assert_eq!(found(|tree| put(tree, b"usr/share/doc/x/key.pem", mode(0o644), key)), []);
}

#[test]
fn accounts_are_declared_and_have_passwords() {
    assert_eq!(file("empty-password", "etc/shadow", "root::1:0:99999:7:::\n"), "root has no password");
    let detail = file("account-not-declared", "etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:150:150::/:/bin/sh\n");
    assert_eq!(detail, "user app, 150");
    assert_eq!(file("account-not-declared", "etc/group", "root:x:0:\napp:x:150:\n"), "group app, 150");
    // Of a file with the same name, the one in /etc counts.
    let found = found(|tree| put(tree, b"etc/sysusers.d/network.conf", mode(0o644), regular("u app 150\n")));
    let details: Vec<&str> = found.iter().map(|(_, _, detail)| detail.as_str()).collect();
    assert_eq!(details, ["group users, 100", "user systemd-network, 998"]);
}

#[test]
fn privileges_are_usual() {
    let program = |path: &'static str, bits: u16| {
        move |tree: &mut Tree| put(tree, path.as_bytes(), mode(bits), regular("program"))
    };
    assert_eq!(only("set-id-unusual", "/usr/bin/own", program("usr/bin/own", 0o4755)), "set-uid, user 0");
    assert_eq!(only("set-id-unusual", "/usr/bin/own", program("usr/bin/own", 0o2755)), "set-gid, group 0");
    only("set-id-unusual", "/opt/su", program("opt/su", 0o4755));
    only("set-id-unusual", "/usr/local/bin/su", program("usr/local/bin/su", 0o4755));
    assert_eq!(found(program("usr/bin/sudo", 0o4755)), []);
    // Mandatory locking, once.
    assert_eq!(found(program("usr/bin/own", 0o2644)), []);
    only("privileged-writable", "/usr/bin/su", program("usr/bin/su", 0o4757));
    only("privileged-writable", "/usr/bin/su", |tree| {
        put(tree, b"usr/bin/su", Stat { mode: 0o4775, gid: 50, ..Stat::default() }, regular("su"));
    });
    assert_eq!(found(program("usr/bin/su", 0o4775)), []);
    let capable = |path: &'static str| {
        move |tree: &mut Tree| {
            let xattrs = [(b"security.capability"[..].into(), b"x"[..].into())].into();
            put(tree, path.as_bytes(), Stat { mode: 0o755, xattrs, ..Stat::default() }, regular("program"));
        }
    };
    only("capability-unusual", "/usr/bin/own", capable("usr/bin/own"));
    assert_eq!(found(capable("usr/bin/ping")), []);
    only("world-writable", "/etc/app.conf", program("etc/app.conf", 0o666));
    only("world-writable", "/srv", |tree| put(tree, b"srv", mode(0o777), None));
    assert_eq!(found(|tree| put(tree, b"srv", mode(0o1777), None)), []);
    assert_eq!(found(program("usr/lib/data", 0o666)), []);
    let node = |device: u32| Some(LeafKind::CharDevice(device));
    only("device-node", "/etc/null", |tree| put(tree, b"etc/null", mode(0o666), node(259)));
    assert_eq!(found(|tree| put(tree, b"etc/gone", mode(0), node(0))), []);
    assert_eq!(found(|tree| put(tree, b"dev/null", mode(0o666), node(259))), []);
}

#[test]
fn an_image_has_nothing_where_others_write() {
    let put_file = |path: &'static str| move |tree: &mut Tree| put(tree, path.as_bytes(), mode(0o644), regular("x"));
    assert_eq!(only("boot-content", "/boot/grub", put_file("boot/grub/a/b")), "a directory with 1 file");
    assert_eq!(only("boot-content", "/boot/vmlinuz-6.1", put_file("boot/vmlinuz-6.1")), "a file");
    only("boot-content", "/boot/EFI/BOOT", put_file("boot/EFI/BOOT/BOOTX64.EFI"));
    only("run-content", "/run/app/pid", put_file("run/app/pid"));
    let place_of_a_mount = b"run/systemd/resolve/stub-resolv.conf";
    assert_eq!(found(|tree| put(tree, place_of_a_mount, mode(0o644), regular(""))), []);
    only("tmp-content", "/tmp/left", put_file("tmp/left"));
    only("tmp-content", "/var/tmp/left", put_file("var/tmp/left"));
    assert_eq!(found(put_file("run/.containerenv")), []);
    let made = "a directory with 1 file that no tmpfiles.d file makes";
    assert_eq!(only("var-content", "/var/lib/app", put_file("var/lib/app/a/b")), made);
    only("var-content", "/var/lib/file", put_file("var/lib/file"));
    only("log-file", "/var/log/build.log", put_file("var/log/build.log"));
    only("log-file", "/var/log/wtmp", put_file("var/log/wtmp"));
    let names: Vec<_> =
        found(put_file("var/log/apt/term.log")).into_iter().map(|(name, path, _)| (name, path)).collect();
    assert_eq!(names, [("var-content", "/var/log/apt".to_owned()), ("log-file", "/var/log/apt/term.log".to_owned())]);
    only("var-content", "/var/lib/app", |tree| put(tree, b"var/lib/app", mode(0o755), None));
}

#[test]
fn a_uki_is_for_the_image_that_it_is_in() {
    let path = "boot/EFI/Linux/os.efi";
    let addon = |tree: &mut Tree| {
        add_uki(tree, path, "DIGEST rw");
        put(tree, b"boot/EFI/Linux/os.efi.extra.d/console.addon.efi", mode(0o644), regular("addon"));
    };
    assert_eq!(found(addon), []);
    let detail = only("uki-digest", "/boot/EFI/Linux/os.efi", |tree| {
        add_uki(tree, path, "DIGEST rw");
        put(tree, b"etc/later", mode(0o644), regular("x"));
    });
    assert!(detail.starts_with("it is for ") && detail.contains(", and the image is "), "{detail}");
    only("uki-unsealed", "/boot/EFI/Linux/os.efi", |tree| add_uki(tree, path, "root=UUID=1 rw"));
    only("uki-damaged", "/boot/EFI/Linux/os.efi", |tree| add_uki(tree, path, "composefs.digest=nonsense"));
    only("uki-damaged", "/boot/EFI/Linux/os.efi", |tree| {
        put(tree, path.as_bytes(), mode(0o644), regular("no program"))
    });
    let detail = only("uki-several", "/boot/EFI/Linux/os.efi", |tree| {
        add_uki(tree, path, "DIGEST rw");
        add_uki(tree, "boot/EFI/Linux/other.efi", "DIGEST ro");
    });
    assert_eq!(detail, "there are 2 that name images");
    let detail = only("uki-stub", "/boot/EFI/Linux/os.efi", |tree| {
        add_uki_with_stub(tree, path, "DIGEST rw", "systemd-stub 262-1");
    });
    assert_eq!(detail, "its boot stub is systemd-stub 262-1");
    // That of a distribution, beside its kernel.
    assert_eq!(found(|tree| add_uki(tree, "usr/lib/modules/6.1/distribution.efi", "quiet")), []);
}

#[test]
fn labels_are_complete_where_there_is_a_policy() {
    let policy = |contexts: &'static str| {
        move |tree: &mut Tree| {
            put(tree, b"etc/selinux/config", mode(0o644), regular("SELINUXTYPE=targeted\n"));
            let path = b"etc/selinux/targeted/contexts/files/file_contexts";
            put(tree, path, mode(0o644), regular(contexts));
        }
    };
    assert_eq!(found(policy("/.*\tsystem_u:object_r:root_t:s0\n/\tsystem_u:object_r:root_t:s0\n")), []);
    let rules =
        "/\tsystem_u:object_r:root_t:s0\n/.*\tsystem_u:object_r:root_t:s0\n/usr/bin/su\t<<none>>\n/proc/.*\t<<none>>\n";
    only("selinux-unlabelled", "/usr/bin/su", policy(rules));
    let detail = only("selinux-policy", "/etc/selinux/targeted", policy("/a(\tsystem_u:object_r:root_t:s0\n"));
    assert!(detail.contains("file_contexts:1"), "{detail}");
}

#[test]
fn digests_do_not_depend_on_who_computes_them() {
    let loose = |is_described| LooseDirectory {
        path: b"usr/lib"[..].into(),
        layer: 1,
        entry: b"file"[..].into(),
        is_described,
    };
    for (is_described, name) in [(true, "directory-time-open"), (false, "directory-without-entry")] {
        let [finding] = &look(&good(), &[loose(is_described)])[..] else { panic!() };
        assert_eq!((finding.lint.name, finding.path.as_deref()), (name, Some("/usr/lib")));
        assert_eq!(finding.detail, "layer 2 has file in it");
    }
    only("name-not-utf8", "/usr/caf\\xe9", |tree| put(tree, b"usr/caf\xe9", mode(0o644), regular("x")));
    assert_eq!(found(|tree| put(tree, "usr/café".as_bytes(), mode(0o644), regular("x"))), []);
}

#[test]
fn findings_are_silenced_by_name_and_by_path() {
    let finding = |lint, path: Option<&str>| Finding { lint, path: path.map(str::to_owned), detail: String::new() };
    let silences = |allow: &str, finding: &Finding| allow.parse::<Allow>().unwrap().silences(finding);
    let var = finding(by_name("var-content").unwrap(), Some("/var/lib/a"));
    for allow in
        ["var-content", "var-content:/var/lib/a", "var-content:/var/lib", "var-content: /var/", "var-content:/"]
    {
        assert!(silences(allow, &var), "{allow}");
    }
    for allow in ["log-file", "var-content:/var/lib/a/b", "var-content:/var/li", "var-content:/etc"] {
        assert!(!silences(allow, &var), "{allow}");
    }
    assert!(!silences("kernel-missing:/usr", &finding(by_name("kernel-missing").unwrap(), None)));
    let error = |text: &str| text.parse::<Allow>().unwrap_err().to_string();
    assert_eq!(error("var-contents"), "there is no finding \"var-contents\", perhaps var-content is meant");
    assert_eq!(error("?"), "there is no finding \"?\", osupdate image lint --list has all");
    assert_eq!(error("var-content:var"), "\"var\" is not an absolute path");
}

#[test]
fn an_image_says_what_is_meant() {
    let mut tree = good();
    let list = "# the cache is filled when the image is built\nvar-content:/var/cache/app # on purpose\n\nnonsense\n";
    put(&mut tree, ALLOW_FILE.as_bytes(), mode(0o644), regular(list));
    let AllowList { allowed, wrong } = AllowList::of_image(&InTree, &tree).unwrap();
    assert_eq!(allowed, ["var-content:/var/cache/app".parse().unwrap()]);
    let wrong: Vec<_> = wrong.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(wrong, ["nonsense"]);
}

#[test]
fn names_are_in_kebab_case_and_there_once() {
    for (number, lint) in LINTS.iter().enumerate() {
        assert!(lint.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
        assert_eq!(LINTS.iter().position(|other| other.name == lint.name), Some(number));
        assert!(!lint.reason.ends_with('.') && !lint.fix.ends_with('.'), "{}", lint.name);
    }
}
