//! What a user allows the network.

use std::num::{NonZeroU64, NonZeroUsize};

/// Limits of what is fetched from far away. By default there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferLimits {
    /// Most bytes of blobs in a second, all connections together.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Most bytes of layers in all; then fetching ends with [`LimitReached`].
    ///
    /// [`LimitReached`]: super::registry::LimitReached
    pub max_bytes: Option<NonZeroU64>,
    /// Blobs that are fetched at once.
    pub connections: Option<NonZeroUsize>,
}
