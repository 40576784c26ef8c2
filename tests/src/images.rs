//! The OS images that machines boot: the example of `examples/bls` in two versions, with the agent added.
//!
//! They are built once and kept in the cache under a key made of everything that goes into them, so that a second run of
//! the tests, and every test of a run, finds them there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::machine::{REGISTRY_IN_GUEST, SIGNATURES_IN_GUEST};
use crate::secure_boot::{Keys, Role};
use crate::signing::SigningKey;
use crate::{initrd, layout, tool, uki};

/// Changes when [`Images`] keeps something that it did not keep before.
const LAYOUT: &str = "3";

/// The date of all files in the images.
const IMAGE_SECS: u64 = 1_735_689_600;
/// Where images have systemd-boot and stubs.
const PROGRAMS: &str = "usr/lib/systemd/boot/efi";
/// The loader that is installed.
const SIGNED_LOADER: &str = "systemd-bootx64.efi.signed";

/// Where the built images are.
#[derive(Debug)]
pub struct Images {
    directory: PathBuf,
    key: SigningKey,
    keys: Keys,
}

impl Images {
    /// Finds the images in the cache, or builds them; `say` is told what takes long.
    pub fn get(say: &dyn Fn(&str)) -> Result<Self> {
        let top = top();
        fs::create_dir_all(cache()).with_context(|| format!("making {}", cache().display()))?;
        let log = cache().join("build.log");
        fs::write(&log, "").with_context(|| format!("writing {}", log.display()))?;
        say(&format!("building osupdate, release mode (what is said meanwhile goes to {})", log.display()));
        tool::run_logged(Command::new("make").args(["--silent", "-C"]).arg(&top).arg("build"), &log)?;
        tool::run_logged(
            Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--release", "-p", "osupdate-tests", "--bin", "osupdate-test-agent"])
                .current_dir(&top),
            &log,
        )?;
        let context = tempfile::tempdir().context("making a directory for the image's files")?;
        let root = context.path().join("agent");
        let bin = root.join("usr/lib/osupdate-test");
        let units = root.join("usr/lib/systemd/system");
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(&units)?;
        fs::copy(target().join("release/osupdate-test-agent"), bin.join("agent"))?;
        fs::copy(top.join("tests/image/osupdate-test-agent.service"), units.join("osupdate-test-agent.service"))?;
        let signing_key = SigningKey::get(&cache().join("key"), "Makers of the test image <os@example.com>")?;
        let trust = context.path().join("trust");
        write_trust(&trust, &signing_key)?;
        let keys = Keys::get(&cache().join("secure-boot"))?;
        // Everything that goes into an image is either here, or is put there by `make install`.
        let installed = context.path().join("installed");
        tool::run(
            Command::new("make")
                .args(["--silent", "-C"])
                .arg(&top)
                .arg("install")
                .arg(format!("DESTDIR={}", installed.display())),
        )?;
        let key = digest_of(&[
            &top.join("examples/bls"),
            &top.join("tests/image"),
            &root,
            &trust,
            &installed,
            keys.directory(),
        ])?;
        let directory = cache().join(format!("images-{key}"));
        let images = Self { directory, key: signing_key, keys };
        if !images.directory.join("complete").exists() {
            images.build(&top, context.path(), &log, say)?;
            fs::write(images.directory.join("complete"), "")?;
        }
        Ok(images)
    }

    fn build(&self, top: &Path, context: &Path, log: &Path, say: &dyn Fn(&str)) -> Result<()> {
        fs::create_dir_all(&self.directory)?;
        let builder = top.join("examples/bls/builder");
        for version in ["1", "2"] {
            say(&format!("building version {version} of the OS image"));
            tool::run_logged(
                Command::new(top.join("examples/bls/build")).arg(version).env("OSUPDATE_CACHE", cache()),
                log,
            )?;
            let base = format!("localhost/debian-bls:{version}");
            if version == "1" {
                self.sign_loader(&builder, &base, context)?;
            }
            let image = format!("localhost/debian-bls-test:{version}");
            tool::run_logged(
                builder_command(&builder)
                    .args(["build", "--quiet", "--timestamp", &IMAGE_SECS.to_string(), "--tag", &image, "--iidfile"])
                    .arg(self.id_file(version))
                    .args(["--build-arg", &format!("BASE={base}"), "--build-arg", &format!("VERSION={version}")])
                    .arg("--file")
                    .arg(top.join("tests/image/Containerfile"))
                    .arg(context),
                log,
            )?;
            // Both compressions that images come in.
            let compression = if version == "1" { "gzip" } else { "zstd" };
            tool::run_logged(
                builder_command(&builder)
                    .args(["push", "--quiet", "--compression-format", compression, &image])
                    .arg(format!("oci:{}:{version}", self.layout().display())),
                log,
            )?;
        }
        say("making the installer's disk");
        self.build_installer(&builder)
    }

