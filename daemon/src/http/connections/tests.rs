use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits {
        fresh: 3,
        known: 4,
        uploads: 2,
        downloads: 1,
        ..Limits::default()
    }
}

/// Whether the connection has been asked to end.
fn is_to_end(connection: &Connection) -> bool {
    let mut end = std::pin::pin!(connection.end.notified());
    end.as_mut().enable()
}

/// A known connection whose client has been waited for so long.
fn lagging(all: &Connections, lag: Duration) -> Arc<Connection> {
    let connection = all.open();
    all.admit(&connection).unwrap();
    connection.activity().lag = lag;
    connection
}

#[test]
fn fresh_connection_beyond_the_limit_ends_the_oldest() {
    let all = Connections::new(limits());
    let open: Vec<_> = (0..5).map(|_| all.open()).collect();
    let ended: Vec<_> = open.iter().map(|connection| is_to_end(connection)).collect();
    assert_eq!(ended, [true, true, false, false, false]);
    all.close(&open[4]);
    all.close(&open[4]);
    assert_eq!(all.table().fresh.len(), 2);
}

#[test]
fn known_connections_are_not_ended_for_fresh_ones() {
    let all = Connections::new(limits());
    let known = lagging(&all, 100 * SECOND);
    for _ in 0..10 {
        all.open();
    }
    assert!(!is_to_end(&known));
}

#[test]
fn known_connection_beyond_the_limit_ends_the_one_that_lags_most() {
    let all = Connections::new(limits());
    let known: Vec<_> = [3, 9, 2, 0].map(|lag| lagging(&all, lag * SECOND)).into();
    let newest = lagging(&all, Duration::ZERO);
    let ended: Vec<_> = known.iter().map(|connection| is_to_end(connection)).collect();
    assert_eq!(ended, [false, true, false, false]);
    assert!(!is_to_end(&newest) && all.table().known.len() == 4);
}

#[test]
fn known_connection_between_requests_makes_room_first() {
    let all = Connections::new(limits());
    let known: Vec<_> = [3, 0, 9, 2].map(|lag| lagging(&all, lag * SECOND)).into();
    // Of several the one that has been idle longest: the newest is about to ask more.
    known[1].answered();
    known[3].answered();
    known[3].activity().since += SECOND;
    lagging(&all, Duration::ZERO);
    assert!(is_to_end(&known[1]) && !is_to_end(&known[3]));
}

#[test]
fn connections_at_work_are_not_ended_and_the_next_is_refused() {
    let all = Connections::new(limits());
    let known: Vec<_> = (0..4).map(|_| lagging(&all, Duration::ZERO)).collect();
    let next = all.open();
    assert_eq!(all.admit(&next), Err(Busy));
    assert!(known.iter().all(|connection| !is_to_end(connection)) && !is_to_end(&next));
    all.close(&known[0]);
    assert_eq!(all.admit(&next), Ok(()));
}

#[test]
fn uploads_leave_slots_to_downloads_and_questions() {
    let all = Connections::new(limits());
    let uploads: Vec<_> = (0..2).map(|_| lagging(&all, Duration::ZERO)).collect();
    for upload in &uploads {
        all.upload(upload).unwrap();
    }
    let third = lagging(&all, Duration::ZERO);
    assert_eq!(all.upload(&third), Err(Busy));
    assert_eq!(all.download(&third), Ok(()));
    let fourth = lagging(&all, Duration::ZERO);
    uploads[1].activity().lag = 5 * SECOND;
    assert_eq!(all.upload(&fourth), Ok(()));
    assert!(!is_to_end(&uploads[0]) && is_to_end(&uploads[1]) && !is_to_end(&third));
}

#[test]
fn client_is_waited_for_as_long_as_its_phase_allows() {
    let (limits, start) = (Limits::default(), Instant::now());
    let mut activity = Activity::new(start);
    assert_eq!(activity.ends(&limits), Some(start + limits.fresh_for));
    activity.enter(Phase::Upload, start);
    assert_eq!(activity.ends(&limits), None, "the server works");
    activity.waits(Side::Request, start + SECOND);
    activity.waits(Side::Request, start + 2 * SECOND);
    assert_eq!(activity.ends(&limits), Some(start + SECOND + limits.idle_for));
    activity.moved(Side::Request, 1, start + 3 * SECOND);
    assert_eq!(activity.ends(&limits), None);
    activity.waits(Side::Answer, start + 4 * SECOND);
    assert_eq!(activity.ends(&limits), Some(start + 4 * SECOND + limits.idle_for));
    activity.answered(start + 5 * SECOND);
    assert_eq!(
        activity.ends(&limits),
        Some(start + 4 * SECOND + limits.idle_for),
        "its end is not taken yet"
    );
    activity.moved(Side::Answer, 1, start + 6 * SECOND);
    assert_eq!(
        activity.ends(&limits),
        Some(start + 6 * SECOND + limits.between_for)
    );
}

#[test]
fn client_that_trickles_lags_and_one_that_goes_on_does_not() {
    let mut now = Instant::now();
    let mut trickles = Activity::new(now);
    trickles.enter(Phase::Upload, now);
    for _ in 0..100 {
        trickles.waits(Side::Request, now);
        now += SECOND;
        trickles.moved(Side::Request, 1, now);
    }
    assert!(trickles.lag(now).behind > 99 * SECOND);

    let mut pauses = Activity::new(now);
    pauses.enter(Phase::Upload, now);
    pauses.waits(Side::Request, now);
    now += 400 * SECOND;
    assert!(pauses.lag(now).behind >= 400 * SECOND);
    for _ in 0..100 {
        pauses.moved(Side::Request, 64 << 10, now);
    }
    assert_eq!(pauses.lag(now).behind, Duration::ZERO);
}

#[test]
fn limits_shrink_with_the_files_a_process_may_open() {
    let limits = Limits::default();
    let few = limits.for_files(1024);
    assert!(few.fresh + few.known <= 341 && few.uploads + few.downloads < few.known && few.fresh > 100);
    let many = limits.for_files(1 << 20);
    let counts = |limits: Limits| [limits.fresh, limits.known, limits.uploads, limits.downloads];
    assert_eq!(counts(many), counts(limits));
    assert_eq!(limits.for_files(0).fresh, 1);
}

#[tokio::test]
async fn connection_that_is_asked_to_end_ends() {
    let all = Connections::new(limits());
    let connection = all.open();
    all.end_one();
    all.ended(&connection).await;
    let all = Connections::new(Limits {
        fresh_for: Duration::from_millis(10),
        ..limits()
    });
    all.ended(&all.open()).await;
}
