//! Commands in images, in a user namespace.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use osupdate_core::oci::Platform;

use crate::docker_registry::have;
use crate::layout::Layout;
use crate::place::{Place, Run};

const OSUPDATE: &str = env!("CARGO_BIN_EXE_osupdate");
const TOOLS: [&str; 9] = ["sh", "cat", "id", "ls", "perl", "sleep", "touch", "tty", "unshare"];

fn can_run() -> bool {
    if !geteuid().is_root() || !have(&["/dev/fuse", "ldd"]) {
        println!("skipped: the tests of image shell need root and FUSE");
        return false;
    }
    true
}

/// A repository with an image `refs/shell` of some programs of this machine and what they need.
fn place() -> Place {
    let place = Place::with_repository();
    let tree = place.path().join("tree");
    let copy = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    for tool in TOOLS {
        let path = Path::new("/usr/bin").join(tool).canonicalize().unwrap();
        let libraries = Run::of(Command::new("ldd").arg(&path)).done();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(library), tree.join(&library[1..]));
        }
        copy(&path, tree.join("usr/bin").join(tool));
    }
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::create_dir_all(tree.join("var/lib")).unwrap();
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/usr/bin/sh\n").unwrap();
    fs::write(tree.join("etc/secret"), "of another").unwrap();
    fs::write(tree.join("etc/resolv.conf"), "of the image").unwrap();
    fs::set_permissions(tree.join("etc/secret"), fs::Permissions::from_mode(0o400)).unwrap();
    std::os::unix::fs::chown(tree.join("etc/secret"), Some(1234), Some(1234)).unwrap();
    std::os::unix::fs::symlink("tmp", tree.join("var/tmp")).unwrap();
    // A program for another machine: the beginning of an ELF file for SPARC, which has none of our processors.
    let mut foreign = vec![0; 64];
    foreign[..6].copy_from_slice(b"\x7fELF\x02\x02");
    foreign[19] = 43;
    fs::write(tree.join("usr/bin/foreign"), foreign).unwrap();
    fs::write(tree.join("usr/bin/script"), "#!/usr/bin/none\n").unwrap();
    for name in ["foreign", "script"] {
        fs::set_permissions(tree.join("usr/bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    drop(place.run(&["image", "create", "--no-transform", "tree", "shell"]).done());
    place
}

fn shell(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(&["image", "shell", "--repo", "repo"]);
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(place: &Place, arguments: &[&str]) -> Run {
    Run::of(&mut shell(place, arguments))
}

#[test]
fn a_command_runs_in_an_image_with_nothing_of_the_machine() {
    if !can_run() {
        return;
    }
    let place = place();
    let script = |script: &str| run(&place, &["refs/shell", "sh", "-c", script]);
    assert_eq!(script("id -u; cat /etc/secret").done(), "0\nof another");
    // Read-only, but for places that are forgotten.
    assert!(script("touch /etc/new").failed(1).contains("Read-only file system"));
    assert!(script("touch /proc/self/comm").failed(1).contains("Read-only file system"));
    drop(script("touch /tmp/new /run/new /dev/shm/new && cat /dev/null").done());
    assert!(script("cat /tmp/new").failed(1).contains("No such file"));
    // Neither files, processes, descriptors, variables nor network of the machine.
    assert_eq!(script("cd /proc; echo [0-9]*").done(), "1 3\n");
    let root = script("echo /*").done();
    assert!(
        root.split_whitespace().all(|path| path == "/dev"
            || path == "/proc"
            || path == "/run"
            || path == "/tmp"
            || place.path().join("tree").join(&path[1..]).exists()),
        "{root}"
    );
    let mut leaking = shell(&place, &["refs/shell", "sh", "-c", "ls /proc/self/fd | cat; echo $HOME $SECRET"]);
    leaking.env("SECRET", "secret");
    assert_eq!(Run::of(&mut leaking).done(), "0\n1\n2\n3\n/root\n");
    let network =
        |options: &[&str], command: &[&str]| run(&place, &[options, &["refs/shell"], command].concat()).done();
    assert_eq!(network(&[], &["cat", "/proc/net/dev"]).lines().count(), 3);
    let of_machine = fs::read_to_string("/proc/net/dev").unwrap();
    assert_eq!(network(&["--network"], &["cat", "/proc/net/dev"]).lines().count(), of_machine.lines().count());
    assert_eq!(network(&[], &["cat", "/etc/resolv.conf"]), "of the image");
    if let Ok(text) = fs::read_to_string("/etc/resolv.conf") {
        assert_eq!(network(&["--network"], &["cat", "/etc/resolv.conf"]), text);
    }
    // No capabilities, and none to get; what runs outside cannot be reached.
    let status = script("cat /proc/self/status").done();
    let root_of_init = script("ls /proc/1/root/").failed(2);
    assert!(root_of_init.contains("Permission denied"), "{root_of_init}");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let nested = run(&place, &["refs/shell", "unshare", "--user", "--map-root-user", "id"]).failed(1);
    assert!(nested.contains("unshare failed"), "{nested}");
}

#[test]
fn keys_of_the_session_stay_outside() {
    if !can_run() || std::env::consts::ARCH != "x86_64" {
        return;
    }
    let place = place();
    // keyctl: join a new session keyring, then look for a key in that of the session; and add_key.
    let join = "syscall(250, 1, 0) >= 0 or print(\"none\"), exit;";
    let find = "my @k = ('user', 'osupdate-test'); print syscall(250, 10, -3, @k, 0) >= 0 ? 'there' : 'not there';";
    let add = "my @n = ('user', 'osupdate-test', 'secret'); syscall(248, @n, 6, -3) >= 0 or die $!;";
    let found = |program: &[&str]| {
        let mut outer = Command::new("perl");
        outer.args(["-e", &format!("{join} {add} exec @ARGV or die $!"), "--"]).args(program);
        Run::of(outer.args(["perl", "-e", find]).current_dir(place.path()).stdin(Stdio::null())).done()
    };
    match &*found(&[]) {
        "none" => println!("skipped: keys cannot be asked for here"),
        outside => {
            assert_eq!(outside, "there");
            assert_eq!(found(&[OSUPDATE, "image", "--repo", "repo", "shell", "refs/shell"]), "not there");
        }
    }
}

#[test]
fn what_fails_early_leaves_the_machine_s_mounts_alone() {
    if !can_run() || !have(&["unshare"]) {
        return;
    }
    let place = place();
    let script = "mount -t tmpfs tmpfs /tmp; echo mine > /tmp/file; echo 0 > /proc/sys/user/max_user_namespaces
        \"$0\" image shell \"$1\" true; cat /tmp/file";
    // What is below /tmp is not seen any more.
    let here = Path::new("/var/tmp");
    let image = tempfile::tempdir_in(here).unwrap();
    drop(Run::of(Command::new("cp").arg("-r").arg(place.path().join("image")).arg(image.path())).done());
    let reference = format!("oci:{}:1", image.path().join("image").display());
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, OSUPDATE, &reference]).current_dir(here).env("TMPDIR", image.path());
    let run = Run::of(&mut command);
    assert!(run.stderr.contains("cannot make a user namespace"), "{}", run.stderr);
    assert_eq!((run.status, &*run.stdout), (0, "mine\n"), "{}", run.stderr);
    assert_eq!(fs::read_dir(image.path()).unwrap().count(), 1, "the fetched image stays");
}

#[test]
fn the_status_is_that_of_the_command_and_its_absence_is_explained() {
    if !can_run() {
        return;
    }
    let place = place();
    assert_eq!(run(&place, &["refs/shell", "sh", "-c", "exit 7"]).status, 7);
    assert_eq!(run(&place, &["refs/shell", "sh", "-c", "kill -KILL $$"]).status, 128 + 9);
    let none = run(&place, &["refs/shell", "none", "--help"]).failed(127);
    assert_eq!(none, "error: there is no none in the image\n");
    let foreign = run(&place, &["refs/shell", "foreign"]).failed(126);
    assert!(foreign.contains("/usr/bin/foreign is for") && foreign.contains(std::env::consts::ARCH), "{foreign}");
    let script = run(&place, &["refs/shell", "script"]).failed(126);
    assert!(script.contains("the image lacks"), "{script}");
    let directory = run(&place, &["refs/shell", "/etc"]).failed(126);
    assert!(directory.contains("cannot run /etc of the image"), "{directory}");
    assert!(run(&place, &["refs/nothing"]).failed(1).contains("refs/nothing"));
    // Straight from where it is; nothing of it stays.
    drop(run(&place, &["oci:image:1", "none"]).failed(127));
    drop(run(&place, &["oci:image:none", "none"]).failed(1));
    let mut names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| !name.to_str().unwrap().starts_with("osupdate-")));
    // Root's login shell.
    let mut login = shell(&place, &["refs/shell"]);
    let mut login = login.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut login.stdin.take().unwrap(), b"echo $0; exit 4").unwrap();
    let output = login.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(4), b"/usr/bin/sh\n".to_vec()));
    // Where there may be no user namespaces.
    if have(&["unshare"]) {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces; \"$0\" image --repo repo shell refs/shell";
        let mut forbidden = Command::new("unshare");
        let forbidden = forbidden.args(["-Ur", "sh", "-c", script, OSUPDATE]).current_dir(place.path());
        let error = Run::of(forbidden).failed(1);
        assert!(error.contains("cannot make a user namespace"), "{error}");
        assert!(error.contains("hint: this machine forbids it: user.max_user_namespaces is 0"), "{error}");
    }
}

