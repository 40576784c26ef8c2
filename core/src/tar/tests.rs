use super::fake::{Archive, Fields, sum};
use super::*;
use crate::digest::{Algorithm, Digest};

/// An archive in memory; contents become objects named by their first byte.
struct Memory<'a>(&'a [u8]);

impl Input for Memory<'_> {
    type Error = FormatError;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FormatError> {
        let n = buffer.len().min(self.0.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }

    fn contents(&mut self, size: u64) -> Result<Option<Content>, FormatError> {
        let Some((body, rest)) = self.0.split_at_checked(size as usize) else {
            return Ok(None);
        };
        self.0 = rest;
        Ok(Some(Content::object(object(body[0]), size)))
    }

    /// The size is all that is expanded.
    fn expand(&mut self, data: Content, map: &SparseMap) -> Result<Content, FormatError> {
        assert_eq!(data.size(), map.data_bytes());
        Ok(Content::object(object(b'*'), map.size()))
    }
}

fn object(byte: u8) -> Digest {
    Digest::new(Algorithm::Sha256, &[byte; 32]).unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>, FormatErrorKind> {
    let mut reader = Reader::new(Memory(bytes));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|error| error.kind)? {
        entries.push(entry);
    }
    assert!(reader.finish().unwrap().0.is_empty());
    Ok(entries)
}

fn paths(bytes: &[u8]) -> Vec<String> {
    read(bytes).unwrap().into_iter().map(|entry| String::from_utf8(entry.path).unwrap()).collect()
}

#[test]
fn all_kinds_are_read() {
    let mut archive = Archive::default();
    archive.directory("d/").file("d/small", &[b's'; 64]).file("d/large", &[b'l'; 65]).file("d/empty", b"");
    archive.link(b'1', "d/hard", "d/small").link(b'2', "d/soft", "small").entry(b'6', "d/fifo", b"");
    archive.header(b"d/tty", &Fields { device: (4, 64), ..Fields::new(b'3') });
    archive.header(b"d/disk", &Fields { device: (259, 0x1_2345), ..Fields::new(b'4') });
    archive.entry(b'V', "label", b"dropped");
    let entries = read(&archive.end()).unwrap();
    let kinds: Vec<_> = entries.into_iter().map(|entry| entry.kind).collect();
    assert_eq!(
        kinds,
        [
            EntryKind::Directory,
            EntryKind::Regular(Content::Inline([b's'; 64].into())),
            EntryKind::Regular(Content::object(object(b'l'), 65)),
            EntryKind::Regular(Content::Inline([].into())),
            EntryKind::HardLink(b"d/small".into()),
            EntryKind::Symlink(b"small".into()),
            EntryKind::Fifo,
            EntryKind::CharDevice(4 << 8 | 64),
            EntryKind::BlockDevice(0x45 | 259 << 8 | 0x1_2300 << 12),
            EntryKind::Other(b'V'),
        ]
    );
}

#[test]
fn pax_overrules_long_names_and_they_overrule_the_header() {
    let mut archive = Archive::default();
    archive.entry(b'L', "././@LongLink", b"long\0").file("short", b"");
    archive.entry(b'L', "././@LongLink", b"long").pax(&[("path", b"pax"), ("mtime", b"-1.5"), ("uid", b"70000")]);
    archive.entry(b'K', "././@LongLink", b"target\0").link(b'2', "short", "x");
    let prefixed = archive.header(b"name", &Fields::new(b'0'));
    prefixed[345..348].copy_from_slice(b"a/b");
    sum(prefixed);
    let entries = read(&archive.end()).unwrap();
    assert_eq!(entries[0].path, b"long");
    assert_eq!(entries[1].path, b"pax");
    assert_eq!(entries[1].kind, EntryKind::Symlink(b"target".into()));
    assert_eq!((entries[1].stat.mtime_secs, entries[1].stat.mtime_nanos), (-2, 500_000_000));
    assert_eq!(entries[1].stat.uid, 70_000);
    assert_eq!(entries[2].path, b"a/b/name");
}

#[test]
fn gnu_headers_have_no_prefix() {
    let mut archive = Archive::default();
    let block = archive.header(b"name", &Fields::new(b'0'));
    block[257..265].copy_from_slice(b"ustar  \0");
    block[345..356].copy_from_slice(b"14300000000");
    sum(block);
    assert_eq!(paths(&archive.end()), ["name"]);
}

