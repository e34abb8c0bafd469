//! What repair cannot mend: files and stripes of which fewer shards are reachable than it takes to rebuild
//! one.

use std::collections::BTreeSet;
use std::sync::Arc;

use mutualstore_contract::exit;
use mutualstore_contract::reply::{Health, ShardState, Unrecoverable};
use mutualstore_dht::Id;

use super::Maintenance;
use crate::datadir::list::Shown;
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::get;
use crate::transfer::health::{Asked, ShardHealth, shards_of, survey};

/// Files, and stripes beside them, that are named at most.
const NAMED: usize = 100;
/// Files that are asked about together.
const PAGE: usize = 2048;

impl Maintenance {
    /// Asks for everything that this peer can know to be stuck: files put through it, and stripes it is the
    /// primary of.
    pub(crate) async fn stuck(self: &Arc<Self>) -> Result<Vec<Unrecoverable>, Failure> {
        let files = self.lost_files().await?;
        let mut stuck = Vec::new();
        let mut named = BTreeSet::new();
        for file in files {
            let Ok(link) = file.link.parse() else { continue };
            let why = self.why_stuck(&link, &mut named).await;
            stuck.extend(why.map(|why| Unrecoverable {
                name: Some(file.name),
                ..why
            }));
        }
        let others: Vec<Asked> = self.member.core.read(|state| {
            let lost = state
                .engine
                .custody
                .lost()
                .filter(|(stripe, _)| !named.contains(stripe));
            let asked = |(stripe, shape): (Id, mutualstore_dht::custody::Shape)| Asked {
                stripe,
                k: shape.k,
                n: shape.n,
                placement: shape.placement,
            };
            lost.map(asked).take(NAMED).collect()
        });
        stuck.extend(self.lost_of(&others).await.into_iter().map(|(_, why)| why));
        Ok(stuck)
    }

    /// The first files put through this peer that cannot be read, asked now.
    async fn lost_files(self: &Arc<Self>) -> Result<Vec<Shown>, Failure> {
        let (mut lost, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = self.transfers.page((after, PAGE), None, true).await?;
            let here = page
                .into_iter()
                .filter(|remembered| remembered.health == Some(Health::Lost));
            lost.extend(here.map(|remembered| remembered.file).take(NAMED - lost.len()));
            if next.is_none() || lost.len() == NAMED {
                return Ok(lost);
            }
            after = next;
        }
    }

    /// Why a file cannot be rebuilt, of its first such stripe; none if it can be by now. Notes the stripes.
    async fn why_stuck(self: &Arc<Self>, link: &Link, named: &mut BTreeSet<Id>) -> Option<Unrecoverable> {
        let manifest = Id::new(link.manifest);
        named.insert(manifest);
        let transfer = Transfer::new(Operation::Get);
        match get::open(&self.transfers, &transfer, link).await {
            Err(failure) => {
                let shards = shards_of(&self.transfers, manifest).await;
                let away = away(&shards);
                let gone = away == 0 && matches!(failure.exit, exit::NOT_FOUND | exit::UNRECOVERABLE);
                // How many the manifest needs stands in its shards, and nobody has one.
                let why = match failure.exit {
                    exit::NOT_FOUND => format!("stripe {manifest}: at least 1 needed, 0 there"),
                    _ => failure.message,
                };
                let reason = format!("{why}{}", outlook(away, gone));
                let name = None;
                Some(Unrecoverable { name, reason, gone })
            }
            Ok(open) => {
                let asked: Vec<Asked> = open.layout.iter().map(|stripe| stripe.asked).collect();
                let lost = self.lost_of(&asked).await;
                named.extend(lost.iter().map(|(stripe, _)| *stripe));
                lost.into_iter().next().map(|(_, why)| why)
            }
        }
    }

    /// Those stripes of which too few shards are reachable, in words.
    async fn lost_of(self: &Arc<Self>, asked: &[Asked]) -> Vec<(Id, Unrecoverable)> {
        let found = survey(&self.transfers, asked).await;
        let lost = asked
            .iter()
            .zip(found)
            .filter(|(_, found)| found.health == Health::Lost);
        lost.map(|(asked, found)| {
            let Asked { stripe, k, .. } = asked;
            let away = away(&found.shards);
            let gone = found.live + away < usize::from(*k);
            let outlook = outlook(away, gone);
            let reason = format!("stripe {stripe}: {k} needed, {} there{outlook}", found.live);
            let name = None;
            (*stripe, Unrecoverable { name, reason, gone })
        })
        .collect()
    }
}

/// How many shards are known to lie with peers that do not answer.
fn away(shards: &[ShardHealth]) -> usize {
    let away = shards
        .iter()
        .filter(|shard| shard.state == ShardState::Unreachable);
    away.count()
}

/// What may become of it.
fn outlook(away: usize, gone: bool) -> String {
    match (away, gone) {
        (0, false) => String::new(),
        (0, true) => "; the others are gone: nobody has them who is there or known to be away".to_owned(),
        (away, false) => format!(", {away} with peers that do not answer"),
        (away, true) => format!(", {away} with peers that do not answer; the others are gone"),
    }
}
