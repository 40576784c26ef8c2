//! Bootable images in memory.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use osupdate_core::oci::{BlobDescriptor, ContentDigest, ImageSource, Platform, SourceError};

/// An image with one layer.
pub(super) struct Image {
    manifest: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
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
            ("usr/lib/modules/6.12/vmlinuz".to_owned(), kernel.to_owned()),
            ("usr/lib/modules/6.12/initramfs.img".to_owned(), format!("initramfs of {kernel}")),
            ("usr/lib/os-release".to_owned(), format!("PRETTY_NAME=\"Example OS\"\nVERSION_ID={version}\n")),
            ("usr/lib/bootc/kargs.d/10.toml".to_owned(), "kargs = [\"quiet\"]\n".to_owned()),
            ("usr/lib/systemd/systemd-bless-boot".to_owned(), String::new()),
            ("etc/default.conf".to_owned(), format!("of version {version}")),
        ];
        if more > 0 {
            files.push(("boot/leftover".to_owned(), "not booted".to_owned()));
        }
        files.extend((0..more).map(|number| (format!("usr/share/file-{number:06}"), format!("number {number}"))));
        let mut layer = Vec::new();
        for directory in ["boot", "etc", "sysroot", "usr", "usr/lib", "usr/lib/systemd", "usr/share", "var"] {
            member(&mut layer, directory, b'5', b"");
        }
        for (path, contents) in &files {
            member(&mut layer, path, b'0', contents.as_bytes());
        }
        layer.extend([0; 1024]);
        let layer_digest = ContentDigest::sha256(&layer).to_string();
        let Platform { architecture, os, .. } = Platform::host();
        let config = format!(
            "{{\"architecture\":\"{architecture}\",\"os\":\"{os}\",\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{layer_digest}\"]}}}}"
        )
        .into_bytes();
        let config_digest = ContentDigest::sha256(&config).to_string();
        let manifest = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
             \"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
             \"digest\":\"{config_digest}\",\"size\":{}}},\
             \"layers\":[{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\
             \"digest\":\"{layer_digest}\",\"size\":{}}}],\"annotations\":{{\"note\":\"{note}\"}}}}",
            config.len(),
            layer.len()
        )
        .into_bytes();
        Self { manifest, blobs: BTreeMap::from([(layer_digest, layer), (config_digest, config)]) }
    }
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
