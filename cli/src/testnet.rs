//! `testnet ...`: flags into calls of [`mutualstore_testnet`], outcomes into tables.

use std::path::{Path, PathBuf};

use mutualstore_contract::exit;
use mutualstore_contract::units::Size;
use mutualstore_contract::units::counted;
use mutualstore_fleet::capacities::Capacities;
use mutualstore_fleet::net::{self, FleetError, UpOptions, Victims};
use mutualstore_fleet::scratch::RunOptions;
use mutualstore_fleet::state::{Peer, Testnet};
use mutualstore_testnet::bench::{self, BenchOptions};
use mutualstore_testnet::demo::{self, DemoOptions};

use crate::connect::default_testnet_dir;
use crate::output::{CliError, Rows, Screen};
use crate::store_bench;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Start a new testnet; its daemons run on until `testnet down`
    Up(UpArgs),
    /// List the daemons
    Ls(OneArgs),
    /// Print shell exports that let the client commands find a daemon
    Env(OneArgs),
    /// Add daemons
    Add(AddArgs),
    /// Kill daemons with SIGKILL
    Kill(KillArgs),
    /// Start killed daemons again
    Start(StartArgs),
    /// Flip bytes of shards on a daemon's disk, to see what happens
    Corrupt(crate::corrupt::Args),
    /// Stop all daemons
    Down(DownArgs),
    /// Watch a file survive killed peers: temporary daemons, gone at the end
    Demo(DemoArgs),
    /// Measure speed and cost with temporary daemons; prints CSV
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Hurt temporary daemons in every way while clients use them, and check what the clients were told
    Chaos(crate::chaos::Args),
    /// Measure what redundancy and its placement cost, on temporary daemons, beside what theory predicts
    Experiment(crate::experiment::Args),
    /// Have one hostile member among temporary daemons do its worst, and check that no file is lost
    Adversary(crate::adversary::Args),
    /// Daemons on real interfaces in network namespaces: what they tell of their addresses, and what happens
    /// when these change
    #[command(after_help = crate::netns::HELP)]
    Netns(crate::netns::Args),
    /// Simulate whole networks of this program's ring and custody
    Sim(crate::sim::Args),
}

const BENCH_HELP: &str = "Columns: case,size,concurrency,op,MBps,opsps,p50ms,p99ms,cpu_s_per_GiB
  Transfers: size in bytes, concurrency = clients, MB = 10^6 bytes, CPU of all daemons.
  fresh-*/idle-* (before/after the transfers), one row per daemon, concurrency = its number:
    *-rss: size = resident memory in bytes
    *-cpu: p50ms = milliseconds of CPU per second of doing nothing (10 = 1 % of a core)
  --store: 16 writers, op append = a file and fdatasync after each, put = the store; the best of three turns;
    restart-*: op open = after a clean stop, rescan = after a kill; p50ms = how long it took";

