//! Bootable images in memory.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::Mutex;

use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{
    BlobDescriptor, ContentDigest, ImageSource, Platform, PullOptions, SourceError, StoredImage, pull,
};
use osupdate_core::repository::{Repository, Verity};
use osupdate_efi::authenticode::Signer;
use osupdate_efi::pe::fake::pe;

/// Where the images here have their UKI.
pub(super) const UKI: &str = "boot/EFI/Linux/os.efi";

/// What addons are made of.
const STUB: &str = "usr/lib/systemd/boot/efi/addonx64.efi.stub";

/// An image with a few layers.
pub(super) struct Image {
    manifest: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
    layers: Vec<Vec<u8>>,
}

impl Image {
    /// An OS image of this version, with a kernel of its own.
    pub(super) fn new(version: &str) -> Self {
        Self::with(version, &format!("kernel {version}"), "")
    }

    /// An OS image with this kernel; `note` changes the manifest and nothing else.
    pub(super) fn with(version: &str, kernel: &str, note: &str) -> Self {
        Self::with_files(version, kernel, note, 0)
    }

    /// The same with a number of small files, and something in /boot.
    pub(super) fn with_files(version: &str, kernel: &str, note: &str, more: usize) -> Self {
        let mut files = vec![
            ("usr/lib/modules/6.12/vmlinuz".to_owned(), kernel.as_bytes().to_vec()),
            ("usr/lib/modules/6.12/initramfs.img".to_owned(), format!("initramfs of {kernel}").into_bytes()),
            (
                "usr/lib/os-release".to_owned(),
                format!("PRETTY_NAME=\"Example OS\"\nVERSION_ID={version}\n").into_bytes(),
            ),
            ("usr/lib/bootc/kargs.d/10.toml".to_owned(), b"kargs = [\"quiet\"]\n".to_vec()),
            ("usr/lib/systemd/systemd-bless-boot".to_owned(), Vec::new()),
            (STUB.to_owned(), pe(&[(".text", b"code of the stub")])),
            ("etc/default.conf".to_owned(), format!("of version {version}").into_bytes()),
        ];
        if more > 0 {
            files.push(("boot/leftover".to_owned(), b"not booted".to_vec()));
        }
        let number = |number: usize| (format!("usr/share/file-{number:06}"), format!("number {number}").into_bytes());
        files.extend((0..more).map(number));
        let files: Vec<_> = files.iter().map(|(path, contents)| (path.as_str(), contents)).collect();
        let directories = ["boot", "etc", "sysroot", "usr", "usr/lib", "usr/lib/systemd", "usr/share", "var"];
        Self::of_layers(vec![layer(&directories, &files)], note)
    }

    /// An OS image of this version with a UKI into which its digest is sealed.
    pub(super) fn sealed(version: &str) -> Self {
        Self::resealed(version, "quiet rw")
    }

    /// The same with these arguments in the UKI: the files of the image are the same.
    pub(super) fn resealed(version: &str, arguments: &str) -> Self {
        // Finding it out takes a repository; tests ask for the same few often.
        static DIGESTS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
        let plain = Self::new(version);
        let known = DIGESTS.lock().unwrap().get(version).cloned();
        let digest = known.unwrap_or_else(|| {
            let digest = plain.boot_digest();
            DIGESTS.lock().unwrap().insert(version.to_owned(), digest.clone());
            digest
        });
        let line = format!("composefs.digest=v1-sha512-12:{digest} {arguments}");
        plain.with_layer(&[], &[(UKI, &uki(&[&line]))])
    }

    /// A sealed image of this version whose UKI is signed.
    pub(super) fn signed(version: &str, signer: &Signer) -> Self {
        Self::new(version).sealed_and_signed(signer)
    }

    /// The same image with a UKI in a layer on top.
    pub(super) fn sealed_and_signed(&self, signer: &Signer) -> Self {
        let line = format!("composefs.digest=v1-sha512-12:{} rw", self.boot_digest());
        self.with_layer(&[], &[(UKI, signer.sign(&uki(&[&line])).unwrap())])
    }

