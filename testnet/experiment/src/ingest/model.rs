//! How long replicas take to spread and to be fetched over links of R bytes per second each way: closed
//! forms.
//!
//! A file of B bytes arrives at a peer, cut into blocks of S bytes; k peers shall have each block. The
//! receiving peer has a share h of the file to keep itself: 0 or 1 where one set of peers has the whole file,
//! k/N on average where each block goes its own way among N peers, or where the set is drawn ([`kept`]).
//! Producing a replica is no work for the link: a block is encrypted and hashed once, and the same bytes go
//! to every holder.
//!
//! * *Direct fan-out*: the receiving peer sends each holder its copy. All (k − h)·B bytes pass its uplink,
//!   while a holder's downlink takes B of them at most, so the uplink decides: **(k − h)·B / R**. N comes in
//!   by h alone.
//! * *Pipelined chain*: it sends one copy, and each holder forwards every block when it has it whole. All
//!   uplinks work at the same time; the last of d = k − h holders has a block d − 1 block times after the
//!   first has it:
//!   **(B + (d − 1)·S) / R**, nearly k − h times as fast for B ≫ S; nothing for d = 0.
//! * *Successor placement* as the daemon does it: each block fans out directly to holders of its own, W
//!   blocks at a time, and a block counts when its holders have said that it is durable, L seconds after its
//!   last byte. With u = (k − h)·S/R the link's time for a block, m = B/S blocks and q = ⌈m/W⌉ rounds of the
//!   window: blocks that go out one after the other wait for the one W before them, so block m has passed
//!   when all have, and not before its q − 1 predecessors were said to be durable: **max(m·u, (m − (q −
//!   1)·W)·u + (q − 1)·(u + L)) + L**, the link never being idle while (W − 1)·u ≥ L. Where W blocks share
//!   the link fairly and so end together, it is idle for L after each W of them: **m·u + q·L**. Connections
//!   decide which it is: to one holder blocks go in order, to different ones side by side. Then follow, each
//!   for L, the manifest, locators where the policy needs them, and the commit. With L = 0 both are direct
//!   fan-out: copies cost the same uplink wherever they go. What spreading them brings is a share of the
//!   *downlinks* when several write at once, and of the uplinks when many read.
//! * *Download*: the reader has a share s of the file on its own disk; the rest, (1 − s)·B, passes its
//!   downlink, and of each of f holders that serve evenly the f-th part passes the uplink: **max((1 − s)·B/R,
//!   (1 − s)·B/(f·R))**. For one reader it is the downlink, whatever N and k. A reader that took its own copy
//!   wherever it has one would have s = k/N; the daemon asks the holders of blocks by turns, so that it is
//!   itself for 1/N of the blocks.
//!
//! *The bucket's burst.* A link is limited by a token bucket that is full, b bytes, when a transfer begins,
//! so X bytes pass in max(X − b, 0)/R: the arrival curve b + R·t (Le Boudec and Thiran 2001, §1.2). What one
//! bucket has shaped passes an equal one without delay, so along a path b is gained once; but a relay that
//! waits for whole blocks begins each hop with a full bucket and gains b again: the chain takes (B − b + (d −
//! 1)·max(S − b, 0)) / R. A link that is idle meanwhile, for L, fills its bucket again, which these forms
//! leave out: at most min(b, R·L) bytes for each idle time.
//!
//! Absent: frames' headers and encryption (some 2 %), the ring's own messages, the time to seal, hash and
//! flush. The experiment has those from the same files without a limit.

/// One direction of a peer's link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// The rate of a link, R.
    pub bytes_per_second: f64,
    /// b: bytes that pass at once after a pause.
    pub burst_bytes: f64,
}

impl Link {
    /// What a daemon makes of `--link-rate`: pieces of 2 ms of the rate, from 4 to 64 KiB; a bucket of one
    /// piece and a 128th of a second, at least 64 KiB.
    pub fn limited(bytes_per_second: f64) -> Self {
        let piece = (bytes_per_second / 512.0).clamp(4096.0, 65536.0);
        Self {
            bytes_per_second,
            burst_bytes: (piece + bytes_per_second / 128.0).max(65536.0),
        }
    }

