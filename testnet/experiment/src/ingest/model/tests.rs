use super::*;

/// Small whole numbers, counted.
fn whole(number: f64) -> usize {
    (1..10_000_u32)
        .take_while(|count| f64::from(*count) <= number)
        .count()
}

fn number(whole: usize) -> f64 {
    f64::from(u32::try_from(whole).unwrap())
}

const MB: f64 = 1e6;
/// 100 Mbit/s.
const RATE: f64 = 12.5e6;

fn no_burst(bytes_per_second: f64) -> Link {
    Link {
        bytes_per_second,
        burst_bytes: 0.0,
    }
}

fn file(megabytes: f64, kept: f64) -> Replication {
    Replication {
        file_bytes: megabytes * MB,
        block_bytes: MB,
        copies: 3.0,
        kept,
    }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9 * b.abs().max(1.0), "{a} is not {b}");
}

fn is_near(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a} is not {b} ± {tolerance}");
}

/// A token bucket, byte pieces through it one after the other.
struct Bucket {
    link: Link,
    tokens: f64,
    at: f64,
}

impl Bucket {
    fn new(link: Link) -> Self {
        Self {
            link,
            tokens: link.burst_bytes,
            at: 0.0,
        }
    }

    /// When `bytes` that are there at `ready` have passed.
    fn pass(&mut self, bytes: f64, ready: f64) -> f64 {
        let now = ready.max(self.at);
        let Link {
            bytes_per_second: rate,
            burst_bytes: burst,
        } = self.link;
        self.tokens = (self.tokens + (now - self.at) * rate).min(burst.max(bytes));
        let wait = (bytes - self.tokens).max(0.0) / rate;
        self.tokens = (self.tokens + wait * rate) - bytes;
        self.at = now + wait;
        self.at
    }
}

const PIECE: f64 = 20_000.0;

/// Passes a block in pieces.
fn pass_block(bucket: &mut Bucket, bytes: f64, ready: f64) -> f64 {
    let pieces = whole(bytes / PIECE);
    (0..pieces).fold(ready, |_, _| bucket.pass(PIECE, ready))
}

#[test]
fn predictions_equal_those_by_hand() {
    let link = no_burst(10.0 * MB);
    // 10 MB at 10 MB/s: 3 copies to others take 3 s, 2 take 2 s.
    close(file(10.0, 0.0).direct(&link), 3.0);
    close(file(10.0, 1.0).direct(&link), 2.0);
    close(file(10.0, kept(3.0, 12.0)).direct(&link), 2.75);
    // One after the other: 1 s for the first, 0.1 s for each hop of a block behind it.
    close(file(10.0, 0.0).chain(&link), 1.2);
    close(file(10.0, 1.0).chain(&link), 1.1);
    close(file(10.0, 0.5).chain(&link), 1.15);
    let alone = Replication {
        copies: 1.0,
        ..file(10.0, 1.0)
    };
    close(alone.chain(&link), 0.0);
    close(alone.direct(&link), 0.0);
    // A tenth of the file is here, and the link brings 9 MB; one server with half the link would take twice
    // as long.
    close(download(10.0 * MB, 0.1, 3.0, &link, &link), 0.9);
    close(download(10.0 * MB, 0.1, 1.0, &link, &no_burst(5.0 * MB)), 1.8);
    close(download(10.0 * MB, 1.0, 1.0, &link, &link), 0.0);
    close(kept(3.0, 3.0), 1.0);
    close(kept(3.0, 2.0), 1.0);
}

#[test]
fn bucket_equals_that_of_the_daemon() {
    let link = Link::limited(RATE);
    // A piece of 1/512 s and 1/128 s.
    close(link.burst_bytes, 12.5e6 / 512.0 + 12.5e6 / 128.0);
    close(Link::limited(125_000.0).burst_bytes, 65536.0);
    close(link.seconds(link.burst_bytes / 2.0), 0.0);
    close(link.seconds(10.0 * MB) + link.spared(10.0 * MB), 0.8);
    close(link.spared(1000.0), 1000.0 / RATE);
}

