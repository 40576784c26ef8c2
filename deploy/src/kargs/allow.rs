//! [`AllowList`]: which kernel arguments a machine may add to those that are sealed into a UKI.
//!
//! A local addon is signed by a key of the machine, not by who built the image. So it may say where messages go and how hardware
//! is treated, and nothing that decides what runs, or how it is protected. What is not on the list is refused. An image can extend
//! it, for the file is under its seal, but not to the arguments that the seal itself depends on.

use std::io::Read as _;

use osupdate_core::repository::Repository;
use osupdate_core::tree::Tree;
use thiserror::Error;

/// Where an image has more of the list, from its root: one pattern on each line; `#` begins a comment.
const FILE: &str = "usr/lib/osupdate/local-kargs.conf";

/// Largest file that is read.
const SIZE_MAX: u64 = 1 << 16;

/// What every machine may add. A pattern is a whole argument; `key=*` is any value; `prefix.*` any argument that begins so;
/// `key=#` any number but 0: a machine that does not restart after a panic never uses its next try.
const DEFAULT: &[&str] = &[
    // Where messages go.
    "console=*",
    "earlycon",
    "earlycon=efifb",
    "earlyprintk=efi",
    "consoleblank=*",
    "debug",
    "quiet",
    "splash",
    "loglevel=*",
    "ignore_loglevel",
    "log_buf_len=*",
    "printk.time=*",
    "8250.nr_uarts=*",
    "systemd.log_level=*",
    "systemd.log_target=*",
    "systemd.show_status",
    "systemd.show_status=*",
    "udev.log_level=*",
    "plymouth.enable=*",
    "vconsole.keymap=*",
    "vconsole.font=*",
    // Displays.
    "nomodeset",
    "video=*",
    "fbcon=*",
    "vga=*",
    "i915.modeset=*",
    "i915.enable_psr=*",
    "amdgpu.dc=*",
    "nouveau.modeset=*",
    "radeon.modeset=*",
    "acpi_backlight=*",
    // Names of network interfaces.
    "net.ifnames=*",
    "biosdevname=*",
    // Memory and processors.
    "crashkernel=*",
    "hugepages=*",
    "hugepagesz=*",
    "default_hugepagesz=*",
    "transparent_hugepage=*",
    "numa_balancing=*",
    "maxcpus=*",
    "nr_cpus=*",
    "isolcpus=*",
    "nohz=*",
    "nohz_full=*",
    "rcu_nocbs=*",
    "irqaffinity=*",
    "threadirqs",
    "preempt=*",
    "clocksource=*",
    "tsc=*",
    "intel_pstate=*",
    "amd_pstate=*",
    "intel_idle.max_cstate=*",
    "processor.max_cstate=*",
    "mitigations=auto,nosmt",
    "nosmt",
    "nosmt=force",
    // Hardware that misbehaves.
    "pcie_aspm=*",
    "pcie_port_pm=*",
    "usbcore.autosuspend=*",
    "usbcore.quirks=*",
    "usb-storage.quirks=*",
    "nvme_core.default_ps_max_latency_us=*",
    "libata.force=*",
    "mem_sleep_default=*",
    "reboot=*",
    "panic=#",
    "oops=panic",
];

/// What no list allows: it decides which image is mounted, from where, by which program, or what the initramfs does.
/// A name that ends with a dot is all names that begin so.
const NEVER: &[&str] = &[
    "composefs",
    "composefs.",
    "osupdate.",
    "init",
    "rdinit",
    "rd.",
    "root",
    "rootflags",
    "rootfstype",
    "initrd",
    "systemd.verity",
    "systemd.verity_",
    "mount.",
];

/// Why the list of an image cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AllowListError {
    /// It cannot be read.
    #[error("cannot read /{FILE} of the image")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is too large.
    #[error("/{FILE} of the image has {size_bytes} bytes, at most {SIZE_MAX} are read")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
    },
    /// A line is no pattern.
    #[error("line {number} of /{FILE} of the image, {line:?}, is not one of: ARGUMENT, KEY=*, PREFIX.*")]
    Pattern {
        /// Its number, from 1.
        number: usize,
        /// The line.
        line: String,
    },
}

/// An argument that may not be added.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAllowed {
    /// It is not on the list.
    #[error("the kernel argument {argument:?} is not one that may be added to those sealed into the UKI")]
    Unlisted {
        /// The argument.
        argument: String,
    },
    /// It never may be.
    #[error("the kernel argument {argument:?} would change what is booted, and can only be sealed into the UKI")]
    Never {
        /// The argument.
        argument: String,
    },
    /// It is not one argument.
    #[error("{argument:?} is not one kernel argument")]
    Malformed {
        /// The text.
        argument: String,
    },
}

impl NotAllowed {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unlisted { .. } => {
                "who builds the image can allow it in its /usr/lib/osupdate/local-kargs.conf, or seal it into the UKI"
            }
            Self::Never { .. } => "who builds the image can seal it into the UKI",
            Self::Malformed { .. } => {
                "give each argument by an option of its own; blanks, quotes and characters that are not ASCII cannot be in it"
            }
        }
    }
}

/// The arguments that may be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowList {
    patterns: Vec<String>,
}

impl Default for AllowList {
    /// What every machine may add.
    fn default() -> Self {
        Self { patterns: DEFAULT.iter().map(|pattern| (*pattern).to_owned()).collect() }
    }
}