    /// Seconds until `bytes` that are all there have passed, the bucket being full at first.
    pub fn seconds(&self, bytes: f64) -> f64 {
        (bytes - self.burst_bytes).max(0.0) / self.bytes_per_second
    }

    /// Seconds that the burst spares a transfer of `bytes`.
    pub fn spared(&self, bytes: f64) -> f64 {
        self.burst_bytes.min(bytes) / self.bytes_per_second
    }
}

/// h: the mean share of a file of which a peer holds a copy, with `copies` on `peers` equal peers.
pub fn kept(copies: f64, peers: f64) -> f64 {
    (copies / peers.max(1.0)).min(1.0)
}

/// A file to be replicated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replication {
    /// The bytes of a file, B.
    pub file_bytes: f64,
    /// The bytes of a block, S.
    pub block_bytes: f64,
    /// The number of copies, k.
    pub copies: f64,
    /// h, from 0 to 1.
    pub kept: f64,
}

/// How the daemon overlaps blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// W: blocks under way at the same time.
    pub blocks: f64,
    /// L: seconds from a block's last byte to the word that it is durable.
    pub step_seconds: f64,
}

impl Window {
    /// The daemon's: three, and fewer where all copies of three would take more than 30 s.
    pub fn of_daemon(replication: &Replication, link: &Link, step_seconds: f64) -> Self {
        let block = replication.copies * replication.block_bytes / link.bytes_per_second;
        Self {
            blocks: (30.0 / block).floor().clamp(1.0, 3.0),
            step_seconds,
        }
    }
}

impl Replication {
    /// (k − h)·B.
    pub fn sent_bytes(&self) -> f64 {
        (self.copies - self.kept).max(0.0) * self.file_bytes
    }

    /// Seconds of direct fan-out.
    pub fn direct(&self, link: &Link) -> f64 {
        link.seconds(self.sent_bytes())
    }

    /// Seconds of a pipelined chain. With a broken share kept, the mean of both cases.
    pub fn chain(&self, link: &Link) -> f64 {
        let over = |holders: f64| {
            if holders < 1.0 {
                return 0.0;
            }
            // A file of less than a block is one block.
            let block = self.block_bytes.min(self.file_bytes);
            link.seconds(self.file_bytes) + (holders - 1.0) * link.seconds(block)
        };
        self.kept * over(self.copies - 1.0) + (1.0 - self.kept) * over(self.copies)
    }

    /// Seconds of successor placement until the last block is durable, at least and at most: blocks one after
    /// the other, and side by side.
    pub fn placed(&self, link: &Link, window: &Window) -> (f64, f64) {
        let step = window.step_seconds;
        let count = (self.file_bytes / self.block_bytes).ceil().max(1.0);
        let link_seconds = link.seconds(self.sent_bytes());
        // u, the last block as large as the others.
        let each = self.sent_bytes() / count / link.bytes_per_second;
        let rounds = (count / window.blocks).ceil();
        let in_last = count - (rounds - 1.0) * window.blocks;
        // Blocks that end each round wait for one another; the burst helps the first of them.
        let spared = link.spared(in_last * each * link.bytes_per_second);
        let waiting = in_last * each - spared + (rounds - 1.0) * (each + step);
        (link_seconds.max(waiting) + step, link_seconds + rounds * step)
    }
}

/// Seconds to read `file_bytes`, of which the reader has a share `own`, from `servers` holders that serve
/// evenly.
pub fn download(file_bytes: f64, own: f64, servers: f64, reader: &Link, server: &Link) -> f64 {
    let fetched = (1.0 - own).clamp(0.0, 1.0) * file_bytes;
    reader
        .seconds(fetched)
        .max(server.seconds(fetched / servers.max(1.0)))
}

#[cfg(test)]
mod tests;
