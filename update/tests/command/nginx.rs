//! The HTTP client and a real web server with nothing but files, which speaks HTTP/2.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use osupdate::transport::registry::{
    AuthFiles, CertificateDirectories, RegistryImage, RegistryOptions, TreeImage, TreeOptions,
};
use osupdate::transport::{ImageReference, TransferLimits};
use osupdate_core::Algorithm;
use osupdate_core::observer::Silent;
use osupdate_core::oci::{Platform, PullError, PullOptions, StoredImage, pull};
use osupdate_core::repository::{Repository, Verity};
use serde_json::Value;
use tempfile::TempDir;

use crate::certificates::make_authority;
use crate::docker_registry::have;
use crate::layout::Layout;
use crate::published_tree::Tree;
use crate::server::options;

/// Not in the search path of users.
const NGINX: &str = "/usr/sbin/nginx";
/// Layers of the image.
const LAYERS: usize = 6;
/// Bytes in each of them that cannot be compressed.
const LAYER_BYTES: usize = 200_000;

fn have_nginx() -> bool {
    have(&[NGINX, "openssl", "tar", "gzip"])
}

/// A web server with an image as `os:1`: a registry of files. Ends with the value.
struct Nginx {
    address: String,
    process: Child,
    dir: TempDir,
}

/// A line of its access log.
#[derive(Debug)]
struct Answer {
    /// Number of the connection.
    connection: u64,
    protocol: String,
    status: u16,
    body_bytes: u64,
    /// When it began and ended, in seconds.
    times: (f64, f64),
    path: String,
}

impl Nginx {
    /// `settings` are for the answers.
    fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        publish(dir.path());
        let root = dir.path().join("files");
        Self::start_in(dir, &root, settings)
    }

    /// Of a published tree.
    fn of_tree(tree: &Tree, settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &tree.root(), settings)
    }

    fn start_in(dir: TempDir, root: &Path, settings: &str) -> Self {
        make_authority(dir.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = dir.path().display().to_string();
        // Without a master it is one process, and stays the user that it is.
        let config = format!(
            "daemon off;\nmaster_process off;\npid DIR/pid;\nerror_log DIR/error.log;\nevents {{}}\nhttp {{\n\
             log_format answers '$connection $server_protocol $status $body_bytes_sent $msec $request_time $uri';\n\
             access_log DIR/access.log answers;\ndefault_type application/octet-stream;\n\
             client_body_temp_path DIR/temp-body;\nproxy_temp_path DIR/temp-proxy;\nfastcgi_temp_path DIR/temp-fastcgi;\n\
             uwsgi_temp_path DIR/temp-uwsgi;\nscgi_temp_path DIR/temp-scgi;\n\
             server {{\nlisten 127.0.0.1:{port} ssl http2;\nserver_name localhost;\nroot {};\n\
             ssl_certificate DIR/certificate.pem;\nssl_certificate_key DIR/key.pem;\n{settings}\n}}\n}}\n",
            root.display()
        );
        fs::write(dir.path().join("nginx.conf"), config.replace("DIR", &path)).unwrap();
        let mut process = Command::new(NGINX)
            .args(["-e", &format!("{path}/error.log"), "-c", &format!("{path}/nginx.conf")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Self { address: format!("localhost:{port}"), process, dir };
            }
            let log = || fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none(), "nginx has ended: {}", log());
            thread::sleep(Duration::from_millis(50));
        }
        panic!("nginx does not listen");
    }

    /// Nothing of the machine that the test runs on, and the authority of this server.
    fn options(&self, limits: TransferLimits) -> (TempDir, RegistryOptions) {
        let dir = tempfile::tempdir().unwrap();
        let (auth_file, certificates) = (dir.path().join("auth.json"), dir.path().join(&self.address));
        fs::write(&auth_file, "{}").unwrap();
        fs::create_dir(&certificates).unwrap();
        fs::copy(self.dir.path().join("ca.pem"), certificates.join("ca.crt")).unwrap();
        let options = RegistryOptions {
            plain_http: false,
            certificates: CertificateDirectories::only(vec![dir.path().to_owned()]),
            limits,
            ..options(AuthFiles::only(auth_file))
        };
        (dir, options)
    }

    /// Pulls the image.
    fn pull(&self, repository: &Repository, limits: TransferLimits) -> Result<StoredImage, PullError> {
        let (_dir, options) = self.options(limits);
        let reference = format!("{}/os:1", self.address).parse().unwrap();
        let image = RegistryImage::new(&reference, &options).unwrap();
        pull(repository, &image, &PullOptions::default(), &Silent)
    }

    /// Pulls `team/os:TAG` of a published tree.
    fn pull_tree(&self, tag: &str, repository: &Repository, limits: TransferLimits) -> Result<StoredImage, PullError> {
        let (_dir, options) = self.options(limits);
        let reference = format!("https://{}/team/os:{tag}", self.address);
        let ImageReference::Published(reference) = reference.parse().unwrap() else { panic!("{reference}") };
        let image = TreeImage::new(&reference, &options, TreeOptions::default()).unwrap();
        pull(repository, &image, &PullOptions::default(), &Silent)
    }

    /// What it has answered, once there are so many answers at least: it writes its log a moment later.
    fn answers(&self, at_least: usize) -> Vec<Answer> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap();
            // The first connection of all said nothing.
            let lines = || log.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|line| line.len() == 7);
            if lines().count() >= at_least {
                return lines().map(|line| Answer::parse(&line)).collect();
            }
            assert!(Instant::now() < deadline, "the log has no more than: {log}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Digests and sizes of the layers.
    fn layers(&self) -> Vec<(String, u64)> {
        let manifest = fs::read(self.dir.path().join("files/v2/os/manifests/1")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = |layer: &Value| (layer["digest"].as_str().unwrap().to_owned(), layer["size"].as_u64().unwrap());
        manifest["layers"].as_array().unwrap().iter().map(layer).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("nginx ends when it is told to");
    }
}

impl Answer {
    fn parse(line: &[&str]) -> Self {
        let [end, took]: [f64; 2] = [line[4], line[5]].map(|seconds| seconds.parse().unwrap());
        Self {
            connection: line[0].parse().unwrap(),
            protocol: line[1].to_owned(),
            status: line[2].parse().unwrap(),
            body_bytes: line[3].parse().unwrap(),
            times: (end - took, end),
            path: line[6].to_owned(),
        }
    }

    fn is_of(&self, digest: &str) -> bool {
        self.path.ends_with(digest)
    }
}

/// Puts an image below `files` as a registry has it.
fn publish(dir: &Path) {
    let layout = Layout::create(&dir.join("layout"));
    let contents: Vec<Vec<u8>> = (0..LAYERS).map(noise).collect();
    let files: Vec<(&str, &[u8])> = contents.iter().map(|contents| ("usr/file", contents.as_slice())).collect();
    let layers: Vec<_> = files.chunks(1).collect();
    let image = layout.image(&Platform::host().architecture, &layers);
    let (blobs, repository) = (layout.path.join("blobs/sha256"), dir.join("files/v2/os"));
    for directory in ["manifests", "blobs"] {
        fs::create_dir_all(repository.join(directory)).unwrap();
    }
    let hex = image["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    fs::copy(blobs.join(hex), repository.join("manifests/1")).unwrap();
    for blob in fs::read_dir(blobs).unwrap() {
        let blob = blob.unwrap();
        let name = format!("sha256:{}", blob.file_name().to_str().unwrap());
        fs::copy(blob.path(), repository.join("blobs").join(name)).unwrap();
    }
}

/// Bytes without any order, others for each number.
fn noise(number: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    std::iter::repeat_with(|| random.u8(..)).take(LAYER_BYTES).collect()
}

fn repository() -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path(), Algorithm::Sha512, Verity::Unverified).unwrap();
    let repository = Repository::open(dir.path()).unwrap();
    (dir, repository)
}