    /// Where the id is that a version has in the builder's store.
    fn id_file(&self, version: impl std::fmt::Display) -> PathBuf {
        self.directory.join(format!("id-{version}"))
    }

    /// One version, as the builder knows it: to derive other images from.
    pub(crate) fn base(&self, version: u32) -> Result<String> {
        let file = self.id_file(version);
        let id = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(id.trim().trim_start_matches("sha256:").to_owned())
    }

    /// The same with the boot loader, signed with the key for programs, and the stubs of another systemd.
    pub(crate) fn with_systemd(&self, version: u32, systemd: &Path) -> Result<String> {
        let context = tempfile::tempdir().context("making a directory for the image's files")?;
        let (from, to) = (systemd.join(PROGRAMS), context.path().join(PROGRAMS));
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        let file = context.path().join("Containerfile");
        fs::write(&file, "ARG BASE\nFROM $BASE\nCOPY usr/ /usr/\n")?;
        let loader = fs::read(to.join("systemd-bootx64.efi"))?;
        fs::write(to.join(SIGNED_LOADER), uki::sign(&loader, &self.keys, Role::Db)?)?;
        let id = context.path().join("id");
        let mut build = builder_command(&top().join("examples/bls/builder"));
        build.args(["build", "--quiet", "--timestamp", &IMAGE_SECS.to_string(), "--build-arg"]);
        build.arg(format!("BASE={}", self.base(version)?)).arg("--iidfile").arg(&id).arg("--file").arg(&file);
        tool::run_logged(build.arg(context.path()), &cache().join("build.log"))?;
        Ok(fs::read_to_string(&id)?.trim().trim_start_matches("sha256:").to_owned())
    }

    /// Adds our signature to the image's loader, which its distribution has signed.
    fn sign_loader(&self, builder: &Path, image: &str, context: &Path) -> Result<()> {
        let directory = context.join("loader").join(PROGRAMS);
        fs::create_dir_all(&directory)?;
        with_tree(builder, image, |tree| {
            let loader = fs::read(tree.join(PROGRAMS).join(SIGNED_LOADER))?;
            fs::write(directory.join(SIGNED_LOADER), uki::sign(&loader, &self.keys, Role::Db)?)?;
            Ok(())
        })
    }

