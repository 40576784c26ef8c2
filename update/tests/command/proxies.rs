//! Proxies, as the environment has them; seen from the program.

use std::path::Path;

use crate::place::Place;
use crate::server::{Request, Server, reply};

/// A proxy that lets nothing through.
fn proxy() -> Server {
    Server::start(|_, _| reply("403 Forbidden", &[], b""))
}

/// Pulls an image that no machine has, and gives what is written to standard error.
fn pull(arguments: &[&str], environment: &[(&str, String)]) -> String {
    let place = Place::with_repository();
    let environment: Vec<(&str, &Path)> = environment.iter().map(|(name, value)| (*name, Path::new(value))).collect();
    place
        .run_with(&[&["image", "pull", "docker://registry.invalid:5000/os:1"], arguments].concat(), &environment)
        .failed(1)
}

fn request(proxy: &Server) -> Request {
    let requests = proxy.requests();
    assert!(!requests.is_empty(), "the proxy was not asked");
    requests[0].clone()
}

#[test]
fn the_proxy_for_http_is_asked_for_addresses() {
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        let proxy = proxy();
        pull(&["--plain-http"], &[(name, format!("http://me:secret@{}", proxy.address))]);
        let request = request(&proxy);
        assert_eq!(request.method, "GET");
        assert_eq!(request.path, "http://registry.invalid:5000/v2/os/manifests/1");
        assert_eq!(request.header("proxy-authorization"), Some("Basic bWU6c2VjcmV0"));
    }
}

#[test]
fn the_proxy_for_https_is_asked_for_a_tunnel() {
    for name in ["https_proxy", "HTTPS_PROXY"] {
        let proxy = proxy();
        let message = pull(&[], &[(name, proxy.address.clone())]);
        let request = request(&proxy);
        assert_eq!((request.method.as_str(), request.path.as_str()), ("CONNECT", "registry.invalid:5000"));
        assert!(message.contains(&format!("the proxy {} (from {name})", proxy.address)), "{message}");
    }
}

#[test]
fn hosts_without_proxy_are_asked_themselves() {
    let proxy = proxy();
    for no_proxy in ["registry.invalid", "example.com,.invalid", "*"] {
        for name in ["no_proxy", "NO_PROXY"] {
            let environment = [("http_proxy", proxy.address.clone()), (name, no_proxy.to_owned())];
            let message = pull(&["--plain-http"], &environment);
            assert!(message.contains("cannot reach server registry.invalid:5000"), "{message}");
        }
    }
    assert_eq!(proxy.requests().len(), 0);
}

#[test]
fn this_machine_is_asked_without_a_proxy() {
    let (proxy, registry) = (proxy(), Server::start(|_, _| reply("404 Not Found", &[], b"")));
    let place = Place::with_repository();
    for host in [registry.address.clone(), registry.address.replace("127.0.0.1", "localhost")] {
        let reference = format!("docker://{host}/os:1");
        let environment = [("http_proxy", Path::new(&proxy.address))];
        let message = place.run_with(&["image", "pull", &reference, "--plain-http"], &environment).failed(1);
        assert!(message.contains("is not a container registry"), "{message}");
    }
    assert_eq!((proxy.requests().len(), registry.requests().len()), (0, 2));
}

#[test]
fn a_proxy_that_cannot_be_used_is_not_passed_by() {
    let message = pull(&[], &[("https_proxy", "socks5://me:secret@127.0.0.1:1".to_owned())]);
    assert!(message.contains("the proxy in the environment variable https_proxy is not usable"), "{message}");
    assert!(!message.contains("secret"), "{message}");
}
