use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn registries(text: &str) -> Registries {
    let contents = file::parse(Path::new("registries.conf"), text).unwrap();
    Registries { tables: contents.tables, credential_helpers: Vec::new() }
}

fn problem(text: &str) -> String {
    file::parse(Path::new("registries.conf"), text).unwrap_err().to_string()
}

/// The places of an image, insecure ones with a `!`.
fn places(config: &str, reference: &str) -> Vec<String> {
    let places = registries(config).places(&reference.parse().unwrap()).unwrap();
    let mark = |place: &Place| if place.insecure.is_some() { "!" } else { "" };
    places.iter().map(|place| format!("{}{}", place.reference, mark(place))).collect()
}

#[test]
fn the_example_of_the_manual_page_is_understood() {
    let config = r#"
        unqualified-search-registries = ["example.com"]
        [[registry]]
        prefix = "example.com/foo"
        insecure = false
        blocked = false
        location = "internal-registry-for-example.com/bar"
        [[registry.mirror]]
        location = "example-mirror-0.local/mirror-for-foo"
        [[registry.mirror]]
        location = "example-mirror-1.local/mirrors/foo"
        insecure = true
        [[registry]]
        location = "registry.com"
        [[registry.mirror]]
        location = "mirror.registry.com"
    "#;
    assert_eq!(
        places(config, "example.com/foo/image"),
        [
            "example-mirror-0.local/mirror-for-foo/image:latest",
            "example-mirror-1.local/mirrors/foo/image:latest!",
            "internal-registry-for-example.com/bar/image:latest"
        ]
    );
    assert_eq!(places(config, "registry.com/image:1"), ["mirror.registry.com/image:1", "registry.com/image:1"]);
    assert_eq!(places(config, "example.com/food:1"), ["example.com/food:1"]);
    assert_eq!(places(config, "example.com/foo:1")[2], "internal-registry-for-example.com/bar:1");
}

#[test]
fn the_longest_prefix_decides_alone() {
    let config = r#"
        registry = [
            {prefix = "*.example.com", insecure = true},
            {prefix = "*.team.test", location = "five.test"},
            {prefix = "a.team.test", location = "six.test"},
            {prefix = "ab.example.com", location = "one.test"},
            {prefix = "ab.example.com/team", location = "two.test/x"},
            {prefix = "ab.example.com/team/os:9", location = "three.test/os:8"},
            {prefix = "*.wild.test", location = "four.test/w"},
        ]
    "#;
    let one = |reference| places(config, reference).concat();
    assert_eq!(one("a.team.test/os:1"), "five.test/os:1");
    assert_eq!(one("ab.example.com/os:1"), "one.test/os:1");
    assert_eq!(one("ab.example.com:5000/os:1"), "one.test:5000/os:1");
    assert_eq!(one("ab.example.com/team/os:1"), "two.test/x/os:1");
    assert_eq!(one("ab.example.com/team/os:9"), "three.test/os:8");
    assert_eq!(one("ab.example.com/teams/os:1"), "one.test/teams/os:1");
    assert_eq!(one("b.ab.example.com/os:1"), "b.ab.example.com/os:1!");
    assert_eq!(one("b.example.com:5000/os:1"), "b.example.com:5000/os:1!");
    assert_eq!(one("example.com/os:1"), "example.com/os:1");
    assert_eq!(one("evil.test/ab.example.com/os:1"), "evil.test/ab.example.com/os:1");
    assert_eq!(one("x.wild.test/os:1"), "four.test/w/os:1");
}

#[test]
fn mirrors_can_be_for_tags_or_digests_only() {
    let config = r#"
        [[registry]]
        location = "a.test"
        mirror = [
            {location = "digests.test", pull-from-mirror = "digest-only"},
            {location = "tags.test", pull-from-mirror = "tag-only"},
            {location = "all.test", pull-from-mirror = "all"},
            {location = "also.test", pull-from-mirror = ""},
        ]
        [[registry]]
        location = "b.test"
        mirror-by-digest-only = true
        mirror = [{location = "m.test"}]
    "#;
    let hosts = |reference: &str| -> Vec<String> {
        let places = registries(config).places(&reference.parse().unwrap()).unwrap();
        assert!(places.iter().rev().skip(1).all(|place| place.is_mirror) && !places.last().unwrap().is_mirror);
        places.into_iter().map(|place| place.reference.host).collect()
    };
    assert_eq!(hosts("a.test/os:1"), ["tags.test", "all.test", "also.test", "a.test"]);
    assert_eq!(hosts(&format!("a.test/os@sha256:{HEX}")), ["digests.test", "all.test", "also.test", "a.test"]);
    assert_eq!(hosts(&format!("a.test/os:1@sha256:{HEX}")), ["digests.test", "all.test", "also.test", "a.test"]);
    assert_eq!(hosts("b.test/os:1"), ["b.test"]);
    assert_eq!(hosts(&format!("b.test/os@sha256:{HEX}")), ["m.test", "b.test"]);
}

