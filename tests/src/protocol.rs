//! What test and guest say to each other: JSON values, one a line, over a virtio serial port.
//!
//! The guest speaks first, once after each start: [`Hello`]. After that every [`Request`] is answered by one [`Reply`] with
//! the same number; anything else on the line is left over from before a reboot and is ignored.

use serde::{Deserialize, Serialize};

/// Name of the virtio serial port; the guest sees `/dev/virtio-ports/NAME`.
pub const PORT_NAME: &str = "osupdate.agent";

/// The first line of a guest that has come up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The kernel's boot id; differs from boot to boot.
    pub boot_id: String,
}

/// A command to run in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Number of the request.
    pub id: u64,
    /// Script for `/bin/sh -c`.
    pub script: String,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Number of the request.
    pub id: u64,
    /// Exit status; 128 and above for a signal, as shells count.
    pub status: i32,
    /// Standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

/// A line from the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromGuest {
    /// Answer to a request.
    Reply(Reply),
    /// The guest has come up.
    Hello(Hello),
}
