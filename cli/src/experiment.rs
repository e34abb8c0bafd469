//! `testnet experiment ...`: flags into parameters of [`mutualstore_experiment`], outcomes into
//! tables.

use std::path::PathBuf;

use mutualstore_contract::units::Rate;
use mutualstore_contract::units::Size;
use mutualstore_experiment::churn::Churn;
use mutualstore_experiment::ingest::Ingest;
use mutualstore_experiment::load::Load;
use mutualstore_experiment::loss::{Loss, Scheme};
use mutualstore_experiment::timing::Timing;
use mutualstore_experiment::{self as experiment, ExperimentError, Options, Outcome, Planned};
use mutualstore_fleet::interrupt::OnInterrupt;

use crate::output::{CliError, Screen};
use crate::testnet::{quoted, run_options};

const HELP: &str = "Readings are kept in OUT/EXPERIMENT/cells.jsonl as they come, and in OUT/EXPERIMENT.csv.
After Ctrl-C or a failure the same command goes on where it ended.";

#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// How many files are lost when peers die together, by code and placement, beside the closed forms
    #[command(after_help = HELP)]
    Loss(LossArgs),
    /// How long puts and gets take: sizes, clients, shard sizes, cache; beside published figures
    #[command(after_help = HELP)]
    Timing(TimingArgs),
    /// Which peers serve how much when files are read and written, beside what their capacity lets expect
    #[command(after_help = HELP)]
    Load(LoadArgs),
    /// How long files take to full redundancy and back, by placement, with and without limited links; beside
    /// predictions
    #[command(after_help = HELP)]
    Ingest(IngestArgs),
    /// What is lost and what repair moves while peers come, leave and die
    #[command(after_help = HELP)]
    Churn(ChurnArgs),
    /// All of them
    #[command(after_help = HELP)]
    All(RunArgs),
}

/// What every experiment takes.
#[derive(clap::Args, Debug)]
struct RunArgs {
    /// Where results are kept
    #[arg(long, default_value = "mutualstore-experiment")]
    out: PathBuf,
    /// Less of everything, to see how it looks; so marked in every output
    #[arg(long)]
    quick: bool,
    /// Seed of all bytes and choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to make temporary directories for daemons [default: the system's place for such]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Flags for every daemon
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    flags: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct LossArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Numbers of daemons [default: 12,24,36; quick: 12]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    peers: Option<Vec<usize>>,
    /// Code of schemes that name none [default: copies:3]
    #[arg(long)]
    code: Option<String>,
    /// The same as --code copies:K
    #[arg(short, long, value_name = "K", conflicts_with = "code")]
    k: Option<u8>,
    /// What to compare: policies, with `CODE@` before or `/SCOPE` behind, as rs:4+2@successors,
    /// copysets/fragment
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    schemes: Option<Vec<Scheme>>,
    /// Number of files [default: 100]
    #[arg(long, value_name = "N")]
    files: Option<usize>,
    /// Size of each [default: 100kB]
    #[arg(long, value_name = "SIZE")]
    file_size: Option<Size>,
    /// Fragments of each file [default: 4]
    #[arg(long, value_name = "F")]
    fragments: Option<u32>,
    /// How many peers are killed at once [default: 2,3,4,6,8,10, as far as one is left; quick: 3,6]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    kill: Option<Vec<usize>>,
    /// How often, for each number [default: 2; quick: 1]
    #[arg(long, value_name = "N")]
    patterns: Option<usize>,
    /// Patterns counted on the shard map where there are more than that [default: 100000]
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
}

