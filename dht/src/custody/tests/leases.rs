//! Pending shards: their leases, and how a commit comes to all of them.

use super::*;

fn pending(net: &CustodyNet, lease: Duration) -> Tenure {
    Tenure::Pending {
        until: net.now + lease,
        writer: peer(0),
    }
}

fn commit_at(net: &mut CustodyNet, peer: crate::Peer, id: Id) {
    let disk = &mut net.nodes.get_mut(&peer).unwrap().disk;
    for (_, (_, tenure)) in disk.range_mut((id, Item::FIRST)..=(id, Item::LAST)) {
        *tenure = Tenure::Committed;
    }
    net.with(peer, |custody, now, _| custody.committed(now, id));
}

fn commits(net: &CustodyNet, id: Id) -> usize {
    let shards = net.nodes.values().flat_map(|node| node.disk.iter());
    shards
        .filter(|((stripe, _), (_, tenure))| *stripe == id && *tenure == Tenure::Committed)
        .count()
}

#[test]
fn uncommitted_put_expires_everywhere() {
    let mut net = CustodyNet::new(12, quick(), 24);
    net.run(secs(1));
    let (id, tenure) = (stripe(0), pending(&net, secs(30)));
    net.put_as(id, RS, tenure);
    net.run(secs(10));
    assert_eq!(net.stats().pending, 1);
    net.run(secs(15));
    assert_eq!(net.live(id).len(), 6);
    net.run(secs(30));
    assert!(net.live(id).is_empty());
    assert_eq!(net.stats(), CustodyStats::default());
    assert_eq!(net.counters.jobs, 0);
}

#[test]
fn renewed_lease_does_not_expire() {
    let mut net = CustodyNet::new(12, quick(), 25);
    net.run(secs(1));
    let (id, tenure) = (stripe(0), pending(&net, secs(20)));
    net.put_as(id, RS, tenure);
    for _ in 0..10 {
        net.run(secs(10));
        let until = net.now + secs(20);
        for up in net.up() {
            net.with(up, |custody, now, _| custody.renew(now, id, until));
        }
    }
    assert_eq!(net.live(id).len(), 6);
    net.run(secs(30));
    assert!(net.live(id).is_empty());
}

#[test]
fn single_commit_reaches_all_holders() {
    let mut net = CustodyNet::new(12, quick(), 26);
    net.run(secs(1));
    let (id, tenure) = (stripe(0), pending(&net, secs(600)));
    net.put_as(id, RS, tenure);
    net.run(secs(1));
    let (_, holder) = net.live(id)[3];
    commit_at(&mut net, holder, id);
    net.run_until(secs(60), |net| commits(net, id) == 6);
    net.run(secs(10));
    assert_eq!(net.stats().safe, 1);
}

#[test]
fn expired_lease_asks_for_a_commit_before_dropping() {
    // The primaries say nothing: only the question at the end of the lease can save the shards.
    let config = CustodyConfig {
        exchange_dirty: secs(4000),
        exchange_idle: secs(4000),
        ..quick()
    };
    let mut net = CustodyNet::new(12, config, 27);
    net.run(secs(30));
    let (id, tenure) = (stripe(0), pending(&net, secs(30)));
    net.put_as(id, RS, tenure);
    let (_, holder) = net.live(id)[5];
    commit_at(&mut net, holder, id);
    net.run(secs(40));
    assert_eq!(commits(&net, id), 6);
}

#[test]
fn expired_lease_with_a_suspect_keeps_the_shard() {
    let config = CustodyConfig {
        repair_delay: secs(120),
        pending_lease: secs(20),
        exchange_dirty: secs(4000),
        exchange_idle: secs(4000),
        ..quick()
    };
    let mut net = CustodyNet::new(12, config, 28);
    net.run(secs(300));
    let (id, tenure) = (stripe(0), pending(&net, secs(30)));
    net.put_as(id, RS, tenure);
    let (_, holder) = net.live(id)[5];
    commit_at(&mut net, holder, id);
    net.kill(holder);
    net.run(secs(100));
    assert_eq!(net.live(id).len(), 5);
    net.start(holder);
    net.run_until(secs(30), |net| commits(net, id) == 6);
}

#[test]
fn peer_restarted_alone_keeps_what_may_be_committed() {
    let mut net = CustodyNet::new(12, quick(), 36);
    net.run(secs(1));
    let (id, tenure) = (stripe(0), pending(&net, secs(30)));
    net.put_as(id, RS, tenure);
    let holders = net.live(id);
    for (_, holder) in &holders[1..] {
        commit_at(&mut net, *holder, id);
    }
    for up in net.up() {
        net.kill(up);
    }
    let (index, alone) = holders[0];
    net.start(alone);
    net.run(secs(120));
    assert!(net.holds(alone, id, Item::Shard(index)));
    for (_, holder) in &holders[1..] {
        net.start(*holder);
    }
    net.run_until(secs(60), |net| commits(net, id) == 6);
}
