//! The files of a small OS in a directory, in which nothing is wrong.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use osupdate_efi::pe::fake::pe;

/// An initramfs with one empty file in it.
pub(crate) fn initramfs(file: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for name in [file, "TRAILER!!!"] {
        out.extend(format!("070701{:088x}{:08x}{:08x}", 0, name.len() + 1, 0).bytes());
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// Makes the directory. Kernel and boot stub are programs of which nothing runs.
pub(crate) fn make(root: &Path) {
    let kernel = pe(&[(".text", b"a kernel")]);
    let stub = pe(&[(".text", b"a stub"), (".sbat", b"sbat,1,SBAT Version,sbat,1,https://example.com\n")]);
    for directory in ["boot", "dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "usr", "var"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    for (path, contents) in [
        ("usr/lib/os-release", &b"ID=test\nVERSION_ID=1\n"[..]),
        ("usr/lib/modules/6.1/vmlinuz", &kernel),
        ("usr/lib/modules/6.1/initramfs.img", &initramfs("usr/lib/osupdate/osupdate-setup-root")),
        ("usr/lib/systemd/boot/efi/systemd-bootx64.efi", b"a boot loader"),
        ("usr/lib/systemd/boot/efi/linuxx64.efi.stub", &stub),
        ("usr/share/large", &[7; 10_000]),
        ("etc/machine-id", b""),
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
}