#[test]
fn what_is_blocked_is_not_reached_under_another_name() {
    let config = r#"registry = [
        {location = "bad.test", blocked = true},
        {location = "a.test", mirror = [{location = "bad.test/x"}, {location = "good.test"}]},
        {prefix = "b.test", location = "bad.test/b"},
    ]"#;
    assert_eq!(places(config, "a.test/os:1"), ["good.test/os:1", "a.test/os:1"]);
    let error = registries(config).places(&"b.test/os:1".parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "bad.test/b/os:1 is blocked by registries.conf (prefix bad.test)");
}

#[test]
fn blocked_registries_are_refused() {
    let config = r#"registry = [{location = "a.test", blocked = true}, {prefix = "a.test/ok", location = "b.test"}]"#;
    let error = registries(config).places(&"a.test/os:1".parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "a.test/os:1 is blocked by registries.conf (prefix a.test)");
    assert_eq!(places(config, "a.test/ok/os:1"), ["b.test/os:1"]);
}

#[test]
fn drop_ins_replace_tables_with_the_same_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let drop_ins = dir.path().join("registries.conf.d");
    std::fs::create_dir_all(drop_ins.join("x.conf")).unwrap();
    write("main.conf", "credential-helpers = ['a']\nregistry = [{location = 'a.test'}, {location = 'b.test'}]");
    write("registries.conf.d/2.conf", "registry = [{prefix = 'a.test', location = 'two.test'}]");
    write("registries.conf.d/1.conf", "registry = [{prefix = 'a.test', location = 'one.test', insecure = true}]");
    write("registries.conf.d/3.conf.bak", "registry = [{prefix = 'a.test', location = 'three.test'}]");
    let files = RegistriesFiles::only(Some(dir.path().join("main.conf")), vec![drop_ins, "/nonexistent".into()]);
    let registries = files.load().unwrap();
    let places = registries.places(&"a.test/os:1".parse().unwrap()).unwrap();
    let expected: RegistryReference = "two.test/os:1".parse().unwrap();
    assert_eq!(places, [Place { reference: expected, insecure: None, is_mirror: false }]);
    assert_eq!(registries.credential_helpers, ["a"]);
    assert!(RegistriesFiles::only(Some("/nonexistent".into()), Vec::new()).load().is_err());
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(problem("registry = 1"), "registries.conf is not valid");
    for (text, expected) in [
        ("registry = [{prefix = 'a.test'}]", "the [[registry]] with prefix a.test has no location"),
        ("registry = [{}]", "a [[registry]] has neither prefix nor location"),
        ("registry = [{location = 'https://a.test'}]", "is a web address"),
        ("registry = [{prefix = 'a.*.test', location = 'b.test'}]", "a wildcard that is not *. before a host alone"),
        ("registry = [{prefix = '*.a.test/x', location = 'b.test'}]", "a wildcard that is not *. before a host alone"),
        ("registry = [{location = 'a.test', pull-from-mirror = 'all'}]", "pull-from-mirror is for mirrors"),
        ("registry = [{location = 'a.test', mirror = [{}]}]", "a mirror of a.test has no location"),
        (
            "registry = [{location = 'a.test', mirror-by-digest-only = true,
                mirror = [{location = 'b.test', pull-from-mirror = 'all'}]}]",
            "although a.test has mirror-by-digest-only",
        ),
        (
            "registry = [{location = 'a.test', insecure = true}, {prefix = 'x.test', location = 'a.test'}]",
            "a.test is both insecure or blocked and not",
        ),
        ("[registries.search]\nregistries = ['a.test']", "it has the form of version 1"),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with("registries.conf is not valid: ") && problem.contains(expected), "{problem}");
    }
    let config = "registry = [{prefix = 'a.test', location = 'B.test/UP'}]";
    let error = registries(config).places(&"a.test/os:1".parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "registries.conf makes \"B.test/UP/os:1\" of a.test/os:1, which is not a reference");
}
