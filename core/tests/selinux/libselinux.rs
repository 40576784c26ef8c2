//! libselinux's own look-up, through Python's foreign function interface.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use osupdate_core::selinux::FileType;

use super::Question;

const PROGRAM: &str = r#"
import ctypes, errno, stat, sys
lib = ctypes.CDLL("libselinux.so.1", use_errno=True)
class Option(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("value", ctypes.c_char_p)]
lib.selabel_open.restype = ctypes.c_void_p
lib.selabel_open.argtypes = [ctypes.c_uint, ctypes.POINTER(Option), ctypes.c_uint]
lib.selabel_lookup_raw.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_int]
lib.freecon.argtypes = [ctypes.c_void_p]
if len(sys.argv) == 1:
    sys.exit()
PATH = 3
handle = lib.selabel_open(0, Option(PATH, sys.argv[1].encode()), 1)
if not handle:
    sys.exit("selabel_open: %s" % errno.errorcode[ctypes.get_errno()])
modes = {"b": stat.S_IFBLK, "c": stat.S_IFCHR, "d": stat.S_IFDIR, "p": stat.S_IFIFO, "l": stat.S_IFLNK,
         "s": stat.S_IFSOCK, "-": stat.S_IFREG}
out = sys.stdout
for question in sys.stdin.buffer.read().split(b"\0")[:-1]:
    label = ctypes.c_void_p()
    if lib.selabel_lookup_raw(handle, ctypes.byref(label), question[1:], modes[chr(question[0])]) == 0:
        print(ctypes.string_at(label).decode())
        lib.freecon(label)
    elif ctypes.get_errno() == errno.ENOENT:
        print("none")
    else:
        sys.exit("selabel_lookup: %s" % errno.errorcode[ctypes.get_errno()])
"#;

pub(crate) struct Libselinux;

impl Libselinux {
    /// Whether there are a Python and a libselinux.
    pub(crate) fn is_usable() -> bool {
        Command::new("python3")
            .args(["-c", PROGRAM])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// The labels that the `file_contexts` of a directory give to paths; `none` for none.
    pub(crate) fn ask(directory: &Path, questions: &[Question]) -> Vec<String> {
        let mut python = Command::new("python3");
        python.args(["-c", PROGRAM]).arg(directory.join("file_contexts")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let question = |(path, file_type): &(Vec<u8>, FileType)| [&[file_type.letter()], &path[..], b"\0"].concat();
        let text: Vec<u8> = questions.iter().flat_map(question).collect();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&text));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        writer.join().unwrap().unwrap();
        let labels: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(labels.len(), questions.len());
        labels
    }
}
