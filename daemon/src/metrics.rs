//! What this peer counts, and how it is shown: the `OpenMetrics` text of `GET /metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::node::Node;
use mutualstore_net::{ClassCounters, Net};

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds `by`.
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    puts: Count,
    put_bytes: Count,
    gets: Count,
    get_bytes: Count,
    shards_served: Count,
    shards_served_bytes: Count,
    shards_read_here: Count,
    shards_read_here_bytes: Count,
    shards_stored: Count,
    shards_stored_bytes: Count,
    shards_repaired: Count,
    shards_repaired_bytes: Count,
    leases_renewed: Count,
    survey_questions: Count,
    survey_stripes: Count,
}

fn len(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Metrics {
    /// A file of `bytes` was stored from here.
    pub(crate) fn put_done(&self, bytes: u64) {
        self.puts.add(1);
        self.put_bytes.add(bytes);
    }

    /// A read from here begins.
    pub(crate) fn get_begun(&self) {
        self.gets.add(1);
    }

    /// Bytes of a file were handed to a client.
    pub(crate) fn get_bytes(&self, bytes: usize) {
        self.get_bytes.add(len(bytes));
    }

    /// A shard was sent to another peer.
    pub(crate) fn shard_served(&self, bytes: usize) {
        self.shards_served.add(1);
        self.shards_served_bytes.add(len(bytes));
    }

    /// A shard held here was read for a client or a repair of this peer: what it served to itself.
    pub(crate) fn shard_read_here(&self, bytes: usize) {
        self.shards_read_here.add(1);
        self.shards_read_here_bytes.add(len(bytes));
    }

    /// A shard was stored here, whoever sent it.
    pub(crate) fn shard_stored(&self, bytes: usize) {
        self.shards_stored.add(1);
        self.shards_stored_bytes.add(len(bytes));
    }

    /// Shards were regenerated or copied from here.
    pub(crate) fn repaired(&self, shards: usize, bytes: u64) {
        self.shards_repaired.add(len(shards));
        self.shards_repaired_bytes.add(bytes);
    }

    /// A holder of shards of a put in progress was asked to keep them for another lease.
    pub(crate) fn lease_renewed(&self) {
        self.leases_renewed.add(1);
    }

    /// A peer was asked what it holds of so many stripes.
    pub(crate) fn surveyed(&self, stripes: usize) {
        self.survey_questions.add(1);
        self.survey_stripes.add(len(stripes));
    }

    /// The `OpenMetrics` text.
    pub(crate) fn render(&self, node: &Node) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("mutualstore");
        self.transfers(&mut registry);
        local(&mut registry, node);
        if let Some(net) = node.net() {
            connections(&mut registry, node, net);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn transfers(&self, registry: &mut Registry) {
        count(registry, "puts", "Files stored from here", self.puts.get());
        count_bytes(
            registry,
            "put",
            "Bytes of files stored from here",
            self.put_bytes.get(),
        );
        count(registry, "gets", "Files read from here", self.gets.get());
        count_bytes(
            registry,
            "get",
            "Bytes of files read from here",
            self.get_bytes.get(),
        );
        count(
            registry,
            "leases_renewed",
            "Requests to holders to keep the shards of a put in progress",
            self.leases_renewed.get(),
        );
        count(
            registry,
            "survey_questions",
            "Questions to peers what they hold of stripes, to know how files are doing",
            self.survey_questions.get(),
        );
        count(
            registry,
            "survey_stripes",
            "Stripes in those questions",
            self.survey_stripes.get(),
        );
        self.shards(registry);
    }

    fn shards(&self, registry: &mut Registry) {
        let all = [
            (
                "shards_served",
                "shards sent to other peers",
                &self.shards_served,
                &self.shards_served_bytes,
            ),
            (
                "shards_read_here",
                "shards read here for this peer itself",
                &self.shards_read_here,
                &self.shards_read_here_bytes,
            ),
            (
                "shards_stored",
                "shards stored here",
                &self.shards_stored,
                &self.shards_stored_bytes,
            ),
            (
                "shards_repaired",
                "shards regenerated or copied from here",
                &self.shards_repaired,
                &self.shards_repaired_bytes,
            ),
        ];
        for (name, what, shards, bytes) in all {
            count(registry, name, &format!("Number of {what}"), shards.get());
            count_bytes(registry, name, &format!("Bytes of {what}"), bytes.get());
        }
    }
}

fn connections(registry: &mut Registry, node: &Node, net: &Net) {
    let counters = net.counters();
    traffic(registry, "rpc", &counters.rpc);
    traffic(registry, "shard", &counters.shards);
    if let Some(rate) = node.config.link_rate {
        gauge(
            registry,
            "link_rate_bytes_per_second",
            "What is sent to peers at most, and as much received",
            rate,
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
    let forged = node.verifier.forged();
    count(
        registry,
        "contacts_forged",
        "Contacts met that their peers did not sign; ignored",
        forged,
    );
}

fn local(registry: &mut Registry, node: &Node) {
    let usage = node.shards.usage();
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
        node.shards.syncs(),
    );
    upkeep(registry, node);
    ring(registry, node);
    process(registry);
}

fn ring(registry: &mut Registry, node: &Node) {
    let (alive, health) = node
        .core
        .read(|state| (state.ring.alive().count(), state.custody.stats()));
    gauge(registry, "peers_alive", "Peers that answer", len(alive));
    gauge(
        registry,
        "stripes_safe",
        "Stripes at home here with all shards",
        len(health.safe),
    );
    gauge(
        registry,
        "stripes_degraded",
        "Stripes at home here that lack shards",
        len(health.degraded),
    );
    gauge(
        registry,
        "stripes_uncounted",
        "Stripes at home here that it has repaired and no other peer has counted since",
        len(health.unaudited),
    );
    count(
        registry,
        "repairs_taken_over",
        "Repairs begun in place of a home that did not",
        health.taken_over_total,
    );
    gauge(
        registry,
        "stripes_endangered",
        "Stripes at home here with exactly k shards",
        len(health.endangered),
    );
    gauge(
        registry,
        "stripes_lost",
        "Stripes at home here with fewer than k shards",
        len(health.lost),
    );
    gauge(
        registry,
        "repairs_waiting",
        "Stripes at home here that wait for repair",
        len(health.repairs_waiting),
    );
}

fn upkeep(registry: &mut Registry, node: &Node) {
    let (checked, bad) = (node.shards.checked.get(), node.shards.bad.get());
    count(
        registry,
        "shards_checked",
        "Local shards read and verified",
        checked,
    );
    count(registry, "shards_bad", "Local shards that did not verify", bad);
    let (copied, gained) = (
        node.shards.compaction_copied.get(),
        node.shards.compaction_gained.get(),
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
