//! A file out: link → manifest → blocks, verified, opened, in order, with bounded read-ahead.
//!
//! What a client that takes nothing has waiting for it is one chunk here and a few in its connection; its
//! blocks are dropped ([`read_ahead`](super::read_ahead)) and fetched again when it goes on.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use mutualstore_dht::Id;
use mutualstore_erasure::Code;
use tokio::sync::mpsc;

use super::events::Transfer;
use super::health::{Asked, StripeHealth, survey};
use super::read_ahead::Room;
use super::stripes::{Wanted, fetch_block, fetch_shard};
use crate::error::Failure;
use crate::format::crypt::{FileCipher, Kind, OpenError, sealed_len};
use crate::format::link::Link;
use crate::format::manifest::{Body, FANOUT, Geometry, INLINE_MAX, IndexBlock, IndexPlace, Manifest, Window};
use crate::format::placement::Placement;
use crate::transfer::Transfers;

/// Blocks fetched ahead of the one being sent, per read; fewer on a slow link.
const READ_AHEAD: usize = 3;
/// Bytes handed to the connection at once. They are copied, so that a client that takes nothing holds these
/// alone and not the block they are a part of.
const CHUNK: usize = 64 << 10;
/// Bytes of a block that are fetched after a client took nothing for long: little, for it may do so again.
const CAUTIOUS: u64 = 256 << 10;
/// Index blocks fetched at the same time.
const INDEX_AHEAD: usize = 4;

/// One stripe of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaidOut {
    pub(crate) asked: Asked,
    pub(crate) is_data: bool,
    /// Of the block it holds, in bytes of ciphertext.
    pub(crate) length: u64,
}

/// A file whose manifest was read.
pub(crate) struct OpenFile {
    pub(crate) manifest: Manifest,
    /// Every stripe, manifest first, then the data in the order of the file.
    pub(crate) layout: Vec<LaidOut>,
    cipher: FileCipher,
}

fn opened(error: OpenError) -> Failure {
    match error {
        OpenError::Segment { .. } => Failure::not_allowed("the key in the link does not open this file"),
        OpenError::Length { .. } => Failure::unexpected(error),
    }
}

fn damaged(error: impl std::fmt::Display) -> Failure {
    Failure::unexpected(format!("the manifest is damaged: {error}"))
}

fn asked(stripe: Id, code: Code, placement: Placement) -> Asked {
    Asked {
        stripe,
        k: code.k(),
        n: code.n(),
        placement: placement.rule(stripe, code),
    }
}

/// A stripe of the manifest of a file that holds `plaintext` bytes of it.
fn manifest_stripe(stripe: Id, plaintext: usize, file: &Manifest) -> LaidOut {
    let code = if plaintext as u64 <= INLINE_MAX {
        file.code.small()
    } else {
        file.code
    };
    LaidOut {
        asked: asked(stripe, code, file.placement),
        is_data: false,
        length: sealed_len(plaintext as u64),
    }
}

/// Reads the manifest behind a link.
pub(crate) async fn open(
    transfers: &Arc<Transfers>,
    transfer: &Transfer,
    link: &Link,
) -> Result<OpenFile, Failure> {
    transfers.member.check_link(link)?;
    let root = Id::new(link.manifest);
    let cipher = FileCipher::new(&link.key);
    let block = fetch_block(transfers, transfer, Wanted::of(root, 1), true).await?;
    let plaintext = cipher
        .open_block(Kind::Manifest, 0, 0, block)
        .map_err(opened)?
        .concat();
    let length = plaintext.len();
    let manifest = Manifest::parse(&Bytes::from(plaintext)).map_err(damaged)?;
    let layout = vec![manifest_stripe(root, length, &manifest)];
    let mut file = OpenFile {
        manifest,
        layout,
        cipher,
    };
    let Body::Stripes { depth, ids } = &file.manifest.body else {
        return Ok(file);
    };
    let depth = *depth;
    let mut ids: Vec<Id> = ids.iter().map(|id| Id::new(*id.as_bytes())).collect();
    for level in (1..=depth).rev() {
        ids = file.index_level(transfers, transfer, level, ids).await?;
    }
    let (geometry, placement) = (file.manifest.geometry(), file.manifest.placement);
    file.layout
        .extend(ids.into_iter().zip(0..).map(|(stripe, block)| LaidOut {
            asked: asked(stripe, geometry.code_of(block), placement),
            is_data: true,
            length: geometry.ciphertext_of(block),
        }));
    Ok(file)
}

