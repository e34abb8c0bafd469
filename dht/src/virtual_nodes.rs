//! The virtual nodes of a peer: which indices, and where they lie.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::{Id, Peer};

/// Indices of virtual nodes, shared between all copies of a contact together with the identifiers once
/// somebody computed them: a hash each, which lookups in large rings need by the thousand.
#[derive(Clone, Default)]
pub struct VirtualNodes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    indices: Box<[u16]>,
    /// Whose they were when the identifiers were computed.
    places: OnceLock<(Peer, Box<[Id]>)>,
}

impl VirtualNodes {
    /// Ring identifiers of the virtual nodes of `peer`, in the order of their indices.
    pub(crate) fn ids(&self, peer: Peer) -> impl Iterator<Item = Id> + Clone + '_ {
        let compute = move || self.iter().map(move |index| peer.virtual_node(*index));
        let (owner, ids) = self.0.places.get_or_init(|| (peer, compute().collect()));
        // Contacts that share indices, but not the peer, only arise where somebody makes one from another's.
        let foreign = (*owner != peer).then(compute).into_iter().flatten();
        let shared = if *owner == peer { &**ids } else { &[] };
        shared.iter().copied().chain(foreign)
    }
}

impl Deref for VirtualNodes {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.0.indices
    }
}

impl<T: Into<Box<[u16]>>> From<T> for VirtualNodes {
    fn from(indices: T) -> Self {
        Self(Arc::new(Shared {
            indices: indices.into(),
            places: OnceLock::new(),
        }))
    }
}

impl FromIterator<u16> for VirtualNodes {
    fn from_iter<I: IntoIterator<Item = u16>>(indices: I) -> Self {
        indices.into_iter().collect::<Box<[u16]>>().into()
    }
}

impl PartialEq for VirtualNodes {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || **self == **other
    }
}

impl Eq for VirtualNodes {}

impl fmt::Debug for VirtualNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
