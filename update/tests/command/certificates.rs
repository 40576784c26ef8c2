//! TLS with a real registry whose certificates nobody knows but the directories for certificates.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use osupdate::transport::registry::{
    AuthFiles, CertificateDirectories, RegistriesFiles, RegistryError, RegistryImage, RegistryOptions,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::docker_registry::{DockerRegistry, TLS, have, have_registry};
use crate::layout::Layout;
use crate::server::{Server, options, reply};

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an authority `ca.pem` and two certificates that it signs: `certificate.pem` for localhost and `client.pem`.
pub(crate) fn make_authority(dir: &Path) {
    openssl(dir, "req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem");
    for (name, subject, key) in [("certificate", "localhost", "key"), ("client", "somebody", "client-key")] {
        fs::write(dir.join("extensions"), format!("subjectAltName=DNS:{subject}\nbasicConstraints=CA:FALSE\n"))
            .unwrap();
        openssl(dir, &format!("req -newkey rsa:2048 -nodes -subj /CN={subject} -keyout {key}.pem -out request.pem"));
        openssl(
            dir,
            &format!(
                "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -days 2 -extfile extensions -out {name}.pem"
            ),
        );
    }
}

/// A registry with these files of its directory in a directory of certificates.
fn resolve(
    registry: &DockerRegistry,
    files: &[(&str, &str)],
    change: impl FnOnce(&mut RegistryOptions),
) -> Result<(), RegistryError> {
    resolve_at(&registry.address, registry.directory(), files, change)
}

/// The same for any registry, with files of `source`.
fn resolve_at(
    address: &str,
    source: &Path,
    files: &[(&str, &str)],
    change: impl FnOnce(&mut RegistryOptions),
) -> Result<(), RegistryError> {
    let dir = tempfile::tempdir().unwrap();
    let certificates = dir.path().join(address);
    fs::create_dir(&certificates).unwrap();
    for (from, to) in files {
        fs::copy(source.join(from), certificates.join(to)).unwrap();
    }
    let auth_file = dir.path().join("auth.json");
    fs::write(&auth_file, "{}").unwrap();
    let mut options = options(AuthFiles::only(auth_file));
    options.plain_http = false;
    options.certificates = CertificateDirectories::only(vec![dir.path().to_owned()]);
    change(&mut options);
    let reference = format!("{address}/os:1").parse().unwrap();
    match RegistryImage::new(&reference, &options)?.resolve() {
        // There is nothing in it. That is said by whoever is trusted.
        Err(RegistryError::NoRepository { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(digest) => panic!("{digest}"),
    }
}

#[test]
fn an_authority_is_trusted_for_its_registry() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    let registry = DockerRegistry::start_with_tls_by(make_authority);
    let error = resolve(&registry, &[], |_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::Certificate { .. }), "{error:?}");
    let place = format!("/etc/containers/certs.d/{}/ca.crt", registry.address);
    assert!(error.hint().unwrap().contains(&place), "{:?}", error.hint());
    resolve(&registry, &[("ca.pem", "ca.crt")], |_| ()).unwrap();
    // Other endings say nothing.
    assert!(resolve(&registry, &[("ca.pem", "ca.pem")], |_| ()).is_err());
    let error = resolve(&registry, &[("key.pem", "ca.crt")], |_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::Client(_)), "{error:?}");
    // Where the registry is called insecure, nobody is asked for a certificate.
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("registries.conf");
    fs::write(&config, format!("[[registry]]\nlocation = '{}'\ninsecure = true", registry.address)).unwrap();
    resolve(&registry, &[], |options| options.registries = RegistriesFiles::only(Some(config), Vec::new())).unwrap();
}

#[test]
fn a_certificate_may_be_its_own_authority() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    // As openssl makes them if it is not told otherwise, and as many instructions for registries have it.
    let signed_by_itself = |name: &'static str| {
        move |dir: &Path| {
            let subject = format!("-subj /CN=x -addext subjectAltName=DNS:{name}");
            openssl(
                dir,
                &format!("req -x509 -newkey rsa:2048 -nodes -days 2 {subject} -keyout key.pem -out certificate.pem"),
            );
        }
    };
    let registry = DockerRegistry::start_with_tls_by(signed_by_itself("localhost"));
    assert!(resolve(&registry, &[], |_| ()).is_err());
    resolve(&registry, &[("certificate.pem", "ca.crt")], |_| ()).unwrap();
    let registry = DockerRegistry::start_with_tls_by(signed_by_itself("elsewhere"));
    let error = resolve(&registry, &[("certificate.pem", "ca.crt")], |_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::Certificate { .. }), "{error:?}");
}