impl OpenFile {
    /// Reads one level of index blocks, notes their stripes, and returns the ids they hold.
    async fn index_level(
        &mut self,
        transfers: &Arc<Transfers>,
        transfer: &Transfer,
        level: u8,
        stripes: Vec<Id>,
    ) -> Result<Vec<Id>, Failure> {
        let blocks = self.manifest.geometry().blocks();
        let (cipher, code, placement) = (&self.cipher, self.manifest.code, self.manifest.placement);
        let fetches = stripes.into_iter().zip(0..).map(|(stripe, number)| async move {
            let wanted = asked(stripe, code, placement).wanted();
            let block = fetch_block(transfers, transfer, wanted, true).await?;
            let plaintext = cipher
                .open_block(Kind::Manifest, level, number, block)
                .map_err(opened)?
                .concat();
            let place = IndexPlace {
                level,
                number,
                slot: 0,
            };
            let index = IndexBlock::parse(place, blocks, &plaintext).map_err(damaged)?;
            Ok::<_, Failure>((stripe, plaintext.len(), index))
        });
        let read: Vec<_> = stream::iter(fetches).buffered(INDEX_AHEAD).try_collect().await?;
        let mut ids = Vec::with_capacity(read.len() * FANOUT);
        for (stripe, length, index) in read {
            self.layout.push(manifest_stripe(stripe, length, &self.manifest));
            ids.extend(index.ids.iter().map(|id| Id::new(*id.as_bytes())));
        }
        Ok(ids)
    }

    /// How every stripe is doing, in the order of the layout.
    pub(crate) async fn survey(&self, transfers: &Arc<Transfers>) -> Vec<StripeHealth> {
        let asked: Vec<Asked> = self.layout.iter().map(|stripe| stripe.asked).collect();
        survey(transfers, &asked).await
    }
}

/// A part of a block to read.
struct Part {
    wanted: Wanted,
    window: Window,
    /// Whether this is the whole block.
    whole: bool,
}

/// What is handed from the reading task to the connection.
type Chunk = Result<Bytes, Failure>;

/// Reads bytes `range` of a file, which lie within it. The first of them are there when this returns, so that
/// what cannot be read at all is refused before anything is sent.
pub(crate) async fn stream(
    transfers: &Arc<Transfers>,
    transfer: Arc<Transfer>,
    file: OpenFile,
    range: Range<u64>,
    without: &[u8],
) -> Result<impl Stream<Item = Result<Bytes, io::Error>> + use<>, Failure> {
    transfers.metrics.get_begun();
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(produce(
        Arc::clone(transfers),
        transfer,
        file,
        range,
        without.to_vec(),
        sender,
    ));
    let first = receiver
        .recv()
        .await
        .unwrap_or_else(|| Err(Failure::unexpected("the read broke off")))?;
    let rest = stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?.map_err(io::Error::other);
        Some((chunk, receiver))
    });
    Ok(stream::iter([Ok(first)]).chain(rest))
}

/// Sends the bytes of `range` in order, or the failure that ended them.
async fn produce(
    transfers: Arc<Transfers>,
    transfer: Arc<Transfer>,
    file: OpenFile,
    range: Range<u64>,
    without: Vec<u8>,
    sender: mpsc::Sender<Chunk>,
) {
    let outcome = match &file.manifest.body {
        Body::Inline(bytes) => {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let bytes = bytes.slice(at(range.start)..at(range.end));
            transfers.metrics.get_bytes(bytes.len());
            sender.send(Ok(bytes)).await.map_err(|_| went_away())
        }
        Body::Stripes { .. } => {
            let reading = Reading::new(&transfers, &transfer, file, range, without, &sender);
            reading.run().await
        }
    };
    if let Err(failure) = &outcome
        && sender.send(Err(failure.clone())).await.is_err()
    {
        tracing::debug!("the client was gone before it could be told");
    }
    transfer.finish(outcome);
}

