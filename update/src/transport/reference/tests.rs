//! Texts that are references, and texts that are not.

use std::path::Path;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn canonical(text: &str) -> String {
    text.parse::<ImageReference>().unwrap().to_string()
}

fn error(text: &str) -> ParseReferenceError {
    text.parse::<ImageReference>().unwrap_err()
}

#[test]
fn path_that_a_reference_cannot_hold_is_refused() {
    let with_colon = OciLayoutReference { path: "/mnt/usb:1/os".into(), tag: None };
    let err = ImageReference::OciLayout(with_colon).absolute().unwrap_err().to_string();
    assert!(err.contains("/mnt/usb:1/os"), "{err}");
    assert!(ImageReference::Directory("/mnt/usb:1/os".into()).absolute().is_err());
}

#[test]
fn references_have_a_canonical_text() {
    assert_eq!(canonical("docker://localhost:5000/os"), "docker://localhost:5000/os:latest");
    assert_eq!(canonical("quay.io/a/b-c__d.e:v1.2"), "docker://quay.io/a/b-c__d.e:v1.2");
    assert_eq!(canonical("docker.io/debian:13"), "docker://docker.io/library/debian:13");
    assert_eq!(canonical("docker.io/library/debian"), "docker://docker.io/library/debian:latest");
    assert_eq!(canonical("[::1]:5000/os:1"), "docker://[::1]:5000/os:1");
    assert_eq!(canonical(&format!("h.example/os@sha256:{HEX}")), format!("docker://h.example/os@sha256:{HEX}"));
    assert_eq!(canonical(&format!("h:1/os:2@sha256:{HEX}")), format!("docker://h:1/os:2@sha256:{HEX}"));
    assert_eq!(canonical("oci:dir"), "oci:dir");
    assert_eq!(canonical("oci:/a/b:os:1"), "oci:/a/b:os:1");
    assert_eq!(canonical("oci-archive:x.tar:os"), "oci-archive:x.tar:os");
    assert_eq!(canonical("docker-archive:/x:quay.io/os:1"), "docker-archive:/x:quay.io/os:1");
    assert_eq!(canonical("dir:a/b"), "dir:a/b");
    assert_eq!(canonical("containers-storage:localhost/os:1"), "containers-storage:localhost/os:1");
    assert_eq!(canonical("docker-daemon:os:1"), "docker-daemon:os:1");
    for text in ["/a/x", "./x:os:1", "../x.tar", "x.tar", "images/x.tar", "x.tar:localhost/os:1"] {
        assert_eq!(canonical(text), text);
        assert!(matches!(text.parse(), Ok(ImageReference::Archive(_))), "{text}");
    }
    assert_eq!(canonical("x.tar:5000/os"), "docker://x.tar:5000/os:latest", "it is a host");
    assert_eq!(canonical("quay.io/x.tar"), "docker://quay.io/x.tar:latest", "it has a host");
    for text in ["docker://localhost:5000/os", "oci:/a/b:tag", "./x:1"] {
        assert_eq!(canonical(&canonical(text)), canonical(text));
    }
}

#[test]
fn an_oci_tag_may_contain_colons() {
    let ImageReference::OciLayout(reference) = "oci:/a/b:host/os:1".parse().unwrap() else { panic!() };
    assert_eq!(reference.path, Path::new("/a/b"));
    assert_eq!(reference.tag.as_deref(), Some("host/os:1"));
}

#[test]
fn errors_name_the_part() {
    use ParseReferenceError as E;
    assert_eq!(error(""), E::Empty);
    assert_eq!(error("docker://"), E::Empty);
    assert_eq!(error("debian"), E::NoHost("debian".into()));
    assert_eq!(error("debian:13"), E::NoHost("debian:13".into()));
    assert_eq!(error("docker://me/os:1"), E::NoHost("me/os:1".into()));
    assert_eq!(error("quay.io"), E::NoRepository("quay.io".into()));
    assert_eq!(error("localhost:5000"), E::NoRepository("localhost:5000".into()));
    assert_eq!(error("quay.io/"), E::NoRepository("quay.io".into()));
    assert_eq!(error("quay.io/:1"), E::NoRepository("quay.io".into()));
    assert_eq!(error("quay.io:x/os"), E::Host("quay.io:x".into()));
    assert_eq!(error("quay.io:65536/os"), E::Host("quay.io:65536".into()));
    assert_eq!(error("quay..io/os"), E::Host("quay..io".into()));
    assert_eq!(error("[::g]/os"), E::Host("[::g]".into()));
    assert_eq!(error("quay.io/OS"), E::Repository("OS".into()));
    assert_eq!(error("quay.io/a//b"), E::Repository("a//b".into()));
    assert_eq!(error("quay.io/a-"), E::Repository("a-".into()));
    assert_eq!(error("quay.io/a___b"), E::Repository("a___b".into()));
    assert_eq!(error("quay.io/os:"), E::Tag(String::new()));
    assert_eq!(error("quay.io/os:-x"), E::Tag("-x".into()));
    assert_eq!(error("quay.io/os@sha256:12"), E::Digest("sha256:12".into()));
    assert_eq!(error("docker://me:secret@quay.io/os"), E::UserInfo);
    assert_eq!(error("sif:x.sif"), E::Transport("sif".into()));
    assert_eq!(error("docker:quay.io/os"), E::Transport("docker".into()));
    assert_eq!(error("oci:"), E::NoPath("oci:"));
    assert_eq!(error("oci::tag"), E::NoPath("oci:"));
    assert_eq!(error("dir:"), E::NoPath("dir:"));
    assert_eq!(error("docker-archive:"), E::NoPath("docker-archive:"));
    let name = |name: &str| E::LocalName { transport: LocalTransport::DockerDaemon, name: name.into() };
    assert_eq!(error("docker-daemon:"), name(""));
    assert_eq!(error("docker-daemon:a b"), name("a b"));
    assert_eq!(error("docker-daemon://os"), name("//os"));
    assert_eq!(error("oci:dir:"), E::Tag(String::new()));
    assert_eq!(error(&format!("quay.io/{}", "a".repeat(250))), E::NameLength(258));
}

#[test]
fn addresses_of_published_trees_have_a_base_and_an_image() {
    use ParseReferenceError as E;
    let parse = |text: &str| match text.parse() {
        Ok(ImageReference::Published(reference)) => (reference.to_string(), reference.base()),
        other => panic!("{text}: {other:?}"),
    };
    let pair = |reference: &str, base: &str| (reference.to_owned(), base.to_owned());
    assert_eq!(parse("https://h.example/a/b/os"), pair("https://h.example/a/b/os:latest", "https://h.example/a/b"));
    assert_eq!(parse("http://server:80/os:1"), pair("http://server:80/os:1", "http://server:80"));
    assert_eq!(parse("https://docker.io/os:1"), pair("https://docker.io/os:1", "https://docker.io"));
    assert_eq!(error("https://h.example"), E::NoRepository("h.example".to_owned()));
    assert_eq!(error("https://"), E::Empty);
    assert!(matches!(error("https://h.example/a?b"), E::Repository(_)));
    assert!(matches!(error("https://user:pw@h.example/os"), E::UserInfo));
    assert!(matches!(error("https://h.example/os/"), E::Repository(_)));
}
