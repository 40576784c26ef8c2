//! Tree to image.

use zerocopy::{Immutable, IntoBytes};

use super::Format;
use super::inodes::{Data, Inode, Inodes, Target, collect};
use super::layout::{
    BLOCK, BLOCK_BITS, COMPAT_MTIME, COMPAT_XATTR_FILTER, CompactInode, DataLayout, Dirent, ExtendedInode,
    FORMAT_EXTENDED, HEADER_HAS_ACL, HEADER_MAGIC, HEADER_VERSION, Header, NULL_CHUNK, SUPERBLOCK_AT, SUPERBLOCK_MAGIC,
    Superblock, XattrEntry, XattrHeader, dirent_type,
};
use super::plan::Plan;
use super::shared::SharedXattrs;
use super::validate::{WriteError, validate};
use super::xattr::{Xattr, count_field, entry_size, filter_bit, split_name};
use crate::tree::Tree;

/// Makes the image of a tree.
///
/// Leaves without a name are left out. The result is the same on every machine and in every release: its fs-verity
/// digest is what boot entries and signatures name.
///
/// # Errors
/// The first file, in depth-first order, that the format cannot hold.
pub fn write(tree: &Tree, format: Format) -> Result<Vec<u8>, WriteError> {
    validate(tree, format)?;
    let inodes = collect(tree, format);
    let shared = SharedXattrs::find(&inodes.list, format);
    let plan = Plan::new(&inodes, &shared, format)?;
    let mut writer = Writer { image: vec![0; plan.size], format, inodes: &inodes, shared: &shared, plan: &plan };
    writer.superblock();
    for number in 0..inodes.list.len() {
        writer.inode(number);
        writer.data(number);
    }
    writer.shared_xattrs();
    Ok(writer.image)
}

struct Writer<'p, 'i, 't> {
    image: Vec<u8>,
    format: Format,
    inodes: &'i Inodes<'t>,
    shared: &'p SharedXattrs<'i, 't>,
    plan: &'p Plan,
}

