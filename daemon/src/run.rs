//! From a data directory to a serving peer, and back to a clean stop.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mutualstore_contract::reply::DaemonFile;
use mutualstore_store::OpenReport;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api;
use crate::app::{self, App, Opened};
use crate::config::{self, Config, Flags, SettingsLayer};
use crate::datadir::files::DataDir;
use crate::datadir::spare;
use crate::datadir::traces::Traces;
use crate::error::Failure;
use crate::log::Log;
use crate::peer::admission;
use crate::peer::join::{self, Refused};
use crate::peer::{Membership, membership};

/// A clean stop that takes longer than this is cut short: nothing acknowledged depends on it.
const STOP: Duration = Duration::from_secs(4);
/// Threads that may wait for the disk or compute.
const BLOCKING_THREADS: usize = 48;

/// What is said of a network without a secret.
const OPEN: &str = "the network is open: whoever reaches one of its peers joins it, and can store, delay and \
                    destroy as a member can";

/// Runs a daemon on `directory` until it is told to stop. Logs go to standard error, the `ready` line to
/// standard output.
pub fn run(directory: &Path, flags: Flags) -> Result<(), Failure> {
    if !mutualstore_erasure::cpu_supported() {
        return Err(Failure::usage(
            "this processor has no AVX2, which the Reed-Solomon coder of this build needs",
        ));
    }
    raise_file_limit();
    let traces = Traces::before(directory);
    start(directory, flags).map_err(|ended| match ended {
        Ended::Failed(failure) => failure,
        Ended::Refused(failure) => {
            traces.remove();
            failure
        }
    })
}

fn start(directory: &Path, flags: Flags) -> Result<(), Ended> {
    let data = DataDir::open(directory)?;
    let (config, given) = Config::load(directory, flags).map_err(Ended::refused)?;
    let log = Log::start(&config.settings.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(1, 8)))
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(system)?;
    runtime.spawn(log.count_repeats());
    let outcome = runtime.block_on(serve(data, config, given));
    runtime.shutdown_timeout(Duration::from_millis(500));
    log.flush();
    outcome
}

/// Connections of peers and clients together are more than the files many systems allow a process at first.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn system(error: std::io::Error) -> Failure {
    Failure::unexpected(format!("cannot start: {error}"))
}

/// What ends a daemon from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    stdin_closed: Arc<Notify>,
    /// Caught and left unread, it does not end the process: a terminal that closes, or who thinks that logs
    /// are rotated so, does no harm.
    _hang_up: Signal,
}

impl Signals {
    fn watch(config: &Config) -> std::io::Result<Self> {
        let stdin_closed = Arc::new(Notify::new());
        if config.exit_on_stdin_close {
            watch_stdin(Arc::clone(&stdin_closed))?;
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stdin_closed,
            _hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one; which it was.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = self.stdin_closed.notified() => "standard input closed",
        }
    }
}

/// How a daemon ends that failed.
enum Ended {
    Failed(Failure),
    /// What it was told does not fit, or those it was to join do not let it in: it never served, and what it
    /// made is taken away again.
    Refused(Failure),
}

impl Ended {
    fn refused(error: impl Into<Failure>) -> Self {
        Self::Refused(error.into())
    }
}

impl<E: Into<Failure>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Says in what state the shard store was found; how much damage was found.
fn log_opened(report: &OpenReport) -> u64 {
    tracing::info!(
        clean = report.clean,
        shards = report.shards,
        segments = report.segments,
        scanned = report.scanned,
        read_errors = report.read_errors,
        "shard store"
    );
    for key in &report.damaged {
        tracing::warn!("CORRUPTED_BLOCK {}:{}", hex::encode(key.stripe), key.index);
    }
    let mut damaged = report.damaged.len() as u64;
    if report.skipped_bytes > 0 {
        damaged += 1;
        tracing::warn!(
            bytes = report.skipped_bytes,
            "between its records the shard store has bytes that are none"
        );
    }
    damaged
}