#[test]
fn a_registry_is_shown_our_certificate_if_it_asks() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    let registry = DockerRegistry::start_with_client_certificates_by(make_authority);
    let authority = ("ca.pem", "ca.crt");
    let error = resolve(&registry, &[authority], |_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::ClientCertificate { .. }), "{error:?}");
    let place = format!("/etc/containers/certs.d/{}/client.cert", registry.address);
    assert!(error.hint().unwrap().contains(&place), "{:?}", error.hint());
    let pair = [authority, ("client.pem", "client.cert"), ("client-key.pem", "client.key")];
    resolve(&registry, &pair, |_| ()).unwrap();
    let mixed = [authority, ("client.pem", "client.cert"), ("key.pem", "client.key")];
    let error = resolve(&registry, &mixed, |_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::Client(_)), "{error:?}");
}

/// The reason often gets lost: the registry gives it and ends the connection while we go on to speak.
#[test]
fn a_registry_that_asks_for_a_certificate_and_ends_without_a_word_wants_one() {
    if !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make_authority(dir.path());
    let file = |name: &str| dir.path().join(name);
    let authority = CertificateDer::from_pem_file(file("ca.pem")).unwrap();
    let mut authorities = RootCertStore::empty();
    authorities.add(authority).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(file("certificate.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(file("key.pem")).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        }
    });
    let error = resolve_at(&address, dir.path(), &[("ca.pem", "ca.crt")], |_| ()).unwrap_err();
    assert!(matches!(error, RegistryError::ClientCertificate { .. }), "{error:?}");
}

#[test]
fn a_registry_with_tls_cannot_lead_us_out_of_it() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    let storage = Server::start(|_, _| reply("200 OK", &[], b"{}"));
    let redirect = format!(
        "middleware:\n  storage:\n    - name: redirect\n      options:\n        baseurl: http://{}/\n",
        storage.address
    );
    let registry = DockerRegistry::start_prepared(&format!("{TLS}{redirect}"), make_authority);
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(&dir.path().join("layout"));
    layout.tag("1", &layout.image("amd64", &[&[("a", b"b")]]));
    registry.push(&format!("oci:{}:1", layout.path.display()), "os:1", &[]);

    let (auth_file, config) = (dir.path().join("auth.json"), dir.path().join("registries.conf"));
    fs::write(&auth_file, "{}").unwrap();
    fs::create_dir(dir.path().join(&registry.address)).unwrap();
    fs::copy(registry.directory().join("ca.pem"), dir.path().join(&registry.address).join("ca.crt")).unwrap();
    let blob = |insecure: bool| {
        let table = format!("[[registry]]\nlocation = '{}'\ninsecure = {insecure}", registry.address);
        fs::write(&config, table).unwrap();
        let mut options = options(AuthFiles::only(auth_file.clone()));
        options.plain_http = false;
        options.registries = RegistriesFiles::only(Some(config.clone()), Vec::new());
        options.certificates = CertificateDirectories::only(vec![dir.path().to_owned()]);
        let image = RegistryImage::new(&format!("{}/os:1", registry.address).parse().unwrap(), &options).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&image.manifest().unwrap()).unwrap();
        let config = &manifest["config"];
        let (digest, size) = (config["digest"].as_str().unwrap(), config["size"].as_u64().unwrap());
        image.blob(&digest.parse().unwrap(), size).map(drop)
    };
    let error = blob(false).unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("https to {}", storage.address)), "{error}");
    assert_eq!(storage.requests().len(), 0);
    // Whoever calls it insecure has given that up.
    blob(true).unwrap_or_else(|error| assert!(!matches!(error, RegistryError::Redirect { .. }), "{error}"));
    assert_eq!(storage.requests().len(), 1);
}
