//! Who signed a contact.
//!
//! A signature is ed25519 by the peer's key over "mutualstore/contact/1" ‖ network id 32 ‖ the contact's
//! [form](super::contact). The network id keeps what a peer says in one network from being replayed in another one that
//! it joined with the same key. A peer that has not joined yet signs and verifies with an id of zeros: it speaks to
//! nobody but to learn a network, which exchanges no contacts that are used, and once it adopted one it signs anew
//! before it says its first hello as a member. So nothing that is signed with zeros is ever taken by a member.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lru::LruCache;
use mutualstore_dht::{Contact, SignContact, Signature};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::contact::form;

const DOMAIN: &[u8] = b"mutualstore/contact/1";
/// Verified contacts remembered, some 100 bytes each: gossip repeats itself, and a signature costs more than a hash.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(2048).expect("not zero");

/// Verifies contacts of one network.
pub struct Verifier {
    network: RwLock<[u8; 32]>,
    /// SHA-256 of what was signed and the signature.
    verified: Mutex<LruCache<[u8; 32], ()>>,
    forged: AtomicU64,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("forged", &self.forged)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// For the network with this id; all zero: none yet.
    pub fn new(network: [u8; 32]) -> Self {
        Self {
            network: RwLock::new(network),
            verified: Mutex::new(LruCache::new(REMEMBERED)),
            forged: AtomicU64::new(0),
        }
    }

    /// From now on contacts of this network are verified and signed.
    pub(crate) fn enter(&self, network: [u8; 32]) {
        *self.network.write().unwrap_or_else(PoisonError::into_inner) = network;
    }

    /// Contacts met that their peers did not sign.
    pub(crate) fn forged(&self) -> u64 {
        self.forged.load(Ordering::Relaxed)
    }

    /// Whether the peer of a contact read from disk signed it.
    pub(crate) fn holds(&self, contact: &Contact) -> bool {
        self.verify(contact, &form(contact))
    }

    /// Whether the peer of `contact` signed it; `body` is its form.
    pub(super) fn verify(&self, contact: &Contact, body: &[u8]) -> bool {
        let signed = self.signed(body);
        let hash: [u8; 32] = Sha256::new()
            .chain_update(&signed)
            .chain_update(contact.signature.0)
            .finalize()
            .into();
        if self.remembered().get(&hash).is_some() {
            return true;
        }
        let key = UnparsedPublicKey::new(&ED25519, contact.peer.as_bytes());
        if key.verify(&signed, &contact.signature.0).is_ok() {
            self.remembered().put(hash, ());
            return true;
        }
        self.forged.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(peer = %contact.peer, "a contact that its peer did not sign is ignored");
        false
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], ()>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signed(&self, body: &[u8]) -> Vec<u8> {
        let network = *self.network.read().unwrap_or_else(PoisonError::into_inner);
        [DOMAIN, network.as_slice(), body].concat()
    }
}

/// Signs the own contact for the network of a [`Verifier`].
pub struct Signer {
    keys: Ed25519KeyPair,
    network: Arc<Verifier>,
}

impl fmt::Debug for Signer {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// As the peer of the ed25519 secret key `seed`.
    #[expect(clippy::missing_panics_doc, reason = "ed25519 takes every seed of 32 bytes")]
    pub fn new(seed: &[u8; 32], network: Arc<Verifier>) -> Self {
        let keys = Ed25519KeyPair::from_seed_unchecked(seed).expect("ed25519 takes every seed of 32 bytes");
        Self { keys, network }
    }
}

impl SignContact for Signer {
    fn sign(&self, contact: &Contact) -> Signature {
        let signature = self.keys.sign(&self.network.signed(&form(contact)));
        // Signatures of ed25519 have 64 bytes.
        signature.as_ref().try_into().map(Signature).unwrap_or_default()
    }
}
