//! Makes archives for tests, correct or wrong as asked.

/// Writes an archive entry by entry.
#[derive(Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// A header before its checksum.
pub(crate) struct Fields {
    pub(crate) typeflag: u8,
    pub(crate) mode: u32,
    pub(crate) mtime: i64,
    pub(crate) size: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
}

impl Fields {
    pub(crate) fn new(typeflag: u8) -> Self {
        let mode = if typeflag == b'5' { 0o755 } else { 0o644 };
        Self { typeflag, mode, mtime: 1_700_000_000, size: 0, link: Vec::new(), device: (0, 0) }
    }
}

impl Archive {
    pub(crate) fn header(&mut self, name: &[u8], fields: &Fields) -> &mut [u8] {
        let start = self.0.len();
        self.0.resize(start + 512, 0);
        let block = &mut self.0[start..];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(format!("{:07o}\0", fields.mode).as_bytes());
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", fields.size).as_bytes());
        block[136..148].copy_from_slice(format!("{:011o}\0", fields.mtime).as_bytes());
        block[156] = fields.typeflag;
        block[157..157 + fields.link.len()].copy_from_slice(&fields.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[329..337].copy_from_slice(format!("{:07o}\0", fields.device.0).as_bytes());
        block[337..345].copy_from_slice(format!("{:07o}\0", fields.device.1).as_bytes());
        sum(block);
        &mut self.0[start..]
    }

    pub(crate) fn body(&mut self, body: &[u8]) {
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub(crate) fn entry(&mut self, typeflag: u8, name: &str, body: &[u8]) -> &mut Self {
        self.header(name.as_bytes(), &Fields { size: body.len() as u64, ..Fields::new(typeflag) });
        self.body(body);
        self
    }

    pub(crate) fn file(&mut self, name: &str, body: &[u8]) -> &mut Self {
        self.entry(b'0', name, body)
    }

    pub(crate) fn directory(&mut self, name: &str) -> &mut Self {
        self.entry(b'5', name, b"")
    }

    pub(crate) fn link(&mut self, typeflag: u8, name: &str, target: &str) -> &mut Self {
        self.header(name.as_bytes(), &Fields { link: target.into(), ..Fields::new(typeflag) });
        self
    }

    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let text_len = key.len() + value.len() + 3;
            let len = (1..).find(|n| (text_len + n).to_string().len() == *n).unwrap() + text_len;
            body.extend_from_slice(format!("{len} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(b'x', "PaxHeaders/x", &body)
    }

    /// The archive with its end marker.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// Writes the checksum of a header that was changed.
pub(crate) fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