#[test]
fn pax_size_is_the_size() {
    let mut archive = Archive::default();
    archive.pax(&[("size", b"70")]).header(b"f", &Fields::new(b'0'));
    archive.body(&[b'z'; 70]);
    archive.file("g", b"");
    let entries = read(&archive.end()).unwrap();
    assert_eq!(entries[0].kind, EntryKind::Regular(Content::object(object(b'z'), 70)));
    assert_eq!(entries[1].path, b"g");
}

#[test]
fn the_end_may_be_missing_or_followed_by_anything_but_not_halved() {
    let mut archive = Archive::default();
    let entries = archive.file("a", b"x").0.clone();
    assert_eq!(paths(&entries), ["a"]);
    assert_eq!(paths(b""), [""; 0]);
    assert_eq!(paths(&[&entries[..], &[0; 1024], b"anything"].concat()), ["a"]);
    assert_eq!(paths(&[&entries[..], &[0; 512], &entries].concat()), ["a", "a"]);
    assert_eq!(read(&[&entries[..], &[0; 512]].concat()), Err(FormatErrorKind::TruncatedEnd));
    assert_eq!(read(&[&entries[..], &[0; 100]].concat()), Err(FormatErrorKind::Truncated));
    assert_eq!(read(&entries[..entries.len() - 1]), Err(FormatErrorKind::Truncated));
    assert_eq!(read(&entries[..512]), Err(FormatErrorKind::Truncated));
    let large = Archive::default().file("a", &[1; 600]).0.clone();
    assert_eq!(read(&large[..1000]), Err(FormatErrorKind::Truncated));
}

#[test]
fn a_changed_header_is_noticed() {
    let mut bytes = Archive::default().file("a", b"x").end();
    bytes[0] = b'b';
    assert_eq!(read(&bytes), Err(FormatErrorKind::Checksum));
    assert_eq!(read(&[b'x'; 1024]), Err(FormatErrorKind::Checksum));
}

#[test]
fn what_readers_would_understand_differently_is_refused() {
    let sized = |typeflag| {
        let mut archive = Archive::default();
        archive.header(b"n", &Fields { size: 10, ..Fields::new(typeflag) });
        read(&archive.end())
    };
    for typeflag in b'1'..=b'6' {
        let expected = FormatErrorKind::UnexpectedContents { path: "n".into(), size: 10 };
        assert_eq!(sized(typeflag), Err(expected), "{}", typeflag as char);
    }
    let twice = |typeflag, what| {
        let bytes = Archive::default().entry(typeflag, "x", b"1\0").entry(typeflag, "x", b"2\0").file("f", b"").end();
        assert_eq!(read(&bytes), Err(FormatErrorKind::Duplicate(what)));
    };
    twice(b'L', "long name");
    twice(b'K', "long link");
    let pax = Archive::default().pax(&[("uid", b"1")]).pax(&[("gid", b"1")]).file("f", b"").end();
    assert_eq!(read(&pax), Err(FormatErrorKind::Duplicate("PAX")));
    let dangling = Archive::default().pax(&[("uid", b"1")]).end();
    assert_eq!(read(&dangling), Err(FormatErrorKind::ExtensionWithoutEntry));
    let nameless = Archive::default().file("", b"").end();
    assert_eq!(read(&nameless), Err(FormatErrorKind::EmptyName));
}

/// An archive with one sparse file in GNU's form; the list of extents goes on in further blocks.
fn gnu_sparse(real_size: u64, extents: &[(u64, u64)], data: &[u8]) -> Vec<u8> {
    let pair = |(offset, len): &(u64, u64)| format!("{offset:011o}\0{len:011o}\0").into_bytes();
    let mut archive = Archive::default();
    let block = archive.header(b"f", &Fields { size: data.len() as u64, ..Fields::new(b'S') });
    block[257..265].copy_from_slice(b"ustar  \0");
    let (first, rest) = extents.split_at(extents.len().min(4));
    for (i, extent) in first.iter().enumerate() {
        block[386 + 24 * i..410 + 24 * i].copy_from_slice(&pair(extent));
    }
    block[482] = u8::from(!rest.is_empty());
    block[483..495].copy_from_slice(format!("{real_size:011o}\0").as_bytes());
    sum(block);
    let mut chunks = rest.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block: Vec<u8> = chunk.iter().flat_map(pair).collect();
        block.resize(512, 0);
        block[504] = u8::from(chunks.peek().is_some());
        archive.0.extend(block);
    }
    archive.body(data);
    archive.file("next", b"").end()
}