/// Where the testnet is.
#[derive(clap::Args, Debug)]
pub(crate) struct Dir {
    /// Directory of the testnet [default: `mutualstore/testnet` in the XDG state directory]
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Dir {
    pub(crate) fn path(&self) -> Result<PathBuf, CliError> {
        let Some(dir) = &self.dir else {
            return default_testnet_dir();
        };
        // What is kept of it is used from other working directories too.
        let whole = std::path::absolute(dir);
        whole.map_err(|error| CliError::Usage(format!("--dir {}: {error}", dir.display())))
    }
}

#[derive(clap::Args, Debug)]
struct UpArgs {
    /// Number of daemons
    #[arg(long, default_value_t = 12)]
    peers: usize,
    #[command(flatten)]
    dir: Dir,
    /// Capacity of all, or a comma list repeated over the peers
    #[arg(long, value_name = "LIST", default_value = "1GiB")]
    capacity: Capacities,
    /// Capacity of one virtual node [default: an eighth of the smallest capacity]
    #[arg(long, value_name = "SIZE")]
    unit: Option<Size>,
    /// Peer i has its API on PORT + i [default: any free port]
    #[arg(long, value_name = "PORT")]
    api_base: Option<u16>,
    /// Seed of who joins by whom
    #[arg(long)]
    seed: Option<u64>,
    /// Flags for every daemon, also those added or started later
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    flags: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct OneArgs {
    #[command(flatten)]
    dir: Dir,
    /// Only this peer
    #[arg(long, value_name = "I")]
    peer: Option<usize>,
}

#[derive(clap::Args, Debug)]
struct AddArgs {
    #[command(flatten)]
    dir: Dir,
    /// How many
    #[arg(long, value_name = "N")]
    count: usize,
}

#[derive(clap::Args, Debug)]
struct KillArgs {
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    victims: VictimArgs,
    /// Seed of the choice [default: random]
    #[arg(long, conflicts_with = "peer")]
    seed: Option<u64>,
    /// Empty their data directories but for identity and network
    #[arg(long)]
    wipe: bool,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct VictimArgs {
    /// Kill so many of the live ones
    #[arg(long, value_name = "S")]
    count: Option<usize>,
    /// Kill this one; repeatable
    #[arg(long, value_name = "I")]
    peer: Vec<usize>,
}

#[derive(clap::Args, Debug)]
struct StartArgs {
    #[command(flatten)]
    dir: Dir,
    /// Start this one; repeatable [default: all that do not run]
    #[arg(long, value_name = "I")]
    peer: Vec<usize>,
}

#[derive(clap::Args, Debug)]
struct DownArgs {
    #[command(flatten)]
    dir: Dir,
    /// Remove the directory too
    #[arg(long)]
    wipe: bool,
}

#[derive(clap::Args, Debug)]
struct DemoArgs {
    /// Number of daemons
    #[arg(long, default_value_t = 12)]
    peers: usize,
    /// How many to kill at once, twice; peer 0 is among the first
    #[arg(long, default_value_t = 2, value_name = "S")]
    kill: usize,
    /// A file to store; repeatable [default: this program]
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Where to make the temporary directory [default: the system's place for such]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Seed of who is killed [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Flags for every daemon
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    flags: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct BenchArgs {
    /// Number of daemons
    #[arg(long, default_value_t = 12)]
    peers: usize,
    /// Code of every put
    #[arg(long, default_value = "rs:4+2")]
    code: String,
    /// File sizes for one client, as a comma list
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1MiB,100MiB,1GiB"
    )]
    sizes: Vec<Size>,
    /// Measure the shard store alone: puts beside plain appends with fdatasync, and restarts
    #[arg(long, conflicts_with_all = ["peers", "code", "sizes", "quick", "flags"])]
    store: bool,
    /// Shards of the store that is restarted
    #[arg(long, value_name = "N", default_value_t = 1_000_000, requires = "store")]
    shards: u64,
    /// Fewer repetitions, and 1GiB only when asked for
    #[arg(long)]
    quick: bool,
    /// Where to make the temporary directory [default: the system's place for such]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Flags for every daemon
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    flags: Vec<String>,
}

/// Runs a testnet command.
pub(crate) fn run(args: Args, screen: &Screen) -> Result<(), CliError> {
    match args.command {
        Command::Up(args) => up(args, screen),
        Command::Ls(args) => show(&load(&args)?, screen),
        Command::Env(args) => env(&load(&args)?, screen),
        Command::Add(args) => {
            let spinner = screen.spinner("starting daemons");
            let grown = net::add(&args.dir.path()?, &binary()?, args.count);
            spinner.finish_and_clear();
            show(&grown?, screen)
        }
        Command::Kill(args) => kill(&args, screen),
        Command::Start(args) => {
            let spinner = screen.spinner("starting daemons");
            let started = net::start(&args.dir.path()?, &binary()?, &args.peer);
            spinner.finish_and_clear();
            show(&started?, screen)
        }
        Command::Corrupt(args) => crate::corrupt::run(&args, screen),
        Command::Down(args) => Ok(net::down(&args.dir.path()?, args.wipe)?),
        Command::Demo(args) => demonstrate(args, screen),
        Command::Bench(args) => measure(args, screen),
        Command::Chaos(args) => crate::chaos::run(args, screen),
        Command::Experiment(args) => crate::experiment::run(args, screen),
        Command::Adversary(args) => crate::adversary::run(args, screen),
        Command::Netns(args) => crate::netns::run(args, screen),
        Command::Sim(args) => crate::sim::run(args, screen),
    }
}

/// What every command on temporary daemons takes.
pub(crate) fn run_options(place: Option<PathBuf>, flags: Vec<String>) -> Result<RunOptions, CliError> {
    let binary = binary()?;
    Ok(RunOptions { binary, place, flags })
}

/// This very program: the daemons must speak the same contract.
pub(crate) fn binary() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|source| {
        FleetError::Io {
            what: "cannot find this program".to_owned(),
            source,
        }
        .into()
    })
}

fn up(args: UpArgs, screen: &Screen) -> Result<(), CliError> {
    let dir = args.dir.path()?;
    let spinner = screen.spinner(&format!("starting {}", counted(args.peers, "daemon")));
    let testnet = net::up(
        &dir,
        &UpOptions {
            binary: binary()?,
            peers: args.peers,
            capacities: args.capacity,
            unit_bytes: args.unit.map(|unit| unit.0),
            api_base: args.api_base,
            seed: args.seed,
            flags: args.flags,
        },
    );
    spinner.finish_and_clear();
    show(&testnet?, screen)?;
    screen.note(format!("\n{}", hint(args.dir.dir.as_deref())));
    Ok(())
}

fn hint(dir: Option<&Path>) -> String {
    let dir = dir.map_or_else(String::new, |dir| format!(" --dir {}", quoted(dir)));
    format!(
        "Use one:  eval \"$(mutualstore testnet env{dir} --peer 0)\"\nEnd it:   mutualstore testnet \
         down{dir} --wipe"
    )
}

/// The testnet, or the one peer of it that was asked for.
fn load(args: &OneArgs) -> Result<Testnet, CliError> {
    let mut testnet = Testnet::load(&args.dir.path()?).map_err(FleetError::from)?;
    if let Some(index) = args.peer {
        testnet.peers.retain(|peer| peer.index == index);
        if testnet.peers.is_empty() {
            return Err(CliError::Usage(format!("this testnet has no peer {index}")));
        }
    }
    Ok(testnet)
}

fn show(testnet: &Testnet, screen: &Screen) -> Result<(), CliError> {
    if screen.json {
        return screen.document(testnet);
    }
    let mut rows = Rows::new(
        ["#", "STATE", "PID", "PEER", "CAPACITY", "API", "DATA"],
        &[0, 2, 4],
    );
    for peer in &testnet.peers {
        rows.add([
            peer.index.to_string(),
            if peer.alive { "alive" } else { "dead" }.to_owned(),
            peer.pid.to_string(),
            peer.peer.clone(),
            Size(peer.capacity_bytes).to_string(),
            peer.api.clone(),
            peer.data_dir.display().to_string(),
        ]);
    }
    screen.table(&rows)
}

/// Exports of the peer asked for, or of the first that lives.
fn env(testnet: &Testnet, screen: &Screen) -> Result<(), CliError> {
    let peer = testnet.alive().next().or(testnet.peers.first());
    let peer = peer.ok_or_else(|| CliError::Usage("this testnet has no peers".to_owned()))?;
    let variables = variables(peer);
    if screen.json {
        let map: serde_json::Map<String, serde_json::Value> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.display().to_string().into()))
            .collect();
        return screen.document(&map);
    }
    for (name, value) in variables {
        screen.line(format!("export {name}={}", quoted(&value)))?;
    }
    Ok(())
}