/// A client that has gone away ends the read without a failure of ours.
fn went_away() -> Failure {
    Failure::refused("the client went away")
}

/// A part of a block on its way, and the room it takes.
type Ahead = (AbortOnDrop<Result<Vec<Bytes>, Failure>>, Room);

/// A read of consecutive blocks.
struct Reading<'a> {
    transfers: &'a Arc<Transfers>,
    transfer: &'a Arc<Transfer>,
    geometry: Geometry,
    cipher: FileCipher,
    /// Of the data, in the order of the file.
    stripes: Vec<Asked>,
    without: Vec<u8>,
    sender: &'a mpsc::Sender<Chunk>,
    /// Bytes of the file that were not handed over yet.
    left: Range<u64>,
    /// The first byte that was not asked for yet.
    asked: u64,
    /// Most bytes of a block that are fetched together.
    reach: u64,
    /// Parts of blocks asked for at the same time.
    most: usize,
    ahead: VecDeque<Ahead>,
}

impl<'a> Reading<'a> {
    fn new(
        transfers: &'a Arc<Transfers>,
        transfer: &'a Arc<Transfer>,
        file: OpenFile,
        range: Range<u64>,
        without: Vec<u8>,
        sender: &'a mpsc::Sender<Chunk>,
    ) -> Self {
        let (manifest, layout) = (&file.manifest, &file.layout);
        let block = u64::from(manifest.code.k()) * u64::from(manifest.shard_size);
        let data = layout.iter().filter(|stripe| stripe.is_data);
        Self {
            transfers,
            transfer,
            geometry: manifest.geometry(),
            stripes: data.map(|stripe| stripe.asked).collect(),
            cipher: file.cipher,
            without,
            sender,
            asked: range.start,
            left: range,
            reach: u64::MAX,
            most: transfers.member.config.settings.stripes_ahead(block, READ_AHEAD),
            ahead: VecDeque::new(),
        }
    }

    async fn run(mut self) -> Result<(), Failure> {
        while !self.left.is_empty() {
            if self.ahead.is_empty() {
                self.ask_for_next().await?;
            }
            let Some((part, room)) = self.ahead.pop_front() else {
                return Err(Failure::unexpected(
                    "the file has fewer blocks than its size tells",
                ));
            };
            let chunks = part.join().await?;
            self.ask_ahead();
            if self.hand_over(&chunks).await? {
                self.reach = self.reach.saturating_mul(2);
            } else {
                drop((chunks, room));
                self.ahead.clear();
                // Its client takes something again, or has gone.
                drop(self.sender.reserve().await.map_err(|_| went_away())?);
                self.asked = self.left.start;
                self.reach = CAUTIOUS;
            }
        }
        Ok(())
    }

    /// The next part that was not asked for, and its length.
    fn next_part(&self) -> Option<(Part, u64)> {
        let (block, part) = self.geometry.blocks_of(self.asked..self.left.end).next()?;
        let end = part.end.min(part.start.saturating_add(self.reach));
        let part = part.start..end;
        let asked = self.stripes.get(usize::try_from(block).ok()?)?;
        let wanted = Wanted {
            without: self.without.clone(),
            ..asked.wanted()
        };
        let length = part.end - part.start;
        let whole = part == (0..self.geometry.plaintext_of(block));
        let window = self.geometry.window(block, part);
        Some((
            Part {
                wanted,
                window,
                whole,
            },
            length,
        ))
    }

    /// Asks for the next part as soon as there is room for it. Nothing else of this read is held meanwhile.
    async fn ask_for_next(&mut self) -> Result<(), Failure> {
        let Some((part, length)) = self.next_part() else {
            return Ok(());
        };
        let room = tokio::select! {
            room = self.transfers.reads.read_ahead.reserve(length) => room,
            () = self.sender.closed() => return Err(went_away()),
        };
        self.ask(part, length, room);
        Ok(())
    }

    /// Asks for more while there is room.
    fn ask_ahead(&mut self) {
        while self.ahead.len() + 1 < self.most
            && let Some((part, length)) = self.next_part()
            && let Some(room) = self.transfers.reads.read_ahead.try_reserve(length)
        {
            self.ask(part, length, room);
        }
    }

