//! What a person is told while a transfer runs: shards that do not verify, peers that stop answering.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use mutualstore_dht::{Id, Peer};
use tokio::sync::Notify;

use crate::error::Failure;

/// Running remembered for clients that still ask about them.
const REMEMBERED: usize = 256;
/// Lines kept of one transfer; a client that follows sees all, one that does not sees the first ones.
const MAX_LINES: usize = 4096;

/// What was being done when a peer fell silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Storing a file.
    Put,
    /// Reading a file.
    Get,
    /// Rebuilding shards.
    Repair,
    /// Deleting a file.
    Delete,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Repair => "REPAIR",
            Self::Delete => "DELETE",
        }
    }
}

/// One transfer as its client follows it.
#[derive(Debug)]
pub(crate) struct Transfer {
    operation: Operation,
    log: Mutex<Log>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    outcome: Option<Result<(), Failure>>,
}

/// What a client that has seen `after` lines has not seen yet.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) lines: Vec<String>,
    pub(crate) next: usize,
    pub(crate) outcome: Option<Result<(), Failure>>,
}

impl Transfer {
    /// A transfer nobody has heard of yet.
    pub(crate) fn new(operation: Operation) -> Self {
        Self {
            operation,
            log: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn say(&self, line: String) {
        tracing::warn!("{line}");
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.lines.len() < MAX_LINES && !log.lines.contains(&line) {
            log.lines.push(line);
            self.changed.notify_waiters();
        }
    }

    /// A shard failed verification.
    pub(crate) fn corrupted(&self, stripe: Id, index: u8) {
        self.say(format!("CORRUPTED_BLOCK {stripe}:{index}"));
    }

    /// A peer stopped answering. Said once a peer.
    pub(crate) fn disconnected(&self, peer: Peer) {
        self.say(format!("SERVER_DISCONNECTED {} {peer}", self.operation.name()));
    }

    /// The transfer ended.
    pub(crate) fn finish(&self, outcome: Result<(), Failure>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.outcome.get_or_insert(outcome);
        self.changed.notify_waiters();
    }

    fn look(&self, after: usize) -> News {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<String> = log.lines.iter().skip(after).cloned().collect();
        News {
            next: log.lines.len().max(after),
            lines,
            outcome: log.outcome.clone(),
        }
    }

    /// Waits for lines after the first `after` ones, or for the end.
    pub(crate) async fn news(&self, after: usize) -> News {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let news = self.look(after);
            if !news.lines.is_empty() || news.outcome.is_some() {
                return news;
            }
            changed.await;
        }
    }
}

/// The latest transfers, by the name their clients gave them.
#[derive(Default)]
pub(crate) struct Running {
    latest: Mutex<VecDeque<(String, Arc<Transfer>)>>,
    added: Notify,
}

impl Running {
    /// Registers a transfer under the client's name for it; nameless ones are nobody's business.
    pub(crate) fn begin(&self, name: Option<&str>, operation: Operation) -> Arc<Transfer> {
        let transfer = Arc::new(Transfer::new(operation));
        if let Some(name) = name {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            if latest.len() >= REMEMBERED {
                latest.pop_front();
            }
            latest.push_back((name.to_owned(), Arc::clone(&transfer)));
            self.added.notify_waiters();
        }
        transfer
    }

    fn find(&self, name: &str) -> Option<Arc<Transfer>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, transfer)| Arc::clone(transfer))
    }

    /// Finds a transfer, waiting for it to begin: a client follows before its request has arrived.
    pub(crate) async fn follow(&self, name: &str) -> Arc<Transfer> {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            if let Some(transfer) = self.find(name) {
                return transfer;
            }
            added.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_sees_every_line_once_and_the_end() {
        let transfers = Running::default();
        let transfer = transfers.begin(Some("t"), Operation::Get);
        let followed = transfers.follow("t").await;
        transfer.corrupted(Id::default(), 3);
        transfer.corrupted(Id::default(), 3);
        let news = followed.news(0).await;
        assert_eq!(news.lines, [format!("CORRUPTED_BLOCK {}:3", Id::default())]);
        transfer.finish(Ok(()));
        let news = followed.news(news.next).await;
        assert!(news.lines.is_empty() && news.outcome.is_some());
    }
}
