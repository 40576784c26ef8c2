//! Inputs to begin with, made from the vectors of `core` and from small texts that use each feature of a format once.

mod published;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use osupdate_core::dumpfile;
use osupdate_core::erofs::{self, Format};
use osupdate_efi::authenticode::fake::{self as authenticode, Authority, Usage};
use osupdate_efi::pe::fake;
use osupdate_efi::secure_boot::fake::{CERTIFICATE, DIGEST, REVOKED_CERTIFICATE, list};
use osupdate_efi::uki::Builder;

use crate::Target;
use crate::targets::signature::{program, signature};
use crate::targets::splitstream::container;

/// Seeds of a target, each within its longest input.
///
/// # Panics
/// When the vectors are not beside this crate.
pub fn of(target: &Target) -> Vec<Vec<u8>> {
    let mut seeds = match target.name {
        "erofs" => images(),
        "dumpfile" => dumps(),
        "splitstream" => streams(),
        "tar" => archives(),
        "meta_json" => METADATA.iter().map(|json| json.as_bytes().to_vec()).collect(),
        "oci_json" => documents(),
        "signature" => signatures(),
        "signature_list" => signature_lists(),
        "pe" => programs(),
        "chunk" => published::chunks(),
        "index" => published::indexes(),
        "summary" => published::summaries(),
        "file_contexts" => POLICIES.iter().map(|text| text.as_bytes().to_vec()).collect(),
        other => panic!("{other} has no seeds"),
    };
    seeds.retain(|seed| seed.len() <= target.max_len);
    seeds
}

fn vectors(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/vectors").join(folder)
}

/// The files of a folder of vectors, in the order of their names; what is compressed is decompressed.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(vectors(folder)).expect("the vectors of core are there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = fs::read(path).expect("a readable file");
        match name.strip_suffix(".gz") {
            Some(name) => (name.to_owned(), gunzip(&bytes)),
            None => (name, bytes),
        }
    };
    paths.into_iter().map(read).collect()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("good gzip");
    plain
}

fn dumps() -> Vec<Vec<u8>> {
    let all = ["gen", "sha512", "dump-edge"].into_iter().flat_map(files);
    all.filter(|(name, _)| name.ends_with(".dump")).map(|(_, dump)| dump).collect()
}

/// The dumps as images, and damaged images.
fn images() -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    for dump in dumps().iter().filter(|dump| dump.len() < 32 << 10) {
        let Ok(tree) = dumpfile::parse(dump) else { continue };
        images
            .extend([Format::V0, Format::V1, Format::V2].iter().filter_map(|format| erofs::write(&tree, *format).ok()));
    }
    let damaged = files("malformed");
    let table = damaged.iter().find(|(name, _)| name == "MALFORMED.tsv").expect("a table");
    for row in String::from_utf8_lossy(&table.1).lines().skip(1) {
        let fields: Vec<&str> = row.split('\t').collect();
        let base = damaged.iter().find(|(name, _)| name.strip_suffix(".img") == Some(fields[0]));
        images.extend(base.and_then(|(_, base)| damage(base, fields[2])));
    }
    images
}

/// Does to an image what a row of the table says: `truncate to N bytes`, or pairs `offset:hex`.
fn damage(base: &[u8], edit: &str) -> Option<Vec<u8>> {
    let mut image = base.to_vec();
    if let Some(length) = edit.strip_prefix("truncate to ") {
        image.truncate(length.split(' ').next()?.parse().ok()?);
        return Some(image);
    }
    for pair in edit.split_whitespace() {
        let (offset, hex) = pair.split_once(':')?;
        let offset: usize = offset.parse().ok()?;
        for (index, digits) in hex.as_bytes().chunks(2).enumerate() {
            let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            *image.get_mut(offset + index)? = byte;
        }
    }
    Some(image)
}

/// The files in a ustar archive of ours.
fn unpack(archive: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = archive;
    while rest.len() >= 512 && rest[0] != 0 {
        let digits = String::from_utf8_lossy(&rest[124..135]).into_owned();
        let size = usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8).expect("an octal size");
        rest = &rest[512..];
        let (contents, after) = rest.split_at(size.min(rest.len()));
        found.push(contents.to_vec());
        rest = after.get((512 - size % 512) % 512..).unwrap_or_default();
    }
    found
}

