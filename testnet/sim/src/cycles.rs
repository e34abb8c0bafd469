//! The cycles made by following first live successors: there must be one, once around.
//!
//! A change of one view moves the pointers of its own virtual nodes; only members that come or go make
//! everything be looked at again.
//!
//! A process that was started and has not met the others yet is a ring of its own, alone or with others like
//! it, for as long as those it knows are away: that is no second ring. One that it has been on a cycle with
//! is.

use std::collections::{BTreeMap, BTreeSet};

use mutualstore_dht::Id;

use super::check::{View, after};
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
    /// Whether it has been on a cycle with those that were there before.
    met: bool,
    /// Position of the first node after it that is on its owner's circle; its own when there is none.
    next: usize,
}

/// Virtual nodes of members, ascending; empty when they must be collected anew.
#[derive(Debug, Default)]
pub(super) struct Cycles {
    nodes: Vec<Node>,
    /// Processes that met the others: host, and when it was started.
    met: BTreeSet<(Who, u64)>,
}

impl Cycles {
    /// Members came or went.
    pub(super) fn forget(&mut self) {
        self.nodes.clear();
    }

    /// Follows the pointers after the view of `changed` did.
    pub(super) fn check(
        &mut self,
        now: u64,
        views: &BTreeMap<Who, View>,
        changed: Who,
    ) -> Result<(), (&'static str, String)> {
        if self.nodes.is_empty() {
            self.collect(views);
        } else if let Some(view) = views.get(&changed).filter(|view| view.member) {
            self.point(view);
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
                met: self.met.contains(&(*owner, view.born)),
                next: 0,
            })
        });
        self.nodes = nodes.collect();
        self.nodes.sort_unstable_by_key(|node| node.id);
        for view in views.values().filter(|view| view.member) {
            self.point(view);
        }
    }

    fn position(&self, id: &Id) -> Option<usize> {
        self.nodes.binary_search_by_key(id, |node| node.id).ok()
    }

    /// Sets the pointers of a host's nodes by its view.
    fn point(&mut self, view: &View) {
        for id in &view.own {
            let own = self.position(id);
            let mut found = after(&view.circle, *id).filter_map(|(other, _)| self.position(other));
            let next = found.next().or(own).unwrap_or(0);
            if let Some(node) = own.and_then(|at| self.nodes.get_mut(at)) {
                node.next = next;
            }
        }
    }

    fn follow(&mut self, now: u64) -> Result<(), (&'static str, String)> {
        let mut visit = vec![0u32; self.nodes.len()];
        let mut starts = Vec::new();
        for (start, number) in (0..self.nodes.len()).zip(1u32..) {
            let mut at = start;
            while let Some(free) = visit.get_mut(at).filter(|visit| **visit == 0) {
                *free = number;
                at = self.nodes.get(at).map_or(at, |node| node.next);
            }
            if visit.get(at) != Some(&number) {
                continue;
            }
            let cycle = || self.cycle(at);
            // Once around is one step back.
            let revolutions = cycle().filter(|(at, node)| node.next <= *at).count();
            if revolutions != 1 {
                let owners: BTreeSet<Who> = cycle().map(|(_, node)| node.owner).collect();
                return Err((
                    "ordered ring",
                    format!("a cycle through hosts {owners:?} goes {revolutions} times around"),
                ));
            }
            starts.push(at);
        }
        self.meet(&starts);
        let old = |(_, node): (usize, &Node)| node.met && node.born + NEWCOMER < now;
        starts.retain(|start| self.cycle(*start).any(old));
        if starts.len() > 1 {
            let owners = |start: &usize| self.cycle(*start).map(|(_, node)| node.owner).collect();
            let rings: Vec<BTreeSet<Who>> = starts.iter().map(owners).collect();
            return Err(("one ring", format!("rings of members {rings:?}")));
        }
        Ok(())
    }

    /// Whoever is on a cycle with one that met the others has met them too. Where none did, the longest cycle
    /// begins.
    fn meet(&mut self, starts: &[usize]) {
        let has_met = |start: &&usize| self.cycle(**start).any(|(_, node)| node.met);
        let mut meeting: Vec<usize> = starts.iter().filter(has_met).copied().collect();
        if meeting.is_empty() {
            let longest = starts.iter().max_by_key(|start| self.cycle(**start).count());
            meeting.extend(longest);
        }
        for start in meeting {
            let new = self.cycle(start).filter(|(_, node)| !node.met);
            for at in new.map(|(at, _)| at).collect::<Vec<usize>>() {
                if let Some(node) = self.nodes.get_mut(at) {
                    node.met = true;
                    self.met.insert((node.owner, node.born));
                }
            }
        }
    }

    /// The nodes of the cycle that `start` is on, with their positions.
    fn cycle(&self, start: usize) -> impl Iterator<Item = (usize, &Node)> {
        let first = self.nodes.get(start).map(|node| (start, node));
        std::iter::successors(first, move |(_, node)| {
            let next = (node.next != start).then_some(node.next)?;
            Some((next, self.nodes.get(next)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Id {
        Id::new([n; 32])
    }

    /// A member with one virtual node that knows those of `known`.
    fn view(n: u8, known: &[u8]) -> (Who, View) {
        let circle = known
            .iter()
            .map(|other| (id(*other), Who::from(*other)))
            .collect();
        let own = vec![id(n)];
        let view = View {
            circle,
            own,
            member: true,
            ..View::default()
        };
        (Who::from(n), view)
    }

    fn rings(cycles: &mut Cycles, views: &[(u8, &[u8])]) -> Result<(), (&'static str, String)> {
        let views: BTreeMap<Who, View> = views.iter().map(|(n, known)| view(*n, known)).collect();
        cycles.forget();
        cycles.check(NEWCOMER + 1, &views, 0)
    }

    #[test]
    fn peer_alone_is_a_second_ring_only_once_it_met_the_others() {
        let cycles = &mut Cycles::default();
        let apart: [(u8, &[u8]); 3] = [(1, &[1, 2]), (2, &[1, 2]), (3, &[3])];
        rings(cycles, &apart).unwrap();
        rings(cycles, &apart).unwrap();
        rings(cycles, &[(1, &[1, 2, 3]), (2, &[1, 2, 3]), (3, &[1, 2, 3])]).unwrap();
        assert_eq!(rings(cycles, &apart).unwrap_err().0, "one ring");
    }
}