async fn serve(data: DataDir, config: Config, given: SettingsLayer) -> Result<(), Ended> {
    let mut signals = Signals::watch(&config).map_err(system)?;
    let address = config.settings.api;
    let refused = |error| {
        Failure::usage(format!(
            "cannot serve the HTTP API on {address}: {error}; choose another with --api"
        ))
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let api = listener.local_addr().map_err(refused)?;
    let joins_anew = config::joins_anew(&given, data.path())?;
    let network = admission::network(&data, &config).map_err(Ended::Refused)?;
    let Opened {
        app,
        unfinished,
        report,
    } = app::open(data, config, network).await?;
    if let Err(failure) = app.listen().await {
        app.keeper.close().await;
        return Err(Ended::Refused(failure));
    }
    let token = app.member.data.token()?;
    let mut tasks = JoinSet::new();
    let (judge, verdict) = join::verdict();
    tasks.spawn(join::join(Arc::clone(&app.member), judge));
    // A member that starts again finds the others by itself, and serves at once.
    if joins_anew || !app.member.network().adopted {
        tokio::select! {
            refused = verdict.wait() => if let Some(refused) = refused {
                app.hush(&mut tasks).await;
                app.keeper.close().await;
                return Err(Ended::Refused(turned_away(&refused, &app.member, joins_anew)));
            },
            why = signals.next() => {
                tracing::info!("{why}");
                app.stop(&mut tasks).await;
                return Ok(());
            }
        }
    } else {
        drop(verdict);
    }
    app.keeper.bad.add(log_opened(&report));
    app.spawn(&mut tasks, unfinished);
    let serving = api::serve(app.clone(), listener, token);
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the HTTP API stopped");
        }
    });
    config::keep(&given, app.member.data.path())?;
    let info = announce_ready(&app, api)?;
    tasks.spawn(membership::follow_addresses(Arc::clone(&app.member), info));
    let mut ended = Ok(());
    tokio::select! {
        part = panicked(&mut tasks) => {
            // Half a peer is worse than none: others would wait for it.
            ended = Err(Ended::Failed(Failure::unexpected(format!(
                "a part of the daemon failed ({part}); what is stored is safe, start it again"
            ))));
        }
        why = signals.next() => tracing::info!("{why}"),
        () = app.maintenance.quit.notified() => tracing::info!("left the ring"),
    }
    if tokio::time::timeout(STOP, app.stop(&mut tasks)).await.is_err() {
        tracing::warn!("stopped before everything was flushed; the next start rescans the shard store");
    }
    ended
}

/// What a person is told whose daemon was not let in.
fn turned_away(refused: &Refused, member: &Membership, joins_anew: bool) -> Failure {
    let Refused { address, why } = refused;
    let (what, cure) = (why.what(), why.cure());
    let state = match (joins_anew, member.network().adopted) {
        (true, true) => "nothing was changed",
        (true, false) => "nothing was joined, and nothing of this start is kept",
        (false, _) => "nothing was joined; `join` in config.toml is as it was",
    };
    Failure::not_allowed(format!("{address} {what}; {state}; {cure}"))
}

/// Waits for a task that panics; others may end.
async fn panicked(tasks: &mut JoinSet<()>) -> tokio::task::JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => return error,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

fn announce_ready(app: &App, api: std::net::SocketAddr) -> Result<DaemonFile, Failure> {
    let listen = app.member.listen_addresses();
    let mut config = (*app.member.config).clone();
    config.keep_ports(app.member.data.path(), &listen)?;
    let info = DaemonFile {
        pid: std::process::id(),
        peer: app.member.me.to_string(),
        api: format!("http://{api}"),
        listen,
        started: app.started_ms,
        lock: app.member.data.lock_id(),
    };
    spare::with(app.member.data.path(), || {
        Ok(app.member.data.save_daemon_file(&info)?)
    })?;
    let listen = info.listen.join(",");
    let open = if app.member.network().is_open() == Some(true) {
        tracing::warn!("{OPEN}");
        " network=open"
    } else {
        ""
    };
    say_ready(format!(
        "ready peer={} api={} listen={listen}{open}",
        info.peer, info.api
    ))
    .map_err(system)?;
    Ok(info)
}

/// On a thread of its own: standard output may be a pipe that nobody empties.
fn say_ready(line: String) -> std::io::Result<()> {
    let say = move || {
        let mut out = std::io::stdout().lock();
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            tracing::debug!(%error, "nobody reads standard output");
        }
    };
    std::thread::Builder::new()
        .name("ready".to_owned())
        .spawn(say)
        .map(drop)
}

/// A thread, because a read of standard input cannot be cancelled.
fn watch_stdin(closed: Arc<Notify>) -> std::io::Result<()> {
    let watch = move || {
        let mut sink = [0; 256];
        while matches!(std::io::stdin().read(&mut sink), Ok(read) if read > 0) {}
        closed.notify_one();
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(watch)
        .map(drop)
}
