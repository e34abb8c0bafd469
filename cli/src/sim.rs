//! `testnet sim ...`: runs of the simulator and what came of them.

mod measure;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use mutualstore_contract::exit;
use mutualstore_sim::Flaw;
use mutualstore_sim::fuzz::{self, Batch};
use mutualstore_sim::injector::{self, Outcome};
use mutualstore_sim::scenario::Scenario;

use crate::output::{CliError, Screen};
use crate::testnet::quoted;

/// The longest scenario file, in bytes.
const LONGEST: u64 = 1 << 20;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run scenarios from files (`sim fuzz --print` prints one, testnet/scenarios has more)
    Run(RunArgs),
    /// Run random scenarios; the first that breaks an invariant is told with its replay
    Fuzz(FuzzArgs),
    /// Measure the ring as the Chord papers did, next to what they published: tables (a) to (g)
    Tables(TablesArgs),
    /// One large ring: a storm of joins, a tenth dies, many lookups; time and memory of each stage
    Scale(ScaleArgs),
}

#[derive(clap::Args, Debug)]
struct RunArgs {
    /// Scenario files, `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Seed of all chances [default: the one in the file, or 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Plant this flaw in every peer; `sim fuzz --flaw list` names them. Only in builds with `--features
    /// flaws`
    #[arg(long, value_name = "NAME")]
    flaw: Option<String>,
}

#[derive(clap::Args, Debug)]
struct FuzzArgs {
    /// How many scenarios
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// About how many peers in each
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(2..=2000))]
    peers: u16,
    /// Seed of the first; the others follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plant this flaw in every peer, until it is caught; `list` names them. Only in builds with `--features
    /// flaws`
    #[arg(long, value_name = "NAME")]
    flaw: Option<String>,
    /// Records alone, without shards: what devices say of names, with everything else within a minute
    #[arg(long)]
    records: bool,
    /// Print the scenario of the first seed as a file, and run nothing
    #[arg(long, conflicts_with_all = ["json", "seeds"])]
    print: bool,
}

#[derive(clap::Args, Debug)]
struct TablesArgs {
    /// Tables to measure, (e) is a column of (a) to (c) [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LETTERS")]
    only: Vec<char>,
    /// Lines of comma-separated values instead of aligned columns
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Smaller networks and fewer lookups than published: a look in a minute
    #[arg(long)]
    quick: bool,
    /// Seed of all chances
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(clap::Args, Debug)]
struct ScaleArgs {
    /// Number of simulated peers
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(2..=200_000))]
    peers: u32,
    /// Virtual nodes of each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    virtual_nodes: u16,
    /// Lookups in the end
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    lookups: u64,
    /// Seed of all chances
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: Args, screen: &Screen) -> Result<(), CliError> {
    match args.command {
        Command::Run(args) => play(&args, screen),
        Command::Fuzz(args) => fuzz(&args, screen),
        Command::Tables(args) => measure::tables(&args, screen),
        Command::Scale(args) => measure::scale(&args, screen),
    }
}

fn play(args: &RunArgs, screen: &Screen) -> Result<(), CliError> {
    let mut scenarios = Vec::new();
    for file in &args.files {
        let text = read(file)?;
        let scenario = Scenario::parse(&text)
            .map_err(|error| CliError::Usage(format!("{}: {error}; nothing was run", file.display())))?;
        scenarios.push((file, scenario));
    }
    let flaw = args.flaw.as_deref().map(planted).transpose()?;
    let mut batch = Batch::default();
    let mut failures = Vec::new();
    for (file, scenario) in scenarios {
        let seed = args.seed.or(scenario.seed).unwrap_or(1);
        let begun = Instant::now();
        let outcome = injector::run(&scenario, seed, flaw);
        if !screen.json {
            screen.line(format!(
                "{}: {}; {} events, {:.0} s of virtual time in {:.2} s, {} stripes and {} records \
                 acknowledged, trace {:016x}",
                scenario.title.replace(char::is_control, " "),
                match outcome.violation {
                    None => format!("holds, all well {:.0} s after the last fault", outcome.settled_s),
                    Some(_) => "BROKEN".to_owned(),
                },
                outcome.events,
                outcome.virtual_s,
                begun.elapsed().as_secs_f64(),
                outcome.acknowledged,
                outcome.recorded,
                outcome.trace,
            ))?;
        }
        let planted = option(args.flaw.as_ref());
        let replay = format!(
            "mutualstore testnet sim run {} --seed {seed}{planted}",
            quoted(file)
        );
        if outcome.violation.is_some() {
            failures.push((seed, outcome.clone(), replay));
        }
        batch.add(seed, outcome);
    }
    finish(&batch, &failures, screen)
}

/// The option that plants the flaw again.
fn option(flaw: Option<&String>) -> String {
    flaw.map_or_else(String::new, |name| format!(" --flaw {name}"))
}