#[track_caller]
fn check_sparse(archive: &[u8], expected: Content) {
    let entries = read(archive).unwrap();
    assert_eq!(entries[0].path, b"f");
    assert_eq!(entries[0].kind, EntryKind::Regular(expected));
    assert_eq!(entries[1].path, b"next");
}

#[test]
fn sparse_files_are_expanded() {
    let expanded = |size| Content::object(object(b'*'), size);
    let inline = |bytes: &[u8]| Content::Inline(bytes.into());
    check_sparse(&gnu_sparse(5, &[(1, 2), (4, 1)], b"abc"), inline(b"\0ab\0c"));
    check_sparse(&gnu_sparse(5, &[(1, 2), (5, 0)], b"ab"), inline(b"\0ab\0\0"));
    check_sparse(&gnu_sparse(5, &[], b""), inline(&[0; 5]));
    check_sparse(&gnu_sparse(1000, &[], b""), expanded(1000));
    check_sparse(&gnu_sparse(1000, &[(100, 70)], &[b'd'; 70]), expanded(1000));
    // Without a hole it is a file like others.
    check_sparse(&gnu_sparse(70, &[(0, 70)], &[b'd'; 70]), Content::object(object(b'd'), 70));
    for count in [4, 5, 25, 26, 47] {
        let extents: Vec<_> = (0..count).map(|i| (i * 1000, 2)).collect();
        check_sparse(&gnu_sparse(90_000, &extents, &vec![b'd'; 2 * count as usize]), expanded(90_000));
    }
    let pax = |records: &[(&str, &[u8])], body: &[u8]| {
        Archive::default().pax(records).file("f", body).file("next", b"").end()
    };
    let form_00: [(&str, &[u8]); 6] = [
        ("GNU.sparse.size", b"5"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"1"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"4"),
        ("GNU.sparse.numbytes", b"1"),
    ];
    check_sparse(&pax(&form_00, b"abc"), inline(b"\0ab\0c"));
    let form_01: [(&str, &[u8]); 5] = [
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.size", b"5"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.map", b"1,2,4,1"),
        ("path", b"./GNUSparseFile.1/f"),
    ];
    check_sparse(&pax(&form_01, b"abc"), inline(b"\0ab\0c"));
    let form_10: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", b"5"),
    ];
    let mut body = b"2\n1\n2\n4\n1\n".to_vec();
    body.resize(512, 0);
    body.extend(b"abc");
    check_sparse(&pax(&form_10, &body), inline(b"\0ab\0c"));
    // A map of several blocks.
    let mut body = b"300\n".to_vec();
    (0..300).for_each(|i| body.extend(format!("{}\n1\n", i * 100).bytes()));
    body.resize(body.len().next_multiple_of(512), 0);
    body.extend([b'd'; 300]);
    let mut large = form_10;
    large[3].1 = b"40000";
    check_sparse(&pax(&large, &body), expanded(40_000));
}

#[test]
fn sparse_files_with_a_malformed_map_are_refused() {
    let problem = |archive: &[u8]| match read(archive) {
        Err(FormatErrorKind::Sparse { path, problem }) if path == "f" => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(&gnu_sparse(5, &[(1, 2), (2, 1)], b"abc")), "parts overlap or are not in order");
    assert_eq!(problem(&gnu_sparse(5, &[(1, 2), (4, 2)], b"abcd")), "a part is beyond the end");
    assert_eq!(problem(&gnu_sparse(5, &[(1, 2)], b"abc")), "the parts are not as long as the contents");
    assert_eq!(problem(&Archive::default().entry(b'S', "f", b"").end()), "it is not in GNU's form");
    let pax = |records: &[(&str, &[u8])], body: &[u8]| Archive::default().pax(records).file("f", body).end();
    let size: (&str, &[u8]) = ("GNU.sparse.size", b"5");
    assert_eq!(problem(&pax(&[("GNU.sparse.major", b"1"), size], b"")), "it does not end");
    assert_eq!(problem(&pax(&[("GNU.sparse.major", b"2"), size], b"")), "its form is not known");
    assert_eq!(problem(&pax(&[("GNU.sparse.map", b"0,1")], b"")), "its size is missing");
    assert_eq!(problem(&pax(&[size, ("GNU.sparse.map", b"0,1,4")], b"")), "an offset has no length");
    let count: (&str, &[u8]) = ("GNU.sparse.numblocks", b"2");
    assert_eq!(problem(&pax(&[size, count, ("GNU.sparse.map", b"0,1")], b"")), "it is not as long as it says");
    let leading = |text: &[u8]| {
        let mut body = text.to_vec();
        body.resize(1024, b'0');
        pax(&[("GNU.sparse.major", b"1"), size], &body)
    };
    assert_eq!(problem(&leading(b"1\n0\nx\n")), "a number is not one");
    assert_eq!(problem(&leading(b"1\n0\n1")), "it has something else than numbers");
    assert_eq!(problem(&leading(b"99999999999999999\n0\n1\n")), "it has too many parts");
    for records in [("GNU.sparse.offset", "-1"), ("GNU.sparse.numbytes", "1"), ("GNU.sparse.size", "x")] {
        let bad = Err(FormatErrorKind::Pax(PaxField::Key("GNU.sparse")));
        assert_eq!(read(&pax(&[(records.0, records.1.as_bytes())], b"")), bad, "{records:?}");
    }
}