    /// The installer is version 1 itself, booted from a plain file system.
    fn build_installer(&self, builder: &Path) -> Result<()> {
        with_tree(builder, "localhost/debian-bls-test:1", |tree| {
            let modules = tree.join("usr/lib/modules");
            let kernel = fs::read_dir(&modules)?.next().context("the image has no kernel")??.path();
            fs::copy(kernel.join("vmlinuz"), self.kernel())?;
            fs::copy(kernel.join("initramfs.img"), self.initrd())?;
            let programs = tree.join(PROGRAMS);
            fs::copy(programs.join("systemd-bootx64.efi"), self.loader())?;
            fs::copy(programs.join("linuxx64.efi.stub"), self.stub())?;
            fs::copy(programs.join("addonx64.efi.stub"), self.addon_stub())?;
            fs::copy(tree.join("usr/lib/os-release"), self.os_release())?;
            fs::write(self.tpm_initrd(), tpm_initrd(tree)?)?;
            let disk = self.installer_disk();
            tool::run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(tree).arg(&disk).arg("3G"))?;
            Ok(())
        })
    }

    /// The kernel command line that is sealed into a version's UKI.
    pub fn sealed_command_line(&self, version: u32) -> Result<String> {
        let mut osupdate = Command::new(osupdate());
        osupdate.args(["image", "digest", "--kernel-argument", "--source", &self.source(version)]);
        Ok(format!("{} rw console=ttyS0", tool::run(&mut osupdate)?.trim()))
    }

    /// One version, sealed: the same image with a UKI, which is signed with the key for programs. In skopeo's syntax; made
    /// once.
    pub fn sealed(&self, version: u32) -> Result<String> {
        let sealed = self.directory.join(format!("sealed-{version}"));
        if !sealed.exists() {
            let uki = uki::build(self, &self.sealed_command_line(version)?)?;
            let unfinished = sealed.with_extension("unfinished");
            self.write_with_uki(version, &uki::sign(&uki, &self.keys, Role::Db)?, &unfinished)?;
            fs::rename(&unfinished, &sealed)?;
        }
        Ok(format!("oci:{}", sealed.display()))
    }

    /// Writes the same image with a UKI to an OCI layout.
    pub fn write_with_uki(&self, version: u32, uki: &[u8], layout: &Path) -> Result<()> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, contents) in [("boot/EFI/", None), ("boot/EFI/Linux/", None), ("boot/EFI/Linux/os.efi", Some(uki))] {
            let contents = contents.unwrap_or_default();
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mtime(IMAGE_SECS);
            header.set_mode(if path.ends_with('/') { 0o755 } else { 0o644 });
            header.set_entry_type(if path.ends_with('/') {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            layer.append_data(&mut header, path, contents)?;
        }
        layout::add_layer(&self.layout(), &version.to_string(), &layer.into_inner()?, layout)
    }

    /// The OCI layout with both versions, tagged `1` and `2`.
    pub fn layout(&self) -> PathBuf {
        self.directory.join("os")
    }

    /// The key that the images trust.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Keys of a firmware that trusts the loader in the images.
    pub fn secure_boot_keys(&self) -> &Keys {
        &self.keys
    }

    /// One version, in skopeo's syntax.
    pub fn source(&self, version: u32) -> String {
        format!("oci:{}:{version}", self.layout().display())
    }

    /// Root disk of the installer, ext4 without partitions.
    pub fn installer_disk(&self) -> PathBuf {
        self.directory.join("installer.raw")
    }

    /// Kernel of the installer.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// Initramfs of the installer.
    pub fn initrd(&self) -> PathBuf {
        self.directory.join("initramfs.img")
    }

    /// What goes behind that in UKIs: with it, the initramfs speaks to a TPM.
    pub fn tpm_initrd(&self) -> PathBuf {
        self.directory.join("tpm.cpio")
    }

    /// systemd-boot of version 1, not signed.
    pub fn loader(&self) -> PathBuf {
        self.directory.join("systemd-bootx64.efi")
    }

    /// systemd's stub for UKIs, of version 1.
    pub fn stub(&self) -> PathBuf {
        self.directory.join("linuxx64.efi.stub")
    }

    /// systemd's stub for addons of UKIs, of version 1.
    pub fn addon_stub(&self) -> PathBuf {
        self.directory.join("addonx64.efi.stub")
    }

    /// What version 1 is called.
    pub fn os_release(&self) -> PathBuf {
        self.directory.join("os-release")
    }

    /// A place for what is made from these images, such as installed disks.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Does something with the files of an image.
fn with_tree(builder: &Path, image: &str, action: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let container = tool::run(builder_command(builder).args(["from", image]))?;
    let container = container.trim();
    let tree = tool::run(builder_command(builder).args(["mount", container]))?;
    action(Path::new(tree.trim()))?;
    tool::run(builder_command(builder).args(["rm", container]))?;
    Ok(())
}

/// The libraries for TPMs of an image, which systemd loads when there is one: dracut does not see that they are needed.
fn tpm_initrd(tree: &Path) -> Result<Vec<u8>> {
    let libraries = Path::new("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let mut paths = Vec::new();
    for entry in fs::read_dir(tree.join(&libraries))? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(b"libtss2-") {
            paths.push(libraries.join(name));
        }
    }
    paths.sort();
    initrd::archive(tree, &paths)
}

fn builder_command(builder: &Path) -> Command {
    let mut command = Command::new(builder);
    command.env("OSUPDATE_CACHE", cache());
    command
}

/// Writes what an image has for the machine to trust its successors: a policy, the public key, and where signatures are.
fn write_trust(root: &Path, key: &SigningKey) -> Result<()> {
    let (containers, keys) = (root.join("etc/containers"), root.join("usr/share/osupdate/keys"));
    fs::create_dir_all(containers.join("registries.d"))?;
    fs::create_dir_all(&keys)?;
    key.export(&keys.join("os.gpg"))?;
    let signed = r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/usr/share/osupdate/keys/os.gpg"}"#;
    let policy = format!(
        "{{\"default\": [{{\"type\": \"reject\"}}], \"transports\": {{\"docker\": {{\"{REGISTRY_IN_GUEST}\": [{signed}]}}}}}}\n"
    );
    fs::write(containers.join("policy.json"), policy)?;
    let store = format!("docker:\n  {REGISTRY_IN_GUEST}:\n    lookaside: http://{SIGNATURES_IN_GUEST}\n");
    fs::write(containers.join("registries.d/os.yaml"), store)?;
    Ok(())
}

/// The source tree.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The program that is in the images.
pub(crate) fn osupdate() -> PathBuf {
    target().join("release/osupdate")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from)
}

/// Where images are kept: `$OSUPDATE_CACHE`, or `.cache` in the source tree.
pub fn cache() -> PathBuf {
    std::env::var_os("OSUPDATE_CACHE").map_or_else(|| top().join(".cache"), PathBuf::from)
}

/// A name for the contents of these directories.
pub(crate) fn digest_of(directories: &[&Path]) -> Result<String> {
    let mut hash = Sha256::new_with_prefix(LAYOUT);
    for directory in directories {
        add(&mut hash, directory)?;
    }
    Ok(hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

fn add(hash: &mut Sha256, directory: &Path) -> Result<()> {
    let mut entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("reading {}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        hash.update(entry.file_name().as_encoded_bytes());
        hash.update([0]);
        if entry.file_type()?.is_dir() {
            add(hash, &path)?;
        } else {
            let mut contents = Vec::new();
            fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut contents))?;
            hash.update((contents.len() as u64).to_le_bytes());
            hash.update(&contents);
        }
    }
    Ok(())
}
