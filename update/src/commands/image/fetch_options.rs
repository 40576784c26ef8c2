//! Options for images that are fetched to be stored or looked at.

use osupdate_core::oci::Platform;

use crate::transport::SourceOptions;

/// How an image is fetched, and which one.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FetchOptions {
    /// Speak HTTP without TLS with the registry
    #[arg(long)]
    plain_http: bool,

    /// Of an image for several platforms, take the one for this platform, such as linux/arm64 or linux/arm/v7 [default:
    /// this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl FetchOptions {
    pub(super) fn source_options(&self) -> SourceOptions {
        SourceOptions { plain_http: self.plain_http, platform: self.platform.clone(), ..SourceOptions::default() }
    }

    /// The platform that the image must be for.
    pub(super) fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }
}
