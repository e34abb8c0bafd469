//! Who gets a slot, and who loses his.

use futures::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::*;

const LOCAL: &str = "/ip4/192.0.2.1/tcp/4001";

/// Slots with time of their own.
struct Hall {
    slots: Slots,
    now: Instant,
    bells: Vec<Arc<Bell>>,
}

impl Hall {
    fn new() -> Self {
        Self {
            slots: Slots::new(SLOTS),
            now: Instant::now(),
            bells: Vec::new(),
        }
    }

    /// A connection from there; its number.
    fn comes(&mut self, host: &str, port: usize) -> usize {
        self.now += Duration::from_millis(1);
        let remote = format!("{host}/tcp/{port}").parse().unwrap();
        let (_, bell) = self.slots.take((LOCAL.parse().unwrap(), remote), self.now);
        self.bells.push(bell);
        self.bells.len() - 1
    }

    fn sits(&self, number: usize) -> bool {
        !self.bells[number].ended.load(Ordering::Relaxed)
    }

    fn sitting(&self, numbers: &[usize]) -> usize {
        numbers.iter().filter(|number| self.sits(**number)).count()
    }
}

#[test]
fn one_address_displaces_only_itself() {
    let mut hall = Hall::new();
    let neighbour = hall.comes("/ip4/198.51.100.9", 1);
    let idle: Vec<usize> = (0..1000)
        .map(|port| hall.comes("/ip4/198.51.100.7", port))
        .collect();
    assert_eq!(hall.sitting(&idle), PER_ADDRESS);
    assert!(hall.sits(neighbour) && hall.sits(idle[999]) && !hall.sits(idle[0]));
}

#[test]
fn a_prefix_has_its_share_and_known_peers_in_it_stay() {
    let mut hall = Hall::new();
    hall.slots.known.insert("198.51.100.200".parse().unwrap());
    let member = hall.comes("/ip4/198.51.100.200", 1);
    let idle: Vec<usize> = (0..1000)
        .map(|port| hall.comes(&format!("/ip4/198.51.100.{}", port % 200), port))
        .collect();
    assert!(hall.sitting(&idle) <= PER_PREFIX);
    assert!(hall.sits(member));
    let elsewhere = hall.comes("/ip4/203.0.113.1", 1);
    assert!(hall.sits(elsewhere));
}

#[test]
fn hosts_of_ipv6_count_by_their_networks() {
    let mut hall = Hall::new();
    let one: Vec<usize> = (0..300)
        .map(|host| hall.comes(&format!("/ip6/2001:db8:1:1::{host:x}"), 1))
        .collect();
    assert_eq!(hall.sitting(&one), PER_ADDRESS);
    let site: Vec<usize> = (0..300)
        .map(|net| hall.comes(&format!("/ip6/2001:db8:2:{net:x}::1"), 1))
        .collect();
    assert_eq!(hall.sitting(&site), PER_PREFIX);
    let mapped: Vec<usize> = (0..100)
        .map(|port| hall.comes("/ip6/::ffff:198.51.100.7", port))
        .collect();
    assert_eq!(hall.sitting(&mapped), PER_ADDRESS);
}

#[test]
fn strangers_leave_room_for_known_peers_and_go_first() {
    let mut hall = Hall::new();
    let members: Vec<String> = (0..100).map(|n| format!("192.0.2.{n}")).collect();
    hall.slots
        .known
        .extend(members.iter().map(|ip| ip.parse::<IpAddr>().unwrap()));
    let strangers: Vec<usize> = (0..5000)
        .map(|n| hall.comes(&format!("/ip4/10.{}.{}.1", n / 250, n % 250), 1))
        .collect();
    assert_eq!(hall.sitting(&strangers), SLOTS - SLOTS / RESERVED);
    // Of the strangers those go first that were silent longest.
    assert!(hall.sits(strangers[4999]) && !hall.sits(strangers[0]));
    let known: Vec<usize> = (0..2)
        .flat_map(|port| members.iter().map(move |ip| (format!("/ip4/{ip}"), port)))
        .map(|(ip, port)| hall.comes(&ip, port))
        .collect();
    assert_eq!(hall.sitting(&known), PER_PREFIX.min(known.len()));
    assert!(hall.slots.taken.len() <= SLOTS);
}

#[test]
fn connections_of_this_machine_are_each_a_source_of_their_own() {
    let mut hall = Hall::new();
    let idle: Vec<usize> = (1..=3000)
        .map(|port| hall.comes("/ip4/127.0.0.1", port))
        .collect();
    assert_eq!(hall.sitting(&idle), SLOTS - SLOTS / RESERVED);
    // Who says something stays; who sits longest goes.
    let active = hall.comes("/ip4/127.0.0.1", 5000);
    for port in 0..2000 {
        hall.comes("/ip4/127.0.0.1", 10_000 + port);
        let number = hall
            .slots
            .taken
            .iter()
            .find(|(_, slot)| slot.ends.1.to_string().ends_with("/5000"));
        let number = *number.unwrap().0;
        hall.slots.taken.get_mut(&number).unwrap().heard = hall.now;
    }
    assert!(hall.sits(active));
}

/// Reads single bytes that somebody sends.
struct Pipe(mpsc::UnboundedReceiver<u8>);

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        buffer[0] = ready!(self.0.poll_recv(cx)).unwrap();
        Poll::Ready(Ok(1))
    }
}

fn open(gate: &Gate, port: u16) -> (Guarded<Pipe>, mpsc::UnboundedSender<u8>) {
    let point = ConnectedPoint::Listener {
        local_addr: LOCAL.parse().unwrap(),
        send_back_addr: format!("/ip4/203.0.113.1/tcp/{port}").parse().unwrap(),
    };
    let (far, near) = mpsc::unbounded_channel();
    (gate.wrap(Pipe(near), point), far)
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_comes_ends_until_it_has_passed() {
    let gate = Gate::new();
    let begun = Instant::now();
    let (mut idle, _held) = open(&gate, 1);
    let mut byte = [0];
    let ended = idle.read(&mut byte).await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionAborted);
    assert!((IDLE..IDLE * 2).contains(&begun.elapsed()));

    let (mut slow, far) = open(&gate, 2);
    for _ in 0..4 {
        tokio::time::sleep(IDLE / 2).await;
        far.send(7).unwrap();
        slow.read_exact(&mut byte).await.unwrap();
    }
    let ends = (LOCAL.parse().unwrap(), "/ip4/203.0.113.1/tcp/2".parse().unwrap());
    gate.pass_for(&ends.0, &ends.1).unwrap().admit();
    drop(idle);
    assert_eq!(gate.waiting(), 0);
    let late = tokio::spawn(async move {
        tokio::time::sleep(IDLE * 10).await;
        far.send(8).unwrap();
    });
    slow.read_exact(&mut byte).await.unwrap();
    assert_eq!(byte, [8]);
    late.await.unwrap();
}

#[tokio::test]
async fn connection_that_loses_its_slot_ends_at_once() {
    let gate = Gate::new();
    let (mut first, _held) = open(&gate, 1);
    let others: Vec<_> = (2..).take(PER_ADDRESS).map(|port| open(&gate, port)).collect();
    let mut byte = [0];
    assert!(first.read(&mut byte).await.is_err());
    assert_eq!((others.len(), gate.waiting()), (PER_ADDRESS, PER_ADDRESS));
}