#[test]
fn window_of_one_waits_after_each_block() {
    let link = no_burst(10.0 * MB);
    let window = |blocks, step_seconds| Window { blocks, step_seconds };
    // Each block takes 0.3 s and then 0.1 s.
    let (least, most) = file(4.0, 0.0).placed(&link, &window(1.0, 0.1));
    close(least, 1.6);
    close(most, 1.6);
    // Three at a time hide the waiting of all but the last, in order; side by side each of two rounds waits.
    let (least, most) = file(4.0, 0.0).placed(&link, &window(3.0, 0.1));
    close(least, 1.3);
    close(most, 1.4);
    // The waiting rules: the fourth waits for the first, 0.3 s and 2 s, then takes as long.
    let (least, most) = file(4.0, 0.0).placed(&link, &window(3.0, 2.0));
    close(least, 0.3 + 2.0 + 0.3 + 2.0);
    close(most, 1.2 + 4.0);
    let slow = no_burst(MB / 10.0);
    close(Window::of_daemon(&file(4.0, 0.0), &slow, 0.0).blocks, 1.0);
    close(Window::of_daemon(&file(4.0, 0.0), &link, 0.0).blocks, 3.0);
}

#[test]
fn fan_out_takes_what_a_bucket_lets_through() {
    for burst_bytes in [PIECE, 122_000.0, 500_000.0] {
        let link = Link {
            bytes_per_second: RATE,
            burst_bytes,
        };
        for (megabytes, kept) in [(1.0, 0.0), (1.0, 1.0), (10.0, 1.0)] {
            let file = file(megabytes, kept);
            let mut bucket = Bucket::new(link);
            let passed = pass_block(&mut bucket, file.sent_bytes(), 0.0);
            is_near(file.direct(&link), passed, 1e-6);
        }
    }
}

#[test]
fn chain_of_buckets_gains_the_burst_at_each_hop() {
    for burst_bytes in [PIECE, 122_000.0, 500_000.0] {
        let link = Link {
            bytes_per_second: RATE,
            burst_bytes,
        };
        for (megabytes, kept) in [(1.0, 0.0), (5.0, 0.0), (5.0, 1.0)] {
            let file = file(megabytes, kept);
            let mut hops: Vec<Bucket> = (0..3 - whole(kept)).map(|_| Bucket::new(link)).collect();
            let mut last: f64 = 0.0;
            for _ in 0..whole(megabytes) {
                let mut ready = 0.0;
                for hop in &mut hops {
                    ready = pass_block(hop, MB, ready);
                }
                last = ready;
            }
            is_near(file.chain(&link), last, 1e-6);
        }
    }
}

#[test]
fn windows_equal_a_sender_block_by_block() {
    for step in [0.0, 0.01, 0.05, 0.4, 3.0] {
        for blocks in 1..=12_usize {
            for window in 1..=4_usize {
                let link = no_burst(10.0 * MB);
                let file = file(number(blocks), 0.0);
                let each = 0.3;
                let mut durable: Vec<f64> = Vec::new();
                let mut free: f64 = 0.0;
                for block in 0..blocks {
                    let room = block.checked_sub(window).map_or(0.0, |before| durable[before]);
                    free = free.max(room) + each;
                    durable.push(free + step);
                }
                // All of a round begin together and share the link.
                let rounds: f64 = (0..blocks)
                    .step_by(window)
                    .map(|first| number((blocks - first).min(window)) * each + step)
                    .sum();
                let (least, most) = file.placed(
                    &link,
                    &Window {
                        blocks: number(window),
                        step_seconds: step,
                    },
                );
                is_near(least, *durable.last().unwrap(), 1e-6);
                is_near(most, rounds, 1e-6);
                assert!(least <= most + 1e-9);
            }
        }
    }
}

#[test]
fn copies_of_any_destination_cost_the_same_uplink() {
    let link = Link::limited(RATE);
    for kept in [0.0, 0.25, 1.0] {
        let file = file(10.0, kept);
        let (least, most) = file.placed(&link, &Window::of_daemon(&file, &link, 0.0));
        close(least, file.direct(&link));
        close(most, file.direct(&link));
        assert!(file.chain(&link) < file.direct(&link) * 0.7);
    }
}
