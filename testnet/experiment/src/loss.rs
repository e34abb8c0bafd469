//! `loss`: how many files are lost when peers die together, by code and placement, counted in three ways
//! beside what theory lets expect.
//!
//! A cell loads one network with files under one scheme, notes which peer holds which shard, and then kills
//! peers by SIGKILL, pattern after pattern, with repair off; the peers of a pattern are started again before
//! the next one. After each kill the loss is detected twice on the living network, and predicted from the
//! map:
//!
//! * *read*: every file is read through survivors, every byte compared. The truth as a user meets it; costs
//!   the file's bytes, and says only that a file is gone, not whether a fragment or the manifest went.
//! * *asked*: inventories and locators are asked for every stripe by its id, one small question to each live
//!   peer (the first r of a large ring). The view of heartbeats: it costs messages only, tells fragments from
//!   manifests, and believes what peers say of themselves.
//! * *map*: what must be lost if the noted holders are the holders. All three must agree, file by file.
//!
//! A third way to detect loss, audits that challenge holders to prove what they hold, costs reading a part of
//! every shard and finds rot, not death; the daemon's scrub does it locally, and it was not built into the
//! experiment.
//!
//! The same experiment without the waiting: from the map, over all patterns of so many dead or a large
//! sample.
//!
//! Losses of fragments and of manifests are told apart: theory speaks of a file's F fragments, and under a
//! policy that places each stripe for itself the manifest is one more.

mod measure;
mod rings;
mod tables;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use itertools::iproduct;
use mutualstore_erasure::{Code, Policy};
use serde::{Deserialize, Serialize};

use super::analysis::{self, Model};
use super::findings::real;
use super::shard_map::MAX_PEERS;
use super::{
    Experiment, ExperimentError, Findings, Result, Stage, check_placement, check_some, ensure, parsed,
};

/// Most files of a network: each is read after every kill.
const MAX_FILES: usize = 100_000;
/// Blocks of at most so many bytes are copied.
const SMALL: u64 = 16 << 10;
/// Of each peer of a testnet in which all give the same.
const VIRTUAL_NODES: usize = 8;

/// A code and where its shards go: `[CODE@]POLICY[/SCOPE]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheme {
    /// As `put --code` takes it; the experiment's own when absent.
    pub code: Option<String>,
    /// As `put --placement` takes it.
    pub placement: String,
    /// As `put --scope` takes it.
    pub scope: Option<String>,
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (code, rest) = text
            .split_once('@')
            .map_or((None, text), |(code, rest)| (Some(code), rest));
        let (placement, scope) = rest
            .split_once('/')
            .map_or((rest, None), |(rest, scope)| (rest, Some(scope)));
        let refused = |error: ExperimentError| error.to_string();
        if let Some(code) = code {
            parsed::<Code>(code).map_err(refused)?;
        }
        let policy: Policy = parsed(placement).map_err(refused)?;
        match scope {
            None => {}
            Some("file" | "fragment") if policy.has_groups() => {}
            Some("file" | "fragment") => return Err(format!("{placement} has no groups, so no scope")),
            Some(other) => return Err(format!("{other} is no scope; expected file or fragment")),
        }
        Ok(Self {
            code: code.map(str::to_owned),
            placement: placement.to_owned(),
            scope: scope.map(str::to_owned),
        })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.iter().flat_map(|code| [code.as_str(), "@"]);
        let scope = self.scope.iter().flat_map(|scope| ["/", scope.as_str()]);
        let mut parts = code.chain([self.placement.as_str()]).chain(scope);
        parts.try_for_each(|part| f.write_str(part))
    }
}

/// What is to be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    /// Numbers of daemons.
    pub peers: Vec<usize>,
    /// Code of schemes that name none.
    pub code: String,
    /// What is compared.
    pub schemes: Vec<Scheme>,
    /// Files stored in each network.
    pub files: usize,
    /// Size of each.
    pub file_bytes: u64,
    /// Into so many fragments each is cut.
    pub fragments: u32,
    /// How many peers are killed at once.
    pub kills: Vec<usize>,
    /// Times that is done for each number.
    pub patterns: usize,
    /// Patterns counted on the map where there are more than that.
    pub sampled: u64,
}

fn schemes(names: &[&str]) -> Vec<Scheme> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

impl Loss {
    /// The classic: 3 replicas, 4 fragments, 100 files of 100 kB; then other codes and group sizes.
    pub fn full() -> Self {
        Self {
            peers: vec![12, 24, 36],
            code: "copies:3".to_owned(),
            schemes: schemes(&[
                "random",
                "copysets",
                "copysets/fragment",
                "buddies",
                "buddies:4",
                "buddies:12",
                "successors",
                "xor:4@random",
                "rs:4+2@random",
                "rs:4+2@successors",
                "rs:8+4@successors",
            ]),
            files: 100,
            file_bytes: 100_000,
            fragments: 4,
            kills: vec![2, 3, 4, 6, 8, 10],
            patterns: 2,
            sampled: 100_000,
        }
    }

