//! Runs a program under `ptrace`, sees each of its system calls that changes files below a directory, and ends it at one
//! of them or makes that one fail.
//!
//! All threads count together, so that "the call with number n" comes once, whatever thread makes it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What is done to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The program is killed before the call happens.
    Kill,
    /// The call does nothing and fails.
    Fail,
}

/// A call that changes a file, or makes changes durable.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its name: `linkat`.
    pub(crate) name: &'static str,
    /// What it changes: absolute, for a file without a name what the kernel shows for it.
    pub(crate) path: PathBuf,
    /// What gets a new name; the target of a symlink.
    pub(crate) from: Option<PathBuf>,
    /// The target of the symlink that is about to be replaced.
    pub(crate) replaced: Option<PathBuf>,
    /// What was in the file that is about to be replaced.
    pub(crate) contents: Option<Vec<u8>>,
    /// It returned and did not fail.
    pub(crate) done: bool,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Run {
    /// The calls in the order in which they began.
    pub(crate) calls: Vec<Call>,
    /// Exit status; `None` if it was killed.
    pub(crate) status: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<Signal>,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

/// What is known of a thread that is in a system call.
struct Inside {
    /// Index in the calls, of those that count.
    call: Option<usize>,
    /// The error that it is to return.
    error: Option<Errno>,
}

/// The error that is injected: to make or fill a file there is no space, everything else fails in the device.
fn error_of(name: &str) -> Errno {
    match name {
        "fsync" | "fdatasync" | "syncfs" | "unlinkat" => Errno::EIO,
        _ => Errno::ENOSPC,
    }
}

/// Runs a program to its end; `fate` is for the call with this number, counted from 0.
pub(crate) fn run<S: AsRef<OsStr>>(program: &[S], below: &Path, fate: Option<(usize, Fate)>) -> Run {
    let mut output = tempfile::tempfile().unwrap();
    // A stopped shell is attached to and becomes the program: there is no safe way to run code between fork and exec.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .args(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output.try_clone().unwrap())
        .spawn()
        .unwrap();
    let leader = Pid::from_raw(i32::try_from(child.id()).unwrap());
    assert!(matches!(waitpid(leader, Some(WaitPidFlag::WUNTRACED)).unwrap(), WaitStatus::Stopped(..)));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options).unwrap();
    kill(leader, Signal::SIGCONT).unwrap();

    let mut run = Run { calls: Vec::new(), status: None, signal: None, stderr: String::new() };
    let mut inside: HashMap<Pid, Inside> = HashMap::new();
    loop {
        // Other tests of this process trace from other threads.
        let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap();
        let (pid, signal) = match status {
            WaitStatus::Exited(pid, status) if pid == leader => {
                run.status = Some(status);
                break;
            }
            WaitStatus::Signaled(pid, signal, _) if pid == leader => {
                run.signal = Some(signal);
                break;
            }
            WaitStatus::PtraceSyscall(pid) => {
                at_syscall(pid, leader, below, fate, &mut run, &mut inside);
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, ..) => (pid, None),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => continue,
        };
        match ptrace::syscall(pid, signal) {
            // It was killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => panic!("cannot continue {pid}: {errno}"),
        }
    }
    // It was waited for above; this only tells the handle.
    drop(child.try_wait());
    output.seek(SeekFrom::Start(0)).unwrap();
    output.read_to_string(&mut run.stderr).unwrap();
    run
}

fn at_syscall(
    pid: Pid,
    leader: Pid,
    below: &Path,
    fate: Option<(usize, Fate)>,
    run: &mut Run,
    inside: &mut HashMap<Pid, Inside>,
) {
    const ENTRY: u8 = 1;
    // Whoever was killed in between has nothing to tell.
    let Ok(info) = ptrace::syscall_info(pid) else { return };
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    if info.op == ENTRY {
        let mut state = Inside { call: None, error: None };
        if let Some(call) = call_of(pid, &registers, below) {
            let number = run.calls.len();
            match fate {
                Some((at, Fate::Kill)) if at == number => {
                    kill(leader, Signal::SIGKILL).unwrap();
                    return;
                }
                Some((at, Fate::Fail)) if at == number => {
                    state.error = Some(error_of(call.name));
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(pid, registers).unwrap();
                }
                _ => {}
            }
            state.call = Some(number);
            run.calls.push(call);
        }
        inside.insert(pid, state);
    } else if let Some(state) = inside.remove(&pid) {
        if let Some(errno) = state.error {
            registers.rax = (-i64::from(errno as i32)).cast_unsigned();
            ptrace::setregs(pid, registers).unwrap();
        }
        if let Some(call) = state.call {
            run.calls[call].done = registers.rax.cast_signed() >= 0;
        }
    }
}

