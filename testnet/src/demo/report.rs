//! What a demonstration found, for people and for programs.

use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use mutualstore_contract::units::Size;
use serde::Serialize;

/// Widest bar, in characters.
const BAR: f64 = 24.0;

/// Something that was timed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Step {
    /// Wall clock.
    pub seconds: f64,
    /// Bytes of files moved, or of shards rebuilt.
    pub bytes: u64,
    /// 10^6 bytes per second.
    pub mb_per_s: f64,
}

impl Step {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(super) fn new(elapsed: Duration, bytes: u64) -> Self {
        let seconds = elapsed.as_secs_f64();
        Self {
            seconds,
            bytes,
            mb_per_s: bytes as f64 / 1e6 / seconds.max(1e-9),
        }
    }
}

/// A file that was stored.
#[derive(Clone, Debug, Serialize)]
pub struct DemoFile {
    /// Base name.
    pub name: String,
    /// Its link; worthless when the demonstration is over.
    #[serde(skip)]
    pub link: String,
    /// Bytes sent.
    pub size_bytes: u64,
    /// SHA-256 of the bytes sent.
    pub sha256: String,
    /// Code used.
    pub code: String,
    /// Stripes stored.
    pub stripes: u64,
}

/// A peer and what it held after the put.
#[derive(Clone, Debug, Serialize)]
pub struct DemoPeer {
    /// Number of the peer.
    pub index: usize,
    /// Peer id.
    pub peer: String,
    /// Bytes given.
    pub capacity_bytes: u64,
    /// Bytes of shards held.
    pub stored_bytes: u64,
    /// Part of all stored bytes, 0..=1.
    pub share: f64,
    /// What became of it; empty for survivors.
    pub fate: &'static str,
}

/// The outcome of a demonstration.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Every peer.
    pub peers: Vec<DemoPeer>,
    /// Every file.
    pub files: Vec<DemoFile>,
    /// Seconds until the ring was whole.
    pub ring_seconds: f64,
    /// Storing all files through peer 0.
    pub put: Step,
    /// Reading them with all peers alive.
    pub get: Step,
    /// Reading them right after the first kill.
    pub degraded_get: Step,
    /// From the kill until every stripe was complete again; bytes are those of rebuilt shards.
    pub repair: Step,
    /// Reading them after the second kill.
    pub final_get: Step,
    /// Files that could not be read, or read differently, at any step.
    pub files_lost: usize,
    /// One line per failure.
    pub failures: Vec<String>,
}

#[expect(clippy::cast_precision_loss, reason = "shares and rates for people")]
pub(super) fn fill_shares(peers: &mut [DemoPeer]) {
    let total: u64 = peers.iter().map(|peer| peer.stored_bytes).sum();
    for peer in peers {
        peer.share = peer.stored_bytes as f64 / total.max(1) as f64;
    }
}

impl DemoReport {
    fn peers_table(&self) -> Table {
        let shares = self.peers.iter().map(|peer| peer.share);
        let largest = shares.fold(f64::MIN_POSITIVE, f64::max);
        let row = |peer: &DemoPeer| {
            [
                peer.index.to_string(),
                short(&peer.peer).to_owned(),
                Size(peer.capacity_bytes).to_string(),
                Size(peer.stored_bytes).to_string(),
                format!("{:.1} %", peer.share * 100.0),
                bar(peer.share / largest),
                if peer.fate.is_empty() { "lives" } else { peer.fate }.to_owned(),
            ]
        };
        let header = ["peer", "id", "capacity", "stored", "share", "", "fate"];
        table(header, self.peers.iter().map(row), &[0, 2, 3, 4])
    }

    fn steps_table(&self) -> Table {
        let steps = [
            ("put", self.put),
            ("get", self.get),
            ("degraded get", self.degraded_get),
            ("repair", self.repair),
            ("get after repair and two more kills", self.final_get),
        ];
        let row = |(name, step): (&str, Step)| {
            [
                name.to_owned(),
                format!("{:.2}", step.seconds),
                format!("{:.0}", step.mb_per_s),
                Size(step.bytes).to_string(),
            ]
        };
        table(["", "seconds", "MB/s", "bytes"], steps.map(row), &[1, 2, 3])
    }
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.peers_table(), self.steps_table())?;
        for file in &self.files {
            let (name, size, code) = (&file.name, Size(file.size_bytes), &file.code);
            writeln!(f, "{name}: {size} as {code}, SHA-256 {}", file.sha256)?;
        }
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        let killed = self.peers.iter().filter(|peer| !peer.fate.is_empty()).count();
        write!(
            f,
            "files lost: {} of {}, with {killed} of {} peers killed",
            self.files_lost,
            self.files.len(),
            self.peers.len()
        )
    }
}

/// A table whose columns `right` hold figures.
fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    right: &[usize],
) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header).add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Peer ids share their beginning; the end tells them apart.
fn short(peer: &str) -> &str {
    peer.get(peer.len().saturating_sub(8)..).unwrap_or(peer)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0..=BAR by the clamp"
)]
fn bar(part: f64) -> String {
    "█".repeat((part * BAR).round().clamp(0.0, BAR) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_table_names_every_peer_and_the_verdict() {
        let peer = |index, stored_bytes, fate| DemoPeer {
            index,
            peer: format!("12D3KooWabcdefgh{index}"),
            capacity_bytes: 1 << 30,
            stored_bytes,
            share: 0.0,
            fate,
        };
        let mut peers = vec![peer(0, 300, "killed first"), peer(1, 100, "")];
        fill_shares(&mut peers);
        let step = Step::new(Duration::from_secs(2), 4_000_000);
        let report = DemoReport {
            peers,
            files: Vec::new(),
            ring_seconds: 1.0,
            put: step,
            get: step,
            degraded_get: step,
            repair: step,
            final_get: step,
            files_lost: 0,
            failures: vec!["oh".to_owned()],
        };
        let text = report.to_string();
        for expected in [
            "75.0 %",
            "25.0 %",
            "killed first",
            "bcdefgh1",
            "files lost: 0 of 0, with 1 of 2",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(text.contains(&"█".repeat(24)) && !text.contains(&"█".repeat(25)));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["put"]["mb_per_s"], 2.0);
        assert_eq!(json["files_lost"], 0);
    }
}
