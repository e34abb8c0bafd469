//! Runs: sorted entries in files of their own, for which a head has no room.
//!
//! Eight of one tier become one of the next, so an entry is written again once per tier.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{TryStreamExt, stream};
use mutualstore_contract::reply::Scope;
use mutualstore_erasure::Policy;
use mutualstore_tree::entry::{Entry, Pointer};
use mutualstore_tree::head::Run;
use mutualstore_tree::run::{self, Tail, Written};

use crate::error::Failure;
use crate::format::link::Link;
use crate::format::manifest::MAX_SHARD_SIZE;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::options::PutOptions;
use crate::transfer::{Transfers, get, put};

/// So many runs of a tier are put together.
pub(super) const TOGETHER: usize = 8;
/// Bytes of a run, about, at most.
pub(super) const MOST: usize = 1 << 20;

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

/// Stores a run of the bucket whose owner keys follow from `owner`.
pub(super) async fn store(
    transfers: &Arc<Transfers>,
    owner: &[u8; 32],
    written: Written,
    (first, last): (&Entry, &Entry),
    tier: u8,
) -> Result<Run, Failure> {
    let length = written.bytes.len() as u64;
    let options = PutOptions {
        name: String::new(),
        code: None,
        shard_size: MAX_SHARD_SIZE,
        policy: Policy::default(),
        scope: Scope::default(),
        fragments: None,
        degraded: false,
        length: Some(length),
        bucket: Some(zeroize::Zeroizing::new(*owner)),
    };
    let body = stream::iter([Ok::<Bytes, std::convert::Infallible>(written.bytes)]);
    let report = put::put(transfers, options, body, &Arc::new(Transfer::new(Operation::Put))).await?;
    let link: Link = report.link.parse()?;
    Ok(Run {
        pointer: pointer(&link),
        blocks: written.blocks,
        tail: u32::try_from(length)
            .unwrap_or(u32::MAX)
            .saturating_sub(written.blocks),
        entries: written.entries,
        tier,
        from: Run::bound(&first.name),
        to: Run::bound(&last.name),
    })
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
    let blocks = usize::try_from(run.blocks).unwrap_or(usize::MAX);
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
