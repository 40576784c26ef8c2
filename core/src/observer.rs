//! How long-running operations report: values of [`Event`] to an [`Observer`].
//!
//! Library crates never print. The terminal, the JSON lines of the command and the tests are observers.

/// Something that happened during a long operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A piece of work that can be measured began. Pieces may run at the same time.
    Started {
        /// Names this piece in later events; unique among the pieces under way.
        id: &'a str,
        /// What it is, for people: "layer 3f2a91c04d77".
        what: &'a str,
        /// Its size in bytes, if known.
        total_bytes: Option<u64>,
    },
    /// Of a piece that began, this much is here from an earlier attempt. What is done of it later counts that, too.
    Resumed {
        /// The piece.
        id: &'a str,
        /// Bytes that are here.
        done_bytes: u64,
    },
    /// More of a piece is done.
    Progress {
        /// The piece.
        id: &'a str,
        /// Bytes done since it started.
        done_bytes: u64,
    },
    /// A piece is complete.
    Finished {
        /// The piece.
        id: &'a str,
    },
    /// A piece was not necessary because its result is already there.
    Skipped {
        /// The piece.
        id: &'a str,
        /// What it is, for people.
        what: &'a str,
    },
    /// A step of the operation began; for people.
    Step(&'a str),
    /// Something the user should know that does not stop the operation.
    Warning(&'a str),
}

/// Receives events; called from several threads.
pub trait Observer: Send + Sync {
    /// Takes one event. Must not block for long.
    fn event(&self, event: Event<'_>);
}

/// Ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}
