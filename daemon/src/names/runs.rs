//! Runs: sorted entries in files of their own, for which a head has no room.
//!
//! Eight of one tier become one of the next, so an entry is written again once per tier.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{TryStreamExt, stream};
use mutualstore_tree::entry::{Entry, Pointer};
use mutualstore_tree::head::Run;
use mutualstore_tree::run::{self, Tail, Written};

use super::OpenBucket;
use crate::datadir::journal::Kept;
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::{Transfers, get, put};

/// So many runs of a tier are put together.
pub(super) const TOGETHER: usize = 8;
/// Bytes of a run, about, at most: with the index, a block of four shards.
pub(super) const MOST: usize = (4 << 20) - (64 << 10);

/// A run of so many bytes is not put together with others any more.
pub(super) const FULL: u32 = 2 << 20;

/// The link of what a pointer finds.
pub(crate) fn link(transfers: &Transfers, pointer: &Pointer) -> Link {
    Link {
        manifest: pointer.manifest,
        key: pointer.key.clone(),
        tag: transfers.member.network().tag(),
    }
}

/// The pointer to what a link finds.
pub(crate) fn pointer(link: &Link) -> Pointer {
    Pointer {
        manifest: link.manifest,
        key: link.key.clone(),
    }
}

fn damaged(why: impl std::fmt::Display) -> Failure {
    Failure::unexpected(format!("a list of names is damaged ({why}); nothing was changed"))
}

/// Stores a run of a bucket. What the journal has of it stays until the own record names it.
pub(super) async fn store(
    transfers: &Arc<Transfers>,
    bucket: &OpenBucket,
    written: Written,
    entries: &[Entry],
    tier: u8,
) -> Result<(Run, Option<Kept>), Failure> {
    let length = written.bytes.len() as u64;
    let body = stream::iter([Ok::<Bytes, std::convert::Infallible>(written.bytes)]);
    let transfer = Arc::new(Transfer::new(Operation::Put));
    let (report, kept) = put::put(transfers, bucket.of_runs(length), body, &transfer).await?;
    let link: Link = report.link.parse()?;
    let bound = |entry: Option<&Entry>| entry.map(|entry| Run::bound(&entry.name)).unwrap_or_default();
    let run = Run {
        pointer: pointer(&link),
        blocks: written.blocks,
        tail: u32::try_from(length)
            .unwrap_or(u32::MAX)
            .saturating_sub(written.blocks),
        entries: written.entries,
        tier,
        from: bound(entries.first()),
        to: bound(entries.last()),
    };
    Ok((run, kept))
}

/// Reads all entries of a run.
pub(super) async fn read(transfers: &Arc<Transfers>, run: &Run) -> Result<Vec<Entry>, Failure> {
    let transfer = Arc::new(Transfer::new(Operation::Get));
    let file = get::open(transfers, &transfer, &link(transfers, &run.pointer)).await?;
    let length = u64::from(run.blocks) + u64::from(run.tail);
    if file.manifest.size != length {
        return Err(damaged("length"));
    }
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default().min(2 * MOST));
    if length > 0 {
        let parts = get::stream(transfers, transfer, file, 0..length, &[]).await?;
        let mut parts = std::pin::pin!(parts);
        while let Some(part) = parts.try_next().await.map_err(damaged)? {
            bytes.extend_from_slice(&part);
        }
    }
    let bytes = bytes.freeze();
    entries_of(&bytes, run.blocks)
}

/// The entries of a run whose blocks take so many bytes.
pub(super) fn entries_of(bytes: &Bytes, blocks: u32) -> Result<Vec<Entry>, Failure> {
    let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
    let tail = Tail::parse(&bytes.slice(blocks.min(bytes.len())..)).map_err(damaged)?;
    let mut entries = Vec::new();
    for block in 0..tail.blocks() {
        let range = tail.range(block).ok_or_else(|| damaged("index"))?;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let block = bytes
            .get(place(range.start)..place(range.end))
            .ok_or_else(|| damaged("index"))?;
        entries.extend(run::entries(block).map_err(damaged)?);
    }
    if !entries.is_sorted_by(run::precedes) {
        return Err(damaged("order"));
    }
    Ok(entries)
}
