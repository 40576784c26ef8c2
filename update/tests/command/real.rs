//! The client against Debian's docker-registry.

use std::fs;
use std::io::Read as _;

use base64::Engine as _;
use osupdate::transport::registry::{AuthFiles, RegistryError, RegistryImage};
use serde_json::Value;

use crate::docker_registry::{DockerRegistry, have, have_registry};
use crate::layout::{Layout, sha256};
use crate::server::options;

fn image_with(registry: &DockerRegistry, name: &str, auth_file: &str) -> RegistryImage {
    let file = registry.directory().join("auth.json");
    fs::write(&file, auth_file).unwrap();
    let reference = format!("{}/{name}", registry.address).parse().unwrap();
    RegistryImage::new(&reference, &options(AuthFiles::only(file))).unwrap()
}

fn image(registry: &DockerRegistry, name: &str) -> RegistryImage {
    image_with(registry, name, "{}")
}

#[test]
fn images_of_all_forms_are_fetched() {
    if !have_registry() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(dir.path());
    let host = osupdate_core::oci::Platform::host();
    let files: &[(&str, &[u8])] = &[("usr/lib/os-release", b"ID=test\n")];
    let here = layout.image(&host.architecture, &[files]);
    let elsewhere = layout.image("pdp11", &[files]);
    let list = layout.list(&[&elsewhere, &here]);
    layout.tag("one", &here);
    layout.tag("list", &list);
    let source = |tag: &str| format!("oci:{}:{tag}", dir.path().display());

    let registry = DockerRegistry::start();
    registry.push(&source("one"), "a/os:oci", &[]);
    registry.push(&source("one"), "a/os:docker", &["--format=v2s2"]);
    registry.push(&source("list"), "a/os:list", &["--all"]);

    let oci = image(&registry, "a/os:oci");
    assert_eq!(oci.resolve().unwrap().to_string(), here["digest"]);
    assert_eq!(sha256(&oci.manifest().unwrap()), here["digest"]);
    let docker = image(&registry, "a/os:docker");
    assert_eq!(docker.resolve().unwrap().to_string(), sha256(&docker.manifest().unwrap()));
    assert_ne!(docker.resolve().unwrap().to_string(), here["digest"]);
    let list = image(&registry, "a/os:list");
    assert_eq!(list.resolve().unwrap().to_string(), here["digest"]);
    assert_eq!(sha256(&list.manifest().unwrap()), here["digest"]);
    let digest = here["digest"].as_str().unwrap();
    assert_eq!(image(&registry, &format!("a/os@{digest}")).resolve().unwrap().to_string(), digest);

    let manifest: Value = serde_json::from_slice(&oci.manifest().unwrap()).unwrap();
    let layer = &manifest["layers"][0];
    let (digest, size) = (layer["digest"].as_str().unwrap(), layer["size"].as_u64().unwrap());
    let mut bytes = Vec::new();
    oci.blob(&digest.parse().unwrap(), size).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(sha256(&bytes), digest);

    let error = image(&registry, "a/os:3").resolve().unwrap_err();
    let RegistryError::NoTag { tags, .. } = &error else { panic!("{error}") };
    assert_eq!(tags, &["docker", "list", "oci"]);
    let error = image(&registry, "a/so:3").resolve().unwrap_err();
    assert!(matches!(error, RegistryError::NoRepository { .. }), "{error}");
    let error = oci.blob(&sha256(b"nothing").parse().unwrap(), 1).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[test]
fn a_login_is_taken_from_the_auth_file() {
    if !have_registry() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(dir.path());
    let here = layout.image("amd64", &[&[("a", b"b")]]);
    layout.tag("one", &here);
    let registry = DockerRegistry::start_with_login();
    registry.push(&format!("oci:{}:one", dir.path().display()), "os:1", &[]);

    let login = |text: &str| {
        let auth = base64::engine::general_purpose::STANDARD.encode(text);
        format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.address)
    };
    assert_eq!(image_with(&registry, "os:1", &login("me:secret")).resolve().unwrap().to_string(), here["digest"]);
    for auth_file in ["{}", &login("me:wrong")] {
        let error = image_with(&registry, "os:1", auth_file).resolve().unwrap_err();
        let RegistryError::Denied { had_credentials, .. } = error else { panic!("{error}") };
        assert_eq!(had_credentials, auth_file != "{}");
    }
}

#[test]
fn tls_and_plain_http_are_not_mixed_up() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    let registry = DockerRegistry::start_with_tls();
    let error = image(&registry, "os:1").resolve().unwrap_err();
    assert!(matches!(error, RegistryError::NotPlain { .. }), "{error:?}");

    let reference = format!("{}/os:1", registry.address).parse().unwrap();
    let mut options = options(AuthFiles::only(registry.directory().join("auth.json")));
    options.plain_http = false;
    let error = RegistryImage::new(&reference, &options).unwrap().resolve().unwrap_err();
    assert!(matches!(error, RegistryError::Certificate { .. }), "{error:?}");

    let plain = DockerRegistry::start();
    let reference = format!("{}/os:1", plain.address).parse().unwrap();
    let error = RegistryImage::new(&reference, &options).unwrap().resolve().unwrap_err();
    assert!(matches!(error, RegistryError::NotTls { .. }), "{error:?}");
}
