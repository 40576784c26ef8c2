//! A proxy in front of a registry that does to answers what bad networks and bad servers do, and counts what it sends.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that are sent at once.
const CHUNK: usize = 16 << 10;
/// Bytes that the kernel may take from us before the client does: otherwise what we count as sent is far ahead of what
/// arrives.
const SEND_BUFFER: usize = 32 << 10;

/// Numbers that look random and are the same in every run.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`: splitmix64.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end.max(1)
    }

    /// Bytes that do not compress.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.below(256) as u8).take(len).collect()
    }
}

/// What is done to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The connection breaks in the body.
    Cut,
    /// The body ends early as if that were its end.
    Truncate,
    /// Nothing comes for a while.
    Delay,
    /// 503 instead of an answer.
    Unavailable,
    /// 429, to be tried again at once.
    TooMany,
    /// 416 for a part that exists.
    NoSuchPart,
    /// The whole blob, 200, where a part was asked for.
    NoParts,
    /// A part that begins elsewhere than it says and than was asked for.
    WrongStart,
    /// One byte is another one.
    Corrupt,
}

/// Faults of a bad line and a busy server. Nothing is fetched twice because of them.
pub(crate) const HONEST: &[Fault] = &[Fault::Cut, Fault::Truncate, Fault::Delay, Fault::Unavailable, Fault::TooMany];
/// Faults after which a layer has to be fetched from its beginning.
pub(crate) const LIES: &[Fault] = &[Fault::Cut, Fault::NoSuchPart, Fault::NoParts, Fault::WrongStart, Fault::Corrupt];

/// Which answers get faults.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) faults: &'static [Fault],
    /// Answers with a fault among a hundred.
    pub(crate) percent: u64,
    pub(crate) random: Random,
}

impl Plan {
    pub(crate) fn none() -> Self {
        Self { faults: &[], percent: 0, random: Random::new(0) }
    }

    fn next(&mut self) -> Option<Fault> {
        if self.faults.is_empty() || self.random.below(100) >= self.percent {
            return None;
        }
        Some(self.faults[self.random.below(self.faults.len() as u64) as usize])
    }
}

#[derive(Default)]
struct Counts {
    /// How often each byte of each blob was sent.
    blobs: BTreeMap<String, Vec<u8>>,
    sent_bytes: u64,
    sent_again_bytes: u64,
    faults: BTreeMap<Fault, u64>,
}

struct Shared {
    upstream: String,
    plan: Mutex<Plan>,
    counts: Mutex<Counts>,
}

