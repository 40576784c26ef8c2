//! A real web server on loopback: Debian's nginx, with files, TLS and HTTP/2.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::tool;

/// Not in the search path of users.
const NGINX: &str = "/usr/sbin/nginx";

/// A running web server; ends when dropped.
#[derive(Debug)]
pub struct WebServer {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl WebServer {
    /// Serves the files below a directory on a free port of 127.0.0.1, as `localhost`.
    pub fn start(root: &Path) -> Result<Self> {
        let directory = TempDir::new().context("making a directory for the web server")?;
        let path = directory.path().display().to_string();
        make_certificate(directory.path())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Without a master it is one process, and stays the user that it is.
        let config = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log {path}/error.log;\nevents {{}}\nhttp {{\n\
             log_format bytes '$body_bytes_sent $uri';\naccess_log {path}/access.log bytes;\n\
             default_type application/octet-stream;\nsendfile on;\n\
             client_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\nfastcgi_temp_path {path}/fastcgi;\n\
             uwsgi_temp_path {path}/uwsgi;\nscgi_temp_path {path}/scgi;\n\
             server {{\nlisten 127.0.0.1:{port} ssl http2;\nserver_name localhost;\nroot {};\n\
             ssl_certificate {path}/certificate.pem;\nssl_certificate_key {path}/key.pem;\n}}\n}}\n",
            root.display()
        );
        fs::write(directory.path().join("nginx.conf"), config)?;
        let child = Command::new(NGINX)
            .args(["-e", &format!("{path}/error.log"), "-c", &format!("{path}/nginx.conf")])
            .stdin(Stdio::null())
            .spawn()
            .context("starting nginx (Debian package nginx-light)")?;
        let mut server = Self { child, port, directory };
        server.wait_until_up()?;
        Ok(server)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if self.child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(30) {
                let log = fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default();
                bail!("nginx does not answer on port {}:\n{log}", self.port);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// `https://localhost:PORT`
    pub fn address(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The certificate of the authority that its own is signed by; for `SSL_CERT_FILE`.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// Bytes of files that were sent so far, and to how many requests, of paths with this part.
    pub fn sent(&self, part: &str) -> Result<(u64, usize)> {
        // It writes its log after it has answered.
        thread::sleep(Duration::from_millis(200));
        let log = fs::read_to_string(self.directory.path().join("access.log"))?;
        let answers: Vec<u64> = log
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, path)| path.contains(part))
            .filter_map(|(bytes, _)| bytes.parse().ok())
            .collect();
        Ok((answers.iter().sum(), answers.len()))
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("cannot end nginx: {error}");
        }
    }
}

fn make_certificate(directory: &Path) -> Result<()> {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        tool::run(command.args(arguments.split(' ')).current_dir(directory))
    };
    openssl(
        "req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=authority -keyout authority-key.pem -out authority.pem",
    )?;
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem")?;
    fs::write(directory.join("extensions"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")?;
    openssl(
        "x509 -req -days 2 -in request.pem -CA authority.pem -CAkey authority-key.pem -CAcreateserial -extfile extensions \
         -out certificate.pem",
    )?;
    Ok(())
}
