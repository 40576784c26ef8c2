//! Proxies, from the environment as curl and Go's programs read it.
//!
//! `https_proxy`, `http_proxy` and `all_proxy` hold addresses (`http://[USER:PASSWORD@]HOST[:PORT]`), `no_proxy` the hosts
//! that are spoken to directly: names with all names below them, addresses, networks, `*`; all in capitals, too. This
//! machine itself is never spoken to through a proxy.

use std::env;

use reqwest::blocking::ClientBuilder;
use reqwest::{NoProxy, Proxy, Url};
use thiserror::Error;

/// Hosts that are this machine.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Why a proxy of the environment cannot be used. Going without it could be against the administrator's will.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the proxy in the environment variable {variable} is not usable: {problem}")]
pub struct ProxyError {
    variable: &'static str,
    problem: String,
}

/// The proxies that are in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    https: Option<(&'static str, Url)>,
    http: Option<(&'static str, Url)>,
    no_proxy: String,
}

impl Proxies {
    /// Those of the environment.
    pub(super) fn from_environment() -> Result<Self, ProxyError> {
        Self::read(|name| env::var(name).ok())
    }

    fn read(variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, ProxyError> {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|&name| variable(name).filter(|value| !value.is_empty()).map(|value| (name, value)))
        };
        let address = |names: &[&'static str]| {
            first(names).map(|(variable, value)| parse(variable, &value).map(|url| (variable, url))).transpose()
        };
        // A web server's client can set HTTP_PROXY of the programs that the server starts.
        let capitals = if variable("REQUEST_METHOD").is_some() { "http_proxy" } else { "HTTP_PROXY" };
        Ok(Self {
            https: address(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?,
            http: address(&[capitals, "http_proxy", "ALL_PROXY", "all_proxy"])?,
            no_proxy: first(&["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default(),
        })
    }

    /// Makes a client use them, and no others.
    pub(super) fn apply(&self, client: ClientBuilder) -> reqwest::Result<ClientBuilder> {
        let no_proxy = NoProxy::from_string(&format!("{},{LOOPBACK}", hosts(&self.no_proxy)));
        let mut client = client.no_proxy();
        if let Some((_, url)) = &self.https {
            client = client.proxy(Proxy::https(url.clone())?.no_proxy(no_proxy.clone()));
        }
        if let Some((_, url)) = &self.http {
            client = client.proxy(Proxy::http(url.clone())?.no_proxy(no_proxy));
        }
        Ok(client)
    }

    /// The proxy for most addresses with this scheme, for people: `HOST:PORT (from VARIABLE)`.
    pub(super) fn describe(&self, scheme: &str) -> Option<String> {
        let (variable, url) = if scheme == "https" { &self.https } else { &self.http }.as_ref()?;
        let port = url.port_or_known_default().unwrap_or_default();
        Some(format!("{}:{port} (from {variable})", url.host_str().unwrap_or_default()))
    }
}

/// `no_proxy` in the form that the HTTP client knows, which compares hosts alone. An entry for one port of a host then is for
/// all of them.
fn hosts(no_proxy: &str) -> String {
    let host = |entry: &str| {
        let entry = entry.trim();
        let entry = entry.strip_prefix("*.").unwrap_or(entry);
        let bracketed = entry.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((address, _)) = bracketed {
            return address.to_owned();
        }
        match entry.split_once(':') {
            Some((host, port)) if !port.contains(':') => host.to_owned(),
            _ => entry.to_owned(),
        }
    };
    no_proxy.split(',').map(host).collect::<Vec<_>>().join(",")
}

/// Parses the address of a proxy. The address itself is not shown: a password may be in it.
fn parse(variable: &'static str, value: &str) -> Result<Url, ProxyError> {
    let failed = |problem: String| Err(ProxyError { variable, problem });
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    match Url::parse(&with_scheme) {
        Ok(url) if !url.has_host() => failed("it has no host".to_owned()),
        Ok(url) if url.scheme() == "http" => Ok(url),
        // The HTTP client would show it the certificate that is meant for the registry, and trust whom the registry may trust.
        Ok(url) => failed(format!("proxies that speak {} are not supported, only http", url.scheme())),
        Err(error) => failed(format!("{error}, expected http://HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&'static str, &str)]) -> Result<(Option<String>, Option<String>), String> {
        let find = |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let proxies = Proxies::read(find).map_err(|error| error.to_string())?;
        Ok((proxies.describe("https"), proxies.describe("http")))
    }

    #[test]
    fn each_variable_is_read_in_both_cases() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&[]), Ok((None, None)));
        assert_eq!(read(&[("https_proxy", "p.example:3128")]), Ok((some("p.example:3128 (from https_proxy)"), None)));
        assert_eq!(
            read(&[
                ("HTTPS_PROXY", ""),
                ("https_proxy", "http://user:secret@a.example"),
                ("HTTP_PROXY", "http://b:1/")
            ]),
            Ok((some("a.example:80 (from https_proxy)"), some("b:1 (from HTTP_PROXY)")))
        );
        assert_eq!(read(&[("HTTP_PROXY", "b:1"), ("REQUEST_METHOD", "GET")]), Ok((None, None)));
        let all = read(&[("ALL_PROXY", "c.example:80")]).unwrap();
        assert_eq!(all, (some("c.example:80 (from ALL_PROXY)"), some("c.example:80 (from ALL_PROXY)")));
    }

    #[test]
    fn hosts_without_proxy_may_be_written_with_ports_and_stars() {
        let list = "a.example:5000, *.b.example,.c.example,[::1]:80,::2,10.0.0.0/8,*,";
        assert_eq!(hosts(list), "a.example,b.example,.c.example,::1,::2,10.0.0.0/8,*,");
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_not_passed_by() {
        let error = read(&[("https_proxy", "socks5://user:secret@a.example:1080")]).unwrap_err();
        assert!(error.contains("https_proxy") && error.contains("socks5") && !error.contains("secret"), "{error}");
        assert!(read(&[("http_proxy", "http://:secret@")]).is_err());
        assert!(read(&[("http_proxy", "https://a.example")]).is_err());
    }
}