    /// The same with another layer on top.
    pub(super) fn with_layer(&self, directories: &[&str], files: &[(&str, impl AsRef<[u8]>)]) -> Self {
        let layers = self.layers.iter().cloned().chain([layer(directories, files)]);
        Self::of_layers(layers.collect(), "")
    }

    fn of_layers(layers: Vec<Vec<u8>>, note: &str) -> Self {
        let digests: Vec<String> = layers.iter().map(|layer| ContentDigest::sha256(layer).to_string()).collect();
        let Platform { architecture, os, .. } = Platform::host();
        let diff_ids: Vec<_> = digests.iter().map(|digest| format!("\"{digest}\"")).collect();
        let config = format!(
            "{{\"architecture\":\"{architecture}\",\"os\":\"{os}\",\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
            diff_ids.join(",")
        )
        .into_bytes();
        let config_digest = ContentDigest::sha256(&config).to_string();
        let descriptors: Vec<_> = digests
            .iter()
            .zip(&layers)
            .map(|(digest, layer)| {
                format!(
                    "{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{digest}\",\"size\":{}}}",
                    layer.len()
                )
            })
            .collect();
        let manifest = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
             \"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
             \"digest\":\"{config_digest}\",\"size\":{}}},\
             \"layers\":[{}],\"annotations\":{{\"note\":\"{note}\"}}}}",
            config.len(),
            descriptors.join(",")
        )
        .into_bytes();
        let mut blobs: BTreeMap<String, Vec<u8>> = digests.into_iter().zip(layers.iter().cloned()).collect();
        blobs.insert(config_digest, config);
        Self { manifest, blobs, layers }
    }

    /// The digest of the form that is booted.
    pub(super) fn boot_digest(&self) -> String {
        self.pulled().boot_image.unwrap().to_string()
    }

    /// The digest of the form that has /boot in it.
    pub(super) fn plain_digest(&self) -> String {
        self.pulled().image.unwrap().to_string()
    }

    fn pulled(&self) -> StoredImage {
        let scratch = tempfile::tempdir().unwrap();
        Repository::init(scratch.path(), Algorithm::Sha512, Verity::Unverified).unwrap();
        let repository = Repository::open(scratch.path()).unwrap();
        pull(&repository, self, &PullOptions { bootable: true, ..PullOptions::default() }, &Silent).unwrap()
    }
}

/// A layer with these directories and files.
fn layer(directories: &[&str], files: &[(&str, impl AsRef<[u8]>)]) -> Vec<u8> {
    let mut layer = Vec::new();
    for directory in directories {
        member(&mut layer, directory, b'5', b"");
    }
    for (path, contents) in files {
        member(&mut layer, path, b'0', contents.as_ref());
    }
    layer.extend([0; 1024]);
    layer
}

/// A UKI with this kernel command line; any further ones are of profiles of their own.
pub(super) fn uki(lines: &[&str]) -> Vec<u8> {
    let mut sections: Vec<(&str, &[u8])> =
        vec![(".linux", b"kernel"), (".initrd", b"initrd"), (".uname", b"6.12.1-uki")];
    for (number, line) in lines.iter().enumerate() {
        if lines.len() > 1 {
            sections.push((".profile", if number == 0 { b"ID=main" } else { b"ID=other" }));
        }
        sections.push((".cmdline", line.as_bytes()));
    }
    pe(&sections)
}

/// An addon with this kernel command line.
pub(super) fn addon(line: &str) -> Vec<u8> {
    pe(&[(".cmdline", line.as_bytes())])
}

/// Adds a file or directory to a tar archive.
fn member(archive: &mut Vec<u8>, path: &str, kind: u8, contents: &[u8]) {
    let mut header = [0_u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    let mode: &[u8] = if kind == b'5' { b"0000755" } else { b"0000644" };
    header[100..107].copy_from_slice(mode);
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", contents.len()).as_bytes());
    header[136..147].copy_from_slice(b"14000000000");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(contents);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

impl ImageSource for Image {
    fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &BlobDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        match self.blobs.get(&descriptor.digest.to_string()) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes))),
            None => Err(SourceError::new("no such blob")),
        }
    }
}
