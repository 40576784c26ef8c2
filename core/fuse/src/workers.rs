//! Threads beside those that answer the kernel.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Threads that do what they are sent, each thing once, in order. They end with the sender.
pub(crate) fn start<J: Send + 'static>(
    name: &str,
    threads: usize,
    work: impl Fn(J) + Clone + Send + 'static,
) -> io::Result<Sender<J>> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let (receiver, work) = (receiver.clone(), work.clone());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(job) = next(&receiver) {
                work(job);
            }
        })?;
    }
    Ok(sender)
}

fn next<J>(receiver: &Mutex<Receiver<J>>) -> Option<J> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
