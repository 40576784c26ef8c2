//! What differences usually come from.

use super::{Change, Diff, Difference};

/// What all differences have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Only {
    /// Modification times of directories.
    DirectoryTimes,
    /// Modification times.
    Times,
    /// Extended attributes.
    Xattrs,
    /// Modification times and extended attributes.
    TimesAndXattrs,
    /// Paths that one side lacks.
    Paths,
    /// Metadata of any kind: the paths and the contents are equal.
    Metadata,
}

/// A usual cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Hardly anything but directories differs in time: made implicitly for a path in a layer, or by the tool that unpacked
    /// the layers.
    ImplicitDirectories,
    /// Most files differ in time: copied without it.
    TimesNotKept,
    /// One side has whole seconds only where the other has nanoseconds.
    NanosecondsLost,
    /// SELinux labels are on one side only, or differ.
    SelinuxLabels,
    /// Capabilities are on one side only.
    CapabilitiesLost,
    /// Attributes that the transformation of OCI images removes are on one side only.
    XattrsNotFiltered,
    /// One side lacks permissions that a umask takes away.
    Umask,
    /// All files of one side have one owner, or owners differ throughout.
    Owners,
    /// Names of one file are files of their own on one side.
    HardLinksSplit,
    /// The root directory is not like `/usr`, or `/run` has contents: one side was not transformed.
    NotTransformed,
    /// `/boot` and `/sysroot` have contents on one side only: one side is in its boot form.
    BootForm,
    /// All paths that one side lacks are whiteouts, or in directories that are mounted over while a container runs.
    MountPoints,
}

/// The differences, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// `None`: they are of several kinds.
    pub only: Option<Only>,
    /// What they may come from, most likely ones first.
    pub causes: Vec<Cause>,
}

/// So many differences make it likely that there is a rule behind them.
const THROUGHOUT: usize = 10;

fn is_run(path: &[u8]) -> bool {
    path.starts_with(b"/run/")
}

fn is_boot(path: &[u8]) -> bool {
    [&b"/boot/"[..], b"/sysroot/"].iter().any(|prefix| path.starts_with(prefix))
}

fn is_mount_point(path: &[u8]) -> bool {
    [&b"/proc"[..], b"/sys", b"/dev", b"/tmp", b"/.dockerenv", b"/etc/resolv.conf", b"/etc/hosts", b"/etc/hostname"]
        .iter()
        .any(|place| path.strip_prefix(*place).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
}

impl Causes {
    /// Sums up.
    pub fn of(diff: &Diff) -> Self {
        let differences = &diff.differences;
        if differences.is_empty() {
            return Self::default();
        }
        let all = |test: &dyn Fn(&Difference) -> bool| differences.iter().all(test);
        let some = |test: &dyn Fn(&Difference) -> bool| differences.iter().any(test);
        let count = |test: &dyn Fn(&Difference) -> bool| differences.iter().filter(|one| test(one)).count();
        let is_time = |one: &Difference| matches!(one.change, Change::Mtime { .. });
        let is_xattr = |one: &Difference| matches!(one.change, Change::Xattr { .. });
        let is_path = |one: &Difference| matches!(one.change, Change::OnlyLeft(_) | Change::OnlyRight(_));
        let is_contents = |one: &Difference| {
            use Change::{Contents, Device, Kind, Size, Target};
            matches!(one.change, Contents { .. } | Size { .. } | Target { .. } | Device { .. } | Kind { .. })
        };
        let only = if all(&|one| is_time(one) && one.directory) {
            Some(Only::DirectoryTimes)
        } else if all(&is_time) {
            Some(Only::Times)
        } else if all(&is_xattr) {
            Some(Only::Xattrs)
        } else if all(&|one| is_time(one) || is_xattr(one)) {
            Some(Only::TimesAndXattrs)
        } else if all(&is_path) {
            Some(Only::Paths)
        } else if all(&|one| !is_path(one) && !is_contents(one)) {
            Some(Only::Metadata)
        } else {
            None
        };

        let xattr =
            |test: &dyn Fn(&[u8]) -> bool| some(&|one| matches!(&one.change, Change::Xattr { name, .. } if test(name)));
        let one_sided = |test: &dyn Fn(&[u8]) -> bool| {
            some(&|one| match &one.change {
                Change::Xattr { name, left, right } => test(name) && left.is_some() != right.is_some(),
                _ => false,
            })
        };
        let nanoseconds_lost = |one: &Difference| match one.change {
            Change::Mtime { left, right } => left.secs == right.secs && (left.nanos == 0) != (right.nanos == 0),
            _ => false,
        };
        let masked = |one: &Difference| match one.change {
            Change::Mode { left, right } => {
                (left ^ right) & !0o077 == 0 && (left | right == left || left | right == right)
            }
            _ => false,
        };
        let directory_times = count(&|one| is_time(one) && one.directory && !nanoseconds_lost(one));
        let file_times = count(&|one| is_time(one) && !one.directory && !nanoseconds_lost(one));
        let owners = count(&|one| matches!(one.change, Change::Uid { .. } | Change::Gid { .. }));

        // The transformation gives / the metadata of /usr.
        let of = |path: &[u8]| -> Vec<&Change> {
            differences.iter().filter(|one| one.path == path).map(|one| &one.change).collect()
        };

        let findings = [
            (
                Cause::NotTransformed,
                !of(b"/").is_empty() && of(b"/") != of(b"/usr") || some(&|one| is_run(&one.path) && is_path(one)),
            ),
            (Cause::BootForm, some(&|one| is_path(one) && is_boot(&one.path))),
            (Cause::ImplicitDirectories, directory_times > 10 * file_times),
            (Cause::TimesNotKept, file_times > 0 && 2 * (directory_times + file_times) >= diff.compared),
            (Cause::NanosecondsLost, some(&nanoseconds_lost)),
            (Cause::SelinuxLabels, xattr(&|name| name == b"security.selinux")),
            (Cause::CapabilitiesLost, one_sided(&|name| name == b"security.capability")),
            (
                Cause::XattrsNotFiltered,
                one_sided(&|name| !matches!(name, b"security.capability" | b"security.selinux")),
            ),
            (Cause::Umask, some(&masked)),
            (Cause::Owners, owners >= THROUGHOUT || owners > 0 && owners == differences.len()),
            (Cause::HardLinksSplit, some(&|one| matches!(one.change, Change::HardLink { .. }))),
            (Cause::MountPoints, some(&|one| is_path(one) && is_mount_point(&one.path))),
        ];
        let causes = findings.into_iter().filter(|(_, found)| *found).map(|(cause, _)| cause).collect();
        Self { only, causes }
    }
}
