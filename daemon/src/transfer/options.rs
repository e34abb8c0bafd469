//! What a put is asked to do, and whether it can, before a byte is taken.

use std::num::NonZeroU32;

use mutualstore_dht::ring::Phase;
use mutualstore_erasure::{Code, Policy};

use crate::error::Failure;
use crate::manifest::Geometry;
use crate::node::Node;
use crate::placement::Scope;

/// What the person asked for.
#[derive(Clone, Debug)]
pub(crate) struct PutOptions {
    pub(crate) name: String,
    /// `None`: the code that fits the network.
    pub(crate) code: Option<Code>,
    /// Bytes of a shard at most.
    pub(crate) shard_size: u32,
    pub(crate) policy: Policy,
    /// Of policies with groups.
    pub(crate) scope: Scope,
    /// Cut into blocks of equal size instead of blocks of full shards.
    pub(crate) fragments: Option<Fragments>,
    pub(crate) degraded: bool,
}

/// Into how many fragments to cut a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragments {
    pub(crate) count: NonZeroU32,
    /// Bytes of the file: they end the fragments.
    pub(crate) size: u64,
}

impl PutOptions {
    /// The code to use, and what the person should know about it.
    pub(super) fn decide(&self, node: &Node) -> Result<(Code, Option<String>), Failure> {
        node.check_admitted()?;
        let (code, warning) = self.choose_code(node)?;
        let policy = self.policy.check(code);
        policy.map_err(|error| Failure::usage(format!("placement {error}")))?;
        self.layout(code, 0).check().map_err(Failure::usage)?;
        Ok((code, warning))
    }

    /// How a file is laid out of which `size` bytes were seen.
    pub(super) fn layout(&self, code: Code, size: u64) -> Geometry {
        let size = self.fragments.map_or(size, |fragments| fragments.size);
        let count = self.fragments.map(|fragments| fragments.count);
        Geometry::new(size, code, self.shard_size).cut(count)
    }

    fn choose_code(&self, node: &Node) -> Result<(Code, Option<String>), Failure> {
        let r = usize::try_from(node.network().r).unwrap_or(usize::MAX);
        let Some(code) = self.code else {
            if node.phase() == Phase::Joining {
                return Err(Failure::refused(
                    "the ring is not joined yet, so no code can be chosen; try again, or give one with --code \
                 (copies:1 stores on this peer alone)",
                ));
            }
            let code = Code::auto(node.peers_counted());
            let warning = (code == Code::Copies(1))
                .then(|| "this peer is alone: the file exists once and dies with this disk".to_owned());
            return Ok((code, warning));
        };
        code.check_ring(r)
            .map_err(|error| Failure::usage(format!("code {code}: {error}")))?;
        let (known, needed) = (node.peers_known(), usize::from(code.n()));
        if known < needed && !self.degraded {
            return Err(Failure::refused(format!(
                "code {code} needs {needed} peers and {known} are known; add peers, choose another code, or accept \
             less with --degraded"
            )));
        }
        Ok((code, None))
    }
}