    /// The smallest network, the three policies that are compared and one other code, one pattern each.
    pub fn quick() -> Self {
        Self {
            peers: vec![12],
            schemes: schemes(&["random", "copysets", "buddies", "rs:4+2@successors"]),
            kills: vec![3, 6],
            patterns: 1,
            ..Self::full()
        }
    }

    /// Leaves out the numbers of dead that would leave nobody in the smallest network.
    pub fn keep_possible_kills(&mut self) {
        let least = self.least_peers();
        self.kills.retain(|dead| *dead < least);
    }

    /// Leaves out the schemes beside the first that need more peers than the smallest network has.
    pub fn keep_possible_schemes(&mut self) {
        let possible = |scheme: &Scheme| scheme.code.is_none() || self.check_scheme(scheme).is_ok();
        let schemes = self.schemes.iter().filter(|scheme| possible(scheme));
        self.schemes = schemes.cloned().collect();
    }

    fn code_of(&self, scheme: &Scheme) -> Result<Code> {
        parsed(scheme.code.as_ref().unwrap_or(&self.code))
    }

    fn least_peers(&self) -> usize {
        self.peers.iter().min().copied().unwrap_or(0)
    }

    /// What theory says of a scheme.
    fn model(&self, peers: usize, scheme: &Scheme) -> Result<Model> {
        let mut code = self.code_of(scheme)?;
        // Small fragments are copied, whatever the code.
        if self.file_bytes.div_ceil(u64::from(self.fragments.max(1))) <= SMALL {
            code = code.small();
        }
        let policy: Policy = parsed(&scheme.placement)?;
        let scope = scheme.scope.as_deref().and_then(|scope| scope.parse().ok());
        let scope = scope.unwrap_or_default();
        let placed = match policy {
            Policy::Successors => analysis::Scheme::Successors(VIRTUAL_NODES),
            Policy::Random => analysis::Scheme::Random,
            Policy::Copysets => analysis::Scheme::Copysets(scope),
            Policy::Buddies { .. } => {
                let group = policy.group(code).unwrap_or(code.n());
                analysis::Scheme::Buddies(usize::from(group), scope)
            }
        };
        let fragments = usize::try_from(self.fragments).unwrap_or(usize::MAX);
        let unknown = |error| ExperimentError::Usage(format!("{scheme}: {error}"));
        Model::new(peers, code, placed, fragments).map_err(unknown)
    }

    fn check_scheme(&self, scheme: &Scheme) -> Result<()> {
        let code = self.code_of(scheme)?;
        let (n, least) = (usize::from(code.n()), self.least_peers());
        ensure(n <= least, || {
            format!("{code} needs {n} peers; {least} are to be started")
        })?;
        check_placement(&scheme.placement, code)
    }
}

/// One cell: everything that is done on one loaded network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Number of daemons.
    pub peers: usize,
    /// Of every file.
    pub scheme: Scheme,
}

/// One count, a field for each column of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Number of daemons.
    pub peers: usize,
    /// The code of the files.
    pub code: String,
    /// The placement policy.
    pub placement: String,
    /// Scope, of policies with groups.
    pub scope: Option<String>,
    /// Files stored.
    pub files: usize,
    /// Fragments of each.
    pub fragments: u32,
    /// `put` and `get`: how long it took to store all files and to read them back; `read`, `asked`, `map`:
    /// one pattern; `killed`: all patterns of so many dead that were killed; `all`, `sample`: all that are
    /// possible, or a sample, on the map.
    pub method: String,
    /// Peers dead.
    pub dead: usize,
    /// Which of the killed patterns, from 0.
    pub pattern: Option<usize>,
    /// Patterns behind this row.
    pub patterns: u64,
    /// Numbers of the dead peers.
    pub victims: String,
    /// Fragments lost; the mean over the patterns.
    pub fragments_lost: Option<f64>,
    /// Files that lost a fragment; the mean over the patterns.
    pub files_lost: Option<f64>,
    /// Files whose manifest is lost; the mean over the patterns.
    pub manifests_lost: Option<f64>,
    /// Files that cannot be read for either reason; the mean over the patterns.
    pub unreadable: Option<f64>,
    /// Part of the patterns that cost at least one file a fragment.
    pub any_lost: Option<f64>,
    /// Files that the closed form expects to lose a fragment.
    pub predicted: Option<f64>,
    /// In 95 of 100 networks the mean over so many patterns is not below this,
    pub predicted_low: Option<f64>,
    /// and not above this.
    pub predicted_high: Option<f64>,
    /// Chance that at least one file loses a fragment.
    pub predicted_any: Option<f64>,
    /// The 95 % confidence interval of `files_lost` over the patterns that were killed begins here,
    pub mean_low: Option<f64>,
    /// and ends here (Student's t; the pattern is the unit).
    pub mean_high: Option<f64>,
    /// Distinct sets of peers that hold a fragment.
    pub copysets: usize,
    /// Distinct sets of such sets, over the files.
    pub file_sets: usize,
    /// `put` under `successors`: distinct sets of holders that the living ring makes, of whatever is stored.
    pub ring_copysets: Option<usize>,
    /// `get`: resident memory of all daemons after that.
    pub resident_bytes: Option<u64>,
    /// `read`, `asked`: frames that peers sent to each other meanwhile,
    pub messages: Option<u64>,
    /// and their bytes.
    pub message_bytes: Option<u64>,
    /// How long it took.
    pub seconds: f64,
}