#[test]
fn layers_come_side_by_side_over_one_connection() {
    if !have_nginx() {
        return;
    }
    // So each layer takes a second.
    let nginx = Nginx::start("limit_rate 200k;");
    let (_dir, repository) = repository();
    let connections = NonZeroUsize::new(LAYERS);
    nginx.pull(&repository, TransferLimits { connections, ..TransferLimits::default() }).unwrap();
    let answers = nginx.answers(LAYERS + 2);
    assert_eq!(answers.len(), LAYERS + 2, "{answers:#?}");
    let first = answers[0].connection;
    for answer in &answers {
        let Answer { connection, protocol, status, .. } = answer;
        assert_eq!((*connection, protocol.as_str(), *status), (first, "HTTP/2.0", 200), "{answers:#?}");
    }
    // Each once, and not a byte more than it has.
    let mut layers = Vec::new();
    for (digest, size_bytes) in nginx.layers() {
        let answer = answers.iter().find(|answer| answer.is_of(&digest)).unwrap();
        assert_eq!(answer.body_bytes, size_bytes);
        layers.push(answer);
    }
    let last_begins = layers.iter().map(|layer| layer.times.0).fold(f64::MIN, f64::max);
    let first_ends = layers.iter().map(|layer| layer.times.1).fold(f64::MAX, f64::min);
    assert!(last_begins < first_ends, "they came one after the other: {layers:#?}");
}

