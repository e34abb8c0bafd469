//! A file in: bytes → sealed blocks → stripes → manifest → link.
//!
//! A put is all or nothing. Until the last stripe has its shards durable they are pending: leased, known to
//! nobody. Then each holder commits in one batch, the file is noted in the local list, and the link goes out.
//! Whatever ends a put before that discards what it stored. A file that lives in its manifest is one stripe
//! and is committed with the put itself. All stripes of a file, those of its manifest too, have its
//! placement.

mod finish;
mod sealing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::Stream;
use futures::TryStreamExt;
use mutualstore_contract::exit;
use mutualstore_contract::reply::PutReport;
use mutualstore_contract::units::counted;
use mutualstore_dht::Id;
use mutualstore_dht::writer::Placed;
use mutualstore_erasure::{Code, Header, StripeId, VerifiedShard};
use tokio::task::{JoinError, JoinHandle};

use self::sealing::Sealing;
use super::commit::discard_all;
use super::delete;
use super::events::Transfer;
use super::lease::{Leased, Lost};
use super::locate::locate_stripes;
use super::options::PutOptions;
use super::placing::{NotStored, Stored, Writing, store_stripe};
use super::report::{nothing_stored, of_put, too_few};
use crate::clock::unix_ms;
use crate::datadir::journal::{self, Exposed, Kept};
use crate::datadir::list::Listed;
use crate::error::Failure;
use crate::format::crypt::BlockBuffer;
use crate::format::link::Link;
use crate::format::locator::Locator;
use crate::format::manifest::{Body, Geometry, INLINE_MAX, IndexBlock, Manifest, ManifestBuilder, Step};
use crate::format::names::media_type_of;
use crate::keeper::Keep;
use crate::transfer::Transfers;
use crate::wire::peer::PutSecret;

/// Stripes on their way at the same time, per put; fewer on a slow link.
const WINDOW: usize = 3;

/// Stores what `body` yields as one file. One in a bucket stays in the journal until that names it.
pub(crate) async fn put<E: std::fmt::Display>(
    transfers: &Arc<Transfers>,
    options: PutOptions,
    body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    transfer: &Arc<Transfer>,
) -> Result<(PutReport, Option<Kept>), Failure> {
    let begun = Instant::now();
    let (code, warning) = options.decide(transfers)?;
    let mut putting = Putting::new(transfers, options, code, transfer)?;
    let outcome = match putting.run(body).await {
        Ok(link) => Ok(link),
        Err(failure) => {
            putting.give_up(&failure).await;
            Err(failure)
        }
    };
    transfers.keeper.publish_usage();
    let link = outcome?;
    transfers.metrics.put_done(putting.size);
    let mut report = of_put(
        &link,
        putting.sealing.code,
        putting.sealing.placement,
        &putting.stripes,
    );
    report.size_bytes = putting.size;
    report.seconds = begun.elapsed().as_secs_f64();
    report.warning = warning.or(report.warning).or_else(|| putting.one_group());
    Ok((report, putting.journal.take().map(journal::Put::keep)))
}

fn journal_done(journal: Option<journal::Put>) {
    if let Some(Err(error)) = journal.map(journal::Put::finish) {
        tracing::warn!(%error, "an ended put stays in the journal; the next start sees to it");
    }
}

/// How storing a stripe ended.
type Outcome = Result<Stored, NotStored>;
/// A stripe being stored.
type OnItsWay = JoinHandle<Outcome>;

/// What happens to a put while it waits for its body.
enum Next {
    /// More of the file, or its end.
    Body(Option<Bytes>),
    /// The oldest stripe on its way arrived, or failed to.
    Landed(Result<Outcome, JoinError>),
    /// A holder lost what it kept.
    Lost(Lost),
}

/// The outcome of the oldest stripe on its way; never, when there is none.
async fn oldest(window: &mut VecDeque<OnItsWay>) -> Result<Outcome, JoinError> {
    match window.front_mut() {
        Some(oldest) => oldest.await,
        None => std::future::pending().await,
    }
}

/// One put in progress: what was asked for, what is under way, and what is undone if it fails. All of that
/// ends together, so it is one struct of fourteen fields.
struct Putting<'a> {
    transfers: &'a Arc<Transfers>,
    options: PutOptions,
    sealing: Arc<Sealing>,
    writing: Arc<Writing>,
    journal: Option<journal::Put>,
    /// How to take back what was committed as it was stored.
    exposed: Option<Exposed>,
    /// What holders keep until the put ends.
    leased: Leased,
    stripes: Vec<Placed>,
    /// Of stripes that need locators.
    headers: BTreeMap<Id, Header>,
    /// Data stripes on their way, in the order of the file.
    window: VecDeque<OnItsWay>,
    tree: ManifestBuilder,
    /// Data blocks sent off so far.
    sent: u64,
    size: u64,
    /// Unix milliseconds.
    created: u64,
}

