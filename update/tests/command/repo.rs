//! `osupdate repo`, as its users see it.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::docker_registry::{DockerRegistry, have_registry};
use crate::place::{Place, Run};

/// A process that holds a lock on the repository until it is dropped.
struct Locker(Child);

impl Locker {
    fn new(place: &Place, how: &str) -> Self {
        let repository = place.path().join("repo");
        let mut command = Command::new("flock");
        command.arg(how).arg("--no-fork").arg(&repository).args(["sh", "-c", "echo locked; exec sleep 60"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("flock of util-linux");
        let mut line = [0; 7];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        Self(child)
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn who_has_locked_the_repository_is_told_at_once_and_when_the_time_is_over() {
    let place = Place::with_repository();
    let locker = Locker::new(&place, "--exclusive");
    let holder = format!("process {} (sleep)", locker.0.id());
    let start = Instant::now();
    let message = place.run(&["repo", "fsck", "--lock-timeout", "1"]).failed(1);
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(30));
    assert_eq!(
        message,
        format!(
            "warning: waiting for {holder}, which has locked the repository repo\n\
             error: the repository repo is locked by {holder}; waited 1 seconds\n  \
             hint: wait until it is done, longer with --lock-timeout SECONDS\n"
        )
    );
    let message = place.run(&["image", "list", "--lock-timeout=0"]).failed(1);
    assert!(message.starts_with("error: the repository repo is locked by process"), "{message}");
}

#[test]
fn a_collection_waits_for_readers_and_goes_on_when_they_are_gone() {
    let place = Place::with_repository();
    let locker = Locker::new(&place, "--shared");
    let message = place.run(&["repo", "gc", "--lock-timeout", "0"]).failed(1);
    let holder = format!("process {} (sleep)", locker.0.id());
    assert!(message.starts_with(&format!("error: the repository repo is in use by {holder}; waited 0")), "{message}");
    place.run(&["repo", "gc", "--dry-run", "--lock-timeout", "0"]).done();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| place.run(&["repo", "gc", "--lock-timeout", "60"]));
        sleep(Duration::from_millis(200));
        drop(locker);
        assert!(waiting.join().unwrap().done().starts_with("removed 0 objects"));
    });
}

#[test]
fn why_tells_the_way_from_a_tag_to_the_contents_of_a_file() {
    let place = Place::with_repository();
    place.run(&["image", "pull", "oci:image:1", "--tag", "mine"]).done();
    let text = place.run(&["repo", "why", "--in", "mine", "/usr/share/large"]).done();
    let lines: Vec<_> = text.lines().map(str::trim_start).collect();
    assert_eq!(lines[0], "streams/refs/oci/mine");
    assert!(lines[1].starts_with("-> streams/oci-manifest-sha256:"), "{text}");
    assert!(lines[2].starts_with("-> sha256:"), "the layer: {text}");
    let object = lines[3].strip_prefix("-> object ").unwrap();
    assert_eq!(lines.len(), 4, "{text}");

    let json = place.run(&["repo", "why", object, "--json"]).json();
    assert_eq!(
        (json["needed"].as_bool(), json["steps"][0]["label"].as_str()),
        (Some(true), Some("streams/refs/oci/mine"))
    );
    place.run(&["image", "untag", "mine"]).done();
    let path = format!("repo/objects/{}/{}", &object[..2], &object[2..]);
    assert_eq!(place.run(&["repo", "why", &path]).done(), "nothing needs it\n");
    let message = place.run(&["repo", "why", "nonsense"]).failed(1);
    assert!(
        message.contains("there is no image \"nonsense\"") && message.contains("hint: give the digest"),
        "{message}"
    );
}

#[test]
fn deployments_of_a_system_that_does_not_run_are_kept() {
    let place = Place::new();
    let repository = place.path().join("root/composefs");
    let repository = repository.to_str().unwrap();
    place.run(&["repo", "init", "--unverified", "--repo", repository]).done();
    let pulled = place.run(&["image", "pull", "oci:image:1", "--bootable", "--json", "--repo", repository]).json();
    let boot_image = pulled["boot_image_digest"].as_str().unwrap().to_owned();
    let tag = pulled["tag"].as_str().unwrap().to_owned();
    place.run(&["image", "untag", &tag, "--repo", repository]).done();
    std::fs::create_dir_all(place.path().join("root/state/deploy").join(&boot_image)).unwrap();
    place.run(&["repo", "gc", "--repo", repository]).done();
    let why = place.run(&["repo", "why", &boot_image, "--repo", repository]).done();
    assert!(why.starts_with(&format!("deployment {}", &boot_image[..12])), "{why}");
    std::fs::remove_dir_all(place.path().join("root/state")).unwrap();
    let gone = place.run(&["repo", "gc", "--repo", repository]).done();
    assert!(gone.contains(", kept 0\n"), "{gone}");
}

