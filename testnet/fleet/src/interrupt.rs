//! Tidying up when the person presses Ctrl-C: one thread waits for SIGINT, SIGTERM and SIGHUP, runs what
//! was registered and ends the process with the exit code for "interrupted".
//!
//! A blocking read deep inside a transfer cannot notice a flag, so the thread does the work itself. What
//! it runs must take its own locks and must not wait for the main thread.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;
use std::thread;

use mutualstore_contract::exit::INTERRUPTED;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

type Action = Box<dyn FnOnce() + Send>;

/// By ticket; the latest has the highest.
static ACTIONS: Mutex<BTreeMap<u64, Action>> = Mutex::new(BTreeMap::new());
static WATCHER: OnceLock<Result<(), io::ErrorKind>> = OnceLock::new();

/// Keeps an action registered; dropping it takes the action out again without running it.
#[must_use = "the action is taken out again when this is dropped"]
#[derive(Debug)]
pub struct OnInterrupt {
    ticket: u64,
}

impl OnInterrupt {
    /// Registers `action` and, the first time, starts to watch for signals. Fails when signal handlers
    /// cannot be installed; then nothing is registered.
    pub fn run(action: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        watch()?;
        let mut actions = ACTIONS.lock();
        let ticket = actions.last_key_value().map_or(0, |(last, _)| last + 1);
        actions.insert(ticket, Box::new(action));
        Ok(Self { ticket })
    }
}

impl Drop for OnInterrupt {
    fn drop(&mut self) {
        ACTIONS.lock().remove(&self.ticket);
    }
}

/// Ends the process with [`INTERRUPTED`] on the watched signals even when nothing is registered.
pub fn watch() -> io::Result<()> {
    WATCHER
        .get_or_init(|| start().map_err(|error| error.kind()))
        .map_err(io::Error::from)
}

fn start() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            // The lock stays held: a guard dropped now must not return to code that relies on it.
            let mut actions = ACTIONS.lock();
            while let Some((_, action)) = actions.pop_last() {
                action();
            }
            std::process::exit(i32::from(INTERRUPTED));
        }
    })?;
    Ok(())
}