fn vector(path: &str) -> Vec<u8> {
    fs::read(vectors(path)).expect("the vectors of core are there")
}

fn streams() -> Vec<Vec<u8>> {
    let mut streams = Vec::new();
    for file in unpack(&vector("repository/r1.tar")) {
        if osupdate_core::splitstream::is_splitstream(&file) {
            streams.push([&[1], &file[..]].concat());
        }
    }
    let chunks = [&(-5_i64).to_le_bytes()[..], b"hello", &0_i64.to_le_bytes(), &1_i64.to_le_bytes()].concat();
    streams.push([&[0], &container(&chunks, b"0:a\x001:b:c\0")[..]].concat());
    let labels = [&b"0:config:sha256:aa\x001:b\0"[..], &[b'0'; 32]].concat();
    streams.push([&[2], &chunks[..], &labels[..chunks.len().min(labels.len())]].concat());
    streams.push(vec![3, 2, b'a', 1, 7, 4, b'b', 0, 9, 3, 7, 200, 0, 0, 9]);
    streams
}

/// A header of 512 bytes without a checksum, which the target puts in, and contents, padded.
fn entry(name: &str, typeflag: u8, link: &str, contents: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..124].copy_from_slice(b"0001750\x000001750\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", contents.len()).as_bytes());
    block[136..148].copy_from_slice(b"14717463741\0");
    block[156] = typeflag;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(if typeflag == b'S' { b"ustar  \0" } else { b"ustar\x0000" });
    block.extend(contents);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn archives() -> Vec<Vec<u8>> {
    let mut archives = Vec::new();
    for blob in unpack(&vector("oci/img1.tar")).into_iter().chain(unpack(&vector("oci/bootable.tar"))) {
        if blob.starts_with(&[0x1f, 0x8b]) {
            archives.push([&[0], &gunzip(&blob)[..]].concat());
        } else if blob.get(257..262) == Some(b"ustar") {
            archives.push([&[0], &blob[..]].concat());
        }
    }
    let pax = b"15 path=/p/a/x\n20 mtime=-1.500000000\n30 SCHILY.xattr.user.n=value\0\n";
    let sparse =
        b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n24 GNU.sparse.name=hole\n29 GNU.sparse.realsize=1000\n";
    let mut sparse_map = b"1\n500\n100\n".to_vec();
    sparse_map.resize(512, 0);
    sparse_map.extend([7; 100]);
    for parts in [
        vec![
            entry("usr/", b'5', "", b""),
            entry("usr/file", b'0', "", &[b'x'; 700]),
            entry("usr/small", b'0', "", b"small"),
        ],
        vec![
            entry("a", b'0', "", b"1"),
            entry("b", b'1', "a", b""),
            entry("c", b'2', "../a", b""),
            entry("d", b'3', "", b""),
        ],
        vec![entry("d/x", b'6', "", b""), entry("d/.wh.x", b'0', "", b""), entry("d/.wh..wh..opq", b'0', "", b"")],
        vec![entry("././@LongLink", b'L', "", &[b'n'; 300]), entry("short", b'7', "", b"contents")],
        vec![entry("././@LongLink", b'K', "", &[b't'; 200]), entry("link", b'2', "short", b"")],
        vec![entry("pax", b'x', "", pax), entry("overridden", b'0', "", b"x"), entry("global", b'g', "", pax)],
        vec![entry("pax", b'x', "", sparse), entry("sparse", b'0', "", &sparse_map)],
    ] {
        archives.push([vec![1], parts.concat(), vec![0; 1024]].concat());
    }
    archives
}

fn documents() -> Vec<Vec<u8>> {
    let blobs = unpack(&vector("oci/img1.tar")).into_iter().chain(unpack(&vector("oci/bootable.tar")));
    blobs.filter(|blob| blob.starts_with(b"{")).map(|json| [&[2], &json[..]].concat()).collect()
}

/// Keys for nothing but this: new ones would lead to other inputs each time.
const KEYS: [&[u8]; 4] = [
    include_bytes!("../keys/1.der"),
    include_bytes!("../keys/2.der"),
    include_bytes!("../keys/3.der"),
    include_bytes!("../keys/4.der"),
];

