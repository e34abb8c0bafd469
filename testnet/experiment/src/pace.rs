//! How far a run is and how long it will take: cells differ a thousandfold, so they count by what they should
//! cost.

use std::time::Duration;

/// The a-priori costs weigh as much as so much of the whole being measured: the first cell alone says little.
const PRIOR: f64 = 0.05;

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The experiment at work.
    pub experiment: &'static str,
    /// The cell being measured.
    pub cell: &'a str,
    /// Cells measured, in this run and in those before it.
    pub done: usize,
    /// Cells of all experiments of the run.
    pub all: usize,
    /// Estimated time to the end.
    pub left: Duration,
}

/// Cells and their costs, of all experiments of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    cells: usize,
    done: usize,
    /// A-priori seconds of everything.
    whole: f64,
    /// A-priori seconds of what was measured.
    done_cost: f64,
    /// Seconds that took.
    spent: f64,
}

impl Pace {
    /// A cell to be measured.
    pub(super) fn add(&mut self, cost: Duration) {
        self.cells += 1;
        self.whole += cost.as_secs_f64();
    }

    /// One of them was measured, now or before.
    pub(super) fn finish(&mut self, cost: Duration, took: Duration) {
        self.done += 1;
        self.done_cost += cost.as_secs_f64();
        self.spent += took.as_secs_f64();
    }

    /// Cells measured, and all.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.done, self.cells)
    }

    /// Time to the end, if the rest takes as much longer or shorter than it should as what was measured.
    pub(super) fn left(&self) -> Duration {
        let prior = self.whole * PRIOR;
        let scale = (self.spent + prior) / (self.done_cost + prior).max(f64::MIN_POSITIVE);
        Duration::try_from_secs_f64((self.whole - self.done_cost).max(0.0) * scale).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn progress_counts_cells_by_their_cost() {
        let mut pace = Pace::default();
        assert_eq!(pace.left(), Duration::ZERO);
        for cost in [10, 10, 80] {
            pace.add(s(cost));
        }
        assert_eq!((pace.count(), pace.left()), ((0, 3), s(100)));
        pace.finish(s(10), s(10));
        assert_eq!((pace.count(), pace.left()), ((1, 3), s(90)));
        pace.finish(s(80), s(80));
        assert_eq!(pace.left(), s(10));
        pace.finish(s(10), s(10));
        assert_eq!((pace.count(), pace.left()), ((3, 3), Duration::ZERO));
    }

    #[test]
    fn slow_machine_is_noticed_but_not_from_one_short_cell() {
        let mut pace = Pace::default();
        for cost in [1, 49, 50] {
            pace.add(s(cost));
        }
        pace.finish(s(1), s(4));
        let early = pace.left();
        assert!(early > s(99) && early < s(4 * 99), "{early:?}");
        pace.finish(s(49), s(4 * 49));
        let later = pace.left();
        assert!(later > s(3 * 50) && later < s(4 * 50), "{later:?}");
    }
}
