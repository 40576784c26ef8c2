//! Completion in real shells, as a user at a terminal meets it: what is typed is completed and then run.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::docker_registry::have;
use crate::place::{Place, Run};

/// A place with the tags `docker://registry.example/os:1`, `docker://registry.example/os:2` and `test`.
fn place() -> Place {
    let place = Place::with_repository();
    drop(place.run(&["image", "pull", "oci:image", "--tag", "test"]).done());
    for tag in ["docker://registry.example/os:1", "docker://registry.example/os:2"] {
        drop(place.run(&["image", "tag", "test", tag]).done());
    }
    place
}

/// A shell command in which `osupdate` is the program under test.
fn shell(place: &Place, program: &str, arguments: &[&str]) -> Command {
    let directory = Path::new(env!("CARGO_BIN_EXE_osupdate")).parent().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(place.path()).env_clear().env("HOME", place.path()).env("TERM", "dumb");
    command.env("PATH", format!("{}:/usr/bin:/bin", directory.display()));
    command
}

/// Types lines into an interactive shell on a terminal of its own; returns all that is to be seen.
fn type_into(place: &Place, shell_command: &str, lines: &[&str]) -> String {
    let mut command = shell(place, "script", &["--quiet", "--command", shell_command, "/dev/null"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all((lines.join("\n") + "\nexit\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(keys);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is typed in each shell, and what the program then prints. `\t` is the key for completion.
const TYPED: [(&str, &str); 4] = [
    // A command, a tag.
    ("osupdate image insp\t--repo repo t\t--json | grep -c config_digest", "\n1"),
    // A tag with colons, at which bash splits words; as far as it is unique, then the rest.
    ("osupdate image inspect --repo repo docker:\t2 | sed -n s/manifest/colons/p", "colons      sha256:"),
    // An option and its value; a directory goes on with a slash.
    ("osupdate image inspect --repo=rep\t test | sed -n s/manifest/joined/p", "joined      sha256:"),
    // What there is none of stays as it is.
    ("osupdate image inspect --repo repo tesu\t", "there is no image \"tesu\""),
];

#[test]
fn shells_complete_commands_options_and_tags() {
    let scripts = [
        ("bash", "bash --norc -i", "source <(osupdate completion bash)"),
        ("zsh", "zsh -f -i", "autoload -U compinit; compinit -u -D; source <(osupdate completion zsh)"),
    ];
    for (shell, command, start) in scripts {
        if !have(&["tar", "gzip", "script", shell]) {
            continue;
        }
        let place = place();
        let lines = [&[start][..], &TYPED.map(|(typed, _)| typed)].concat();
        let seen = type_into(&place, command, &lines).replace('\r', "");
        for (typed, printed) in TYPED {
            assert!(seen.contains(printed), "{shell}: {typed:?} does not print {printed:?}:\n{seen}");
        }
    }
}

#[test]
fn fish_completes_commands_options_and_tags() {
    if !have(&["tar", "gzip", "fish"]) {
        return;
    }
    let place = place();
    let complete = |line: &str| {
        let script = format!("osupdate completion fish | source; complete --do-complete '{line}'");
        Run::of(&mut shell(&place, "fish", &["--no-config", "--command", &script])).done()
    };
    assert_eq!(complete("osupdate image inspect --repo repo t"), "test\n");
    assert_eq!(
        complete("osupdate image inspect --repo repo docker:"),
        "docker://registry.example/os:1\ndocker://registry.example/os:2\n"
    );
    assert!(complete("osupdate image insp").starts_with("inspect\tShow what is known of an image"));
    assert_eq!(complete("osupdate image inspect --repo=rep"), "--repo=repo/\n");
}

#[test]
fn what_the_scripts_are_told_is_one_candidate_per_line() {
    let place = place();
    let ask = |words: &[&str]| place.run_bare(&[&["complete", "--"], words].concat()).done();
    assert_eq!(ask(&["osupdate", "image", "untag", "--repo", "repo", "t"]), "test\n");
    assert_eq!(ask(&["/usr/bin/osupdate", "image", "--repo=repo", "tag", "t"]), "test\n");
    // Any image: names and paths; only paths where nothing else can be meant.
    assert_eq!(ask(&["osupdate", "image", "dump", "--repo", "repo", "te"]), "test\n");
    assert_eq!(ask(&["osupdate", "image", "dump", "--repo", "repo", "re"]), "repo/\n");
    assert_eq!(ask(&["osupdate", "image", "diff", "--repo", "repo", "test", "./im"]), "./image/\n");
    assert_eq!(ask(&["osupdate", "image", "fsck", "--repo", "repo", "oci:im"]), "oci:image\n");
    assert!(ask(&["osupdate", "repo", "why", "--repo", "repo", "oci-l"]).starts_with("oci-layer-sha256:"));
    // A layout is complete as it is; other directories go on.
    assert_eq!(ask(&["osupdate", "image", "pull", "--repo", "repo", "oci:im"]), "oci:image\n");
    assert_eq!(ask(&["osupdate", "image", "pull", "--repo", "repo", "oci:re"]), "oci:repo/\n");
    assert_eq!(
        ask(&["osupdate", "image", "pull", "--repo", "repo", ""]),
        "containers-storage:\ndir:\ndocker-archive:\ndocker-daemon:\ndocker://registry.example/os:1\n\
         docker://registry.example/os:2\noci-archive:\noci:\n"
    );
    assert_eq!(ask(&["osupdate", "image", "pull", "--repo", "repo", "dir:im"]), "dir:image\n");
    assert_eq!(
        ask(&["osupdate", "image", "pull", "--repo", "repo", "oci-archive:image/in"]),
        "oci-archive:image/index.json\n"
    );
    assert_eq!(ask(&["osupdate", "image", "pull", "--repo", "repo", "./image/in"]), "./image/index.json\n");
    let digest = place.run(&["image", "inspect", "test", "--json"]).json()["manifest_digest"].clone();
    let digests = ask(&["osupdate", "image", "inspect", "--repo", "repo", "sha256:"]);
    assert_eq!(digests, format!("{}\n", digest.as_str().unwrap()));
    // Options only for those who begin one; nothing hidden; no repository, no names and no error.
    let image = ask(&["osupdate", "image", ""]);
    assert!(image.contains("pull\t") && !image.contains("--repo"), "{image}");
    assert!(ask(&["osupdate", "image", "pull", "--plain"]).starts_with("--plain-http\t"));
    assert_eq!(ask(&["osupdate", "man"]), "");
    assert_eq!(ask(&["osupdate", "image", "untag", "--repo", "nowhere", ""]), "");
    assert_eq!(ask(&[]), "");
}
