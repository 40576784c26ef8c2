//! The sequence: from the physical root at /sysroot to the new root at /sysroot. BOOT.md describes it.

use std::fs;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use osupdate_core::Digest;
use osupdate_core::kernel_args::composefs_args;
use rustix::fs::Mode;
use rustix::process::umask;

use crate::config::{Config, MountKind};
use crate::etc::{Carried, State, ensure_directory, is_complete_etc};
use crate::image::Image;
use crate::mounts::{Layers, NewRoot, Staging};
use crate::options::Options;
use crate::physical_root::PhysicalRoot;
use crate::report::{self, info, warning};

/// Does all of it and says how it went. Exit status 0 or 1.
pub(crate) fn main(options: &Options) -> ExitCode {
    let (cmdline, result) = match options.cmdline.clone().map_or_else(|| fs::read_to_string("/proc/cmdline"), Ok) {
        Ok(cmdline) => {
            let result = run(options, &cmdline);
            (cmdline, result)
        }
        Err(err) => (String::new(), Err(err).context("cannot read the kernel command line")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            report::failure(&err, &cmdline);
            ExitCode::FAILURE
        }
    }
}

/// Sets up the new root, or leaves the physical root as it was.
fn run(options: &Options, cmdline: &str) -> Result<()> {
    // Modes are given where files are made.
    umask(Mode::empty());
    let arguments = composefs_args(cmdline)?;
    if arguments.is_empty() {
        bail!("the kernel command line names no image, it needs composefs.digest=v1-<sha256|sha512>-12:<digest>");
    }
    let config = Config::load(&options.config)?;
    for key in &config.unknown_keys {
        warning(&format!("{:?} has the unknown key {key}, ignoring", options.config));
    }
    let physical = PhysicalRoot::open(&options.sysroot)?;
    if let Err(err) = physical.publish_disk() {
        warning(&format!("cannot tell systemd which disk the root is on: {err:#}, ignoring"));
    }

    let image = Image::find(&physical, &arguments)?;
    let deployment = Deployment::open(&physical, image.digest(), &config)?;
    let staging = Staging::create()?;
    let upper = config.root_transient.then(|| staging.transient_layers("root")).transpose()?;
    let root = staging.attach_root(image.mount(upper)?.as_fd())?;
    if deployment.is_written_to() {
        physical.make_writable()?;
    }
    deployment.mount(&root, "var", config.var)?;
    if root.has_directory("sysroot")? {
        root.bind(physical.directory(), "sysroot")?;
    } else {
        warning("the image has no directory /sysroot: the physical root will not be reachable, nor updates possible");
    }
    // Last, because it marks the deployment as booted.
    deployment.prepare_etc(&root)?;
    deployment.mount(&root, "etc", config.etc)?;
    root.replace(&physical)?;
    info(&format!("the root is image {}, {}", image.digest(), image.trust()));
    Ok(())
}

/// The deployment of the image: what the machine keeps for it on the physical root. Not every configuration needs it.
struct Deployment<'a> {
    physical: &'a PhysicalRoot,
    config: &'a Config,
    id: String,
    state: Option<State>,
    has_record: bool,
}

impl<'a> Deployment<'a> {
    fn open(physical: &'a PhysicalRoot, digest: &Digest, config: &'a Config) -> Result<Self> {
        let id = digest.to_string();
        let state = State::open(physical.directory(), &id)?;
        let has_record = match &state {
            Some(state) => state.has_record()?,
            None => false,
        };
        Ok(Self { physical, config, id, state, has_record })
    }

    fn state(&self) -> Result<&State> {
        self.state.as_ref().with_context(|| format!("there is no deployment {} on {:?}", self.id, self.physical.path()))
    }

    /// The upper layer of /etc is wanted for every deployment of ours, mounted or not: it marks the deployment as
    /// booted, and later ones carry it on.
    fn wants_etc_upper(&self) -> bool {
        self.has_record || self.config.etc == MountKind::Overlay
    }

    fn is_written_to(&self) -> bool {
        let kept = |kind| matches!(kind, MountKind::Bind | MountKind::Overlay);
        self.wants_etc_upper() || kept(self.config.etc) || kept(self.config.var)
    }

    fn prepare_etc(&self, root: &NewRoot) -> Result<()> {
        if !self.wants_etc_upper() {
            return Ok(());
        }
        let image_etc = root.open_directory("etc")?;
        match self.state()?.prepare_etc(image_etc.as_fd())? {
            Carried::AlreadyThere => {}
            Carried::Empty => info("first boot of this deployment, with the image's /etc"),
            Carried::From(id) => {
                info(&format!("first boot of this deployment, with the local changes in /etc of {id}"))
            }
        }
        Ok(())
    }

    fn mount(&self, root: &NewRoot, name: &str, kind: MountKind) -> Result<()> {
        match kind {
            MountKind::None => Ok(()),
            MountKind::Bind => {
                let path = format!("{}/{name}", self.state()?.path());
                let source = self.physical.open_directory(&path)?;
                if name == "etc" && !is_complete_etc(source.as_fd())? {
                    bail!("the configuration binds {path:?} to /etc, but that is not a complete /etc");
                }
                root.bind(source.as_fd(), name)
            }
            MountKind::Overlay => root.overlay(name, &self.layers(name)?),
            MountKind::Transient => root.overlay(name, &root.staging().transient_layers(name)?),
        }
    }

    /// The layers in the deployment's directory: `<name>/upper` and `<name>/work`.
    fn layers(&self, name: &str) -> Result<Layers> {
        let path = format!("{}/{name}", self.state()?.path());
        // `var` is a link to the shared /var.
        let parent = self.physical.open_directory(&path)?;
        let open = || {
            let upper = ensure_directory(parent.as_fd(), "upper", Mode::from_raw_mode(0o755))?;
            let work = ensure_directory(parent.as_fd(), "work", Mode::RWXU)?;
            rustix::io::Result::Ok(Layers { upper, work })
        };
        open().with_context(|| format!("cannot open the layers in {:?}", self.physical.path().join(path)))
    }
}
