//! A small HTTP server that answers whatever a test wants, byte by byte.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use osupdate::transport::registry::{
    AuthFiles, CertificateDirectories, RegistriesFiles, RegistryImage, RegistryOptions, Retry,
};

use crate::layout::Layout;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// What is asked for: a path; from a proxy an address; with `CONNECT` a host.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Listens until the process ends. Every connection has one request and one answer.
pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` gets the request and its number from 0; what it returns is sent as it is.
    pub(crate) fn start(answer: impl Fn(&Request, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::serve(move |request, number, stream| stream.write_all(&answer(request, number)))
    }

    /// `answer` gets the connection, too, and may write to it for as long as it likes; each has a thread.
    pub(crate) fn serve(
        answer: impl Fn(&Request, usize, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (requests.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, log, answer) = (stream.unwrap(), log.clone(), answer.clone());
                thread::spawn(move || {
                    let Some(request) = read_request(&stream) else {
                        drop(stream.write_all(&reply("400 Bad Request", &[], b"")));
                        return;
                    };
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.len() - 1
                    };
                    // The client may have hung up, which is its right.
                    drop(answer(&request, number, &mut stream));
                });
            }
        });
        Self { address, requests }
    }

    /// A registry with the blobs of a layout, of which `manifest` is that of tag 1; blobs pass through `change`.
    pub(crate) fn of_layout(
        layout: &Layout,
        manifest: &str,
        change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let (blobs, manifest) = (layout.path.join("blobs/sha256"), manifest.to_owned());
        Self::start(move |request, _| {
            let is_manifest = request.path.ends_with("/manifests/1");
            let digest = if is_manifest { &manifest } else { request.path.rsplit('/').next().unwrap() };
            let mut bytes = std::fs::read(blobs.join(digest.strip_prefix("sha256:").unwrap())).unwrap();
            if is_manifest {
                return reply("200 OK", &["Content-Type: application/vnd.oci.image.manifest.v1+json"], &bytes);
            }
            change(&mut bytes);
            reply("200 OK", &[], &bytes)
        })
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// A client for the image `os` with `tail` (`:tag` or `@digest`) on this server, impatient and without credentials.
    pub(crate) fn image(&self, tail: &str) -> RegistryImage {
        self.image_with(tail, "{}")
    }

    /// The same with the contents of an auth file.
    pub(crate) fn image_with(&self, tail: &str, auth_file: &str) -> RegistryImage {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), auth_file).unwrap();
        let reference = format!("{}/os{tail}", self.address).parse().unwrap();
        RegistryImage::new(&reference, &options(AuthFiles::only(file.path().to_owned()))).unwrap()
    }
}

/// Impatient, and with nothing of the machine that the test runs on.
pub(crate) fn options(auth_files: AuthFiles) -> RegistryOptions {
    RegistryOptions {
        plain_http: true,
        auth_files,
        registries: RegistriesFiles::only(None, Vec::new()),
        certificates: CertificateDirectories::only(Vec::new()),
        retry: Retry { attempts: 3, first_delay: Duration::from_millis(1) },
        idle_timeout: Duration::from_secs(5),
        ..RegistryOptions::default()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    while let Some((name, value)) = line()?.split_once(':') {
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: String::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).ok()?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Some(request)
}

/// An answer with its length and further header lines.
pub(crate) fn reply(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    truncated_reply(status, headers, body, body.len())
}

/// An answer that promises `length` bytes of body, whatever comes.
pub(crate) fn truncated_reply(status: &str, headers: &[&str], body: &[u8], length: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for header in headers {
        answer.push_str(header);
        answer.push_str("\r\n");
    }
    answer.push_str("\r\n");
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(body);
    answer
}
