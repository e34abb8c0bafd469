//! How fast the others rebuild what a killed peer held, while nothing limits them.

use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::Client;

use super::{Row, cpu_time};
use mutualstore_fleet::net::{FleetError, status};
use mutualstore_fleet::scratch::Scratch;

/// Between two looks at all peers.
const POLL: Duration = Duration::from_millis(100);
/// Without progress for so long there is none to come: too few peers are left.
const STUCK: Duration = Duration::from_mins(1);

/// Kills the last peer and watches the others, from the first shard rebuilt to the last; none if they cannot.
/// `size` of the row is what the peer held. Rates are of rebuilt bytes: for each, k are read.
#[expect(clippy::cast_precision_loss, reason = "rates for people")]
pub(super) fn measure(scratch: &mut Scratch) -> Result<Option<Row>, FleetError> {
    let Some(victim) = scratch.alive().last().copied() else {
        return Ok(None);
    };
    let held = status(&scratch.client(victim)?)?;
    scratch.kill(victim);
    let others = scratch.clients()?;
    let cpu = cpu_time(scratch)?;
    let before = rebuilt(&others)?;
    // Begun at the last look that saw nothing rebuilt.
    let (mut begun, mut last, mut done) = (Instant::now(), Instant::now(), 0);
    while done < held.shards {
        scratch.interrupted()?;
        let look = Instant::now();
        let now = rebuilt(&others)?.saturating_sub(before);
        if now > done {
            (last, done) = (look, now);
        } else if last.elapsed() >= STUCK {
            return Ok(None);
        } else if done == 0 {
            begun = look;
        }
        thread::sleep(POLL);
    }
    let bytes = held.used_bytes as f64;
    let seconds = last.duration_since(begun).as_secs_f64().max(1e-9);
    let cpu = cpu_time(scratch)?.saturating_sub(cpu).as_secs_f64();
    Ok(Some(Row {
        case: "killed".to_owned(),
        size: Some(held.used_bytes),
        concurrency: others.len(),
        op: "repair",
        mb_per_s: Some(bytes / 1e6 / seconds),
        ops_per_s: Some(held.shards as f64 / seconds),
        cpu_s_per_gib: Some(cpu / (bytes / f64::from(1 << 30))),
        ..Row::default()
    }))
}

/// Shards rebuilt by all peers since they started.
fn rebuilt(peers: &[Client]) -> Result<u64, FleetError> {
    let rebuilt = |peer| Ok(status(peer)?.repair.regenerated_total);
    peers.iter().map(rebuilt).sum()
}