#[derive(clap::Args, Debug)]
struct TimingArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Number of daemons [default: 12]
    #[arg(long)]
    peers: Option<usize>,
    /// Codes [default: copies:1,auto]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    codes: Option<Vec<String>>,
    /// File sizes for one client [default: 10MB,100MB,500MB,1500MB; quick: the first two]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sizes: Option<Vec<Size>>,
    /// Numbers of clients at the same time [default: 1,10]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    clients: Option<Vec<usize>>,
    /// Size of the file of each of several clients [default: 500MB; quick: 20MB]
    #[arg(long, value_name = "SIZE")]
    large: Option<Size>,
    /// Small files of each client [default: 100; quick: 20]
    #[arg(long, value_name = "N")]
    small_files: Option<usize>,
    /// Size of a small file [default: 10kB]
    #[arg(long, value_name = "SIZE")]
    small: Option<Size>,
    /// Shard sizes [default: 64KiB,128KiB,256KiB,512KiB,1MiB; quick: first and last]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    shard_sizes: Option<Vec<Size>>,
    /// Size of the file for shard sizes [default: 100MB; quick: 50MB]
    #[arg(long, value_name = "SIZE")]
    shard_file: Option<Size>,
    /// Repetitions, of which the median counts [default: 2; quick: 1]
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
}

#[derive(clap::Args, Debug)]
struct LoadArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Number of daemons [default: 12]
    #[arg(long)]
    peers: Option<usize>,
    /// Codes [default: copies:3,auto]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    codes: Option<Vec<String>>,
    /// Shard sizes [default: 256KiB,1MiB]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    shard_sizes: Option<Vec<Size>>,
    /// File sizes [default: 32MiB,128MiB; quick: 8MiB,32MiB]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sizes: Option<Vec<Size>>,
    /// Number of small files [default: 100; quick: 40]
    #[arg(long, value_name = "N")]
    small_files: Option<usize>,
    /// Size of a small file [default: 4KiB]
    #[arg(long, value_name = "SIZE")]
    small: Option<Size>,
    /// Repetitions, with other bytes [default: 3; quick: 1]
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
}

#[derive(clap::Args, Debug)]
struct IngestArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Copies of each block [default: 3]
    #[arg(short, long, value_name = "K")]
    k: Option<u8>,
    /// Numbers of daemons [default: 3,6,12,24; quick: 3,12]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    peers: Option<Vec<usize>>,
    /// Placements to compare [default: successors,random,copysets,buddies]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    placements: Option<Vec<String>>,
    /// File sizes [default: 100kB,1MB,10MB,100MB; quick: the first two]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sizes: Option<Vec<Size>>,
    /// Limits of every daemon's link, each way; none is always measured too [default: 100Mbit; quick: with
    /// most daemons]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rate: Option<Vec<Rate>>,
    /// Repetitions [default: 100; quick: 5]
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Fewer repetitions under a limit where they would take longer; a limit under which not even one fits is
    /// left out [default: 40]
    #[arg(long, value_name = "SECONDS")]
    cell_seconds: Option<u64>,
}

#[derive(clap::Args, Debug)]
struct ChurnArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Number of daemons at any time [default: 12]
    #[arg(long)]
    peers: Option<usize>,
    /// Codes [default: copies:3,xor:4,rs:4+2,rs:4+4; quick: copies:3,rs:4+2]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    codes: Option<Vec<String>>,
    /// Mean session lengths in seconds [default: 60,240; quick: 30]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sessions: Option<Vec<u64>>,
    /// Repair delays in seconds [default: 2,10; quick: 2]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    repair_delays: Option<Vec<u64>>,
    /// Of 100 sessions, how many end with a departure in order instead of a kill [default: 25]
    #[arg(long, value_name = "PERCENT")]
    leave: Option<u8>,
    /// Number of files [default: 40; quick: 10]
    #[arg(long, value_name = "N")]
    files: Option<usize>,
    /// Size of each [default: 1MB]
    #[arg(long, value_name = "SIZE")]
    file_size: Option<Size>,
    /// How long peers come and go for each case [default: 60; quick: 15]
    #[arg(long)]
    seconds: Option<u64>,
    /// Repetitions, with other events [default: 1]
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
}

/// Overwrites what was given.
fn set<T>(parameter: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *parameter = given;
    }
}

fn bytes(sizes: Option<Vec<Size>>) -> Option<Vec<u64>> {
    sizes.map(|sizes| sizes.into_iter().map(|size| size.0).collect())
}