#[test]
fn an_image_that_has_grown_is_refused_without_reading_it_into_memory() {
    let place = Place::with_repository();
    let pulled = place.run(&["image", "pull", "oci:image:1", "--tag", "mine", "--json"]).json();
    let image = pulled["image_digest"].as_str().unwrap();
    let object = place.path().join(format!("repo/objects/{}/{}", &image[..2], &image[2..]));
    std::fs::File::options().write(true).open(object).unwrap().set_len(600 << 20).unwrap();
    let limited = "ulimit -v 500000; exec \"$0\" repo gc --repo repo --dry-run";
    let mut command = Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_osupdate")]).current_dir(place.path());
    let message = Run::of(&mut command).failed(1);
    assert!(
        message.contains("so nothing was removed") && message.contains("its contents have the digest"),
        "{message}"
    );
}

/// Overwrites the contents of `/usr/share/large` in the repository.
fn damage(place: &Place) {
    let text = place.run(&["repo", "why", "--in", "mine", "/usr/share/large", "--json"]).json();
    let digest = text["digest"].as_str().unwrap().to_owned();
    std::fs::write(place.path().join(format!("repo/objects/{}/{}", &digest[..2], &digest[2..])), b"bad").unwrap();
}

#[test]
fn what_the_check_finds_is_repaired_from_an_image_or_another_repository() {
    let place = Place::with_repository();
    place.run(&["image", "pull", "oci:image:1", "--tag", "mine"]).done();
    place.run(&["repo", "init", "--unverified", "--repo", "other"]).done();
    place.run(&["repo", "copy", "repo", "mine", "--repo", "other"]).done();
    for source in ["oci:image:1", "other"] {
        damage(&place);
        assert_eq!(place.run(&["repo", "fsck"]).status, 3);
        let text = place.run(&["repo", "fsck", "--repair", source]).done();
        assert!(text.ends_with("2 findings repaired, nothing is wrong now\n"), "{text}");
        assert!(place.run(&["repo", "fsck"]).done().ends_with("nothing is wrong\n"));
        // An image without its name cannot be mounted.
        for image in std::fs::read_dir(place.path().join("repo/images")).unwrap() {
            std::fs::remove_file(image.unwrap().path()).unwrap();
        }
        assert_eq!(place.run(&["repo", "fsck"]).status, 3);
        let text = place.run(&["repo", "fsck", "--repair", source]).done();
        assert!(text.ends_with("1 findings repaired, nothing is wrong now\n"), "{text}");
    }
    if have_registry() {
        let registry = DockerRegistry::start();
        registry.push(&format!("oci:{}/image:1", place.path().display()), "team/os:1", &[]);
        damage(&place);
        let reference = format!("docker://{}/team/os:1", registry.address);
        let text = place.run(&["repo", "fsck", "--repair", &reference, "--plain-http"]).done();
        assert!(text.ends_with("2 findings repaired, nothing is wrong now\n"), "{text}");
    }
    damage(&place);
    let message = place.run(&["repo", "fsck", "--repair", "oci:nowhere"]).failed(1);
    assert!(message.contains("error: cannot repair from oci:nowhere\n"), "{message}");
    place.run(&["repo", "init", "--unverified", "--repo", "empty"]).done();
    let run = place.run(&["repo", "fsck", "--repair", "empty", "--json"]);
    assert_eq!(run.status, 3);
    assert!(run.stderr.contains("is not repaired"), "{}", run.stderr);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((json["ok"].as_bool(), json["findings_before_repair"].as_u64()), (Some(false), Some(2)));
}

#[test]
fn images_are_copied_between_repositories() {
    let place = Place::with_repository();
    place.run(&["image", "pull", "oci:image:1", "--tag", "mine"]).done();
    place.run(&["repo", "init", "--unverified", "--repo", "other", "--digest", "sha256"]).done();
    let text = place.run(&["repo", "copy", "repo", "mine", "--tag", "copied", "--repo", "other"]).done();
    assert!(text.contains("objects new"), "{text}");
    assert!(place.run(&["image", "list", "--repo", "other"]).done().contains("copied"));
    let json = place.run(&["repo", "copy", "repo", "--all", "--repo", "other", "--json"]).json();
    assert_eq!((json["objects_copied"].as_u64(), json["names"].as_u64()), (Some(0), Some(0)));
    assert!(place.run(&["repo", "fsck", "--repo", "other"]).done().ends_with("nothing is wrong\n"));
    let message = place.run(&["repo", "copy", "repo", "nothing", "--repo", "other"]).failed(1);
    assert_eq!(
        message,
        "error: cannot copy nothing from repo\n  caused by: there is no image \"nothing\" in the repository\n  \
         hint: see what is there with: osupdate image list --repo repo\n"
    );
    place.run(&["repo", "copy", "repo", "--repo", "other"]).failed(2);
}

#[test]
fn repositories_store_images_in_the_formats_that_were_asked_for() {
    let place = Place::new();
    let init = |formats: &[&str]| {
        let options = formats.iter().flat_map(|format| ["--format", format]);
        let words: Vec<_> = ["repo", "init", "--unverified"].into_iter().chain(options).collect();
        place.run(&words)
    };
    init(&["v2", "v1"]).done();
    init(&["v2", "v1"]).done();
    init(&[]).done();
    let message = init(&["v1"]).failed(1);
    assert!(message.starts_with("error: the repository repo has images in V2 and V1, not in V1\n"), "{message}");
    place.run(&["image", "pull", "oci:image:1"]).done();
    assert_eq!(std::fs::read_dir(place.path().join("repo/images")).unwrap().count(), 2);
    init(&["v0"]).failed(2);
}