#[test]
fn of_a_layer_that_was_cut_the_rest_is_fetched() {
    if !have_nginx() {
        return;
    }
    let nginx = Nginx::start("");
    let (_dir, repository) = repository();
    let most = LAYER_BYTES as u64 / 2;
    let limits = TransferLimits {
        max_bytes: NonZeroU64::new(most),
        connections: NonZeroUsize::new(1),
        ..TransferLimits::default()
    };
    let error = nginx.pull(&repository, limits).unwrap_err();
    assert!(matches!(error, PullError::Layer { .. }), "{error:?}");
    let before = nginx.answers(3).len();
    let image = nginx.pull(&repository, TransferLimits::default()).unwrap();
    assert!(image.image.is_some());
    let layers = nginx.layers();
    let answers = nginx.answers(before + LAYERS + 2);
    let (cut, whole): (Vec<_>, Vec<_>) = answers[before..]
        .iter()
        .filter(|answer| layers.iter().any(|(digest, _)| answer.is_of(digest)))
        .partition(|answer| answer.status == 206);
    assert_eq!((cut.len(), whole.len()), (1, LAYERS - 1), "{answers:#?}");
    let (_, size_bytes) = layers.iter().find(|(digest, _)| cut[0].is_of(digest)).unwrap();
    assert_eq!(cut[0].body_bytes, size_bytes - most);
}

#[test]
fn objects_of_a_tree_come_side_by_side_over_one_connection() {
    if !have_nginx() {
        return;
    }
    let mut tree = Tree::new();
    let contents: Vec<Vec<u8>> = (0..LAYERS).map(noise).collect();
    let names: Vec<String> = (0..LAYERS).map(|number| format!("usr/{number}")).collect();
    let files: Vec<_> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    tree.publish("1", &[&files]);
    let nginx = Nginx::of_tree(&tree, "limit_rate 200k;");
    let (_dir, repository) = repository();
    nginx.pull_tree("1", &repository, TransferLimits::default()).unwrap();
    let answers = nginx.answers(LAYERS + 3);
    let first = answers[0].connection;
    for answer in &answers {
        let Answer { connection, protocol, status, .. } = answer;
        assert_eq!((*connection, protocol.as_str(), *status), (first, "HTTP/2.0", 200), "{answers:#?}");
    }
    let objects: Vec<_> = answers.iter().filter(|answer| answer.path.contains("/objects/")).collect();
    assert_eq!(objects.iter().map(|answer| answer.body_bytes).sum::<u64>(), (LAYERS * LAYER_BYTES) as u64);
    let last_begins = objects.iter().map(|object| object.times.0).fold(f64::MIN, f64::max);
    let first_ends = objects.iter().map(|object| object.times.1).fold(f64::MAX, f64::min);
    assert!(last_begins < first_ends, "they came one after the other: {objects:#?}");
}

#[test]
fn of_a_large_object_that_was_cut_the_rest_is_fetched() {
    if !have_nginx() {
        return;
    }
    let mut tree = Tree::new();
    let mut random = fastrand::Rng::with_seed(7);
    let large: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3 << 20).collect();
    tree.publish("1", &[&[("usr/large", &large)]]);
    let nginx = Nginx::of_tree(&tree, "");
    let (_dir, repository) = repository();
    let most = 1 << 20;
    let error = nginx.pull_tree(
        "1",
        &repository,
        TransferLimits { max_bytes: NonZeroU64::new(most), ..TransferLimits::default() },
    );
    assert!(matches!(error.unwrap_err(), PullError::Published(_)));
    let before = nginx.answers(4).len();
    nginx.pull_tree("1", &repository, TransferLimits::default()).unwrap();
    let answers = nginx.answers(before + 4);
    let rest: Vec<_> = answers[before..].iter().filter(|answer| answer.path.contains("/objects/")).collect();
    assert_eq!((rest.len(), rest[0].status, rest[0].body_bytes), (1, 206, large.len() as u64 - most));
}

#[test]
fn a_server_that_ends_its_connections_now_and_then_does_no_harm() {
    if !have_nginx() {
        return;
    }
    let mut tree = Tree::new();
    let files: Vec<(String, Vec<u8>)> =
        (0..400).map(|i| (format!("usr/{i}"), vec![b'a' + (i % 26) as u8; 65 + i])).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    tree.publish("1", &[&files]);
    // As any nginx does after a thousand.
    let nginx = Nginx::of_tree(&tree, "keepalive_requests 20;");
    let (_dir, repository) = repository();
    nginx.pull_tree("1", &repository, TransferLimits::default()).unwrap();
    let answers = nginx.answers(402);
    let objects: Vec<_> = answers.iter().filter(|answer| answer.path.contains("/objects/")).collect();
    assert_eq!(objects.len(), 400, "none is fetched twice");
    let mut connections: Vec<_> = answers.iter().map(|answer| answer.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert!(connections.len() >= 20, "{}", connections.len());
}