impl LossArgs {
    fn parameters(self) -> (RunArgs, Loss) {
        let mut loss = if self.run.quick {
            Loss::quick()
        } else {
            Loss::full()
        };
        set(&mut loss.peers, self.peers);
        set(&mut loss.code, self.k.map(|k| format!("copies:{k}")));
        set(&mut loss.code, self.code);
        set(&mut loss.files, self.files);
        set(&mut loss.file_bytes, self.file_size.map(|size| size.0));
        set(&mut loss.fragments, self.fragments);
        set(&mut loss.patterns, self.patterns);
        set(&mut loss.sampled, self.sample);
        match self.kill {
            Some(kill) => loss.kills = kill,
            None => loss.keep_possible_kills(),
        }
        match self.schemes {
            Some(schemes) => loss.schemes = schemes,
            None => loss.keep_possible_schemes(),
        }
        (self.run, loss)
    }
}

impl TimingArgs {
    fn parameters(self) -> (RunArgs, Timing) {
        let mut timing = if self.run.quick {
            Timing::quick()
        } else {
            Timing::full()
        };
        set(&mut timing.peers, self.peers);
        set(&mut timing.codes, self.codes);
        set(&mut timing.sizes_bytes, bytes(self.sizes));
        set(&mut timing.clients, self.clients);
        set(&mut timing.large_bytes, self.large.map(|size| size.0));
        set(&mut timing.small_files, self.small_files);
        set(&mut timing.small_bytes, self.small.map(|size| size.0));
        set(&mut timing.shard_sizes_bytes, bytes(self.shard_sizes));
        set(&mut timing.shard_file_bytes, self.shard_file.map(|size| size.0));
        set(&mut timing.repeat, self.repeat);
        (self.run, timing)
    }
}

impl LoadArgs {
    fn parameters(self) -> (RunArgs, Load) {
        let mut load = if self.run.quick {
            Load::quick()
        } else {
            Load::full()
        };
        set(&mut load.peers, self.peers);
        set(&mut load.codes, self.codes);
        set(&mut load.shard_sizes_bytes, bytes(self.shard_sizes));
        set(&mut load.sizes_bytes, bytes(self.sizes));
        set(&mut load.small_files, self.small_files);
        set(&mut load.small_bytes, self.small.map(|size| size.0));
        set(&mut load.repeat, self.repeat);
        (self.run, load)
    }
}

impl IngestArgs {
    fn parameters(self) -> (RunArgs, Ingest) {
        let mut ingest = if self.run.quick {
            Ingest::quick()
        } else {
            Ingest::full()
        };
        let bits = |rate: Rate| rate.0.saturating_mul(8);
        let rates = self.rate.map(|rates| rates.into_iter().map(bits).collect());
        set(&mut ingest.copies, self.k);
        set(&mut ingest.peers, self.peers);
        set(&mut ingest.placements, self.placements);
        set(&mut ingest.sizes_bytes, bytes(self.sizes));
        set(&mut ingest.rates_bits, rates);
        set(&mut ingest.repeat, self.repeat);
        set(&mut ingest.cell_seconds, self.cell_seconds);
        (self.run, ingest)
    }
}

impl ChurnArgs {
    fn parameters(self) -> (RunArgs, Churn) {
        let mut churn = if self.run.quick {
            Churn::quick()
        } else {
            Churn::full()
        };
        set(&mut churn.peers, self.peers);
        set(&mut churn.codes, self.codes);
        set(&mut churn.sessions_seconds, self.sessions);
        set(&mut churn.repair_delays_seconds, self.repair_delays);
        set(&mut churn.leave_percent, self.leave);
        set(&mut churn.files, self.files);
        set(&mut churn.file_bytes, self.file_size.map(|size| size.0));
        set(&mut churn.duration_seconds, self.seconds);
        set(&mut churn.repeat, self.repeat);
        (self.run, churn)
    }
}

