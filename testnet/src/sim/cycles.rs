//! The cycles made by following first live successors: there must be one, once around.
//!
//! A change of one view moves the pointers of its own virtual nodes; only members that come or go make everything be
//! looked at again.

use std::collections::{BTreeMap, BTreeSet};

use mutualstore_dht::Id;

use super::check::View;
use super::world::Who;

/// Newcomers may meet each other before they meet the ring.
const NEWCOMER: u64 = 30_000_000;

/// A virtual node of a member.
#[derive(Debug)]
struct Node {
    id: Id,
    owner: Who,
    /// When its process was started.
    born: u64,
    /// Position of the first node after it that is on its owner's circle; its own when there is none.
    next: usize,
}

/// Virtual nodes of members, ascending; empty when they must be collected anew.
#[derive(Debug, Default)]
pub(super) struct Cycles(Vec<Node>);

impl Cycles {
    /// Members came or went.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Follows the pointers after the view of `changed` did.
    pub(super) fn check(
        &mut self,
        now: u64,
        views: &BTreeMap<Who, View>,
        changed: Who,
    ) -> Result<(), (&'static str, String)> {
        if self.0.is_empty() {
            self.collect(views);
        } else if let Some(view) = views.get(&changed).filter(|view| view.member) {
            for id in &view.own {
                self.point(view, *id);
            }
        }
        self.follow(now)
    }

    fn collect(&mut self, views: &BTreeMap<Who, View>) {
        let members = views.iter().filter(|(_, view)| view.member);
        let nodes = members.flat_map(|(owner, view)| {
            view.own.iter().map(|id| Node {
                id: *id,
                owner: *owner,
                born: view.born,
                next: 0,
            })
        });
        self.0 = nodes.collect();
        self.0.sort_unstable_by_key(|node| node.id);
        for (_, view) in views.iter().filter(|(_, view)| view.member) {
            for id in &view.own {
                self.point(view, *id);
            }
        }
    }

    fn position(&self, id: &Id) -> Option<usize> {
        self.0.binary_search_by_key(id, |node| node.id).ok()
    }

    /// Sets the pointer of a node by its owner's view.
    fn point(&mut self, view: &View, id: Id) {
        let after = view.circle.partition_point(|(other, _)| *other <= id);
        let (low, high) = view.circle.split_at(after);
        let mut found = high
            .iter()
            .chain(low)
            .filter_map(|(other, _)| self.position(other));
        let next = found.next().or_else(|| self.position(&id)).unwrap_or(0);
        if let Some(node) = self.position(&id).and_then(|at| self.0.get_mut(at)) {
            node.next = next;
        }
    }

    fn follow(&self, now: u64) -> Result<(), (&'static str, String)> {
        let mut visit = vec![0u32; self.0.len()];
        let mut rings = 0;
        for (start, number) in (0..self.0.len()).zip(1u32..) {
            let mut at = start;
            while let Some(free) = visit.get_mut(at).filter(|visit| **visit == 0) {
                *free = number;
                at = self.0.get(at).map_or(at, |node| node.next);
            }
            if visit.get(at) != Some(&number) {
                continue;
            }
            let cycle = || self.cycle(at);
            // Once around is one step back.
            let turns = cycle().filter(|(at, node)| node.next <= *at).count();
            if turns != 1 {
                let owners: BTreeSet<Who> = cycle().map(|(_, node)| node.owner).collect();
                return Err((
                    "ordered ring",
                    format!("a cycle through hosts {owners:?} goes {turns} times around"),
                ));
            }
            let oldest = cycle().map(|(_, node)| node.born).min().unwrap_or(now);
            rings += usize::from(oldest + NEWCOMER < now);
        }
        if rings > 1 {
            return Err(("one ring", format!("{rings} rings of members")));
        }
        Ok(())
    }

    /// The nodes of the cycle that `start` is on, with their positions.
    fn cycle(&self, start: usize) -> impl Iterator<Item = (usize, &Node)> {
        let first = self.0.get(start).map(|node| (start, node));
        std::iter::successors(first, move |(_, node)| {
            let next = (node.next != start).then_some(node.next)?;
            Some((next, self.0.get(next)?))
        })
    }
}
