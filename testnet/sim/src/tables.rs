//! What the Chord papers measured, measured on the daemon's own ring, next to what they published.
//!
//! Stoica et al. 2003 is "Chord: a scalable peer-to-peer lookup protocol for Internet applications" (IEEE/ACM
//! Transactions on Networking 11, 1). A hop is a peer that answered; asking the peer that was looked for is
//! none. A time-out is a question nobody answered.
//!
//! * `routing`: (a) path lengths, (b) after many died at once, (c) under churn, each with (e) beside it;
//! * `balance`: (d) keys per peer, (f) bytes per capacity;
//! * `upkeep`: (g) maintenance.

mod balance;
mod routing;
mod upkeep;

use super::lab::Weigh;

/// How much is measured. The default is what was published.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Most peers in (a), a power of two.
    pub largest: usize,
    /// Peers in (b) and (c).
    pub peers: usize,
    /// Lookups behind each row of (a), (b) and (c).
    pub lookups: u64,
    /// Peers in (d), and most in (f).
    pub keepers: (usize, usize),
    /// Most peers in (g).
    pub kept: usize,
    /// Of all chances.
    pub seed: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            largest: 1 << 14,
            peers: 1000,
            lookups: 10_000,
            keepers: (10_000, 1000),
            kept: 1024,
            seed: 1,
        }
    }
}

impl Sizes {
    /// Enough for a look.
    pub fn quick() -> Self {
        Self {
            largest: 256,
            peers: 200,
            lookups: 500,
            keepers: (1000, 36),
            kept: 64,
            ..Self::default()
        }
    }
}

/// One table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its letter.
    pub name: char,
    /// What it shows.
    pub title: String,
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// As many fields each as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// A column of a table: its head, and its field for an item.
type Column<'a, T> = (&'a str, &'a dyn Fn(&T) -> String);

impl Table {
    /// A row for each item.
    fn of<T>(
        name: char,
        title: impl Into<String>,
        items: impl IntoIterator<Item = T>,
        columns: &[Column<'_, T>],
    ) -> Self {
        let row = |item: T| columns.iter().map(|(_, field)| field(&item)).collect();
        Self {
            name,
            title: title.into(),
            columns: columns.iter().map(|(head, _)| (*head).to_owned()).collect(),
            rows: items.into_iter().map(row).collect(),
        }
    }

    /// The table as lines of comma-separated values, the heads first, each line with the table's letter
    /// before it.
    pub fn csv(&self) -> String {
        let lines = std::iter::once(&self.columns).chain(&self.rows);
        let lines = lines.map(|fields| {
            let fields = fields.iter().map(|field| field.replace(',', ";"));
            format!("{},{}\n", self.name, fields.collect::<Vec<_>>().join(","))
        });
        lines.collect()
    }
}

/// The tables there are, by letter.
pub const ALL: [char; 6] = ['a', 'b', 'c', 'd', 'f', 'g'];

/// Measures one table; `none` for a letter that names none. `weigh` tells the bytes of messages for (g).
pub fn measure(name: char, sizes: Sizes, weigh: Weigh) -> Option<Table> {
    match name {
        'a' => Some(routing::paths(sizes)),
        'b' => Some(routing::failures(sizes)),
        'c' => Some(routing::churn(sizes)),
        'd' => Some(balance::keys(sizes)),
        'f' => Some(balance::bytes(sizes)),
        'g' => Some(upkeep::maintenance(sizes, weigh)),
        _ => None,
    }
}

fn two(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Sizes = Sizes {
        largest: 32,
        peers: 60,
        lookups: 200,
        keepers: (500, 36),
        kept: 16,
        seed: 3,
    };

    fn numbers(name: char) -> Vec<Vec<f64>> {
        let table = measure(name, SMALL, |_| 100).unwrap();
        assert_eq!(table.csv().lines().count(), table.rows.len() + 1);
        let number = |field: &String| field.parse().unwrap_or(f64::NAN);
        table
            .rows
            .iter()
            .map(|row| row.iter().map(number).collect())
            .collect()
    }

    #[test]
    fn paths_grow_with_the_ring_and_learning_shortens_them() {
        let rows = numbers('a');
        assert_eq!(rows.len(), 3);
        assert!(rows[0][2] < rows[2][2] && rows[2][4] < rows[2][2], "{rows:?}");
    }

    #[test]
    fn time_outs_grow_with_the_dead_and_every_lookup_ends_well() {
        let rows = numbers('b');
        let failed = |row: &Vec<f64>| row[7] + row[8];
        assert!(rows.iter().map(failed).sum::<f64>() == 0.0, "{rows:?}");
        assert!(rows[0][5] == 0.0 && rows[5][5] > rows[1][5], "{rows:?}");
    }

    #[test]
    fn load_is_evened_by_virtual_nodes_and_choice() {
        let keys = numbers('d');
        assert!(keys[4][3] < keys[0][3] / 2.0, "{keys:?}");
        let bytes = numbers('f');
        // The last row: 36 peers, 6 copies.
        let six = bytes.last().unwrap();
        assert!(six[4] <= 1.25 && six[4] < six[2], "{six:?}");
    }

    #[test]
    fn messages_grow_with_churn() {
        let rows = numbers('g');
        // Columns: peers, virtual nodes, messages and bytes at rest, the same under churn.
        let (one, eight) = (&rows[0], &rows[1]);
        assert!(eight[4] > eight[2] && eight[2] > one[2], "{rows:?}");
    }
}
