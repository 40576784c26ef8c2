//! A real registry that wants tokens, and a small service that gives them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use osupdate::transport::registry::{AuthError, AuthFiles, CertificateDirectories, RegistryError, RegistryImage};
use serde_json::json;

use crate::docker_registry::{DockerRegistry, TLS, have, have_registry};
use crate::layout::Layout;
use crate::server::{Request, Server, options, reply};

const SERVICE: &str = "registry.test";
const ISSUER: &str = "the token service";

/// What tokens are signed with: `token-key.pem` and `token.pem` in a directory.
struct Signer(PathBuf);

impl Signer {
    fn make(dir: &Path) -> Self {
        let output = Command::new("openssl")
            .args(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout token-key.pem -out token.pem"
                    .split(' '),
            )
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Self(dir.to_owned())
    }

    /// A token with these rights.
    fn token(&self, access: &serde_json::Value) -> String {
        let pem = fs::read_to_string(self.0.join("token.pem")).unwrap();
        let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": "me", "aud": SERVICE, "exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1",
            "access": access,
        });
        let part = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut openssl = Command::new("openssl")
            .args(["dgst", "-sha256", "-sign", "token-key.pem"])
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        openssl.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
        let signature = openssl.wait_with_output().unwrap().stdout;
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Gives `me:secret` tokens for the repository `os`, and anybody else one for nothing.
    fn answer(&self, request: &Request) -> Vec<u8> {
        let password = format!("Basic {}", STANDARD.encode("me:secret"));
        let actions = if request.path.contains("push") { &["pull", "push"][..] } else { &["pull"] };
        let access = match request.header("authorization") {
            Some(header) if header == password => json!([{"type": "repository", "name": "os", "actions": actions}]),
            _ => json!([]),
        };
        reply("200 OK", &[], json!({"token": self.token(&access), "expires_in": 300}).to_string().as_bytes())
    }
}

fn token_config(tokens: &Server, signer: &Signer) -> String {
    format!(
        "auth:\n  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {}\n",
        tokens.address,
        signer.0.join("token.pem").display()
    )
}

fn password_file(registry: &DockerRegistry, password: &str) -> AuthFiles {
    let file = registry.directory().join("auth.json");
    let auth = STANDARD.encode(format!("me:{password}"));
    fs::write(&file, format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.address)).unwrap();
    AuthFiles::only(file)
}

#[test]
fn a_registry_with_a_token_service_is_pulled_from() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(&dir.path().join("layout"));
    let image = layout.image("amd64", &[&[("a", b"b")]]);
    layout.tag("1", &image);
    let (signer, for_server) = (Signer::make(dir.path()), Signer(dir.path().to_owned()));
    let tokens = Server::start(move |request, _| for_server.answer(request));
    let registry = DockerRegistry::start_with(&token_config(&tokens, &signer));
    registry.push(&format!("oci:{}:1", layout.path.display()), "os:1", &[]);
    let pushed = tokens.requests().len();

    let reference = format!("{}/os:1", registry.address).parse().unwrap();
    let open = |auth_files| RegistryImage::new(&reference, &options(auth_files)).unwrap();
    let ours = open(password_file(&registry, "secret"));
    assert_eq!(ours.resolve().unwrap().to_string(), image["digest"]);
    ours.manifest().unwrap();
    let requests = tokens.requests();
    assert_eq!(requests.len(), pushed + 1, "one token does for all");
    assert_eq!(requests[pushed].path, "/token?service=registry.test&scope=repository%3Aos%3Apull");

    let error = open(password_file(&registry, "wrong")).resolve().unwrap_err();
    assert!(matches!(error, RegistryError::Denied { had_credentials: true, .. }), "{error:?}");
    let nobody = registry.directory().join("empty.json");
    fs::write(&nobody, "{}").unwrap();
    let error = open(AuthFiles::only(nobody)).resolve().unwrap_err();
    assert!(matches!(error, RegistryError::Denied { had_credentials: false, .. }), "{error:?}");
}

#[test]
fn a_registry_with_tls_cannot_make_us_send_a_password_without() {
    if !have_registry() || !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::make(dir.path());
    let tokens = Server::start(|_, _| reply("200 OK", &[], br#"{"token": "abc"}"#));
    let config = format!("{TLS}{}", token_config(&tokens, &signer));
    let registry = DockerRegistry::start_prepared(&config, crate::docker_registry::make_certificate);
    let certificates = dir.path().join(&registry.address);
    fs::create_dir(&certificates).unwrap();
    fs::copy(registry.directory().join("certificate.pem"), certificates.join("ca.crt")).unwrap();
    let mut options = options(password_file(&registry, "secret"));
    options.plain_http = false;
    options.certificates = CertificateDirectories::only(vec![dir.path().to_owned()]);
    let reference = format!("{}/os:1", registry.address).parse().unwrap();
    let error = RegistryImage::new(&reference, &options).unwrap().resolve().unwrap_err();
    assert!(matches!(error, RegistryError::Auth { source: AuthError::PlainRealm(_), .. }), "{error:?}");
    assert_eq!(tokens.requests().len(), 0);
}
