//! Compacts the shard store when it is worth it, slowly enough not to be in the way.

use std::sync::Arc;
use std::time::Duration;

use mutualstore_store::{Compacted, UpdateError};

use crate::keeper::ShardKeeper;

/// Bytes written per second.
const RATE: u64 = 16 << 20;
/// Between two looks while there is nothing to do.
const PAUSE: Duration = Duration::from_secs(10);
/// After a failure, as of a disk that is full.
const AFTER_FAILURE: Duration = Duration::from_mins(5);

/// Runs until the task is aborted.
pub(crate) async fn run(keeper: Arc<ShardKeeper>) {
    loop {
        let pause = match keeper.compact().await {
            Ok(None) => PAUSE,
            Ok(Some(Compacted { copied, gained })) => {
                tracing::debug!(copied, gained, "compacted a segment");
                let wait = Duration::from_millis(copied * 1000 / RATE);
                if gained > 0 { wait } else { wait.max(PAUSE) }
            }
            Err(UpdateError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "a segment could not be compacted; nothing is lost");
                AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