fn variables(peer: &Peer) -> [(&'static str, PathBuf); 3] {
    [
        ("MUTUALSTORE_DATA_DIR", peer.data_dir.clone()),
        ("MUTUALSTORE_API", PathBuf::from(&peer.api)),
        ("MUTUALSTORE_TOKEN", peer.data_dir.join("token")),
    ]
}

/// In single quotes for a POSIX shell, when it needs any.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn kill(args: &KillArgs, screen: &Screen) -> Result<(), CliError> {
    let random = || net::random_seed();
    let victims = match args.victims.count {
        Some(count) => Victims::Random {
            count,
            seed: args.seed.unwrap_or_else(random),
        },
        None => Victims::Peers(args.victims.peer.clone()),
    };
    let killed = net::kill(&args.dir.path()?, &victims, args.wipe)?;
    if screen.json {
        return screen.document(&serde_json::json!({ "killed": killed }));
    }
    let killed: Vec<String> = killed.iter().map(ToString::to_string).collect();
    screen.line(format!("killed {}", killed.join(" ")))
}

fn demonstrate(args: DemoArgs, screen: &Screen) -> Result<(), CliError> {
    let options = DemoOptions {
        run: run_options(args.dir, args.flags)?,
        peers: args.peers,
        kill: args.kill,
        files: args.file,
        seed: args.seed,
    };
    let report = demo::run(&options, &|line| screen.note(line))?;
    if screen.json {
        screen.document(&report)?;
    } else {
        screen.note("");
        screen.line(&report)?;
    }
    if report.files_lost == 0 {
        return Ok(());
    }
    let files = counted(report.files_lost, "file");
    let message = format!("not read back byte for byte: {files}");
    Err(CliError::Found {
        code: exit::UNEXPECTED,
        message,
    })
}

fn measure(args: BenchArgs, screen: &Screen) -> Result<(), CliError> {
    if args.store {
        screen.line(bench::HEADER)?;
        return store_bench::run(args.dir.as_deref(), args.shards, &mut |row| screen.line(row));
    }
    let options = BenchOptions {
        run: run_options(args.dir, args.flags)?,
        peers: args.peers,
        code: args.code,
        sizes: args.sizes.iter().map(|size| size.0).collect(),
        quick: args.quick,
    };
    screen.line(bench::HEADER)?;
    let mut printed = Ok(());
    bench::run(&options, &mut |row| {
        if printed.is_ok() {
            printed = screen.line(row);
        }
    })?;
    printed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_survive_the_shell() {
        assert_eq!(quoted(Path::new("/tmp/net-1/0")), "/tmp/net-1/0");
        assert_eq!(quoted(Path::new("/tmp/my net")), "'/tmp/my net'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
        assert_eq!(quoted(Path::new("")), "''");
    }
}
