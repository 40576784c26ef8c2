use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;

use super::*;

const NEW: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OLD: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A physical root with two deployments, the new one with a record that carries from the old one.
struct Machine {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        fs::create_dir_all(root.join("image/etc")).unwrap();
        fs::set_permissions(root.join("image/etc"), fs::Permissions::from_mode(0o751)).unwrap();
        let machine = Self { _dir: dir, root };
        fs::create_dir_all(machine.path(NEW, "")).unwrap();
        fs::create_dir_all(machine.path(OLD, "etc/upper")).unwrap();
        fs::write(machine.path(OLD, "etc/upper/hostname"), "mine\n").unwrap();
        machine.record(&format!("[etc]\ncarry_from = \"{OLD}\"\n"));
        machine
    }

    fn path(&self, id: &str, name: &str) -> PathBuf {
        self.root.join("state/deploy").join(id).join(name)
    }

    fn record(&self, etc: &str) {
        let text = format!(
            "version = 1\nsequence = 2\ncreated = \"2026-01-01T00:00:00Z\"\n[image]\nreference = \"oci:/os\"\n\
             manifest_digest = \"sha256:00\"\nconfig_digest = \"sha256:00\"\n[boot]\ndigest = \"00\"\nkernel = \"6\"\n{etc}"
        );
        fs::write(self.path(NEW, "deployment.toml"), text).unwrap();
    }

    fn prepare(&self) -> Result<Carried> {
        let root = open_directory(CWD, &self.root)?;
        let image_etc = open_directory(&root, "image/etc")?;
        State::open(root.as_fd(), NEW)?.expect("the deployment is there").prepare_etc(image_etc.as_fd())
    }

    fn refusal(&self) -> String {
        format!("{:#}", self.prepare().unwrap_err())
    }
}

fn old() -> DeploymentId {
    OLD.parse().unwrap()
}

#[test]
fn changes_are_carried_once() {
    let machine = Machine::new();
    assert_eq!(machine.prepare().unwrap(), Carried::From(old()));
    assert_eq!(fs::read_to_string(machine.path(NEW, "etc/upper/hostname")).unwrap(), "mine\n");
    assert!(!machine.path(NEW, "etc/upper.tmp").exists());

    // What happens later to either of the two does not reach the other.
    fs::write(machine.path(NEW, "etc/upper/hostname"), "changed\n").unwrap();
    fs::write(machine.path(OLD, "etc/upper/late"), "x").unwrap();
    assert_eq!(machine.prepare().unwrap(), Carried::AlreadyThere);
    assert_eq!(fs::read_to_string(machine.path(NEW, "etc/upper/hostname")).unwrap(), "changed\n");
    assert!(!machine.path(NEW, "etc/upper/late").exists());
    assert_eq!(fs::read_to_string(machine.path(OLD, "etc/upper/hostname")).unwrap(), "mine\n");
}

#[test]
fn changes_that_were_put_aside_are_carried() {
    let machine = Machine::new();
    fs::create_dir_all(machine.path(OLD, "etc/upper.1")).unwrap();
    fs::rename(machine.path(OLD, "etc/upper"), machine.path(OLD, "etc/upper.12")).unwrap();
    assert_eq!(machine.prepare().unwrap(), Carried::From(old()));
    assert_eq!(fs::read_to_string(machine.path(NEW, "etc/upper/hostname")).unwrap(), "mine\n");
}

#[test]
fn an_interrupted_copy_is_begun_again() {
    let machine = Machine::new();
    let half = machine.path(NEW, "etc/upper.tmp");
    fs::create_dir_all(half.join("ssh")).unwrap();
    fs::write(half.join("hostname"), "mi").unwrap();
    fs::write(half.join("ssh/removed-since"), "x").unwrap();
    assert_eq!(machine.prepare().unwrap(), Carried::From(old()));
    assert_eq!(fs::read_to_string(machine.path(NEW, "etc/upper/hostname")).unwrap(), "mine\n");
    assert!(!machine.path(NEW, "etc/upper/ssh").exists());
    assert!(!half.exists());
}

#[test]
fn nothing_to_carry_gives_an_empty_layer_like_the_image() {
    for prepare in [
        |machine: &Machine| machine.record(""),
        // Made by another program.
        |machine: &Machine| fs::remove_file(machine.path(NEW, "deployment.toml")).unwrap(),
        // The old one was never booted.
        |machine: &Machine| fs::remove_dir_all(machine.path(OLD, "etc")).unwrap(),
    ] {
        let machine = Machine::new();
        prepare(&machine);
        assert_eq!(machine.prepare().unwrap(), Carried::Empty);
        let upper = machine.path(NEW, "etc/upper");
        assert_eq!(fs::read_dir(&upper).unwrap().count(), 0);
        assert_eq!(fs::metadata(&upper).unwrap().mode() & 0o7777, 0o751);
    }
}

#[test]
fn what_cannot_be_carried_stops_the_boot_and_leaves_no_layer() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.path(OLD, "")).unwrap();
    let message = machine.refusal();
    assert!(message.contains(&format!("local changes in /etc of deployment {OLD}: No such file")), "{message}");
    assert!(!machine.path(NEW, "etc/upper").exists());

    let machine = Machine::new();
    fs::remove_dir_all(machine.path(OLD, "etc/upper")).unwrap();
    fs::write(machine.path(OLD, "etc/upper"), "x").unwrap();
    assert!(machine.refusal().contains(&format!("local changes in /etc of deployment {OLD}: Not a directory")));

    let machine = Machine::new();
    machine.record("[etc]\ncarry_from = \"../../../else\"\n");
    let message = machine.refusal();
    assert!(message.contains(&format!("cannot read the deployment's record \"state/deploy/{NEW}/deployment.toml\"")));
    assert!(!machine.path(NEW, "etc/upper").exists());
}

#[test]
fn an_upper_layer_that_is_no_directory_is_refused() {
    let machine = Machine::new();
    fs::create_dir(machine.path(NEW, "etc")).unwrap();
    symlink("../../../../etc", machine.path(NEW, "etc/upper")).unwrap();
    assert_eq!(machine.refusal(), format!("\"state/deploy/{NEW}/etc/upper\" is not a directory"));
}

#[test]
fn only_a_complete_etc_may_be_bound() {
    let machine = Machine::new();
    let complete = |path: &Path| is_complete_etc(open_directory(CWD, path).unwrap().as_fd()).unwrap();
    fs::create_dir(machine.path(NEW, "etc")).unwrap();
    assert!(!complete(&machine.path(NEW, "etc")));
    assert!(!complete(&machine.path(OLD, "etc")));
    fs::write(machine.path(NEW, "etc/passwd"), "x").unwrap();
    assert!(complete(&machine.path(NEW, "etc")));
}

#[test]
fn there_may_be_no_such_deployment() {
    let machine = Machine::new();
    let root = open_directory(CWD, &machine.root).unwrap();
    assert!(State::open(root.as_fd(), &"c".repeat(64)).unwrap().is_none());
}
