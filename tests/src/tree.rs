//! A published tree, on the web server that has the signatures.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::images::osupdate;
use crate::lab::Lab;
use crate::machine::SIGNATURES_IN_GUEST;
use crate::registry::Registry;
use crate::tool;

/// Name of the image in the tree, without a tag.
const NAME: &str = "tree/os";

/// The image, as machines see it.
pub fn reference() -> String {
    format!("http://{SIGNATURES_IN_GUEST}/{NAME}:latest")
}

/// What makes a machine trust the image, if it is signed with the key that it trusts anyway.
pub fn trust() -> String {
    let signed = r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/usr/share/osupdate/keys/os.gpg"}"#;
    let policy = format!(
        r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"{SIGNATURES_IN_GUEST}/{NAME}": [{signed}]}}}}}}"#
    );
    let store = format!("docker:\\n  {SIGNATURES_IN_GUEST}:\\n    lookaside: http://{SIGNATURES_IN_GUEST}\\n");
    format!("echo '{policy}' > /etc/containers/policy.json; printf '{store}' > /etc/containers/registries.d/tree.yaml")
}

impl Lab {
    /// Makes the image in the tree this version, signed.
    pub fn publish_in_tree(&self, registry: &Registry, version: u32) -> Result<()> {
        let (source, tag) = (self.images().source(version), format!("{NAME}:latest"));
        let directory = tempfile::tempdir()?;
        let repository = directory.path().join("repository");
        let run = |arguments: &[&str]| {
            let mut command = Command::new(osupdate());
            command.args(["--quiet", arguments[0], "--repo"]).arg(&repository).args(&arguments[1..]);
            tool::run(&mut command)
        };
        run(&["repo", "init", "--unverified"])?;
        run(&["image", "pull", "--tag", "os", &source])?;
        let tree = registry.signatures().files().join(Path::new(NAME).parent().unwrap_or(Path::new("")));
        let tree = tree.display().to_string();
        run(&["repo", "publish", &tree, "os=os:latest", "--compression-level", "1"])?;
        // Signatures lie beside the files of the tree; the copy in the registry is not used.
        registry.push_signed(&source, &tag, self.images().key(), &format!("{SIGNATURES_IN_GUEST}/{tag}"))
    }
}
