//! The written form of a record is a contract between releases: these tests pin it.

use osupdate_record::{
    Addon, Boot, Deployment, Etc, Image, LocalAddon, Needed, Origin, ParseError, RECORD_VERSION, Requirement,
    Signature, Uki,
};
use toml::Table;

/// As it was before signatures were recorded, and still is where there is nothing to record.
const PINNED: &str = include_str!("deployment-v1.toml");
const PINNED_SIGNED: &str = include_str!("deployment-v1-signed.toml");
const PINNED_SEALED: &str = include_str!("deployment-v1-sealed.toml");

fn sample() -> Deployment {
    Deployment {
        version: RECORD_VERSION,
        sequence: 7,
        created: "2026-11-23T12:00:00Z".to_owned(),
        pinned: false,
        boot_since: None,
        image: Image {
            reference: "docker://registry.example:5000/os:latest".to_owned(),
            manifest_digest: format!("sha256:{}", "1".repeat(64)),
            config_digest: format!("sha256:{}", "2".repeat(64)),
            version: Some("13.2".to_owned()),
            title: Some("Example OS 13".to_owned()),
            expires: None,
            signatures: Vec::new(),
            unknown: Table::new(),
        },
        origin: Origin { plain_http: true, requirement: None, summary_key: None, unknown: Table::new() },
        boot: Boot {
            digest: "3".repeat(64),
            kernel: "6.12.57+deb13-amd64".to_owned(),
            arguments: vec!["root=UUID=0d1e".to_owned(), "rw".to_owned()],
            image_arguments: vec!["console=ttyS0".to_owned()],
            uki: None,
            unknown: Table::new(),
        },
        etc: Etc { carry_from: Some("4".repeat(128).parse().unwrap()), unknown: Table::new() },
        unknown: Table::new(),
    }
}

/// The same of a signed image that expires.
fn signed_sample() -> Deployment {
    let mut record = sample();
    record.image.expires = Some("2027-01-01T00:00:00Z".to_owned());
    record.image.signatures = vec![Signature {
        kind: "openpgp".to_owned(),
        key: "5".repeat(40),
        key_file: Some("/usr/share/osupdate/keys/os.gpg".to_owned()),
        signer: Some("Example OS <os@example.com>".to_owned()),
        identity: Some("registry.example:5000/os:latest".to_owned()),
        made: Some("2026-11-23T10:00:00Z".to_owned()),
        verified: "2026-11-23T12:00:00Z".to_owned(),
        unknown: Table::new(),
    }];
    record.origin.requirement = Some(Requirement {
        signature: Needed::Required,
        keys: vec!["5".repeat(40)],
        since: "2026-11-20T12:00:00Z".to_owned(),
        unknown: Table::new(),
    });
    record
}

/// The same with a UKI, an addon of the image and one of the machine.
fn sealed_sample() -> Deployment {
    let mut record = sample();
    record.boot_since = Some(7);
    record.boot.uki = Some(Uki {
        path: "boot/EFI/Linux/os.efi".to_owned(),
        object: "6".repeat(128),
        addons: vec![Addon { name: "debug.addon.efi".to_owned(), object: "7".repeat(128) }],
        local: Some(LocalAddon {
            file: "local-000007.addon.efi".to_owned(),
            arguments: vec!["console=ttyS1".to_owned()],
            unknown: Table::new(),
        }),
        unknown: Table::new(),
    });
    record
}

#[test]
fn written_form_is_the_pinned_one() {
    assert_eq!(sealed_sample().to_toml().unwrap(), PINNED_SEALED);
    assert_eq!(sample().to_toml().unwrap(), PINNED);
    assert_eq!(signed_sample().to_toml().unwrap(), PINNED_SIGNED);
}

#[test]
fn pinned_form_is_read_back() {
    assert_eq!(Deployment::parse(PINNED).unwrap(), sample());
    assert_eq!(Deployment::parse(PINNED_SIGNED).unwrap(), signed_sample());
    assert_eq!(Deployment::parse(PINNED_SEALED).unwrap(), sealed_sample());
}

#[test]
fn least_record_of_an_installation_is_read() {
    let record = Deployment::parse(
        "version = 1\nsequence = 1\ncreated = \"2026-11-23T12:00:00Z\"\n\
         [image]\nreference = \"oci:/os\"\nmanifest_digest = \"sha256:a\"\nconfig_digest = \"sha256:b\"\n\
         [boot]\ndigest = \"c\"\nkernel = \"6.12\"\n",
    )
    .unwrap();
    assert_eq!(record.etc.carry_from, None);
    assert!(!record.pinned && !record.origin.plain_http);
    assert_eq!(Deployment::parse(&record.to_toml().unwrap()).unwrap(), record);
}

#[test]
fn keys_of_a_newer_program_do_not_disturb_and_survive_a_rewrite() {
    let newer = PINNED
        .replace("pinned = false\n", "pinned = false\nflavour = \"x\"\n")
        .replace("[origin]\n", "[origin]\nmust_be_signed_by = [\"key\"]\n")
        .replace("[etc]\n", "[etc]\npolicy = \"fail\"\n")
        + "\n[health]\ntries = 3\n";
    let mut record = Deployment::parse(&newer).unwrap();
    assert_eq!(record.sequence, 7);
    record.pinned = true;

    let rewritten: Table = record.to_toml().unwrap().parse().unwrap();
    let mut expected: Table = newer.parse().unwrap();
    expected.insert("pinned".to_owned(), true.into());
    assert_eq!(rewritten, expected);
}

#[test]
fn newer_format_version_is_refused_even_if_nothing_else_fits() {
    let err = Deployment::parse("version = 2\nshape = \"different\"\n").unwrap_err();
    assert!(matches!(err, ParseError::NewerVersion { found: 2 }));
    assert_eq!(err.to_string(), "the deployment record has format version 2, this program reads versions up to 1");
}

#[test]
fn missing_version_and_bad_values_are_refused() {
    assert!(matches!(Deployment::parse("sequence = 1\n"), Err(ParseError::NoVersion)));
    assert!(matches!(Deployment::parse("version = 0\n"), Err(ParseError::NoVersion)));
    assert!(matches!(Deployment::parse("not toml"), Err(ParseError::Invalid(_))));
    assert!(matches!(Deployment::parse(&PINNED.replace(&"4".repeat(128), "../x")), Err(ParseError::Invalid(_))));
    assert!(matches!(Deployment::parse(&PINNED.replace("sequence = 7", "sequence = -7")), Err(ParseError::Invalid(_))));
}