/// Bytes of all shards of a whole stripe.
fn coded_bytes(code: Code, options: &PutOptions) -> u64 {
    u64::from(code.n()) * u64::from(options.shard_size)
}

impl<'a> Putting<'a> {
    fn new(
        transfers: &'a Arc<Transfers>,
        options: PutOptions,
        code: Code,
        transfer: &Arc<Transfer>,
    ) -> Result<Self, Failure> {
        let secret = PutSecret(rand::random());
        let keep = Keep::Pending {
            lease: transfers.member.config.settings.pending_lease.0,
            writer: transfers.member.me,
        };
        let leased = Leased::begin(transfers, secret);
        let writing = Writing::new(
            secret,
            keep,
            options.degraded,
            transfers.member.config.settings.write_timeout.0,
            Arc::clone(transfer),
            Arc::clone(leased.lease()),
        );
        let journal = transfers
            .writes
            .journal
            .begin(&secret.0, unix_ms())
            .map_err(nothing_stored)?;
        Ok(Self {
            sealing: Arc::new(Sealing::new(
                options
                    .bucket
                    .as_ref()
                    .map_or(&transfers.account, |bucket| &bucket.owner),
                code,
                &options,
            )),
            writing: Arc::new(writing),
            journal: Some(journal),
            exposed: None,
            leased,
            stripes: Vec::new(),
            headers: BTreeMap::new(),
            window: VecDeque::new(),
            tree: ManifestBuilder::new(),
            sent: 0,
            size: 0,
            transfers,
            options,
            created: unix_ms(),
        })
    }

    fn geometry(&self) -> Geometry {
        self.options.layout(self.sealing.code, self.size)
    }

    /// Room for the next block of the file: none when all fragments are sent off.
    fn next_buffer(&self) -> BlockBuffer {
        let geometry = self.geometry();
        let len = match self.options.fragments {
            Some(_) => geometry.plaintext_of(self.sent),
            None => geometry.block_plaintext(),
        };
        BlockBuffer::new(usize::try_from(len).unwrap_or(usize::MAX))
    }