fn read(file: &PathBuf) -> Result<String, CliError> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(LONGEST + 1).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text))
    };
    let problem = match read {
        Ok(length) if length as u64 <= LONGEST => return Ok(text),
        Ok(_) => format!("it is longer than {LONGEST} bytes"),
        Err(error) => error.to_string(),
    };
    Err(CliError::Usage(format!(
        "cannot read {}: {problem}; nothing was run",
        file.display()
    )))
}

fn fuzz(args: &FuzzArgs, screen: &Screen) -> Result<(), CliError> {
    let peers = usize::from(args.peers);
    let draw = if args.records {
        fuzz::draw_records
    } else {
        fuzz::draw
    };
    if args.print {
        return screen.line(draw(args.seed, peers).to_toml());
    }
    let flaw = match &args.flaw {
        Some(name) if name == "list" => {
            let names: Vec<&str> = Flaw::ALL.iter().map(|(name, _)| *name).collect();
            if screen.json {
                return screen.document(&serde_json::json!({ "flaws": names }));
            }
            return names.iter().try_for_each(|name| screen.line(name));
        }
        Some(name) => Some(planted(name)?),
        None => None,
    };
    if args.seed.checked_add(args.seeds - 1).is_none() {
        return Err(CliError::Usage(format!(
            "seeds end at {}: {} from {} on are too many; nothing was run",
            u64::MAX,
            args.seeds,
            args.seed
        )));
    }
    let begun = Instant::now();
    let bar = screen.counter(args.seeds);
    let batch = fuzz::batch((args.seed, args.seeds), (draw, peers), flaw, &|batch: &Batch| {
        bar.set_position(batch.seeds);
        flaw.is_some() && !batch.failures.is_empty()
    });
    bar.finish_and_clear();
    let planted = option(args.flaw.as_ref());
    let records = if args.records { " --records" } else { "" };
    let with_replay = |(seed, outcome): &(u64, Outcome)| {
        let replay =
            format!("mutualstore testnet sim fuzz{records} --seeds 1 --peers {peers} --seed {seed}{planted}");
        (*seed, outcome.clone(), replay)
    };
    let failures: Vec<_> = batch.failures.iter().map(with_replay).collect();
    if !screen.json {
        let took = begun.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = batch.events as f64 / took / 1e6;
        screen.line(format!(
            "{} scenarios: {} broken; {} events, {:.0} s of virtual time in {took:.1} s ({rate:.2} million \
             events/s, {:.0} times real time), {} stripes and {} records acknowledged, trace {:016x}",
            batch.seeds,
            batch.failures.len(),
            batch.events,
            batch.virtual_s,
            batch.virtual_s / took,
            batch.acknowledged,
            batch.recorded,
            batch.trace,
        ))?;
    }
    finish(&batch, &failures, screen)
}

fn planted(name: &str) -> Result<Flaw, CliError> {
    let known = Flaw::ALL.iter().find(|(known, _)| *known == name);
    match known {
        Some((_, flaw)) if cfg!(feature = "flaws") => Ok(*flaw),
        Some(_) => Err(CliError::Usage(
            "this build has no planted flaws; build one with `--features flaws`".to_owned(),
        )),
        None => Err(CliError::Usage(format!(
            "no flaw is called {name:?}; `--flaw list` names them"
        ))),
    }
}

/// A failure as a person wants to read it.
fn explained(seed: u64, outcome: &Outcome, replay: &str) -> String {
    let mut text = String::new();
    for line in &outcome.recent {
        writeln!(text, "  {line}").unwrap_or_default();
    }
    if let Some(violation) = &outcome.violation {
        writeln!(
            text,
            "seed {seed}: {} invariant broken at {:.6} s: {}\n  {}\nreplay: {replay}",
            violation.part, violation.at, violation.invariant, violation.detail
        )
        .unwrap_or_default();
    }
    text
}

fn finish(batch: &Batch, failures: &[(u64, Outcome, String)], screen: &Screen) -> Result<(), CliError> {
    if screen.json {
        let failures: Vec<serde_json::Value> = failures
            .iter()
            .filter_map(|(seed, outcome, replay)| {
                let violation = outcome.violation.as_ref()?;
                Some(serde_json::json!({
                    "seed": seed, "part": violation.part, "invariant": violation.invariant,
                    "at_s": violation.at, "detail": violation.detail, "replay": replay,
                    "last_events": outcome.recent,
                }))
            })
            .collect();
        screen.document(&serde_json::json!({
            "seeds": batch.seeds, "failures": failures, "events": batch.events,
            "acknowledged": batch.acknowledged, "work": batch.work,
            "virtual_s": batch.virtual_s, "trace_hash": format!("{:016x}", batch.trace),
        }))?;
    }
    if !screen.json {
        for (seed, outcome, replay) in failures {
            screen.complaint(explained(*seed, outcome, replay));
        }
    }
    match failures.len() {
        0 => Ok(()),
        broken => Err(CliError::Found {
            code: exit::UNEXPECTED,
            message: format!("{broken} of {} scenarios broke an invariant", batch.seeds),
        }),
    }
}