impl AllowList {
    /// The list for an image: what every machine may add, and what the image allows beyond that.
    pub fn of_image(repository: &Repository, tree: &Tree) -> Result<Self, AllowListError> {
        let mut list = Self::default();
        let Some(content) = tree.follow_to_file(FILE) else { return Ok(list) };
        if content.size() > SIZE_MAX {
            return Err(AllowListError::TooLarge { size_bytes: content.size() });
        }
        let mut text = String::new();
        let mut reader = repository.open_content(content).map_err(|err| AllowListError::Read(Box::new(err)))?;
        reader.read_to_string(&mut text).map_err(|err| AllowListError::Read(Box::new(err)))?;
        list.extend(&text)?;
        Ok(list)
    }

    fn extend(&mut self, text: &str) -> Result<(), AllowListError> {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let stars = line.matches('*').count();
            let ends_well = line.ends_with("=*") || line.ends_with(".*");
            if line.contains(char::is_whitespace)
                || line.ends_with('#')
                || stars > 1
                || stars == 1 && (!ends_well || line.len() == 2)
            {
                return Err(AllowListError::Pattern { number, line: line.to_owned() });
            }
            self.patterns.push(line.to_owned());
        }
        Ok(())
    }

    /// Whether an argument may be added.
    pub fn check(&self, argument: &str) -> Result<(), NotAllowed> {
        let argument_text = || argument.to_owned();
        // The kernel takes quotes off, and for it some bytes of other characters are blanks, too.
        if argument.is_empty() || !argument.chars().all(|c| c.is_ascii_graphic() && c != '"') {
            return Err(NotAllowed::Malformed { argument: argument_text() });
        }
        // It does not tell - from _ in names.
        let key = argument.split('=').next().unwrap_or_default().replace('-', "_");
        let never = |name: &&&str| if name.ends_with(['.', '_']) { key.starts_with(**name) } else { key == **name };
        // What follows two dashes is for init.
        if NEVER.iter().any(|name| never(&name)) || argument == "--" {
            return Err(NotAllowed::Never { argument: argument_text() });
        }
        let matches = |pattern: &String| match (pattern.strip_suffix('*'), pattern.strip_suffix('#')) {
            (Some(start), _) => argument.starts_with(start),
            (None, Some(start)) => argument
                .strip_prefix(start)
                .and_then(|number| number.parse::<u32>().ok())
                .is_some_and(|number| number > 0),
            (None, None) => argument == pattern,
        };
        match self.patterns.iter().any(matches) {
            true => Ok(()),
            false => Err(NotAllowed::Unlisted { argument: argument_text() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(list: &AllowList, argument: &str) -> &'static str {
        match list.check(argument) {
            Ok(()) => "allowed",
            Err(NotAllowed::Unlisted { .. }) => "unlisted",
            Err(NotAllowed::Never { .. }) => "never",
            Err(NotAllowed::Malformed { .. }) => "malformed",
        }
    }

    #[test]
    fn default_list_lets_nothing_through_that_weakens_the_seal() {
        let list = AllowList::default();
        for argument in ["console=ttyS0,115200", "quiet", "nomodeset", "mitigations=auto,nosmt", "panic=10"] {
            assert_eq!(verdict(&list, argument), "allowed", "{argument}");
        }
        for argument in [
            "mitigations=off",
            "panic=0",
            "panic=-1",
            "panic=#",
            "earlycon=uart8250,mmio32,0xfedc9000",
            "systemd.unit=rescue.target",
            "systemd.debug_shell",
            "selinux=0",
            "enforcing=0",
            "lockdown=none",
            "module.sig_enforce=0",
            "iommu=off",
            "SYSTEMD_SULOGIN_FORCE=1",
            "single",
            "1",
            "emergency",
            "consoles=x",
            "Console=x",
            "console",
        ] {
            assert_eq!(verdict(&list, argument), "unlisted", "{argument}");
        }
        for argument in [
            "composefs=00",
            "composefs.digest=x",
            "osupdate.on-failure=emergency",
            "init=/bin/sh",
            "rd.break",
            "rd.systemd.unit=emergency.target",
            "root=/dev/sdb",
            "systemd.verity=0",
            "--",
        ] {
            assert_eq!(verdict(&list, argument), "never", "{argument}");
        }
        for argument in [
            "",
            " quiet",
            "quiet init=/bin/sh",
            "quiet\ninit=/bin/sh",
            "console=\"x",
            "quiet\0",
            "\"init=/x\"",
            "console=\u{e0}init=/x",
        ] {
            assert_eq!(verdict(&list, argument), "malformed", "{argument:?}");
        }
    }

    #[test]
    fn image_extends_the_list_but_not_to_what_decides_the_boot() {
        let mut list = AllowList::default();
        list.extend("# more\n\n  mydriver.* \niommu=pt\ninit=*\ncomposefs.*\n").unwrap();
        for argument in ["mydriver.mode=3", "iommu=pt"] {
            assert_eq!(verdict(&list, argument), "allowed", "{argument}");
        }
        assert_eq!(verdict(&list, "iommu=off"), "unlisted");
        assert_eq!((verdict(&list, "init=/x"), verdict(&list, "composefs.digest=x")), ("never", "never"));
    }

    #[test]
    fn patterns_that_would_allow_everything_are_refused() {
        for line in ["*", "=*", ".*", "a*", "*.x", "a b", "a=**"] {
            let err = AllowList::default().extend(&format!("quiet\n{line}\n")).unwrap_err();
            assert!(matches!(err, AllowListError::Pattern { number: 2, .. }), "{line}");
        }
    }
}
