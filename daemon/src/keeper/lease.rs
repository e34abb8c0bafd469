//! Shards on a lease: made permanent, renewed, given up, or dropped at its end.

use std::collections::BTreeSet;
use std::time::Duration;

use mutualstore_dht::Id;
use mutualstore_store::{Key, LOCATOR};

use super::{KeepError, ShardKeeper, key};
use crate::clock::unix_ms;
use crate::wire::peer::{NO_TOKEN, Token};

impl ShardKeeper {
    /// Drops a pending shard whose lease ended, unless it was committed or renewed while custody decided;
    /// then custody is told again.
    pub(crate) async fn expire(&self, stripe: Id, index: u8) {
        let key = key(stripe, index);
        let removed = self.change(move |store| store.expire(&[key], unix_ms())).await;
        self.report_dropped(vec![key], removed).await;
    }

    /// Keys held of `stripes` that were put under `token` (any token if `None`), and of which stripes a shard
    /// is: a locator is none.
    fn keys_of(&self, stripes: &[Id], token: Option<Token>) -> (Vec<bool>, Vec<(Id, u8)>) {
        let mut keys = Vec::new();
        let mut held = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            let before = keys.len();
            let mine = self
                .held(*stripe)
                .into_iter()
                .filter(|(_, meta)| token.is_none_or(|token| meta.token == token && token != NO_TOKEN));
            keys.extend(mine.map(|(index, _)| (*stripe, index)));
            held.push(keys.iter().skip(before).any(|(_, index)| *index != LOCATOR));
        }
        (held, keys)
    }

    /// Makes shards of these stripes permanent; durable when this returns. Which of the stripes are held.
    pub(crate) async fn commit(
        &self,
        stripes: Vec<Id>,
        token: Option<Token>,
    ) -> Result<Vec<bool>, KeepError> {
        let (held, keys) = self.keys_of(&stripes, token);
        let store_keys: Vec<Key> = keys.iter().map(|(stripe, index)| key(*stripe, *index)).collect();
        let done = self.change(move |store| store.commit(&store_keys)).await;
        done?;
        self.core.with(|state, now| {
            // Of shards, and of locators.
            let of: BTreeSet<Id> = keys.iter().map(|(stripe, _)| *stripe).collect();
            for stripe in of {
                state.engine.custody.committed(now, stripe);
            }
        });
        Ok(held)
    }

    /// Extends the lease of pending shards.
    pub(crate) async fn renew(
        &self,
        stripes: Vec<Id>,
        token: Token,
        lease: Duration,
    ) -> Result<Vec<bool>, KeepError> {
        let (held, keys) = self.keys_of(&stripes, Some(token));
        let store_keys: Vec<Key> = keys.iter().map(|(stripe, index)| key(*stripe, *index)).collect();
        let until = unix_ms().saturating_add(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        let done = self.change(move |store| store.renew(&store_keys, until)).await;
        done?;
        self.core.with(|state, now| {
            for stripe in &stripes {
                state.engine.custody.renew(now, *stripe, now + lease);
            }
        });
        Ok(held)
    }

    /// Drops what a writer put under `token` and gave up. Which of the stripes were held. What others count
    /// on stays: whoever stores a copy here, and has its holders drop theirs in favour of it, must not take
    /// it back.
    pub(crate) async fn discard(&self, stripes: Vec<Id>, token: Token) -> Vec<bool> {
        let (held, mut keys) = self.keys_of(&stripes, Some(token));
        self.core.with(|state, _| {
            keys.retain(|(stripe, index)| state.engine.custody.begin_discard(*stripe, (*index).into()));
        });
        let store_keys: Vec<Key> = keys.iter().map(|(stripe, index)| key(*stripe, *index)).collect();
        let discarded = store_keys.clone();
        let done = self.change(move |store| store.discard(&store_keys, token)).await;
        if let Err(error) = done {
            tracing::warn!(%error, "could not discard shards; their lease will end");
        }
        self.report_removed(discarded);
        held
    }
}
