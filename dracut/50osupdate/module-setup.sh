#!/bin/bash
# Puts osupdate-setup-root into an initramfs: it verifies the image named on the kernel command line and mounts it as the
# root. Included in every initramfs that is built where osupdate is installed.

check() {
    require_binaries /usr/lib/osupdate/osupdate-setup-root || return 1
    return 0
}

depends() {
    echo systemd systemd-initrd
}

# The file systems are named here, not left to the machine that builds: an image is built in a container, where nothing
# is mounted that dracut could learn from. efivarfs lets systemd find the root partition by the loader's disk.
installkernel() {
    hostonly='' instmods erofs overlay loop ext4 btrfs efivarfs
}

install() {
    inst_simple /usr/lib/osupdate/osupdate-setup-root
    inst_simple "$systemdsystemunitdir/osupdate-setup-root.service"
    # Required, not wanted: a root that cannot be verified must stop the boot.
    $SYSTEMCTL -q --root "$initdir" add-requires initrd-root-fs.target osupdate-setup-root.service
    inst_multiple -o /usr/lib/composefs/setup-root-conf.toml
}
