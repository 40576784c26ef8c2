//! Where the libraries' log goes: warnings are for the user, the rest is for those who ask for it.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use osupdate_core::{Event, Observer};
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, registry};

/// Environment variable with a filter (`debug`, `osupdate=trace`): the log is written to standard error as it is.
const FILTER: &str = "OSUPDATE_LOG";

/// Sends the log's warnings to the observer; or, if the user asks for a log, all of it to standard error.
pub(crate) fn start(observer: Arc<dyn Observer>) {
    let started = match EnvFilter::try_from_env(FILTER) {
        Ok(filter) => {
            let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            registry().with(filter).with(log).try_init()
        }
        Err(_) => registry().with(Warnings { observer }).try_init(),
    };
    if let Err(error) = started {
        // Only a second start in one process can fail; the log of the first remains.
        tracing::debug!("{error}, ignoring");
    }
}

/// Passes warnings and errors on to the observer.
struct Warnings {
    observer: Arc<dyn Observer>,
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries of others warn of things that users cannot act on.
        *metadata.level() <= Level::WARN && metadata.target().starts_with("osupdate")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.observer.event(Event::Warning(&text.0));
    }
}

/// The message of a log event, then its other fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("writing to a string does not fail");
    }
}