/// Signatures by a key alone, with an issuer, and with two.
fn signatures() -> Vec<Vec<u8>> {
    let authority =
        Usage { authority: true, path_length: Some(1), extended: Some("1.3.6.1.5.5.7.3.3"), ..Usage::default() };
    let [first, second, third, fourth] = KEYS.map(authenticode::key);
    let root = Authority::with_key("root", first);
    let between = root.issue_for_key("between", &authority, second);
    let below = between.issue_for_key("below", &authority, third);
    let leaf = below.issue_for_key("leaf", &authority, fourth);
    let signers = [root.signer(), below.signer_with_issuers(), leaf.signer_with_issuers()];
    signers.iter().map(|signer| signature(&signer.sign(&program()).expect("a signature"))).collect()
}

fn signature_lists() -> Vec<Vec<u8>> {
    let certificate = Authority::with_key("db", authenticode::key(KEYS[0]));
    let lists = [
        list(CERTIFICATE, &[certificate.certificate().der()]),
        list(DIGEST, &[&[1; 32], &[2; 32]]),
        list(REVOKED_CERTIFICATE, &[&[3; 48]]),
    ];
    let all = lists.concat();
    lists.into_iter().chain([all]).collect()
}

/// A boot stub of no code, and what is made with it: a UKI with two profiles, an addon, a profile.
fn programs() -> Vec<Vec<u8>> {
    let stub = fake::pe(&[
        (".text", b"code"),
        (".sbat", b"sbat,1,x\nstub,1,y\n"),
        (".sdmagic", b"#### LoaderInfo: systemd-stub 257 ####"),
        (".reloc", b""),
    ]);
    let linux = fake::pe(&[(".text", b"kernel"), (".sbat", b"sbat,1,x\nlinux,1,y\n")]);
    let line = format!("composefs.digest=v1-sha256-12:{} quiet", "ab".repeat(32));
    let build = |builder: Builder<'_>| builder.build().expect("it fits together");
    let empty = || Builder { stub: &stub, ..Builder::default() };
    let profile =
        build(Builder { profile: Some(b"ID=rescue\nTITLE=Rescue"), command_line: Some(b"rescue"), ..empty() });
    let addon = build(Builder { device_trees_auto: vec![b"1", b"2"], hwids: Some(b"ids"), ..empty() });
    let uki = build(Builder {
        linux: Some(&linux),
        initrds: vec![b"initrd"],
        os_release: Some(b"ID=example\nVERSION_ID=1\n"),
        command_line: Some(line.as_bytes()),
        uname: Some("6.12.1"),
        join_profiles: vec![&profile],
        sections: vec![(".pcrsig", br#"{"sha256": [{"pcrs": [11], "pkfp": "ab", "pol": "cd", "sig": "ef=="}]}"#)],
        ..empty()
    });
    // Certificates, as far as this parser looks at them.
    let mut signed = uki.clone();
    let entry = fake::OPTIONAL_HEADER + 112 + 32;
    fake::put(&mut signed, entry, uki.len());
    fake::put(&mut signed, entry + 4, 16);
    signed.extend([0; 16]);
    vec![stub, linux, profile, addon, uki, signed]
}

const METADATA: &[&str] = &[
    r#"{"version":1,"algorithm":"fsverity-sha512-12","features":{"compatible":[],"read-only-compatible":["v1_erofs"],"incompatible":[]},"erofs_formats":{"default":1,"extra":[]}}"#,
    r#"{"version":1,"algorithm":"fsverity-sha256-12"}"#,
    r#"{"version":2,"algorithm":"fsverity-sha256-16","features":{"incompatible":["x"]},"erofs_formats":{"default":2,"extra":[0,1]},"other":null}"#,
];

const POLICIES: &[&str] = &[
    "# rules\n/.*\tsystem_u:object_r:default_t:s0\n/usr(/.*)?\t--\tusr_t\n/usr/lib(64)?/[^/]+\\.so(\\.[0-9]+)* lib_t\n/none <<none>>\npath\n/usr/lib/a.so.1\n/none\n/",
    "/a(?!b). one\n/(x)(y)\\2 -d two\n/[[:alpha:]]{2,3}\\d+ -l three\npath\n/ac\n/xyy\n/ab7",
    "/(a|b|)+? one\n/a{,2} two\n/a++ three\n/[]a-] four\n/\\Q.\\E five\n/^a$ six\npath\n/a\n/ab\n/a{,2}",
];