    async fn run<E: std::fmt::Display>(
        &mut self,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Link, Failure> {
        let mut buffer = self.next_buffer();
        while let Some(chunk) = self.next_chunk(&mut body).await? {
            let mut rest: &[u8] = &chunk;
            while !rest.is_empty() {
                let taken = buffer.push(rest);
                if taken == 0 {
                    return Err(self.other_size("more"));
                }
                self.size += taken as u64;
                rest = rest.get(taken..).unwrap_or_default();
                if buffer.is_full() {
                    self.data_block(buffer).await?;
                    buffer = self.next_buffer();
                }
            }
        }
        if self.options.fragments.is_some_and(|cut| cut.size != self.size) {
            return Err(self.other_size("fewer"));
        }
        match buffer.small() {
            Some(inline) if self.size <= INLINE_MAX && self.options.fragments.is_none() => {
                let body = Body::Inline(Bytes::copy_from_slice(inline));
                self.single(body).await
            }
            Some(_) | None => {
                if !buffer.is_empty() {
                    self.data_block(buffer).await?;
                }
                self.tree().await
            }
        }
    }

    /// The next bytes of the file. However long they take to come, the stripes sent off before are seen to.
    async fn next_chunk<E: std::fmt::Display>(
        &mut self,
        body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<Option<Bytes>, Failure> {
        let broken =
            |error: E| Failure::refused(format!("the upload broke off ({error}); nothing was stored"));
        loop {
            let Self { window, leased, .. } = self;
            let next = tokio::select! {
                biased;
                outcome = oldest(window) => Next::Landed(outcome),
                Some(lost) = leased.lost.recv() => Next::Lost(lost),
                chunk = body.try_next() => Next::Body(chunk.map_err(broken)?),
            };
            match next {
                Next::Body(chunk) => return Ok(chunk),
                Next::Landed(outcome) => {
                    self.window.pop_front();
                    self.take_place(outcome).await?;
                }
                Next::Lost(lost) => self.mend(lost).await?,
            }
        }
    }

    fn other_size(&self, which: &str) -> Failure {
        let announced = self.options.fragments.map_or(self.size, |cut| cut.size);
        Failure::usage(format!(
            "nothing was stored: the file has {which} bytes than the {announced} that were announced and cut \
             into fragments"
        ))
    }

    /// Sends off one block of the file; waits when the window is full.
    async fn data_block(&mut self, buffer: BlockBuffer) -> Result<(), Failure> {
        let bytes = coded_bytes(self.sealing.code, &self.options);
        while self.window.len() >= self.transfers.member.config.settings.stripes_ahead(bytes, WINDOW) {
            self.land().await?;
        }
        let permit = Arc::clone(&self.transfers.blocks).acquire_owned().await;
        let permit = permit.map_err(|_| Failure::refused("stopping"))?;
        let segment = self.geometry().first_segment(self.sent);
        self.sent += 1;
        let (transfers, writing) = (Arc::clone(self.transfers), Arc::clone(&self.writing));
        let sealing = Arc::clone(&self.sealing);
        self.window.push_back(tokio::spawn(async move {
            let _permit = permit;
            let coded = tokio::task::spawn_blocking(move || sealing.data(segment, buffer));
            // A block is never empty nor longer than k shards, and its group was checked, so coding it cannot
            // fail but by a panic.
            let shards = coded.await.ok().and_then(Result::ok).unwrap_or_default();
            store_stripe(&transfers, &writing, shards).await
        }));
        Ok(())
    }

    /// Waits for the oldest block on its way.
    async fn land(&mut self) -> Result<(), Failure> {
        match self.window.pop_front() {
            Some(oldest) => {
                let outcome = oldest.await;
                self.take_place(outcome).await
            }
            None => Ok(()),
        }
    }

    /// Gives a block that arrived its place in the manifest.
    async fn take_place(&mut self, outcome: Result<Outcome, JoinError>) -> Result<(), Failure> {
        let stripe = self.landed(outcome)?;
        let full = self.tree.push(stripe);
        self.index_blocks(full).await
    }

    fn landed(&mut self, outcome: Result<Outcome, JoinError>) -> Result<StripeId, Failure> {
        match outcome {
            Ok(Ok(Stored { placed, header })) => {
                let stripe = StripeId::from(*placed.stripe.as_bytes());
                if let Some(journal) = &mut self.journal {
                    journal.stripe(&stripe, &placed.holders).map_err(nothing_stored)?;
                }
                self.headers.extend(header.map(|header| (placed.stripe, header)));
                self.stripes.push(placed);
                Ok(stripe)
            }
            Ok(Err(NotStored::TooFewHolders(placed, why))) => {
                Err(too_few(&placed, why, self.options.degraded))
            }
            Ok(Err(NotStored::Coding)) | Err(_) => {
                Err(Failure::unexpected("coding a block failed; nothing was stored"))
            }
        }
    }

    /// Stores a full index block and those that become full by it.
    async fn index_blocks(&mut self, mut next: Option<IndexBlock>) -> Result<(), Failure> {
        while let Some(index) = next.take() {
            let stripe = self
                .manifest_stripe(index.level, index.number, &index.encode())
                .await?;
            next = self.tree.stored(index.level, stripe);
        }
        Ok(())
    }

    /// Stores one block of the manifest.
    async fn manifest_stripe(
        &mut self,
        level: u8,
        number: u64,
        plaintext: &[u8],
    ) -> Result<StripeId, Failure> {
        let shards = self
            .sealing
            .manifest(level, number, plaintext)
            .map_err(Failure::unexpected)?;
        self.store(shards).await
    }

    async fn store(&mut self, shards: Vec<VerifiedShard>) -> Result<StripeId, Failure> {
        let outcome = store_stripe(self.transfers, &self.writing, shards).await;
        self.landed(Ok(outcome))
    }

    fn root(&self, body: Body) -> Result<Bytes, Failure> {
        let manifest = Manifest {
            size: self.size,
            created: self.created,
            code: self.sealing.code,
            shard_size: self.options.shard_size,
            name: self.options.name.clone(),
            media_type: media_type_of(&self.options.name).unwrap_or_default().to_owned(),
            placement: self.sealing.placement,
            fragments: self.options.fragments.map(|cut| cut.count),
            body,
        };
        manifest.encode().map_err(nothing_stored)
    }

    /// A file that lives in its manifest: one stripe, committed with the put.
    async fn single(&mut self, body: Body) -> Result<Link, Failure> {
        let (transfer, timeout) = (Arc::clone(&self.writing.transfer), self.writing.write_timeout);
        self.writing = Arc::new(Writing::new(
            self.writing.secret,
            Keep::Committed,
            self.options.degraded,
            timeout,
            transfer,
            Arc::clone(self.leased.lease()),
        ));
        let root = self.root(body)?;
        let shards = self.sealing.manifest(0, 0, &root).map_err(Failure::unexpected)?;
        self.expose(&shards)?;
        let stripe = self.store(shards).await?;
        self.locate().await;
        let link = self.link(stripe);
        self.list(&link).await?;
        Ok(link)
    }

    /// Notes how to take the stripe back before anybody holds a shard of it.
    fn expose(&mut self, shards: &[VerifiedShard]) -> Result<(), Failure> {
        let Some(header) = shards.first().map(VerifiedShard::header) else {
            return Ok(());
        };
        let exposed = Exposed {
            header: header.encode().to_vec(),
            deletion: self
                .transfers
                .files
                .seal_deletion(&self.link(header.id()), self.options.bucket.as_ref()),
        };
        if let Some(journal) = &mut self.journal {
            let marked = journal.mark_exposed(&exposed.header, &exposed.deletion);
            marked.map_err(nothing_stored)?;
        }
        self.exposed = Some(exposed);
        Ok(())
    }

    /// The rest of a file of several stripes.
    async fn tree(&mut self) -> Result<Link, Failure> {
        while !self.window.is_empty() {
            self.land().await?;
        }
        let body = loop {
            match self.tree.finish() {
                Step::Store(index) => self.index_blocks(Some(index)).await?,
                Step::Done(body) => break body,
            }
        };
        let root = self.root(body)?;
        let stripe = self.manifest_stripe(0, 0, &root).await?;
        self.locate().await;
        let link = self.link(stripe);
        self.commit(&link).await?;
        Ok(link)
    }

    /// Leaves locators with the first peers of each stripe, where the policy wants that; they commit with the
    /// shards.
    async fn locate(&self) {
        let locator = |placed: &Placed| {
            let header = self.headers.get(&placed.stripe)?;
            Locator::new(header.clone(), placed.holders.clone())
        };
        let locators: Vec<Locator> = self.stripes.iter().filter_map(locator).collect();
        let token = |peer| self.writing.secret.token(peer);
        let (keep, lease) = (self.writing.keep, self.leased.lease());
        locate_stripes(self.transfers, locators, keep, token, lease).await;
    }

    fn link(&self, manifest: StripeId) -> Link {
        Link {
            manifest: *manifest.as_bytes(),
            key: self.sealing.key.clone(),
            tag: self.transfers.member.network().tag(),
        }
    }

    fn listed(&self, link: &Link) -> Listed {
        Listed {
            name: self.options.name.clone(),
            size_bytes: self.size,
            created: self.created,
            code: self.sealing.code.to_string(),
            placement: self.sealing.placement.policy.to_string(),
            stripes: self.stripes.len() as u64,
            named: self.options.bucket.is_some(),
            link: link.clone(),
        }
    }

    /// Notes the file in the local list; from here it is a file. The journal of one in a bucket stays.
    async fn list(&mut self, link: &Link) -> Result<(), Failure> {
        let (transfers, listed) = (Arc::clone(self.transfers), self.listed(link));
        let watched = transfers.sweep.of_put(&transfers, &self.stripes);
        if listed.named {
            let noted = tokio::task::spawn_blocking(move || transfers.files.append_named(&listed, watched));
            if let Err(error) = noted.await.map_err(Failure::unexpected)? {
                tracing::warn!(%error, "how a file is doing is not watched");
            }
            return Ok(());
        }
        let noted = tokio::task::spawn_blocking(move || transfers.files.append(&listed, watched)).await;
        noted.map_err(Failure::unexpected)?.map_err(nothing_stored)?;
        journal_done(self.journal.take());
        Ok(())
    }

    /// Takes back everything stored.
    async fn give_up(&mut self, failure: &Failure) {
        while let Some(on_its_way) = self.window.pop_front() {
            // What it stored is noted; nothing comes after that.
            drop(on_its_way.await);
        }
        let all = discard_all(
            &self.transfers.peers,
            self.writing.secret,
            self.leased.lease().held(),
        )
        .await;
        // Who was only full holds nothing; of who was silent nobody knows.
        if let (Some(exposed), false) = (self.exposed.take(), all && failure.exit == exit::NO_SPACE) {
            let (transfers, journal) = (Arc::clone(self.transfers), self.journal.take());
            // Beyond so many at once, the next start sees to it.
            if let Ok(permit) = Arc::clone(&transfers.writes.taking_back).try_acquire_owned() {
                tokio::spawn(async move {
                    delete::take_back(&transfers, &exposed).await;
                    journal_done(journal);
                    drop(permit);
                });
            }
        }
        journal_done(self.journal.take());
    }

    /// Groups that cannot be told apart are no groups.
    fn one_group(&self) -> Option<String> {
        let policy = self.sealing.placement.policy;
        let (group, peers) = (
            policy.group(self.sealing.code)?,
            self.transfers.member.last_census()?.peers(),
        );
        (peers < usize::from(group)).then(|| {
            let there = counted(peers, "peer");
            format!("placement {policy} has groups of {group}, more than {there}: all are one group")
        })
    }
}
