//! Observers for the user: bars on a terminal, plain lines in a log, JSON lines for programs.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressStyle};
use osupdate_core::observer::{Event, Observer, Silent};
use serde_json::{Value, json};

use crate::output::JSON_VERSION;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Bars on a terminal, plain lines elsewhere
    Auto,
    /// One line when something begins and one when it ends
    Plain,
    /// One JSON object per line
    Json,
    /// Nothing but warnings and errors
    None,
}

/// The observer for a mode; all write to standard error.
pub fn observer(mode: Mode) -> Arc<dyn Observer> {
    match mode {
        Mode::Auto if std::io::stderr().is_terminal() => Arc::new(Bars::default()),
        Mode::Auto | Mode::Plain => Arc::new(Lines::default()),
        Mode::Json => Arc::new(JsonLines::default()),
        Mode::None => Arc::new(WarningsOnly),
    }
}

/// Writes one line to standard error; if nobody can read it, the work goes on.
fn line(text: &str) {
    if let Err(error) = writeln!(std::io::stderr().lock(), "{text}") {
        tracing::debug!("cannot write to standard error: {error}, ignoring");
    }
}

/// Shows only warnings.
struct WarningsOnly;

impl Observer for WarningsOnly {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Warning(text) => line(&format!("warning: {text}")),
            other => Silent.event(other),
        }
    }
}

/// One bar for each piece under way; finished pieces become lines above the bars.
#[derive(Default)]
struct Bars {
    multi: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn line(&self, text: &str) {
        if let Err(error) = self.multi.println(text) {
            tracing::debug!("cannot write to the terminal: {error}, ignoring");
        }
    }

    fn bar(what: &str, total_bytes: Option<u64>) -> ProgressBar {
        // Both templates are constants; without a total there is nothing to fill a bar with.
        let (bar, template) = match total_bytes {
            Some(total) => (
                ProgressBar::new(total),
                "  {msg} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
            ),
            None => (ProgressBar::new_spinner(), "  {msg} {spinner} {binary_bytes}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        bar
    }
}

impl Observer for Bars {
    fn event(&self, event: Event<'_>) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { id, what, total_bytes } => {
                let bar = self.multi.add(Self::bar(what, total_bytes));
                bar.tick();
                bars.insert(id.to_owned(), bar);
            }
            Event::Resumed { id, done_bytes } => {
                if let Some(bar) = bars.get(id) {
                    // What was here before tells nothing about the speed.
                    bar.set_position(done_bytes);
                    bar.reset_eta();
                }
            }
            Event::Progress { id, done_bytes } => {
                if let Some(bar) = bars.get(id) {
                    bar.set_position(done_bytes);
                }
            }
            Event::Finished { id } => {
                if let Some(bar) = bars.remove(id) {
                    let size = bar.length().unwrap_or_else(|| bar.position());
                    bar.finish_and_clear();
                    self.multi.remove(&bar);
                    self.line(&finished(&bar.message(), size));
                }
            }
            Event::Skipped { what, .. } => self.line(&format!("  {what}: already here")),
            Event::Step(text) => self.line(text),
            Event::Warning(text) => self.line(&format!("warning: {text}")),
            _ => {}
        }
    }
}

fn finished(what: &str, size_bytes: u64) -> String {
    match size_bytes {
        0 => format!("  {what}: done"),
        size => format!("  {what}: {}", BinaryBytes(size)),
    }
}

/// Plain lines for logs: when a piece begins and when it ends, nothing between.
#[derive(Default)]
struct Lines {
    names: Mutex<HashMap<String, String>>,
}

impl Observer for Lines {
    fn event(&self, event: Event<'_>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { id, what, total_bytes } => {
                match total_bytes {
                    Some(total) => line(&format!("  {what}: {}", BinaryBytes(total))),
                    None => line(&format!("  {what}")),
                }
                names.insert(id.to_owned(), what.to_owned());
            }
            Event::Resumed { id, done_bytes } => {
                if let Some(what) = names.get(id) {
                    line(&format!("  {what}: {} of it already here", BinaryBytes(done_bytes)));
                }
            }
            Event::Finished { id } => {
                if let Some(what) = names.remove(id) {
                    line(&format!("  {what}: done"));
                }
            }
            Event::Skipped { what, .. } => line(&format!("  {what}: already here")),
            Event::Step(text) => line(text),
            Event::Warning(text) => line(&format!("warning: {text}")),
            _ => {}
        }
    }
}

/// Least time between two progress events of one piece in JSON lines.
const JSON_INTERVAL: Duration = Duration::from_millis(250);

/// One JSON object per event; the form is in CLI.md.
#[derive(Default)]
struct JsonLines {
    last: Mutex<HashMap<String, Instant>>,
}

impl Observer for JsonLines {
    fn event(&self, event: Event<'_>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &event {
            Event::Progress { id, .. } => {
                let now = Instant::now();
                match last.get_mut(*id) {
                    Some(before) if now.duration_since(*before) < JSON_INTERVAL => return,
                    Some(before) => *before = now,
                    None => {
                        last.insert((*id).to_owned(), now);
                    }
                }
            }
            Event::Finished { id } => {
                last.remove(*id);
            }
            _ => {}
        }
        if let Some(value) = event_json(&event) {
            line(&value.to_string());
        }
    }
}

fn event_json(event: &Event<'_>) -> Option<Value> {
    let mut value = match event {
        Event::Started { id, what, total_bytes } => {
            json!({"event": "started", "id": id, "what": what, "total_bytes": total_bytes})
        }
        Event::Resumed { id, done_bytes } => json!({"event": "resumed", "id": id, "done_bytes": done_bytes}),
        Event::Progress { id, done_bytes } => json!({"event": "progress", "id": id, "done_bytes": done_bytes}),
        Event::Finished { id } => json!({"event": "finished", "id": id}),
        Event::Skipped { id, what } => json!({"event": "skipped", "id": id, "what": what}),
        Event::Step(text) => json!({"event": "step", "what": text}),
        Event::Warning(text) => json!({"event": "warning", "what": text}),
        _ => return None,
    };
    value["version"] = JSON_VERSION.into();
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_events_are_stable() {
        let started = Event::Started { id: "a", what: "layer a", total_bytes: None };
        assert_eq!(
            event_json(&started).unwrap().to_string(),
            r#"{"event":"started","id":"a","total_bytes":null,"version":1,"what":"layer a"}"#
        );
        assert_eq!(
            event_json(&Event::Progress { id: "a", done_bytes: 7 }).unwrap().to_string(),
            r#"{"done_bytes":7,"event":"progress","id":"a","version":1}"#
        );
        assert_eq!(
            event_json(&Event::Resumed { id: "a", done_bytes: 5 }).unwrap().to_string(),
            r#"{"done_bytes":5,"event":"resumed","id":"a","version":1}"#
        );
    }
}
