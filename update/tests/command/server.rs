//! A small HTTP server that answers whatever a test wants, byte by byte.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use osupdate::transport::registry::{AuthFiles, RegistryImage, RegistryOptions, Retry};

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
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
    pub(crate) fn start(answer: impl Fn(&Request, usize) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some(request) = read_request(&stream) else {
                    drop((&stream).write_all(&reply("400 Bad Request", &[], b"")));
                    continue;
                };
                let number = log.lock().unwrap().len();
                log.lock().unwrap().push(request.clone());
                // The client may have hung up, which is its right.
                drop((&stream).write_all(&answer(&request, number)));
            }
        });
        Self { address, requests }
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

pub(crate) fn options(auth_files: AuthFiles) -> RegistryOptions {
    let retry = Retry { attempts: 3, first_delay: std::time::Duration::from_millis(1) };
    let idle_timeout = std::time::Duration::from_secs(5);
    RegistryOptions { plain_http: true, auth_files, retry, idle_timeout, ..RegistryOptions::default() }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Some(Request { path, headers })
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
