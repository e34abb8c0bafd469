//! `testnet sim tables` and `testnet sim scale`.

use mutualstore_contract::exit;
use mutualstore_daemon::wire::peer::{PeerRequest, PeerResponse};
use mutualstore_sim::lab::Weighed;
use mutualstore_sim::scale::{self, Size, Stage};
use mutualstore_sim::tables::{self, Sizes, Table};

use super::{ScaleArgs, TablesArgs};
use crate::output::{CliError, Rows, Screen};

/// Bytes of a message as the daemon sends it.
fn weigh(message: Weighed<'_>) -> usize {
    match message {
        Weighed::Request(request) => PeerRequest::Ring(request.clone()).encode().len(),
        Weighed::Response(response) => PeerResponse::Ring(response.clone()).encode().len(),
    }
}

pub(super) fn tables(args: &TablesArgs, screen: &Screen) -> Result<(), CliError> {
    let wanted = if args.only.is_empty() {
        tables::ALL.to_vec()
    } else {
        args.only.clone()
    };
    if let Some(unknown) = wanted.iter().find(|name| !tables::ALL.contains(name)) {
        return Err(CliError::Usage(format!(
            "there is no table {unknown:?}; there are a, b, c (each with e), d, f and g"
        )));
    }
    let sizes = Sizes {
        seed: args.seed,
        ..if args.quick {
            Sizes::quick()
        } else {
            Sizes::default()
        }
    };
    let mut documents = Vec::new();
    for name in wanted {
        let spinner = screen.spinner(&format!("measuring table ({name})"));
        let table = tables::measure(name, sizes, weigh);
        spinner.finish_and_clear();
        let Some(table) = table else { continue };
        if screen.json {
            documents.push(serde_json::json!({
                "table": name.to_string(), "title": table.title, "columns": table.columns, "rows": table.rows,
            }));
        } else if args.csv {
            screen.line(table.csv().trim_end())?;
        } else {
            show(&table, screen)?;
        }
    }
    if screen.json {
        screen.document(&serde_json::json!({ "tables": documents }))?;
    }
    Ok(())
}

fn show(table: &Table, screen: &Screen) -> Result<(), CliError> {
    screen.line(format!("({}) {}", table.name, table.title))?;
    screen.table(&Rows::numbers(&table.columns, &table.rows))?;
    screen.line("")
}

/// More virtual nodes in all are more than a machine holds.
const MOST_NODES: u32 = 4_000_000;

pub(super) fn scale(args: &ScaleArgs, screen: &Screen) -> Result<(), CliError> {
    let nodes = args.peers.saturating_mul(u32::from(args.virtual_nodes));
    if nodes > MOST_NODES {
        return Err(CliError::Usage(format!(
            "{nodes} virtual nodes in all are too many, expected at most {MOST_NODES}; each takes about 100 \
             KiB"
        )));
    }
    let size = Size {
        peers: args.peers as usize,
        virtual_nodes: args.virtual_nodes,
        lookups: args.lookups,
        seed: args.seed,
    };
    let mut stages: Vec<Stage> = Vec::new();
    let mut shown = Ok(());
    scale::run(size, |stage| {
        if !screen.json && shown.is_ok() {
            shown = screen.line(stage_line(&stage));
        }
        stages.push(stage);
    });
    shown?;
    if screen.json {
        let stages: Vec<serde_json::Value> = stages.iter().map(document).collect();
        screen.document(&serde_json::json!({ "stages": stages }))?;
    }
    match stages.iter().find(|stage| !stage.well) {
        None => Ok(()),
        Some(stage) => Err(CliError::Found {
            code: exit::UNEXPECTED,
            message: format!("{}: not all was as it should be in the end", stage.what),
        }),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn stage_line(stage: &Stage) -> String {
    let took = stage.took.as_secs_f64();
    format!(
        "{}: {:.0} s of virtual time in {took:.1} s ({:.2} times real time), {} events ({:.2} million/s), \
         {:.2} GiB, {:.1} KiB per virtual node",
        stage.what,
        stage.virtual_s,
        stage.virtual_s / took,
        stage.events,
        stage.events as f64 / took / 1e6,
        stage.memory as f64 / f64::from(1 << 30),
        stage.per_node as f64 / 1024.0,
    )
}

fn document(stage: &Stage) -> serde_json::Value {
    serde_json::json!({
        "what": stage.what, "virtual_s": stage.virtual_s, "seconds": stage.took.as_secs_f64(),
        "events": stage.events, "memory_bytes": stage.memory, "bytes_per_virtual_node": stage.per_node,
        "well": stage.well,
    })
}