/// The call that a thread is about to make, if it changes something below the directory.
fn call_of(pid: Pid, registers: &libc::user_regs_struct, below: &Path) -> Option<Call> {
    let number = i64::try_from(registers.orig_rax).ok()?;
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
    let fd = |index: usize| fd_path(pid, arguments[index]);
    let text = |index: usize| read_path(pid, arguments[index]);
    let at = |dir: usize, path: usize| Some(fd(dir)?.join(text(path)?));
    let call = |name, path: Option<PathBuf>| {
        Some(Call { name, path: path?, from: None, replaced: None, contents: None, done: false })
    };
    let call = match number {
        libc::SYS_write => call("write", fd(0)),
        libc::SYS_pwrite64 => call("pwrite64", fd(0)),
        libc::SYS_writev => call("writev", fd(0)),
        libc::SYS_pwritev => call("pwritev", fd(0)),
        libc::SYS_ftruncate => call("ftruncate", fd(0)),
        libc::SYS_fallocate => call("fallocate", fd(0)),
        libc::SYS_fchmod => call("fchmod", fd(0)),
        libc::SYS_fsync => call("fsync", fd(0)),
        libc::SYS_fdatasync => call("fdatasync", fd(0)),
        libc::SYS_syncfs => call("syncfs", fd(0)),
        libc::SYS_copy_file_range => call("copy_file_range", fd(2)),
        libc::SYS_sendfile => call("sendfile", fd(0)),
        libc::SYS_ioctl if matches!(arguments[1], FICLONE | FS_IOC_ENABLE_VERITY) => call("ioctl", fd(0)),
        libc::SYS_openat if arguments[2] & NAMELESS != 0 => call("openat nameless", at(0, 1)),
        libc::SYS_openat if arguments[2] & CREATES != 0 => call("openat", at(0, 1)),
        libc::SYS_open if arguments[1] & CREATES != 0 => call("open", text(0)),
        libc::SYS_mkdirat => call("mkdirat", at(0, 1)),
        libc::SYS_mkdir => call("mkdir", text(0)),
        libc::SYS_unlinkat => call("unlinkat", at(0, 1)),
        libc::SYS_unlink => call("unlink", text(0)),
        libc::SYS_rmdir => call("rmdir", text(0)),
        libc::SYS_symlinkat => Some(Call { from: text(0), ..call("symlinkat", at(1, 2))? }),
        libc::SYS_linkat => {
            let from = text(1)?;
            let from = from
                .strip_prefix("/proc/self/fd")
                .map_or_else(|_| at(0, 1), |number| fd_path(pid, number.to_str()?.parse().ok()?));
            Some(Call { from, ..call("linkat", at(2, 3))? })
        }
        libc::SYS_renameat | libc::SYS_renameat2 => {
            let to = at(2, 3)?;
            let replaced = fs::read_link(&to).ok();
            let contents = fs::read(&to).ok().filter(|_| replaced.is_none());
            Some(Call { from: at(0, 1), replaced, contents, ..call("renameat", Some(to))? })
        }
        libc::SYS_rename => Some(Call { from: text(0), ..call("rename", text(1))? }),
        _ => None,
    };
    call.filter(|call| call.path.starts_with(below))
}

/// Flags of `open` that make a file or empty it: `O_CREAT`, `O_TRUNC`.
const CREATES: u64 = 0o100 | 0o1000;
/// The one bit of `O_TMPFILE` that other flags do not have.
const NAMELESS: u64 = 0o20_000_000;
/// `linux/fs.h`
const FICLONE: u64 = 0x4004_9409;
/// `linux/fsverity.h`
const FS_IOC_ENABLE_VERITY: u64 = 0x4080_6685;

fn fd_path(pid: Pid, fd: u64) -> Option<PathBuf> {
    // A C int in a register: the upper half means nothing.
    let fd = (fd & 0xFFFF_FFFF) as u32 as i32;
    if fd == libc::AT_FDCWD {
        return fs::read_link(format!("/proc/{pid}/cwd")).ok();
    }
    fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()
}

/// A path in the memory of the program.
fn read_path(pid: Pid, address: u64) -> Option<PathBuf> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = Vec::new();
    let mut piece = [0; 256];
    loop {
        let read = memory.read_at(&mut piece, address + bytes.len() as u64).ok()?;
        match piece[..read].iter().position(|byte| *byte == 0) {
            Some(end) => {
                bytes.extend(&piece[..end]);
                return Some(std::ffi::OsString::from_vec(bytes).into());
            }
            None if read > 0 && bytes.len() < 4096 => bytes.extend(&piece[..read]),
            None => return None,
        }
    }
}