impl Experiment for Loss {
    const NAME: &'static str = "loss";
    type Cell = Cell;
    type Reading = Reading;

    fn check(&self) -> Result<()> {
        check_some("peer", self.least_peers())?;
        check_some("scheme", self.schemes.len())?;
        check_some("file", self.files)?;
        check_some("kill", self.kills.iter().min().copied().unwrap_or(0))?;
        check_some("sampled pattern", usize::from(self.sampled > 0))?;
        let few = self.peers.iter().all(|peers| *peers <= MAX_PEERS);
        ensure(few, || format!("at most {MAX_PEERS} peers"))?;
        ensure(self.files <= MAX_FILES, || format!("at most {MAX_FILES} files"))?;
        let (killed, least) = (self.kills.iter().max().copied().unwrap_or(0), self.least_peers());
        ensure(killed < least, || {
            format!("killing {killed} of {least} peers leaves nobody to ask")
        })?;
        let (bytes, fragments) = (self.file_bytes, self.fragments);
        ensure((1..=bytes).contains(&u64::from(fragments)), || {
            format!("{bytes} bytes cannot be cut into {fragments} fragments")
        })?;
        let mut schemes = self.schemes.iter();
        schemes.try_for_each(|scheme| self.check_scheme(scheme))
    }

    /// By network.
    fn cells(&self) -> Vec<Cell> {
        let cell = |(peers, scheme): (&usize, &Scheme)| Cell {
            peers: *peers,
            scheme: scheme.clone(),
        };
        iproduct!(&self.peers, &self.schemes).map(cell).collect()
    }

    fn cost(&self, cell: &Cell) -> Duration {
        let (peers, files) = (real(cell.peers), real(self.files));
        let kills = real(self.kills.len() * self.patterns);
        let first = self.schemes.first() == Some(&cell.scheme);
        let start = if first { 1.0 + peers * 0.1 } else { 0.0 };
        let dead = real(self.kills.iter().sum::<usize>()) / real(self.kills.len().max(1));
        Duration::from_secs_f64(
            start + files * 0.1 + kills * (1.0 + files * 0.02 + dead * 0.3 + peers * 0.03),
        )
    }

    fn label(&self, cell: &Cell) -> String {
        format!("{} peers, {}", cell.peers, cell.scheme)
    }

    fn measure(&mut self, cell: &Cell, stage: &mut Stage) -> Result<Vec<Reading>> {
        measure::cell(self, cell, stage)
    }

    fn findings(&self, readings: &[Reading]) -> Findings {
        tables::findings(self, readings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_parse_as_they_are_displayed() {
        for text in [
            "random",
            "copysets/fragment",
            "rs:4+2@buddies:12/file",
            "xor:4@successors",
        ] {
            assert_eq!(text.parse::<Scheme>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "chance",
            "random/file",
            "copysets/stripe",
            "copies:0@random",
            "buddies:0",
        ] {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
        let full = Loss::full();
        assert_eq!((full.schemes.len(), Loss::quick().schemes.len()), (11, 4));
        full.check().unwrap();
        Loss::quick().check().unwrap();
    }

    #[test]
    fn parameters_that_cannot_be_measured_are_refused() {
        let refused = |loss: Loss| loss.check().unwrap_err().to_string();
        let full = Loss::full;
        let few = Loss {
            peers: vec![2],
            kills: vec![1],
            ..full()
        };
        assert!(refused(few).contains("needs 3 peers; 2"));
        let all = Loss {
            kills: vec![12],
            ..full()
        };
        assert!(refused(all).contains("leaves nobody"));
        let narrow = Loss {
            schemes: schemes(&["rs:4+2@buddies:4"]),
            ..full()
        };
        assert!(refused(narrow).contains("no groups can be formed"));
        for fragments in [0, 200_000] {
            assert!(refused(Loss { fragments, ..full() }).contains("cannot be cut"));
        }
        refused(Loss { files: 0, ..full() });
        refused(Loss {
            peers: vec![300],
            ..full()
        });
    }
}