#[test]
fn what_nobody_typed_does_not_get_into_the_terminal() {
    if !can_run() {
        return;
    }
    let place = place();
    // TIOCSTI, and TIOCGWINSZ to compare: of what is no terminal the kernel says so.
    let said = |request: &str| {
        let script = format!("$size = 'x' x 8; ioctl(STDIN, {request}, $size) or print $! + 0");
        run(&place, &["refs/shell", "perl", "-e", &script]).done()
    };
    assert_eq!(said("0x5413"), "25", "no terminal");
    let setting = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").unwrap_or_default();
    assert_eq!(said("0x5412"), if setting.trim() == "0" { "25" } else { "1" });
}

/// A shell that has said `ready`, and the process of its command as the machine sees it.
fn sleeper(place: &Place, script: &str) -> (Child, PathBuf) {
    let name = format!("0.{}", std::process::id());
    let script = format!("{script}; echo ready; while :; do sleep {name}; done");
    let mut child = shell(place, &["refs/shell", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let is_it = |process: &PathBuf| {
        fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(format!("sh\0-c\0{script}").as_bytes()))
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let process = processes.into_iter().find(is_it).unwrap();
    (child, process)
}

#[test]
fn signals_reach_the_command_and_nothing_remains() {
    if !can_run() {
        return;
    }
    let place = place();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pid = |child: &Child| Pid::from_raw(child.id() as i32);
    let (mut child, _) = sleeper(&place, "trap 'exit 9' TERM");
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let (mut child, _) = sleeper(&place, ":");
    kill(pid(&child), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    let (mut child, process) = sleeper(&place, ":");
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    while process.exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "the command goes on");
        thread::sleep(Duration::from_millis(10));
    }
    let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!left.contains(place.path().to_str().unwrap()) && left.lines().count() <= mounts.lines().count(), "{left}");
    // The lock is free again.
    drop(place.run(&["repo", "gc", "--lock-timeout", "5"]).done());
}

