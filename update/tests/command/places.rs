//! The program with `registries.conf`, mirrors and credential helpers, against real registries.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::docker_registry::{DockerRegistry, have_registry};
use crate::place::Place;

#[test]
fn a_real_mirror_stands_in_for_a_registry_that_is_not_there() {
    if !have_registry() {
        return;
    }
    let place = Place::with_repository();
    let mirror = DockerRegistry::start();
    mirror.push(&format!("oci:{}/image:1", place.path().display()), "copies/team/os:1", &["--format=v2s2"]);
    let config = place.path().join("registries.conf");
    let write = |mirrors: &str| {
        let text = format!("[[registry]]\nprefix = 'registry.invalid'\nlocation = 'real.invalid:5000'\n{mirrors}");
        fs::write(&config, text).unwrap();
    };
    let pull = || {
        let arguments = ["image", "pull", "docker://registry.invalid/team/os:1", "--json"];
        place.run_with(&arguments, &[("CONTAINERS_REGISTRIES_CONF", &config)])
    };
    let table = |location: &str| format!("[[registry.mirror]]\nlocation = '{location}'\ninsecure = true\n");
    write(&format!("{}{}", table("127.0.0.1:1"), table(&format!("{}/copies", mirror.address))));
    let run = pull();
    for part in [
        "cannot reach server 127.0.0.1:1 for manifest of registry.invalid/team/os:1".to_owned(),
        format!("Connection refused (os error 111), trying {}/copies/team/os (mirror) instead", mirror.address),
        format!("registry {} is not verified, as {} has insecure = true", mirror.address, config.display()),
        format!("server {} does not speak TLS, using HTTP", mirror.address),
    ] {
        assert_eq!(run.stderr.matches(&part).count(), 1, "{part}\n{}", run.stderr);
    }
    // The image has the name that it was asked for by.
    assert_eq!(run.json()["tag"], "docker://registry.invalid/team/os:1");

    write(&table("127.0.0.1:1"));
    let message = pull().failed(1);
    assert!(message.contains("caused by: none of the places of registry.invalid/team/os:1 could deliver"), "{message}");
    assert!(message.contains("\n    127.0.0.1:1/team/os (mirror): cannot reach server 127.0.0.1:1"), "{message}");
    assert!(message.contains("\n    real.invalid:5000/team/os: cannot reach server real.invalid:5000"), "{message}");

    fs::write(&config, "[[registry]]\nlocation = 'registry.invalid'\nblocked = true").unwrap();
    let message = pull().failed(1);
    assert!(message.contains("caused by: registry.invalid/team/os:1 is blocked by"), "{message}");
    assert!(message.contains("hint: an administrator decided this"), "{message}");
    fs::write(&config, "[[registry]]\nlocation = 1").unwrap();
    let message = pull().failed(1);
    assert!(message.contains(&format!("caused by: {} is not valid", config.display())), "{message}");
}

#[test]
fn a_credential_helper_logs_in_to_a_real_registry() {
    if !have_registry() {
        return;
    }
    let place = Place::with_repository();
    let registry = DockerRegistry::start_with_login();
    registry.push(&format!("oci:{}/image:1", place.path().display()), "os:1", &[]);
    let helper = |name: &str, script: &str| {
        let program = place.path().join(format!("docker-credential-{name}"));
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("knows", r#"read -r host; echo "{\"ServerURL\":\"$host\",\"Username\":\"me\",\"Secret\":\"secret\"}""#);
    helper("fails", "echo the vault is locked; exit 1");
    let auth_file = place.path().join("auth.json");
    let path = format!("{}:/usr/bin:/bin", place.path().display());
    let reference = format!("docker://{}/os:1", registry.address);
    let pull = |text: &str| {
        fs::write(&auth_file, text).unwrap();
        let environment = [("REGISTRY_AUTH_FILE", auth_file.as_path()), ("PATH", Path::new(&path))];
        place.run_with(&["image", "pull", &reference, "--plain-http"], &environment)
    };
    let helper_for = |name: &str| format!(r#"{{"credHelpers": {{"{}": "{name}"}}}}"#, registry.address);
    assert!(pull(&helper_for("knows")).done().starts_with(&reference));
    assert!(pull(r#"{"credsStore": "knows"}"#).done().starts_with(&reference));
    let message = pull(&helper_for("fails")).failed(1);
    assert!(message.contains("caused by: the credential helper \"fails\", which"), "{message}");
    assert!(message.contains("ended with exit status: 1: the vault is locked"), "{message}");
    let message = pull(&helper_for("missing")).failed(1);
    assert!(message.contains("caused by: cannot run docker-credential-missing"), "{message}");

    // registries.conf can name helpers for all registries.
    let config = place.path().join("registries.conf");
    fs::write(&config, "credential-helpers = ['containers-auth.json', 'knows']").unwrap();
    fs::write(&auth_file, "{}").unwrap();
    let environment = [
        ("REGISTRY_AUTH_FILE", auth_file.as_path()),
        ("PATH", Path::new(&path)),
        ("CONTAINERS_REGISTRIES_CONF", &config),
    ];
    drop(place.run_with(&["image", "pull", &reference, "--plain-http"], &environment).done());
}
