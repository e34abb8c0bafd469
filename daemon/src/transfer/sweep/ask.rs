//! Asking how files are doing, and remembering the answers.

use std::sync::Arc;

use futures::{StreamExt, stream};
use mutualstore_contract::reply::{Health, ShardState};
use mutualstore_dht::Id;
use mutualstore_dht::placement::Placement;
use mutualstore_erasure::{Code, Policy};

use super::{FIRST, LAST, Layout, Part, STRIPES, UNKNOWN, Watched, bit, seconds};
use crate::datadir::list::index::{Entry, Index};
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::Transfers;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::get;
use crate::transfer::health::{Asked, StripeHealth, survey_preferred};

/// Manifests read at the same time.
const OPENING: usize = 8;

/// The one stripe of a file that is in its manifest.
fn single(index: &Index<Watched>, entry: &Entry<Watched>) -> Option<Arc<[Part]>> {
    let (code, _) = index.kind(entry);
    let code = code.parse::<Code>().ok().filter(|_| entry.is_single)?.small();
    let part = Part {
        stripe: Id::new(entry.manifest),
        k: code.k(),
        n: code.n(),
    };
    Some(Arc::new([part]))
}

/// A file to ask about.
struct Question {
    number: u32,
    /// None: its manifest is to be read.
    parts: Option<Arc<[Part]>>,
    /// Whether its holders are found from the ids of its stripes.
    by_id: bool,
    read: bool,
}

impl Question {
    fn of(index: &Index<Watched>, number: u32) -> Option<Self> {
        let entry = index.get(number)?;
        let parts = match &entry.watched.layout {
            Layout::Known(kept) => Some(Arc::clone(&kept.parts)),
            Layout::Unknown => single(index, entry),
        };
        let (_, placement) = index.kind(entry);
        Some(Self {
            number,
            parts,
            by_id: placement == Policy::Successors.to_string(),
            read: false,
        })
    }

    fn asked(&self) -> impl Iterator<Item = Asked> {
        let parts = self.parts.iter().flat_map(|parts| parts.iter());
        // Where they are not found from its id, whoever is asked about a stripe is asked whatever the policy.
        let placement = if self.by_id {
            Placement::Successors
        } else {
            Placement::Random
        };
        parts.map(move |part| Asked {
            stripe: part.stripe,
            k: part.k,
            n: part.n,
            placement,
        })
    }
}

/// What was found out of one file.
#[derive(Clone, Copy)]
struct Answer {
    health: Health,
    holders: u64,
    /// Questions it took, about.
    cost: usize,
}

impl Answer {
    fn add(&mut self, stripe: &StripeHealth) {
        self.health = self.health.min(stripe.health);
        let holding = |state| match state {
            ShardState::Ok | ShardState::Pending | ShardState::Unreachable => true,
            ShardState::Missing => false,
        };
        let held = stripe.shards.iter().filter(|shard| holding(shard.state));
        for peer in held.filter_map(|shard| shard.peer) {
            self.holders |= bit(peer);
        }
        self.cost += stripe.shards.len();
    }
}

impl Transfers {
    /// Asks how these files are doing and remembers the answers. How many questions that took, each stripe
    /// and peer counted.
    pub(super) async fn survey_files(self: &Arc<Self>, numbers: &[u32]) -> Result<usize, Failure> {
        let numbers = numbers.to_vec();
        let questions = move |index: &mut Index<Watched>| {
            let questions = numbers.iter().filter_map(|number| Question::of(index, *number));
            questions.collect::<Vec<_>>()
        };
        let mut questions = self.on_files(questions).await?;
        self.read_manifests(&mut questions).await?;
        let unread = Answer {
            health: Health::Lost,
            holders: 0,
            cost: UNKNOWN,
        };
        let begun = Answer {
            health: Health::Safe,
            holders: 0,
            cost: 0,
        };
        let of = |question: &Question| if question.parts.is_some() { begun } else { unread };
        let mut answers: Vec<Answer> = questions.iter().map(of).collect();
        let positions = questions
            .iter()
            .zip(0..)
            .flat_map(|(question, at)| question.asked().map(move |asked| (at, asked)));
        let all: Vec<(usize, Asked)> = positions.collect();
        for chunk in all.chunks(STRIPES) {
            let asked: Vec<Asked> = chunk.iter().map(|(_, asked)| *asked).collect();
            for ((at, _), health) in chunk.iter().zip(survey_preferred(self, &asked).await) {
                if let Some(answer) = answers.get_mut(*at) {
                    answer.add(&health);
                }
            }
        }
        let cost = answers.iter().map(|answer| answer.cost).sum();
        let transfers = Arc::clone(self);
        self.on_files(move |index| {
            for (question, answer) in questions.into_iter().zip(answers) {
                transfers.remember(index, question, answer);
            }
        })
        .await?;
        Ok(cost)
    }

    /// Reads the manifests of files whose stripes are not known.
    async fn read_manifests(self: &Arc<Self>, questions: &mut [Question]) -> Result<(), Failure> {
        let unknown = questions.iter().filter(|question| question.parts.is_none());
        let unknown: Vec<u32> = unknown.map(|question| question.number).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let transfers = Arc::clone(self);
        let listed = tokio::task::spawn_blocking(move || transfers.files.listed(&unknown)).await;
        let listed = listed.map_err(Failure::unexpected)??;
        let transfer = &Transfer::new(Operation::Get);
        let links = listed.into_iter().map(|(number, listed)| (number, listed.link));
        let opening = links.map(|(number, link): (u32, Link)| async move {
            let file = get::open(self, transfer, &link).await.ok()?;
            let parts = file.layout.iter().map(|stripe| Part {
                stripe: stripe.asked.stripe,
                k: stripe.asked.k,
                n: stripe.asked.n,
            });
            Some((number, parts.collect::<Arc<[Part]>>()))
        });
        let mut opened = stream::iter(opening).buffer_unordered(OPENING);
        while let Some(read) = opened.next().await {
            let Some((number, parts)) = read else { continue };
            let question = questions.iter_mut().find(|question| question.number == number);
            if let Some(question) = question {
                (question.parts, question.read) = (Some(parts), true);
            }
        }
        Ok(())
    }

    fn remember(&self, index: &mut Index<Watched>, question: Question, answer: Answer) {
        let now = self.seconds();
        let Some(entry) = index.get_mut(question.number) else {
            return;
        };
        let watched = &mut entry.watched;
        if let Some(parts) = question.parts.filter(|_| question.read) {
            if parts.len() == 1 {
                entry.is_single = true;
            } else {
                watched.layout = self.sweep.keep(parts.to_vec());
            }
        }
        watched.health = Some(answer.health);
        watched.answered = now;
        watched.holders |= answer.holders;
        if answer.health == Health::Safe {
            (watched.tries, watched.urgent) = (0, false);
            watched.holders = answer.holders;
            watched.due = now.saturating_add(self.sweep.period());
        } else {
            let wait = FIRST.saturating_mul(1 << watched.tries.min(16)).min(LAST);
            watched.tries = watched.tries.saturating_add(1);
            watched.urgent = wait < LAST;
            watched.due = now.saturating_add(seconds(wait));
        }
    }
}
