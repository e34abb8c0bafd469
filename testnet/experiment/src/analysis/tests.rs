use super::super::findings::real;
use super::*;

fn copies(n: u8) -> Code {
    Code::Copies(n)
}

fn model(peers: usize, code: Code, scheme: Scheme, fragments: usize) -> Model {
    Model::new(peers, code, scheme, fragments).unwrap()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * a.abs().max(1e-3)
}

fn patterns(peers: usize, killed: usize) -> Vec<PeerSet> {
    let mut all = Vec::new();
    Patterns::choose(peers, killed, u64::MAX, 0).for_each(|dead| all.push(dead.clone()));
    all
}

/// All sets of `size` of these peers.
fn subsets(first: usize, of: usize, size: usize) -> Vec<PeerSet> {
    let sets = patterns(of, size).into_iter();
    sets.map(|set| peer_set(set.ones().map(|peer| first + peer)))
        .collect()
}

/// By brute force: over all patterns, and all places of a fragment in each group, the chance that any of
/// `files` is lost.
fn counted(model: &Model, files: i32, killed: usize) -> f64 {
    let (shards, tolerated) = (usize::from(model.code.n()), usize::from(model.code.m()));
    let fragments = i32::try_from(model.fragments).unwrap();
    let all = patterns(model.peers, killed);
    let share = |places: &[PeerSet], dead: &PeerSet| {
        let lost = places
            .iter()
            .filter(|holders| holders.intersection_count(dead) > tolerated);
        real(lost.count()) / real(places.len())
    };
    let sum: f64 = all
        .iter()
        .map(|dead| {
            let of_peer = |primary: usize| {
                let (first, size) = model.groups.as_ref().map_or((0, model.peers), |g| g.of(primary));
                match model.scheme {
                    Scheme::Copysets(_) => {
                        let run = (0..shards).map(|step| first + (primary - first + step) % size);
                        share(&[peer_set(run)], dead)
                    }
                    Scheme::Random | Scheme::Buddies(..) | Scheme::Successors(_) => {
                        share(&subsets(first, size, shards), dead)
                    }
                }
            };
            let peers = (0..model.peers).map(of_peer);
            let mean =
                |chance: &dyn Fn(f64) -> f64| peers.clone().map(chance).sum::<f64>() / real(model.peers);
            let file = match model.scheme {
                Scheme::Copysets(Scope::File) => mean(&|lost| lost),
                Scheme::Buddies(_, Scope::File) => mean(&|lost| 1.0 - (1.0 - lost).powi(fragments)),
                Scheme::Random
                | Scheme::Copysets(Scope::Fragment)
                | Scheme::Buddies(_, Scope::Fragment)
                | Scheme::Successors(_) => 1.0 - (1.0 - mean(&|lost| lost)).powi(fragments),
            };
            1.0 - (1.0 - file).powi(files)
        })
        .sum();
    sum / real(all.len())
}

