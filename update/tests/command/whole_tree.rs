//! A published tree as a reader finds it: everything that its summary names must be there.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use osupdate_core::published::{Envelope, Index, Part, Summary, chunk_path, decode, index_path, object_path};
use osupdate_core::{Algorithm, fsverity};

/// The summary, and the files that it needs. Each is read, and must be what its name says.
pub(crate) fn whole(tree: &Path, when: &str) -> (Summary, BTreeSet<String>) {
    let read = |path: &str| fs::read(tree.join(path)).unwrap_or_else(|error| panic!("{when}: {path}: {error}"));
    let envelope = Envelope::parse(&read("summary.json")).unwrap();
    let summary = Summary::parse(&envelope.payload).unwrap();
    let algorithm: Algorithm = summary.algorithm.parse().unwrap();
    let mut files = BTreeSet::new();
    for image in &summary.images {
        let path = index_path(&image.index.digest);
        let file = read(&path);
        assert_eq!(file.len() as u64, image.index.size, "{when}");
        files.insert(path);
        let index = Index::from_file(&file, &image.index.digest).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(image.manifest.matches(index.manifest.as_bytes()), "{when}");
        let (mut objects, mut seen) = (Vec::new(), BTreeSet::new());
        for name in index.layers.iter().flat_map(|layer| &layer.chunks) {
            let path = chunk_path(name);
            for part in decode(&read(&path), name, algorithm).unwrap_or_else(|error| panic!("{when}: {error}")) {
                if let Part::External { digest, size } = part
                    && seen.insert(digest)
                {
                    objects.push((digest, size));
                }
            }
            files.insert(path);
        }
        assert_eq!(objects.len(), index.objects.len(), "{when}");
        for ((digest, size), fetched) in objects.iter().zip(&index.objects) {
            let path = object_path(digest, *fetched > 0);
            let mut contents = read(&path);
            if *fetched > 0 {
                assert_eq!(contents.len() as u64, *fetched, "{when}: {path}");
                let mut plain = Vec::new();
                zstd::Decoder::new(&contents[..]).unwrap().read_to_end(&mut plain).unwrap();
                contents = plain;
            }
            assert_eq!(contents.len() as u64, *size, "{when}: {path}");
            assert_eq!(fsverity::digest(algorithm, &contents), *digest, "{when}: {path}");
            files.insert(path);
        }
    }
    (summary, files)
}