#[test]
fn a_signal_while_an_image_is_fetched_leaves_nothing() {
    if !can_run() {
        return;
    }
    let place = place();
    // A layer that takes a while.
    let mut layout = Layout::create(&place.path().join("slow"));
    let large = vec![0; 128 << 20];
    let image = layout.image(&Platform::host().architecture, &[&[("large", &large)]]);
    layout.tag("1", &image);
    let fetched = || {
        let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("osupdate-")).count()
    };
    let mut child = shell(&place, &["oci:slow:1", "true"]).spawn().unwrap();
    let began = Instant::now();
    while fetched() == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is fetched");
        thread::sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(fetched(), 0);
}

#[test]
fn a_shell_has_the_terminal_and_gives_it_back() {
    if !can_run() || !have(&["script"]) {
        return;
    }
    let place = place();
    // The shell in the image makes its own the foreground group; afterwards the outer one reads on.
    let outer =
        format!("{OSUPDATE} image --repo repo shell refs/shell sh -i; echo \"[$?]\"; read line; echo \"[$line]\"");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &outer, "/dev/null"]).current_dir(place.path());
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = script.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"tty; sleep 0 & wait; exit 5\nanswer\n").unwrap();
    let output = script.wait_with_output().unwrap();
    drop(stdin);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("job control"), "{text}");
    for part in ["/dev/console", "[5]", "[answer]"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_ordinary_user_looks_into_an_image() {
    if !can_run() || !have(&["unshare", "setpriv"]) {
        return;
    }
    let place = place();
    // A device that all may use, as udev makes it, for this mount namespace only.
    let script = "set -e; mount --make-rprivate /; mknod -m 666 device c 10 229; mount --bind device /dev/fuse
        chmod 755 .; chmod -R a+rX repo; cp \"$0\" program; chmod 755 program
        exec setpriv --reuid 65534 --regid 65534 --clear-groups ./program image --repo repo shell refs/shell \\
            sh -c 'id -u; cat /etc/secret; touch /tmp/new; touch /etc/new'";
    let mut user = Command::new("unshare");
    let run = Run::of(user.args(["-m", "sh", "-c", script, OSUPDATE]).current_dir(place.path()));
    assert_eq!((run.status, &*run.stdout), (1, "0\nof another"), "{}", run.stderr);
    assert!(run.stderr.contains("/etc/new") && run.stderr.contains("Read-only file system"), "{}", run.stderr);
    // Without the device the reason is told.
    let script = "chmod 755 .; chmod -R a+rX repo; cp \"$0\" program; chmod 755 program
        mount --make-rprivate /; rm device; mknod -m 600 device c 10 229; mount --bind device /dev/fuse
        exec setpriv --reuid 65534 --regid 65534 --clear-groups ./program image --repo repo shell refs/shell id";
    let mut user = Command::new("unshare");
    let run = Run::of(user.args(["-m", "sh", "-c", script, OSUPDATE]).current_dir(place.path()));
    assert!(run.failed(1).contains("no permission to use /dev/fuse"));
}