#[test]
fn closed_forms_equal_counting() {
    use Scope::{File, Fragment};
    let schemes = [
        Scheme::Random,
        Scheme::Copysets(File),
        Scheme::Copysets(Fragment),
        Scheme::Buddies(6, File),
        Scheme::Buddies(4, File),
        Scheme::Buddies(5, Fragment),
    ];
    // Runs that come out even and those that do not, fewer peers than a group needs, codes of one and of more
    // shards needed.
    let networks = [
        (12, copies(3)),
        (11, copies(3)),
        (9, copies(2)),
        (5, copies(3)),
        (10, "rs:2+2".parse().unwrap()),
    ];
    for (peers, code) in networks {
        for scheme in schemes {
            for fragments in [1, 4] {
                let Ok(model) = Model::new(peers, code, scheme, fragments) else {
                    continue;
                };
                for (killed, files) in [(1, 1), (3, 1), (3, 5), (4, 3), (peers - 1, 2)] {
                    let expected = counted(&model, files, killed);
                    let found = model.any_lost(usize::try_from(files).unwrap(), killed);
                    assert!(
                        near(found, expected),
                        "{model:?} {killed} {files}: {found} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn copysets_of_the_published_experiment_lose_as_published() {
    let any = |scheme| 100.0 * model(36, copies(3), scheme, 4).any_lost(100, 3);
    assert!((any(Scheme::Random) - 5.45).abs() < 0.01);
    assert!((any(Scheme::Copysets(Scope::File)) - 0.168).abs() < 0.001);
    assert!((any(Scheme::Copysets(Scope::Fragment)) - 0.168).abs() < 0.001);
    assert!((any(Scheme::Buddies(6, Scope::File)) - 1.6).abs() < 0.1);
    let h = |peers, killed| model(peers, copies(3), Scheme::Random, 1).fragment_lost(killed);
    assert!(near(h(12, 3), 1.0 / 220.0) && near(h(12, 6), 20.0 / 220.0) && h(12, 2) == 0.0);
    assert!(near(
        model(24, copies(3), Scheme::Copysets(Scope::File), 4).file_lost(6),
        h(24, 6)
    ));
}

#[test]
fn first_loss_of_each_placement_is_known() {
    let begins = |scheme| {
        let model = model(12, copies(3), scheme, 4);
        (model.first_loss(), model.certain_loss())
    };
    assert_eq!(begins(Scheme::Copysets(Scope::File)), (3, 9));
    assert_eq!(begins(Scheme::Buddies(6, Scope::File)), (3, 5));
    assert_eq!(begins(Scheme::Random), (3, 3));
    let first = model(12, "rs:4+2".parse().unwrap(), Scheme::Random, 4);
    assert!(first.file_lost(2) == 0.0 && first.file_lost(3) > 0.0 && first.first_loss() == 3);
}

#[test]
fn successors_lie_between_copysets_and_random() {
    let any = |scheme| model(24, copies(3), scheme, 4).any_lost(100, 3);
    let (few, many) = (any(Scheme::Successors(1)), any(Scheme::Successors(16)));
    assert!(any(Scheme::Copysets(Scope::File)) < few && few < many && many < any(Scheme::Random) * 1.05);
    // A file's fragments overlap on a ring, so a little less is lost than if they did not.
    let file = model(24, copies(3), Scheme::Successors(8), 4).file_lost(6);
    let random = model(24, copies(3), Scheme::Random, 4).file_lost(6);
    assert!(file < random && file > 0.8 * random, "{file} {random}");
}

#[test]
fn intervals_of_sampled_patterns_hold_the_expected_and_shrink() {
    for scheme in [
        Scheme::Random,
        Scheme::Copysets(Scope::Fragment),
        Scheme::Buddies(6, Scope::File),
    ] {
        let model = model(12, copies(3), scheme, 4);
        let expected = model.file_lost(6);
        let (low, high) = model.interval(100, 6, None, 1);
        assert!(
            low <= expected && expected <= high,
            "{scheme:?}: {low} {expected} {high}"
        );
        let (few_low, few_high) = model.interval(100, 6, Some(3), 1);
        assert!(high - low < few_high - few_low, "{scheme:?}");
    }
    // All files in the same four sets: over all patterns the mean is the same whoever has what.
    let (low, high) = model(12, copies(3), Scheme::Copysets(Scope::File), 4).interval(100, 3, None, 1);
    assert!(near(low, 1.0 / 220.0) && near(high, 1.0 / 220.0));
}

#[test]
fn code_without_a_model_is_refused() {
    let new = |peers, code, scheme| Model::new(peers, code, scheme, 4).unwrap_err();
    assert_eq!(
        new(300, copies(3), Scheme::Random),
        ModelError::TooManyPeers { peers: 300 }
    );
    assert_eq!(
        new(2, copies(3), Scheme::Random),
        ModelError::TooFewPeers { shards: 3, peers: 2 }
    );
    let narrow = new(12, copies(3), Scheme::Buddies(2, Scope::File));
    assert_eq!(narrow, ModelError::TooFewPeers { shards: 3, peers: 2 });
    assert_eq!(new(12, copies(3), Scheme::Successors(0)), ModelError::EmptyRing);
}
