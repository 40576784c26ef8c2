//! Whether an image is older than the one that a machine has, or so old that nobody should offer it any more.
//!
//! Pure decisions over what the images say of themselves, which is as good as their signatures. The machine's own clock is
//! believed only as far as it is not behind the image that the machine has.

use osupdate_core::oci::{Release, StoreError, open_image};
use osupdate_core::repository::Repository;
use osupdate_efi::version;
use osupdate_record::Deployment as Record;
use thiserror::Error;

use crate::timestamp;

/// The image is older than the one that the machine has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the image ({}) is older than the one that this machine has ({})", name(offered), name(current))]
pub struct Older {
    /// What is offered.
    pub offered: Release,
    /// What the machine has.
    pub current: Release,
}

/// The image should not be offered any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Expired {
    /// Its time is over.
    #[error("the image has expired: it was to be replaced by {expires}, and it is {now}")]
    Over {
        /// When it expired.
        expires: String,
        /// Now, as far as that is known.
        now: String,
    },
    /// It expires at a time that is none.
    #[error("it is not known when the image expires: {text:?} is not a time such as 2026-12-31T00:00:00Z")]
    Unknown {
        /// What the image says.
        text: String,
    },
}

/// The machine's clock is behind.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the clock of this machine is wrong: it says {now}, and the image that it has was made {made}")]
pub struct WrongClock {
    /// What the clock says.
    pub now: String,
    /// When the image was made.
    pub made: String,
}

/// What the times and versions of an image say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// It is a step back.
    pub older: Option<Older>,
    /// Its time is over.
    pub expired: Option<Expired>,
    /// The clock by which that was judged is wrong; the time at which the machine's image was made was used instead.
    pub wrong_clock: Option<WrongClock>,
}

impl Freshness {
    /// Judges an image that is offered to a machine that has `current`.
    ///
    /// Older is what has a lower version (UAPI.10) or an earlier time than `current`; each counts only if both have it.
    pub fn of(offered: &Release, current: Option<&Release>, now_secs: i64) -> Self {
        let made = current.and_then(created);
        let wrong_clock = made
            .filter(|made| now_secs < *made)
            .map(|made| WrongClock { now: timestamp::format(now_secs), made: timestamp::format(made) });
        let now_secs = now_secs.max(made.unwrap_or(now_secs));
        let older = current.filter(|current| is_older(offered, current));
        let older = older.map(|current| Older { offered: offered.clone(), current: current.clone() });
        let expired = offered.expires.as_ref().and_then(|text| match timestamp::parse(text) {
            Some(expires) if now_secs < expires => None,
            Some(expires) => {
                Some(Expired::Over { expires: timestamp::format(expires), now: timestamp::format(now_secs) })
            }
            None => Some(Expired::Unknown { text: text.clone() }),
        });
        Self { older, expired, wrong_clock }
    }
}

/// What the image of a deployment says of itself.
///
/// # Errors
/// When the repository has lost its manifest or configuration.
pub fn release_of(repository: &Repository, record: &Record) -> Result<Release, StoreError> {
    Ok(open_image(repository, &record.image.manifest_digest)?.release())
}

/// Whether a time at which an image expires is over, for those who only look.
pub fn is_over(expires: &str, now_secs: i64) -> bool {
    timestamp::parse(expires).is_none_or(|expires| expires <= now_secs)
}

fn created(release: &Release) -> Option<i64> {
    timestamp::parse(release.created.as_deref()?)
}

fn is_older(offered: &Release, current: &Release) -> bool {
    let lower_version = match (&offered.version, &current.version) {
        (Some(offered), Some(current)) => version::compare(offered, current).is_lt(),
        _ => false,
    };
    let made_before = match (created(offered), created(current)) {
        (Some(offered), Some(current)) => offered < current,
        _ => false,
    };
    lower_version || made_before
}

/// An image by its version and the time at which it was made.
fn name(release: &Release) -> String {
    let version = release.version.as_ref().map(|version| format!("version {version}"));
    let made = created(release).map(|made| format!("made {}", timestamp::format(made)));
    [version, made].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_428_245;

    fn release(version: &str, created: &str, expires: &str) -> Release {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Release { version: text(version), created: text(created), expires: text(expires) }
    }

    fn older(offered: (&str, &str), current: (&str, &str)) -> Option<String> {
        let (offered, current) = (release(offered.0, offered.1, ""), release(current.0, current.1, ""));
        Freshness::of(&offered, Some(&current), NOW).older.map(|older| older.to_string())
    }

    #[test]
    fn lower_version_or_earlier_time_is_a_step_back_if_both_have_it() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        assert_eq!(
            older(("9", early), ("10", early)).unwrap(),
            "the image (version 9, made 2026-01-01T00:00:00Z) is older than the one that this machine has (version 10, made \
             2026-01-01T00:00:00Z)"
        );
        assert_eq!(
            older(("", early), ("", "2026-01-01T00:00:01.5+00:00")).unwrap(),
            "the image (made 2026-01-01T00:00:00Z) is older than the one that this machine has (made 2026-01-01T00:00:01Z)"
        );
        assert!(older(("2~rc1", ""), ("2", "")).is_some(), "a release candidate comes before the release");
        assert!(older(("3", early), ("2", late)).is_some(), "made earlier, whatever it calls itself");
        assert!(older(("1", late), ("2", early)).is_some(), "an older branch, built again");
        for (offered, current) in [
            (("2", early), ("2", early)),
            (("10", late), ("9", early)),
            (("", ""), ("9", late)),
            (("1", ""), ("", late)),
            (("1", "yesterday"), ("1", late)),
        ] {
            assert_eq!(older(offered, current), None, "{offered:?} after {current:?}");
        }
        assert_eq!(Freshness::of(&release("1", early, ""), None, NOW), Freshness::default(), "nothing to compare with");
    }

    #[test]
    fn expired_is_what_should_have_been_replaced_by_now() {
        let expired =
            |text| Freshness::of(&release("1", "", text), None, NOW).expired.map(|expired| expired.to_string());
        assert_eq!(expired("2026-11-23T10:04:06Z"), None);
        assert_eq!(
            expired("2026-11-23T12:04:05+02:00").unwrap(),
            "the image has expired: it was to be replaced by 2026-11-23T10:04:05Z, and it is 2026-11-23T10:04:05Z"
        );
        assert!(expired("soon").unwrap().contains("\"soon\" is not a time"));
        assert!(is_over("2026-11-23T10:04:05Z", NOW) && is_over("soon", NOW) && !is_over("2026-11-23T10:04:06Z", NOW));
    }

    #[test]
    fn clock_behind_the_machines_own_image_is_not_believed() {
        let current = release("1", "2026-11-23T10:04:05Z", "");
        let offered = release("2", "2026-11-24T00:00:00Z", "2026-11-01T00:00:00Z");
        let judged = Freshness::of(&offered, Some(&current), 86_400);
        assert_eq!(
            judged.wrong_clock.unwrap().to_string(),
            "the clock of this machine is wrong: it says 1970-01-02T00:00:00Z, and the image that it has was made \
             2026-11-23T10:04:05Z"
        );
        assert!(judged.expired.is_some(), "by the time of the image it has expired");
        assert_eq!(Freshness::of(&offered, Some(&current), NOW).wrong_clock, None);
    }
}
