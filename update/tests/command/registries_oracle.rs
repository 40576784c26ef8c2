//! Where images are looked for, compared with where skopeo looks.

use std::fs;
use std::process::Command;

use crate::docker_registry::have;
use crate::place::{Place, Run};

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Nobody listens at these ports, so that every place is tried.
const CONFIG: &str = r#"
[[registry]]
prefix = "*.one.test"
location = "127.0.0.1:1"
[[registry]]
prefix = "deep.host.one.test/team"
location = "127.0.0.1:2/x/y/"
[[registry.mirror]]
location = "127.0.0.1:3"
insecure = true
[[registry.mirror]]
location = "127.0.0.1:4/copies"
[[registry]]
prefix = "*.tie.test"
location = "127.0.0.1:5/wildcard"
[[registry]]
prefix = "a.tie.test"
location = "127.0.0.1:5/exact"
[[registry]]
prefix = "two.test/os"
location = "127.0.0.1:6/other/name"
[[registry.mirror]]
location = "127.0.0.1:7/digests"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "127.0.0.1:7/tags"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "127.0.0.1:7/all"
[[registry]]
prefix = "three.test"
location = "127.0.0.1:8/three"
mirror-by-digest-only = true
[[registry.mirror]]
location = "127.0.0.1:9/m"
[[registry]]
prefix = "docker.io/library"
location = "127.0.0.1:1/hub"
"#;

/// The places that our error lists, in order.
fn ours(place: &Place, reference: &str) -> Vec<String> {
    let config = place.path().join("registries.conf");
    let arguments = ["image", "pull", &format!("docker://{reference}")];
    let message = place.run_with(&arguments, &[("CONTAINERS_REGISTRIES_CONF", &config)]).failed(1);
    let lines = message.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": cannot reach"));
    lines.map(|(place, _)| place.trim_end_matches(" (mirror)").to_owned()).collect()
}

/// The places that skopeo's log lists, in order.
fn skopeos(place: &Place, reference: &str) -> Vec<String> {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--debug", "--registries-conf"]).arg(place.path().join("registries.conf"));
    skopeo.args(["inspect", "--no-tags", &format!("docker://{reference}")]).env("HOME", place.path());
    let log = Run::of(&mut skopeo).failed(1);
    let tried = log.lines().filter_map(|line| line.split_once(r#"Trying to access \""#)?.1.split_once(r#"\""#));
    let mut places: Vec<String> = tried
        .map(|(reference, _)| {
            let name = reference.split('@').next().unwrap();
            let (path, last) = name.rsplit_once('/').unwrap();
            format!("{path}/{}", last.split(':').next().unwrap())
        })
        .collect();
    places.dedup();
    places
}

#[test]
fn images_are_looked_for_where_skopeo_looks() {
    if !have(&["skopeo"]) {
        return;
    }
    let place = Place::with_repository();
    fs::write(place.path().join("registries.conf"), CONFIG).unwrap();
    let by_digest = |name: &str| format!("{name}@sha256:{HEX}");
    for reference in [
        "host.one.test/os:1".to_owned(),
        "deep.host.one.test/os:1".to_owned(),
        "deep.host.one.test/team/os:1".to_owned(),
        "deep.host.one.test/teams/os:1".to_owned(),
        by_digest("deep.host.one.test/team/a/b"),
        "a.tie.test/os:1".to_owned(),
        "two.test/os:1".to_owned(),
        "two.test/os/part:1".to_owned(),
        by_digest("two.test/os"),
        "three.test/os:1".to_owned(),
        by_digest("three.test/os"),
        "docker.io/library/debian:13".to_owned(),
        "docker.io/debian:13".to_owned(),
    ] {
        let ours = ours(&place, &reference);
        assert!(!ours.is_empty(), "{reference}");
        assert_eq!(ours, skopeos(&place, &reference), "{reference}");
    }
}
