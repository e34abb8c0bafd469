//! What repair cannot mend: files and stripes of which fewer shards are reachable than it takes to rebuild
//! one.

use std::collections::BTreeSet;
use std::sync::Arc;

use mutualstore_dht::Id;
use serde::Serialize;

use super::Node;
use crate::error::Failure;
use crate::link::Link;
use crate::list::Shown;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::get;
use crate::transfer::health::{Asked, Health, survey};

/// Files, and stripes beside them, that are named at most.
const NAMED: usize = 100;
/// Files that are asked about together.
const PAGE: usize = 2048;

/// Something that cannot be rebuilt now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stuck {
    /// Name of a file that was put through this peer; none for a stripe of which only the id is known here.
    name: Option<String>,
    /// Which stripe, how many shards are needed, and how many are there.
    reason: String,
}

impl Node {
    /// Asks for everything that this peer can know to be stuck: files put through it, and stripes it is the
    /// home of.
    pub(crate) async fn stuck(self: &Arc<Self>) -> Result<Vec<Stuck>, Failure> {
        let files = self.lost_files().await?;
        let mut stuck = Vec::new();
        let mut named = BTreeSet::new();
        for file in files {
            let Ok(link) = file.link.parse() else { continue };
            if let Some(reason) = self.why_stuck(&link, &mut named).await {
                let name = Some(file.name);
                stuck.push(Stuck { name, reason });
            }
        }
        let others: Vec<Asked> = self.core.read(|state| {
            let lost = state.custody.lost().filter(|(stripe, _)| !named.contains(stripe));
            let asked = |(stripe, shape): (Id, mutualstore_dht::custody::Shape)| Asked {
                stripe,
                k: shape.k,
                n: shape.n,
                placement: shape.placement,
            };
            lost.map(asked).take(NAMED).collect()
        });
        let reasons = self.lost_of(&others).await.into_iter();
        stuck.extend(reasons.map(|(_, reason)| Stuck { name: None, reason }));
        Ok(stuck)
    }

    /// The first files put through this peer that cannot be read, asked now.
    async fn lost_files(self: &Arc<Self>) -> Result<Vec<Shown>, Failure> {
        let (mut lost, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = self.told_page((after, PAGE), None, true).await?;
            let here = page.into_iter().filter(|told| told.health == Some(Health::Lost));
            lost.extend(here.map(|told| told.file).take(NAMED - lost.len()));
            if next.is_none() || lost.len() == NAMED {
                return Ok(lost);
            }
            after = next;
        }
    }

    /// Why a file cannot be rebuilt, of its first such stripe; none if it can be by now. Notes the stripes.
    async fn why_stuck(self: &Arc<Self>, link: &Link, named: &mut BTreeSet<Id>) -> Option<String> {
        named.insert(Id::new(link.manifest));
        let transfer = Transfer::new(Operation::Get);
        match get::open(self, &transfer, link).await {
            Err(failure) => Some(failure.message),
            Ok(open) => {
                let asked: Vec<Asked> = open.layout.iter().map(|stripe| stripe.asked).collect();
                let lost = self.lost_of(&asked).await;
                named.extend(lost.iter().map(|(stripe, _)| *stripe));
                lost.into_iter().next().map(|(_, reason)| reason)
            }
        }
    }

    /// Those stripes of which too few shards are reachable, in words.
    async fn lost_of(self: &Arc<Self>, asked: &[Asked]) -> Vec<(Id, String)> {
        let found = survey(self, asked).await;
        let lost = asked
            .iter()
            .zip(found)
            .filter(|(_, found)| found.health == Health::Lost);
        lost.map(|(asked, found)| {
            let Asked { stripe, k, .. } = asked;
            (
                *stripe,
                format!("stripe {stripe}: {k} needed, {} there", found.live),
            )
        })
        .collect()
    }
}
