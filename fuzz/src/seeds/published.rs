//! Seeds of the files of published trees.

use osupdate_core::oci::ContentDigest;
use osupdate_core::published::{
    AttachedBlob, Attachment, Envelope, EnvelopeSignature, Index, Part, PublishedFile, PublishedImage, PublishedLayer,
    Summary, VERSION, encode,
};
use osupdate_core::{Algorithm, fsverity};

pub(super) fn chunks() -> Vec<Vec<u8>> {
    let parts = |algorithm| {
        let object =
            |size: usize| Part::External { digest: fsverity::digest(algorithm, &vec![1; size]), size: size as u64 };
        encode(&[Part::Inline(vec![0; 512]), object(100), Part::Inline(b"header".to_vec()), object(5000), object(1)])
    };
    let (sha256, sha512) = (parts(Algorithm::Sha256), parts(Algorithm::Sha512));
    let compressed = zstd::bulk::compress(&sha512, 3).expect("memory can be compressed");
    vec![[&[0], &sha256[..]].concat(), [&[1], &sha512[..]].concat(), [&[3], &compressed[..]].concat()]
}

pub(super) fn indexes() -> Vec<Vec<u8>> {
    let name = ContentDigest::sha256(b"x");
    let index = |attachments| Index {
        version: VERSION,
        manifest: "{}".to_owned(),
        config: "{\"a\": \"\\u00e9\"}".to_owned(),
        layers: vec![PublishedLayer { diff_id: name, chunks: vec![name, ContentDigest::sha256(b"y")] }],
        objects: vec![0, 17, u64::MAX],
        attachments,
    };
    let blob = AttachedBlob { digest: name, data: b"x".to_vec() };
    let attachments = vec![
        Attachment { tag: Some("sha256-00.sig".to_owned()), manifest: "{}".to_owned(), blobs: vec![blob] },
        Attachment { tag: None, manifest: "{}".to_owned(), blobs: Vec::new() },
    ];
    let (plain, attached) = (index(Vec::new()), index(attachments));
    let json = |index: &Index| [&[0], &serde_json::to_vec(index).expect("it has a form")[..]].concat();
    let file = attached.to_file().expect("it has a form").1;
    vec![json(&plain), json(&attached), [&[1], &file[..]].concat()]
}

pub(super) fn summaries() -> Vec<Vec<u8>> {
    let image = |tag: &str| PublishedImage {
        name: "os".to_owned(),
        tag: tag.to_owned(),
        platform: "linux/amd64".to_owned(),
        manifest: ContentDigest::sha256(b"manifest"),
        index: PublishedFile { digest: ContentDigest::sha256(b"index"), size: 100 },
    };
    let summary = Summary {
        version: VERSION,
        serial: 1,
        created: "2026-01-01T00:00:00Z".to_owned(),
        expires: Some("2026-01-15T00:00:00Z".to_owned()),
        algorithm: "fsverity-sha512-12".to_owned(),
        images: vec![image("1"), image("latest")],
    };
    let payload = serde_json::to_vec(&summary).expect("it has a form");
    let signature = EnvelopeSignature { keyid: "sha256:00".to_owned(), sig: vec![7; 64] };
    let file = |signatures| {
        let envelope = Envelope { payload: payload.clone(), signatures };
        envelope.to_file().expect("it has a form")
    };
    vec![payload.clone(), file(Vec::new()), file(vec![signature.clone(), signature])]
}