/// Runs an experiment, or goes on with it.
pub(crate) fn run(args: Args, screen: &Screen) -> Result<(), CliError> {
    match args.command {
        Command::Loss(args) => {
            let (run, loss) = args.parameters();
            carry_out(run, screen, |options| Ok(vec![experiment::plan(loss, options)?]))
        }
        Command::Timing(args) => {
            let (run, timing) = args.parameters();
            carry_out(run, screen, |options| {
                Ok(vec![experiment::plan(timing, options)?])
            })
        }
        Command::Load(args) => {
            let (run, load) = args.parameters();
            carry_out(run, screen, |options| Ok(vec![experiment::plan(load, options)?]))
        }
        Command::Ingest(args) => {
            let (run, ingest) = args.parameters();
            carry_out(run, screen, |options| {
                Ok(vec![experiment::plan(ingest, options)?])
            })
        }
        Command::Churn(args) => {
            let (run, churn) = args.parameters();
            carry_out(run, screen, |options| Ok(vec![experiment::plan(churn, options)?]))
        }
        Command::All(run) => carry_out(run, screen, all),
    }
}

/// Every experiment; none starts when one cannot be written.
fn all(options: &Options) -> Result<Vec<Planned>, ExperimentError> {
    let (loss, ingest, timing, load, churn) = if options.quick {
        (
            Loss::quick(),
            Ingest::quick(),
            Timing::quick(),
            Load::quick(),
            Churn::quick(),
        )
    } else {
        (
            Loss::full(),
            Ingest::full(),
            Timing::full(),
            Load::full(),
            Churn::full(),
        )
    };
    Ok(vec![
        experiment::plan(loss, options)?,
        experiment::plan(ingest, options)?,
        experiment::plan(timing, options)?,
        experiment::plan(load, options)?,
        experiment::plan(churn, options)?,
    ])
}

fn carry_out(
    args: RunArgs,
    screen: &Screen,
    plan: impl FnOnce(&Options) -> Result<Vec<Planned>, ExperimentError>,
) -> Result<(), CliError> {
    let options = Options {
        run: run_options(args.dir, args.flags)?,
        out: args.out,
        seed: args.seed,
        quick: args.quick,
    };
    let planned = plan(&options)?;
    let kept = format!(
        "what was measured is kept in {}; the same command goes on",
        quoted(&options.out)
    );
    let steps = screen.steps();
    let (bar, note) = (
        steps.bar().clone(),
        screen.note_later(format!("interrupted: {kept}")),
    );
    let interrupted = OnInterrupt::run(move || {
        bar.finish_and_clear();
        note();
    });
    let interrupted = interrupted.map_err(CliError::Signals)?;
    let mut measured = false;
    let outcomes = experiment::run(planned, &options, &mut |progress| {
        measured |= progress.done > 0;
        let what = format!("{}: {}", progress.experiment, progress.cell);
        steps.show(progress.done, progress.all, progress.left, what);
    });
    drop(interrupted);
    steps.bar().finish_and_clear();
    match outcomes {
        Ok(outcomes) => {
            let command: Vec<String> = std::env::args().skip(1).collect();
            let command = format!("mutualstore {}", command.join(" "));
            let written = experiment::publish(&outcomes, &options, &command)?;
            print(&options, &outcomes, screen)?;
            if !screen.json {
                screen.line(format!("Report: {}", quoted(&written.html)))?;
            }
            Ok(())
        }
        Err(error) => {
            if measured {
                screen.note(kept);
            }
            Err(error.into())
        }
    }
}

fn print(options: &Options, outcomes: &[Outcome], screen: &Screen) -> Result<(), CliError> {
    if screen.json {
        return screen.document(&serde_json::json!({
            "quick": options.quick,
            "seed": options.seed,
            "out": options.out,
            "report": options.out.join("report.html"),
            "experiments": outcomes,
        }));
    }
    for outcome in outcomes {
        let quick = if outcome.quick {
            ", quick: cut down to be short"
        } else {
            ""
        };
        screen.line(format!(
            "{} ({} cells{quick})\n",
            outcome.experiment, outcome.cells
        ))?;
        for table in outcome
            .findings
            .tables
            .iter()
            .filter(|table| !table.rows.is_empty())
        {
            screen.line(format!("{table}\n"))?;
        }
        for note in &outcome.findings.notes {
            screen.line(note)?;
        }
        screen.line(format!("\nAll readings: {}\n", quoted(&outcome.csv)))?;
    }
    Ok(())
}