impl<'i, 't> Writer<'_, 'i, 't> {
    /// Writes `bytes` at `at`, which is moved behind them.
    fn put(&mut self, at: &mut usize, bytes: &[u8]) {
        self.image[*at..*at + bytes.len()].copy_from_slice(bytes);
        *at += bytes.len();
    }

    fn put_struct(&mut self, at: &mut usize, value: &(impl IntoBytes + Immutable)) {
        self.put(at, value.as_bytes());
    }

    fn superblock(&mut self) {
        let is_acl =
            |xattr: &Xattr<'_>| matches!(&*xattr.name, b"system.posix_acl_access" | b"system.posix_acl_default");
        let v2 = self.format == Format::V2;
        let has_acl = !v2 && self.inodes.list.iter().flat_map(|inode| &inode.xattrs).any(is_acl);
        let header = Header {
            magic: HEADER_MAGIC.into(),
            version: HEADER_VERSION.into(),
            flags: if has_acl { HEADER_HAS_ACL } else { 0 }.into(),
            composefs_version: self.format.number().into(),
            unused: Default::default(),
        };
        self.put_struct(&mut 0, &header);

        let (build_time, build_time_nanos) = self.plan.build_time;
        let superblock = Superblock {
            magic: SUPERBLOCK_MAGIC.into(),
            checksum: 0.into(),
            feature_compat: (COMPAT_MTIME | COMPAT_XATTR_FILTER).into(),
            block_bits: BLOCK_BITS,
            extra_slots: 0,
            root_nid: (self.plan.inodes[0].nid() as u16).into(), // the first inode is within the first two blocks
            inodes: (self.inodes.list.len() as u64).into(),
            build_time: build_time.into(),
            build_time_nanos: build_time_nanos.into(),
            blocks: ((self.plan.size / BLOCK) as u32).into(), // the plan checked that it fits
            meta_block: 0.into(),
            xattr_block: ((self.shared_base() / BLOCK) as u32).into(),
            uuid: [0; 16],
            volume_name: [0; 16],
            feature_incompat: 0.into(),
            compression: 0.into(),
            extra_devices: 0.into(),
            device_table_slot: 0.into(),
            directory_block_bits: 0,
            xattr_prefix_count: 0,
            xattr_prefix_start: 0.into(),
            packed_nid: 0.into(),
            xattr_filter_reserved: 0,
            reserved: [0; 23],
        };
        self.put_struct(&mut { SUPERBLOCK_AT }, &superblock);
    }

    /// What shared references count from: a block before the table, or in version 2 the image itself.
    fn shared_base(&self) -> usize {
        if self.format == Format::V2 { 0 } else { self.plan.shared_at / BLOCK * BLOCK }
    }

    fn inode(&mut self, number: usize) {
        let inode = &self.inodes.list[number];
        let place = &self.plan.inodes[number];
        let data = match inode.data {
            Data::Device(rdev) => rdev,
            // A chunk table that became a block: the reference writer's way, and nobody follows it.
            _ if place.layout == DataLayout::Chunks => place.first_block & 0xffff_0000 | place.chunk_format,
            _ => place.first_block,
        };
        let format = (place.layout as u16) << 1 | if place.extended { FORMAT_EXTENDED } else { 0 };
        let xattr_count = count_field(place.xattr_size).expect("the plan checked that it fits");
        let v2 = self.format == Format::V2;
        let inode_number = if v2 { place.nid() as u32 } else { number as u32 };

        let mut at = place.offset;
        if place.extended {
            let inode = ExtendedInode {
                format: format.into(),
                xattr_count: xattr_count.into(),
                mode: inode.mode.into(),
                reserved: 0.into(),
                size: place.size.into(),
                data: data.into(),
                inode_number: inode_number.into(),
                uid: inode.stat.uid.into(),
                gid: inode.stat.gid.into(),
                mtime: inode.stat.mtime_secs.into(),
                mtime_nanos: if v2 { 0 } else { inode.stat.mtime_nanos }.into(),
                nlink: inode.nlink.into(),
                reserved2: [0; 16],
            };
            self.put_struct(&mut at, &inode);
        } else {
            // What is cut to 16 or 32 bits here fits: that is what makes an inode compact.
            let inode = CompactInode {
                format: format.into(),
                xattr_count: xattr_count.into(),
                mode: inode.mode.into(),
                nlink: (inode.nlink as u16).into(),
                size: (place.size as u32).into(),
                reserved: 0.into(),
                data: data.into(),
                inode_number: inode_number.into(),
                uid: (inode.stat.uid as u16).into(),
                gid: (inode.stat.gid as u16).into(),
                reserved2: 0.into(),
            };
            self.put_struct(&mut at, &inode);
        }
        if place.xattr_size > 0 {
            self.xattrs(at, number, inode);
        }
    }

    fn xattrs(&mut self, mut at: usize, number: usize, inode: &'i Inode<'t>) {
        let (references, own) = self.shared.split(number, inode);
        let present = inode.xattrs.iter().fold(0, |bits, xattr| {
            let (index, suffix) = split_name(&xattr.name, self.format);
            bits | filter_bit(index, suffix)
        });
        let header = XattrHeader {
            filter: (!present).into(),
            shared_count: references.len() as u8, // at most 255
            reserved: [0; 7],
        };
        self.put_struct(&mut at, &header);
        for offset in references {
            let id = (self.plan.shared_at - self.shared_base() + offset) / 4;
            self.put(&mut at, &(id as u32).to_le_bytes());
        }
        for xattr in own {
            self.xattr(&mut at, xattr);
        }
    }

    fn xattr(&mut self, at: &mut usize, xattr: &Xattr<'_>) {
        let (name_index, suffix) = split_name(&xattr.name, self.format);
        let end = *at + entry_size(suffix.len(), xattr.value.len());
        let entry = XattrEntry {
            name_len: suffix.len() as u8, // names have at most 255 bytes
            name_index,
            value_len: (xattr.value.len() as u16).into(), // values have at most 65535 bytes
        };
        self.put_struct(at, &entry);
        self.put(at, suffix);
        self.put(at, &xattr.value.bytes());
        *at = end;
    }

    fn shared_xattrs(&mut self) {
        let mut at = self.plan.shared_at;
        for xattr in &self.shared.table {
            self.xattr(&mut at, xattr);
        }
    }

    fn data(&mut self, number: usize) {
        let place = &self.plan.inodes[number];
        let mut tail_at = place.tail_at();
        let mut block_at = place.first_block as usize * BLOCK;
        match &self.inodes.list[number].data {
            Data::Directory(entries) => {
                let packing = self.plan.directories[number].as_ref().expect("directories are packed by the plan");
                for (index, block) in packing.blocks.iter().enumerate() {
                    self.dirents(block_at + index * BLOCK, &entries[block.clone()]);
                }
                if let Some((tail, _)) = &packing.tail {
                    self.dirents(tail_at, &entries[tail.clone()]);
                }
            }
            Data::Bytes(bytes) | Data::Symlink(bytes) => {
                let (blocks, tail) = bytes.split_at(bytes.len() - place.tail);
                self.put(&mut block_at, blocks);
                self.put(&mut tail_at, tail);
            }
            Data::External { .. } => {
                self.null_chunks(tail_at, place.tail);
                self.null_chunks(block_at, place.blocks * BLOCK);
            }
            Data::Device(_) | Data::None => {}
        }
    }

    fn null_chunks(&mut self, at: usize, size: usize) {
        self.image[at..at + size]
            .chunks_exact_mut(4)
            .for_each(|chunk| chunk.copy_from_slice(&NULL_CHUNK.to_le_bytes()));
    }

    fn dirents(&mut self, start: usize, entries: &[(&[u8], Target)]) {
        let mut at = start;
        let mut name_at = start + entries.len() * size_of::<Dirent>();
        for (name, target) in entries {
            let target = self.inodes.number(*target);
            let dirent = Dirent {
                nid: self.plan.inodes[target].nid().into(),
                name_offset: ((name_at - start) as u16).into(), // within a block
                file_type: dirent_type(self.inodes.list[target].mode).unwrap_or_default(),
                reserved: 0,
            };
            self.put_struct(&mut at, &dirent);
            self.put(&mut name_at, name);
        }
    }
}
