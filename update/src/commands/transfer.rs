//! The options that say how fast and how much is fetched.

use std::num::{NonZeroU64, NonZeroUsize};

use crate::byte_size;
use crate::transport::TransferLimits;

/// Heading of these options in the help.
const HEADING: &str = "Transfer from a registry";

/// How fast.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub(super) struct TransferRate {
    /// Fetch at most so many bytes in a second, all connections together: a number, perhaps with K, M or G
    #[arg(long, value_name = "RATE", value_parser = byte_size::parse_positive, help_heading = HEADING)]
    limit_rate: Option<NonZeroU64>,

    /// Fetch so many layers at once [default: the number of processors], or files of a published tree [default: 16]
    #[arg(long, value_name = "NUMBER", help_heading = HEADING)]
    parallel: Option<NonZeroUsize>,
}

/// How fast and how much.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub(super) struct Transfer {
    #[command(flatten)]
    rate: TransferRate,

    /// Stop after so many bytes of layers, with exit status 3; the same command goes on from there the next time
    #[arg(long, value_name = "SIZE", value_parser = byte_size::parse_positive, help_heading = HEADING)]
    max_bytes: Option<NonZeroU64>,
}

impl TransferRate {
    /// What the transport needs to know.
    pub(super) fn limits(self) -> TransferLimits {
        TransferLimits { bytes_per_second: self.limit_rate, max_bytes: None, connections: self.parallel }
    }
}

impl Transfer {
    /// What the transport needs to know.
    pub(super) fn limits(self) -> TransferLimits {
        TransferLimits { max_bytes: self.max_bytes, ..self.rate.limits() }
    }
}
