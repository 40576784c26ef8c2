//! An image's files in the words of its inodes, as `composefs-info dump` prints them.

use std::collections::HashMap;
use std::io::Write as _;

use super::Format;
use super::inodes::{Data, Inode, Inodes, Target, collect};
use super::layout::{BLOCK, S_IFCHR, S_IFMT, S_IFREG};
use super::overlay::{self, Stored};
use super::plan::Plan;
use super::shared::SharedXattrs;
use super::validate::{WriteError, validate};
use super::xattr::Xattr;
use crate::dumpfile::{escape_path, escape_xattr};
use crate::tree::Tree;

/// A dumpfile of the image that [`super::write`] makes of a tree: as [`crate::dumpfile::write`], but directories have the size
/// and attributes have the order that they have in the image, marks of directories with whiteouts are shown, and further
/// names of a file repeat what it is. Only entries of the root that `keep` takes are listed.
///
/// # Errors
/// Where the tree has no image.
pub fn dump_stored(tree: &Tree, format: Format, keep: &dyn Fn(&[u8]) -> bool) -> Result<Vec<u8>, WriteError> {
    validate(tree, format)?;
    let inodes = collect(tree, format);
    let shared = SharedXattrs::find(&inodes.list, format);
    let plan = Plan::new(&inodes, &shared, format)?;
    let mut dump = Dump { inodes: &inodes, shared: &shared, plan: &plan, out: Vec::new(), first: HashMap::new() };
    dump.line(b"/", 0);
    let mut path = Vec::new();
    let mut open = vec![(0, entries(&inodes, 0))];
    while let Some((path_len, entries)) = open.last_mut() {
        let path_len = *path_len;
        path.truncate(path_len);
        let Some((name, target)) = entries.next() else {
            open.pop();
            continue;
        };
        let number = inodes.number(*target);
        let stub =
            format != Format::V2 && path_len == 0 && overlay::is_stub_name(name) && is_device_0(&inodes.list[number]);
        if matches!(*name, b"." | b"..") || stub || path_len == 0 && !keep(name) {
            continue;
        }
        path.push(b'/');
        path.extend_from_slice(name);
        dump.line(&path, number);
        if let Data::Directory(_) = inodes.list[number].data {
            open.push((path.len(), self::entries(&inodes, number)));
        }
    }
    Ok(dump.out)
}

type Entries<'i, 't> = std::slice::Iter<'i, (&'t [u8], Target)>;

fn entries<'i, 't>(inodes: &'i Inodes<'t>, number: usize) -> Entries<'i, 't> {
    match &inodes.list[number].data {
        Data::Directory(entries) => entries.iter(),
        _ => [].iter(),
    }
}

/// True for stubs only, where whiteouts of the user are regular files.
fn is_device_0(inode: &Inode<'_>) -> bool {
    inode.mode & S_IFMT == S_IFCHR && matches!(inode.data, Data::Device(0))
}

struct Dump<'d, 't> {
    inodes: &'d Inodes<'t>,
    shared: &'d SharedXattrs<'d, 't>,
    plan: &'d Plan,
    out: Vec<u8>,
    /// The first names of inodes: link counts need not tell which have several.
    first: HashMap<usize, Vec<u8>>,
}

impl<'t> Dump<'_, 't> {
    fn line(&mut self, path: &[u8], number: usize) {
        let inode = &self.inodes.list[number];
        let xattrs = self.xattrs(number, inode);
        let value = |name: &[u8]| xattrs.iter().find(|xattr| *xattr.name == *name).map(|xattr| xattr.value.bytes());
        let whiteout = overlay::WHITEOUT.iter().all(|name| value(name).is_some_and(|value| value.is_empty()))
            && inode.mode & S_IFMT == S_IFREG
            && matches!(inode.data, Data::None);
        let mode = if whiteout { S_IFCHR | inode.mode & !S_IFMT } else { inode.mode };
        let place = &self.plan.inodes[number];
        let mut rdev = 0;
        let (mut payload, mut content, mut digest) = (None, None, None);
        let size = match &inode.data {
            Data::Directory(_) => (place.blocks * BLOCK + place.tail) as u64,
            Data::Bytes(bytes) => {
                content = Some(*bytes);
                bytes.len() as u64
            }
            Data::Symlink(target) => {
                payload = Some(target.to_vec());
                target.len() as u64
            }
            Data::External { size, .. } => {
                payload = value(overlay::REDIRECT).and_then(|value| Some(value.strip_prefix(b"/")?.to_vec()));
                digest = value(overlay::METACOPY).and_then(|value| overlay::parse_metacopy(&value)).flatten();
                *size
            }
            Data::Device(number) => {
                rdev = *number;
                0
            }
            Data::None => 0,
        };
        let is_directory = matches!(inode.data, Data::Directory(_));
        let earlier = self.first.get(&number).filter(|_| !is_directory);
        let link = if earlier.is_some() { "@" } else { "" };
        if let Some(earlier) = earlier {
            payload = Some(earlier.clone());
        }
        let field = |bytes: Option<&[u8]>| bytes.map_or_else(|| b"-".to_vec(), escape_path);
        let stat = inode.stat;
        let (secs, nanos) = (stat.mtime_secs, stat.mtime_nanos);
        let mut line = escape_path(path);
        write!(line, " {size} {link}{mode:o} {} {} {} {rdev} {secs}.{nanos} ", inode.nlink, stat.uid, stat.gid)
            .expect("memory takes all bytes");
        line.extend(field(payload.as_deref()));
        line.push(b' ');
        line.extend(field(content));
        line.push(b' ');
        line.extend(digest.map_or_else(|| "-".to_owned(), |digest| digest.to_string()).into_bytes());
        for xattr in xattrs {
            let Stored::User(name) = overlay::unescape(&xattr.name) else { continue };
            if overlay::WHITEOUT.iter().chain(&overlay::WHITEOUTS).any(|mark| **mark == *xattr.name) {
                continue;
            }
            line.push(b' ');
            escape_xattr(&name, &mut line);
            line.push(b'=');
            escape_xattr(&xattr.value.bytes(), &mut line);
        }
        line.push(b'\n');
        self.out.extend(line);
        if !is_directory {
            self.first.entry(number).or_insert_with(|| path.to_vec());
        }
    }

    /// Those of the inode itself first, then those in the table.
    fn xattrs<'x>(&self, number: usize, inode: &'x Inode<'t>) -> Vec<&'x Xattr<'t>> {
        let (_, own) = self.shared.split(number, inode);
        let is_own = |xattr: &&Xattr<'t>| own.iter().any(|own| std::ptr::eq(*own, *xattr));
        let rest = inode.xattrs.iter().filter(|xattr| !is_own(xattr));
        own.iter().copied().chain(rest).collect()
    }
}
