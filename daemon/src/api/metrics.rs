//! How what this peer counts is shown: the `OpenMetrics` text of `GET /metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mutualstore_net::{ClassCounters, Net};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Api;
use crate::metrics::Metrics;

/// The `OpenMetrics` text.
pub(super) fn render(api: &Api) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("mutualstore");
    transfers(&mut registry, &api.app.transfers.metrics);
    local(&mut registry, api);
    if let Some(net) = api.app.member.remote.net() {
        connections(&mut registry, api, net);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn transfers(registry: &mut Registry, metrics: &Metrics) {
    count(registry, "puts", "Files stored from here", metrics.puts.get());
    count_bytes(
        registry,
        "put",
        "Bytes of files stored from here",
        metrics.put_bytes.get(),
    );
    count(registry, "gets", "Files read from here", metrics.gets.get());
    count_bytes(
        registry,
        "get",
        "Bytes of files read from here",
        metrics.get_bytes.get(),
    );
    count(
        registry,
        "leases_renewed",
        "Requests to holders to keep the shards of a put in progress",
        metrics.leases_renewed.get(),
    );
    count(
        registry,
        "survey_questions",
        "Questions to peers what they hold of stripes, to know how files are doing",
        metrics.survey_questions.get(),
    );
    count(
        registry,
        "survey_stripes",
        "Stripes in those questions",
        metrics.survey_stripes.get(),
    );
    shards(registry, metrics);
}

fn shards(registry: &mut Registry, metrics: &Metrics) {
    let all = [
        (
            "shards_served",
            "shards sent to other peers",
            &metrics.shards_served,
            &metrics.shards_served_bytes,
        ),
        (
            "shards_read_here",
            "shards read here for this peer itself",
            &metrics.shards_read_here,
            &metrics.shards_read_here_bytes,
        ),
        (
            "shards_stored",
            "shards stored here",
            &metrics.shards_stored,
            &metrics.shards_stored_bytes,
        ),
        (
            "shards_repaired",
            "shards regenerated or copied from here",
            &metrics.shards_repaired,
            &metrics.shards_repaired_bytes,
        ),
    ];
    for (name, what, shards, bytes) in all {
        count(registry, name, &format!("Number of {what}"), shards.get());
        count_bytes(registry, name, &format!("Bytes of {what}"), bytes.get());
    }
}

fn connections(registry: &mut Registry, api: &Api, net: &Net) {
    let counters = net.counters();
    traffic(registry, "rpc", &counters.rpc);
    traffic(registry, "shard", &counters.shards);
    if let Some(rate) = api.app.member.config.settings.link_rate {
        gauge(
            registry,
            "link_rate_bytes_per_second",
            "What is sent to peers at most, and as much received",
            rate.0,
        );
    }
    let dials = counters.dials.load(Ordering::Relaxed);
    count(registry, "dials", "Connections dialled", dials);
    let failed = counters.dials_failed.load(Ordering::Relaxed);
    count(
        registry,
        "dials_failed",
        "Dials without an accepted connection",
        failed,
    );
    gauge(
        registry,
        "connections",
        "Open connections",
        len(net.connections()),
    );
    gauge(
        registry,
        "connections_waiting",
        "Inbound connections that have not proved themselves yet",
        len(net.waiting()),
    );
    let forged = api.app.member.verifier.forged();
    count(
        registry,
        "contacts_forged",
        "Contacts met that their peers did not sign; ignored",
        forged,
    );
}

fn local(registry: &mut Registry, api: &Api) {
    let usage = api.app.keeper.usage();
    gauge_bytes(registry, "capacity", "Bytes given to the network", usage.capacity);
    gauge_bytes(
        registry,
        "used",
        "Bytes of committed shards",
        usage.committed_bytes,
    );
    gauge_bytes(
        registry,
        "pending",
        "Bytes of shards of unfinished puts",
        usage.pending_bytes,
    );
    gauge(registry, "shards", "Shards held", usage.shards);
    gauge(
        registry,
        "locators",
        "Lists held of who has the shards of a stripe",
        usage.locators,
    );
    gauge(
        registry,
        "tombstones",
        "Deleted stripes remembered",
        usage.tombstones,
    );
    count(
        registry,
        "store_syncs",
        "Flushes of the shard store",
        api.app.keeper.syncs(),
    );
    upkeep(registry, api);
    ring(registry, api);
    process(registry);
}

fn ring(registry: &mut Registry, api: &Api) {
    let (alive, health) = api
        .app
        .member
        .core
        .read(|state| (state.engine.ring.alive().count(), state.engine.custody.stats()));
    gauge(registry, "peers_alive", "Peers that answer", len(alive));
    gauge(
        registry,
        "stripes_safe",
        "Stripes this peer is primary of with all shards",
        len(health.safe),
    );
    gauge(
        registry,
        "stripes_degraded",
        "Stripes this peer is primary of that lack shards",
        len(health.degraded),
    );
    gauge(
        registry,
        "stripes_uncounted",
        "Stripes this peer is primary of that it has repaired and no other peer has counted since",
        len(health.unaudited),
    );
    count(
        registry,
        "repairs_taken_over",
        "Repairs begun in place of a primary that did not",
        health.taken_over_total,
    );
    gauge(
        registry,
        "stripes_endangered",
        "Stripes this peer is primary of with exactly k shards",
        len(health.endangered),
    );
    gauge(
        registry,
        "stripes_lost",
        "Stripes this peer is primary of with fewer than k shards",
        len(health.lost),
    );
    gauge(
        registry,
        "repairs_waiting",
        "Stripes this peer is primary of that wait for repair",
        len(health.repairs_waiting),
    );
}

fn upkeep(registry: &mut Registry, api: &Api) {
    let (checked, bad) = (api.app.keeper.checked.get(), api.app.keeper.bad.get());
    count(
        registry,
        "shards_checked",
        "Local shards read and verified",
        checked,
    );
    count(registry, "shards_bad", "Local shards that did not verify", bad);
    let (copied, gained) = (
        api.app.keeper.compaction_copied.get(),
        api.app.keeper.compaction_gained.get(),
    );
    count(
        registry,
        "compaction_copied_bytes",
        "Bytes of records that compaction wrote again",
        copied,
    );
    count(
        registry,
        "compaction_gained_bytes",
        "Bytes that compaction gave back",
        gained,
    );
}

fn process(registry: &mut Registry) {
    let used = crate::process::current();
    gauge_bytes(registry, "resident_memory", "Resident memory", used.rss_bytes);
    gauge(
        registry,
        "files_open",
        "Files and connections open",
        used.files_open,
    );
    let dropped = crate::log::dropped();
    count(
        registry,
        "log_lines_dropped",
        "Lines of the log that nobody read in time",
        dropped,
    );
    let seconds = ConstCounter::new(used.cpu_seconds);
    registry.register_with_unit(
        "cpu",
        "User and system time of this process",
        Unit::Seconds,
        seconds,
    );
}

fn traffic(registry: &mut Registry, class: &str, counters: &ClassCounters) {
    let bytes_in = counters.bytes_in.load(Ordering::Relaxed);
    let bytes_out = counters.bytes_out.load(Ordering::Relaxed);
    count_bytes(
        registry,
        &format!("{class}_received"),
        "Bytes read from peers",
        bytes_in,
    );
    count_bytes(
        registry,
        &format!("{class}_sent"),
        "Bytes sent to peers",
        bytes_out,
    );
    seconds(
        registry,
        &format!("{class}_receive_wait"),
        "Time that frames waited for the link's rate when they were read, the sum over the connections",
        &counters.waited_in_us,
    );
    seconds(
        registry,
        &format!("{class}_send_wait"),
        "Time that frames to send waited for the link's rate, the sum over the connections",
        &counters.waited_out_us,
    );
    let frames_in = counters.frames_in.load(Ordering::Relaxed);
    let frames_out = counters.frames_out.load(Ordering::Relaxed);
    count(
        registry,
        &format!("{class}_frames_received"),
        "Frames read from peers",
        frames_in,
    );
    count(
        registry,
        &format!("{class}_frames_sent"),
        "Frames sent to peers",
        frames_out,
    );
}

fn count(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn count_bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register_with_unit(name, help, Unit::Bytes, ConstCounter::new(value));
}

fn seconds(registry: &mut Registry, name: &str, help: &str, micros: &AtomicU64) {
    let time = Duration::from_micros(micros.load(Ordering::Relaxed));
    registry.register_with_unit(name, help, Unit::Seconds, ConstCounter::new(time.as_secs_f64()));
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(
        name,
        help,
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)),
    );
}

fn gauge_bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register_with_unit(name, help, Unit::Bytes, value);
}

fn len(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