    fn ask(&mut self, part: Part, length: u64, room: Room) {
        let (transfers, transfer) = (Arc::clone(self.transfers), Arc::clone(self.transfer));
        let cipher = self.cipher.clone();
        let task = tokio::spawn(async move { read(&transfers, &transfer, &cipher, part).await });
        self.asked += length;
        self.ahead.push_back((AbortOnDrop(task), room));
    }

    /// Hands chunks to the connection. Answers whether it took them all before patience ended.
    async fn hand_over(&mut self, chunks: &[Bytes]) -> Result<bool, Failure> {
        for bytes in chunks.iter().flat_map(|chunk| chunk.chunks(CHUNK)) {
            let slot = tokio::select! {
                biased;
                slot = self.sender.reserve() => slot.map_err(|_| went_away())?,
                () = self.transfers.reads.read_ahead.patience() => return Ok(false),
            };
            slot.send(Ok(Bytes::copy_from_slice(bytes)));
            self.transfers.metrics.get_bytes(bytes.len());
            self.left.start += bytes.len() as u64;
        }
        Ok(true)
    }
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> AbortOnDrop<Result<T, Failure>> {
    async fn join(mut self) -> Result<T, Failure> {
        (&mut self.0)
            .await
            .map_err(|_| Failure::unexpected("reading a block broke off"))?
    }
}

/// Fetches and opens the segments of one block that are wanted.
async fn read(
    transfers: &Arc<Transfers>,
    transfer: &Transfer,
    cipher: &FileCipher,
    part: Part,
) -> Result<Vec<Bytes>, Failure> {
    let _permit = transfers
        .blocks
        .acquire()
        .await
        .map_err(|_| Failure::refused("stopping"))?;
    let Part {
        wanted,
        window,
        whole,
    } = part;
    let ciphertext = match window.pieces.as_slice() {
        [piece] if !whole => match fetch_shard(transfers, transfer, &wanted, piece.shard).await {
            Some(shard) => vec![shard.payload().slice(piece.range.clone())],
            None => pieces(&fetch_block(transfers, transfer, wanted, true).await?, &window),
        },
        _ if whole => fetch_block(transfers, transfer, wanted, false).await?,
        _ => pieces(&fetch_block(transfers, transfer, wanted, true).await?, &window),
    };
    let (cipher, first) = (cipher.clone(), window.first_segment);
    let plain =
        tokio::task::spawn_blocking(move || cipher.open_block(Kind::Data, 0, first, ciphertext)).await;
    let plain = plain.map_err(|_| Failure::refused("stopping"))?.map_err(opened)?;
    Ok(cut(plain, window.plaintext))
}

/// The parts of a decoded block that a window names. A block's chunks are its data shards.
fn pieces(block: &[Bytes], window: &Window) -> Vec<Bytes> {
    let part = |piece: &crate::format::manifest::Piece| {
        let shard = block.get(usize::from(piece.shard))?;
        let end = piece.range.end.min(shard.len());
        Some(shard.slice(piece.range.start.min(end)..end))
    };
    window.pieces.iter().filter_map(part).collect()
}

/// Bytes `range` of consecutive chunks.
fn cut(chunks: Vec<Bytes>, range: Range<usize>) -> Vec<Bytes> {
    let mut start = 0;
    let mut out = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let end = start + chunk.len();
        let from = range.start.clamp(start, end) - start;
        let to = range.end.clamp(start, end) - start;
        if from < to {
            out.push(chunk.slice(from..to));
        }
        start = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_out_of_chunks() {
        let chunks = || {
            vec![
                Bytes::from_static(b"abc"),
                Bytes::from_static(b"defg"),
                Bytes::from_static(b"h"),
            ]
        };
        assert_eq!(cut(chunks(), 0..8).concat(), b"abcdefgh");
        assert_eq!(cut(chunks(), 2..5).concat(), b"cde");
        assert_eq!(cut(chunks(), 7..9).concat(), b"h");
        assert!(cut(chunks(), 3..3).is_empty());
    }
}