#[test]
fn the_holes_of_an_archive_are_bounded() {
    let half = HOLE_BYTES_MAX / 2 + 1;
    let size = half.to_string();
    let records: [(&str, &[u8]); 2] = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", b"")];
    let mut archive = Archive::default();
    archive.pax(&records).file("f", b"");
    let one = archive.0.clone();
    assert_eq!(read(&one).unwrap().len(), 1);
    let two = archive.pax(&records).file("g", b"").end();
    assert_eq!(read(&two), Err(FormatErrorKind::Holes { path: "g".into(), size: half }));
}

#[test]
fn names_that_end_in_a_slash_are_directories_where_there_is_no_type() {
    let mut archive = Archive::default();
    archive.header(b"d/", &Fields::new(0));
    archive.header(b"f", &Fields::new(0));
    archive.header(b"g/", &Fields::new(b'0'));
    let kinds: Vec<_> = read(&archive.end()).unwrap().into_iter().map(|entry| entry.kind).collect();
    let empty = EntryKind::Regular(Content::Inline([].into()));
    assert_eq!(kinds, [EntryKind::Directory, empty.clone(), empty]);
}

#[test]
fn extension_headers_are_bounded() {
    let mut archive = Archive::default();
    archive.header(b"x", &Fields { size: EXTENSION_BYTES_MAX + 1, ..Fields::new(b'x') });
    // No body follows: the size alone is refused, before memory is taken for it.
    assert_eq!(read(&archive.0), Err(FormatErrorKind::ExtensionsTooLarge));
    let mut archive = Archive::default();
    let half = vec![b'n'; EXTENSION_BYTES_MAX as usize / 2 + 1];
    archive.entry(b'L', "x", &half).entry(b'K', "x", &half).file("f", b"");
    assert_eq!(read(&archive.end()), Err(FormatErrorKind::ExtensionsTooLarge));
    let mut archive = Archive::default();
    for _ in 0..=PENDING_EXTENSIONS_MAX {
        archive.entry(b'g', "x", b"");
    }
    assert_eq!(read(&archive.file("f", b"").end()), Err(FormatErrorKind::ExtensionsTooLarge));
}

#[test]
fn global_headers_are_passed_over() {
    let bytes = Archive::default().entry(b'g', "x", b"12 path=a=b\n").file("f", b"").end();
    assert_eq!(paths(&bytes), ["f"]);
}

#[test]
fn extended_attributes_in_another_programs_form_are_passed_over() {
    let records: [(&str, &[u8]); 2] = [("LIBARCHIVE.xattr.user.a", b"MQ"), ("SCHILY.xattr.user.b", b"2")];
    let entries = read(&Archive::default().pax(&records).file("f", b"").end()).unwrap();
    assert_eq!(entries[0].stat.xattrs.keys().collect::<Vec<_>>(), [&b"user.b"[..].into()]);
}

#[test]
fn no_changed_byte_makes_the_reader_panic() {
    let mut archive = Archive::default();
    archive.pax(&[("path", b"a/b"), ("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"1")]).file("f", &[b'x'; 100]);
    archive.entry(b'L', "././@LongLink", b"long\0").link(b'1', "h", "f");
    let bytes = archive.end();
    for at in 0..bytes.len() {
        for value in [b'9', b'=', 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let block = at / BLOCK_LEN * BLOCK_LEN;
            if changed[block + 257..].starts_with(b"ustar") {
                sum(&mut changed[block..block + BLOCK_LEN]);
            }
            // Whatever it finds, it comes back.
            let mut reader = Reader::new(Memory(&changed));
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}
