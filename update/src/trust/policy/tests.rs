use super::super::identity::Name;
use super::*;

fn parse(json: &str) -> Result<Policy, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.json");
    std::fs::write(&path, json).unwrap();
    let paths = PolicyPaths::standard().with_policy(path).with_registries_d(dir.path().join("none"));
    Policy::load(&paths).map_err(|error| {
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            text.push_str(&format!(": {source}"));
        }
        text
    })
}

/// The requirements for an image.
fn wanted(policy: &Policy, image: &str) -> (Vec<Requirement>, String) {
    let transport = match image.split_once(':') {
        Some((transport @ ("oci" | "dir" | "docker-archive" | "containers-storage"), _)) => transport,
        _ => "docker",
    };
    let found = policy.requirements(&image.parse().unwrap(), transport).unwrap();
    (found.requirements.into_owned(), found.scope)
}

fn with(requirement: &str) -> String {
    format!(r#"{{"default": [{requirement}]}}"#)
}

fn error(requirement: &str) -> String {
    parse(&with(requirement)).unwrap_err()
}

#[test]
fn the_most_specific_scope_decides_alone() {
    let policy = parse(
        r#"{"default": [{"type": "reject"}], "transports": {
            "docker": {
                "": [{"type": "insecureAcceptAnything"}],
                "h.example": [{"type": "reject"}],
                "h.example/team": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
                "h.example/team/os:1": [{"type": "insecureAcceptAnything"}],
                "*.example": [{"type": "reject"}]
            },
            "oci": {"/usr": [{"type": "insecureAcceptAnything"}]},
            "dir": {"/usr": [{"type": "insecureAcceptAnything"}]},
            "docker-archive": {"": [{"type": "insecureAcceptAnything"}]},
            "containers-storage": {"[overlay@/x]h.example/os": [{"type": "reject"}]}
        }}"#,
    )
    .unwrap();
    let scope = |image| wanted(&policy, image).1;
    assert_eq!(scope("h.example/team/os:1"), r#"scope "h.example/team/os:1" of transport docker"#);
    assert_eq!(scope("h.example/team/os:2"), r#"scope "h.example/team" of transport docker"#);
    assert_eq!(scope("h.example/teams/os:2"), r#"scope "h.example" of transport docker"#);
    assert_eq!(scope("a.example/os"), r#"scope "*.example" of transport docker"#);
    assert_eq!(scope("elsewhere.test/os"), "the default of transport docker");
    assert_eq!(scope("oci:/usr/share"), r#"scope "/usr" of transport oci"#);
    assert_eq!(scope("oci:/etc"), "its default");
    assert_eq!(scope("dir:/usr/bin"), r#"scope "/usr" of transport dir"#);
    assert_eq!(scope("docker-archive:/nonexistent"), "the default of transport docker-archive");
    // Which scope that belongs to podman alone knows.
    assert!(matches!(wanted(&policy, "containers-storage:os").0[..], [Requirement::Unsupported(_)]));
    assert_eq!(wanted(&policy, "h.example/team/os:2").0, [Requirement::AcceptAnything, Requirement::Reject]);
}

#[test]
fn without_a_file_everything_is_accepted_and_a_named_file_must_exist() {
    let paths = |must_exist| PolicyPaths {
        policies: vec!["/nonexistent/policy.json".into()],
        must_exist,
        registries_d: Vec::new(),
        default_lookaside: None,
    };
    let policy = Policy::load(&paths(false)).unwrap();
    assert_eq!(wanted(&policy, "h.example/os"), (vec![Requirement::AcceptAnything], "there is no policy".to_owned()));
    assert!(Policy::load(&paths(true)).unwrap_err().to_string().contains("/nonexistent/policy.json"));
}

#[test]
fn keys_and_identities_are_read() {
    let policy = parse(&with(
        r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/k/a", "/k/b"],
            "signedIdentity": {"type": "exactReference", "dockerReference": "vendor.example/os:1"}},
           {"type": "sigstoreSigned", "keyDatas": ["YQ==", "Yg=="],
            "signedIdentity": {"type": "remapIdentity", "prefix": "m:5000/v", "signedPrefix": "vendor.example"}},
           {"type": "signedBy", "keyType": "GPGKeys", "keyData": "YQ=="}"#,
    ))
    .unwrap();
    assert_eq!(
        wanted(&policy, "h.example/os").0,
        [
            Requirement::SignedBy {
                keys: KeySource::Files(vec!["/k/a".into(), "/k/b".into()]),
                identity: SignedIdentity::ExactReference(Name::parse("vendor.example/os:1").unwrap()),
            },
            Requirement::SigstoreSigned {
                keys: KeySource::Inline(vec![b"a".to_vec(), b"b".to_vec()]),
                identity: SignedIdentity::RemapIdentity {
                    prefix: "m:5000/v".to_owned(),
                    signed_prefix: "vendor.example".to_owned()
                },
            },
            Requirement::SignedBy {
                keys: KeySource::Inline(vec![b"a".to_vec()]),
                identity: SignedIdentity::MatchRepoDigestOrExact
            },
        ]
    );
}

#[test]
fn what_cannot_be_verified_is_read_and_never_met() {
    for requirement in [
        r#"{"type": "sigstoreSigned", "fulcio": {"caPath": "/a", "oidcIssuer": "b", "subjectEmail": "c"}, "rekorPublicKeyPath": "/k"}"#,
        r#"{"type": "sigstoreSigned", "pki": {"caRootsPath": "/a", "subjectEmail": "c"}}"#,
        r#"{"type": "sigstoreSigned", "keyPath": "/a", "rekorPublicKeyDatas": ["YQ=="]}"#,
        r#"{"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/a"}"#,
        r#"{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}"#,
    ] {
        let policy = parse(&with(requirement)).unwrap();
        assert!(matches!(wanted(&policy, "h.example/os").0[..], [Requirement::Unsupported(_)]), "{requirement}");
    }
}

#[test]
fn files_that_podman_refuses_are_refused() {
    for (json, part) in [
        ("", "EOF"),
        ("{}", "missing field `default`"),
        (r#"{"default": []}"#, "empty"),
        (r#"{"default": [{"type": "reject"}], "more": 1}"#, "unknown field `more`"),
        (r#"{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}"#, "duplicate field `default`"),
        (r#"{"default": [{"type": "reject"}]} x"#, "trailing characters"),
        (r#"{"default": [{"type": "reject"}], "transports": null}"#, "invalid type"),
        (
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {}, "docker": {}}}"#,
            r#"duplicate key "docker""#,
        ),
        (r#"{"default": [{"type": "reject"}], "transports": {"docker": {"a": []}}}"#, r#"scope "a""#),
        (
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {"a": [{"type": "reject"}], "a": [{"type": "reject"}]}}}"#,
            r#"duplicate key "a""#,
        ),
        (r#"{"default": [{"type": "reject"}], "transports": {"oci": {"a": [{"type": "reject"}]}}}"#, "absolute"),
    ] {
        let error = parse(json).err().unwrap_or_else(|| panic!("accepted: {json}"));
        assert!(error.contains(part), "{json}: {error}");
        assert!(error.contains("policy.json"), "{error}");
    }
}

#[test]
fn requirements_that_podman_refuses_are_refused() {
    let signed = |more: &str| format!(r#"{{"type": "signedBy", "keyType": "GPGKeys", {more}}}"#);
    let identity = |json: &str| signed(&format!(r#""keyPath": "/k", "signedIdentity": {json}"#));
    for (requirement, part) in [
        ("{}".to_owned(), "missing field `type`"),
        (r#"{"type": "reject", "x": 1}"#.to_owned(), "unknown field `x`"),
        (r#"{"type": "insecureAcceptAnything", "x": 1}"#.to_owned(), "unknown field `x`"),
        (r#"{"type": "reject", "type": "reject"}"#.to_owned(), "duplicate field `type`"),
        (r#"{"type": "acceptAnything"}"#.to_owned(), "unknown variant `acceptAnything`"),
        (r#"{"type": "signedBy", "keyPath": "/k"}"#.to_owned(), "missing field `keyType`"),
        (r#"{"type": "signedBy", "keyType": "x", "keyPath": "/k"}"#.to_owned(), "unknown variant `x`"),
        (signed(r#""keyPath": "/k", "keyPath": "/l""#), "duplicate field `keyPath`"),
        (signed(r#""keyPath": "/k", "keyData": "YQ==""#), "exactly one"),
        (signed(r#""keyPath": "/k", "keyPaths": ["/k"]"#), "exactly one"),
        (signed(r#""keyPath": """#), "empty"),
        (signed(r#""keyPaths": []"#), "empty"),
        (signed(r#""keyData": "!""#), "base64"),
        (signed(r#""key": "/k""#), "unknown field `key`"),
        (r#"{"type": "sigstoreSigned"}"#.to_owned(), "exactly one"),
        (r#"{"type": "sigstoreSigned", "keyPath": "/k", "fulcio": {}}"#.to_owned(), "exactly one"),
        (r#"{"type": "sigstoreSigned", "keyDatas": []}"#.to_owned(), "empty"),
        (r#"{"type": "sigstoreSigned", "keyPath": "/k", "keyType": "GPGKeys"}"#.to_owned(), "unknown field `keyType`"),
        (identity(r#"{"type": "matchAnything"}"#), "unknown variant `matchAnything`"),
        (identity(r#"{"type": "default"}"#), "unknown variant `default`"),
        (identity(r#"{"type": "matchExact", "x": 1}"#), "unknown field `x`"),
        (identity(r#"{"type": "exactReference"}"#), "missing field `dockerReference`"),
        (identity(r#"{"type": "exactReference", "dockerReference": "h.example/os"}"#), "neither a tag"),
        (identity(r#"{"type": "exactReference", "dockerReference": "UP:1"}"#), "not a reference"),
        (identity(r#"{"type": "remapIdentity", "prefix": "h.example/a:1", "signedPrefix": "b"}"#), "beginning"),
    ] {
        let error = error(&requirement);
        assert!(error.contains(part), "{requirement}: {error}");
    }
}

#[test]
fn deep_json_is_refused() {
    let deep = format!(
        r#"{{"default": [{{"type": "sigstoreSigned", "fulcio": {}1{}}}]}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(parse(&deep).unwrap_err().contains("recursion limit"));
}