/// Listens until the process ends.
pub(crate) struct FaultyProxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl FaultyProxy {
    /// In front of a registry that speaks plain HTTP.
    pub(crate) fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            plan: Mutex::new(Plan::none()),
            counts: Mutex::default(),
        });
        let served = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, shared) = (client.unwrap(), served.clone());
                // Clients that are killed hang up.
                thread::spawn(move || drop(shared.serve(&client)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn set_plan(&self, plan: Plan) {
        *lock(&self.shared.plan) = plan;
    }

    /// Forgets what was sent.
    pub(crate) fn forget(&self) {
        let mut counts = lock(&self.shared.counts);
        *counts = Counts { faults: std::mem::take(&mut counts.faults), ..Counts::default() };
    }

    /// Bytes of blobs that were sent.
    pub(crate) fn sent_bytes(&self) -> u64 {
        lock(&self.shared.counts).sent_bytes
    }

    /// Those that had been sent before.
    pub(crate) fn sent_again_bytes(&self) -> u64 {
        lock(&self.shared.counts).sent_again_bytes
    }

    /// How many faults of each kind there were.
    pub(crate) fn faults(&self) -> BTreeMap<Fault, u64> {
        lock(&self.shared.counts).faults.clone()
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let head = read_head(client)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let digest = path.split_once("/blobs/").map(|(_, digest)| digest.to_owned());
        let start: Option<u64> = header(&head, "range").and_then(|range| {
            let (start, _) = range.strip_prefix("bytes=")?.split_once('-')?;
            start.parse().ok()
        });
        let mut fault = lock(&self.plan).next();
        if start.is_none() && matches!(fault, Some(Fault::NoSuchPart | Fault::NoParts | Fault::WrongStart))
            || digest.is_none() && fault == Some(Fault::Corrupt)
        {
            fault = None;
        }
        if let Some(fault) = fault {
            *lock(&self.counts).faults.entry(fault).or_default() += 1;
        }
        let refusal = match fault {
            Some(Fault::Unavailable) => Some("503 Service Unavailable\r\n"),
            Some(Fault::TooMany) => Some("429 Too Many Requests\r\nRetry-After: 0\r\n"),
            Some(Fault::NoSuchPart) => Some("416 Range Not Satisfiable\r\n"),
            _ => None,
        };
        if let Some(refusal) = refusal {
            let answer = format!("HTTP/1.1 {refusal}Content-Length: 0\r\nConnection: close\r\n\r\n");
            return (&mut &*client).write_all(answer.as_bytes());
        }

        let upstream = TcpStream::connect(&self.upstream)?;
        let dropped: &[&str] = if fault == Some(Fault::NoParts) { &["connection", "range"] } else { &["connection"] };
        (&upstream).write_all(&with_headers(&head, dropped, "Connection: close"))?;
        let answer = read_head(&upstream)?;
        let length: u64 = header(&answer, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let is_part = answer.split(' ').nth(1) == Some("206");
        let position = if is_part { start.unwrap_or(0) } else { 0 };
        let answer = match fault {
            Some(Fault::Truncate) => with_headers(&answer, &["connection", "content-length"], "Connection: close"),
            Some(Fault::WrongStart) => {
                let range = format!("Connection: close\r\nContent-Range: bytes 1-{length}/{}", position + length);
                with_headers(&answer, &["connection", "content-range"], &range)
            }
            _ => with_headers(&answer, &["connection"], "Connection: close"),
        };
        (&mut &*client).write_all(&answer)?;
        let digest = digest.filter(|_| answer.starts_with(b"HTTP/1.1 20"));
        self.send_body(client, &upstream, Body { digest, position, length, fault })
    }

    fn send_body(&self, mut client: &TcpStream, mut upstream: &TcpStream, body: Body) -> io::Result<()> {
        // Where the fault is, and a moment that is not the same each time.
        let (at, moment) = {
            let mut plan = lock(&self.plan);
            (plan.random.below(body.length), plan.random.below(300))
        };
        let mut buffer = [0; CHUNK];
        let mut done = 0;
        loop {
            let read = match upstream.read(&mut buffer)? {
                0 => return Ok(()),
                read => read,
            };
            let here = usize::try_from(at.saturating_sub(done)).unwrap_or(usize::MAX);
            let mut sent = read;
            if here < read && at >= done {
                match body.fault {
                    Some(Fault::Cut | Fault::Truncate) => sent = here,
                    Some(Fault::Delay) => thread::sleep(Duration::from_millis(moment)),
                    Some(Fault::Corrupt) => buffer[here] ^= 0x20,
                    _ => {}
                }
            }
            client.write_all(&buffer[..sent])?;
            if let Some(digest) = &body.digest {
                lock(&self.counts).sent(digest, body.position + done, sent);
            }
            done += read as u64;
            if sent < read {
                return client.shutdown(Shutdown::Both);
            }
        }
    }
}

/// The body of an answer.
struct Body {
    /// Of the blob, if it is one.
    digest: Option<String>,
    /// Where in the blob it begins.
    position: u64,
    length: u64,
    fault: Option<Fault>,
}

impl Counts {
    fn sent(&mut self, digest: &str, position: u64, length: usize) {
        let position = usize::try_from(position).unwrap();
        let times = self.blobs.entry(digest.to_owned()).or_default();
        if times.len() < position + length {
            times.resize(position + length, 0);
        }
        self.sent_bytes += length as u64;
        for times in &mut times[position..position + length] {
            self.sent_again_bytes += u64::from(*times > 0);
            *times = 1;
        }
    }
}

/// Everything up to the empty line. Byte by byte: what follows is the body, and is read by others.
fn read_head(mut stream: &TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A head without some headers and with another.
fn with_headers(head: &str, dropped: &[&str], added: &str) -> Vec<u8> {
    let keep = |line: &&str| {
        let key = line.split_once(':').map_or("", |(key, _)| key);
        !line.is_empty() && !dropped.iter().any(|dropped| dropped.eq_ignore_ascii_case(key))
    };
    let lines: Vec<&str> = head.lines().filter(keep).chain([added]).collect();
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
