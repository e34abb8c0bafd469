//! Carries experiments out: cell after cell, each kept before the next, with an eye on what is left.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::findings::{Histogram, distinct};
use super::journal::{Done, Journal};
use super::pace::{Pace, Progress};
use super::stage::Stage;
use super::{Experiment, ExperimentError, Findings, Options, Result};
use mutualstore_fleet::stream::replace;

/// Is told how far a run is.
pub type ProgressSink<'a> = &'a mut dyn FnMut(&Progress<'_>);

/// An experiment whose results can be written and whose cells are known.
#[derive(Debug)]
pub struct Planned(Box<dyn CarryOut>);

/// A [`Plan`] of any experiment.
trait CarryOut: std::fmt::Debug {
    fn announce(&self, pace: &mut Pace);
    fn carry_out(&mut self, stage: &mut Stage, pace: &mut Pace, sink: ProgressSink<'_>) -> Result<Outcome>;
}

/// What came of an experiment.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub experiment: &'static str,
    /// Whether it was cut down to be short.
    pub quick: bool,
    /// All parameters.
    pub parameters: Value,
    /// Cells measured.
    pub cells: usize,
    /// Every reading.
    pub csv: PathBuf,
    /// What the readings say.
    #[serde(flatten)]
    pub findings: Findings,
    /// How readings are distributed, where that was worth looking at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub histograms: Vec<Histogram>,
}

#[derive(Debug)]
struct Plan<E: Experiment> {
    experiment: E,
    quick: bool,
    parameters: Value,
    csv: PathBuf,
    journal: Journal,
    done: Vec<Done<E::Cell, E::Reading>>,
    cells: Vec<E::Cell>,
}

/// The first column.
#[derive(Serialize)]
struct Mark {
    quick: bool,
}

#[derive(Serialize)]
struct Parameters<'a, E> {
    seed: u64,
    quick: bool,
    flags: &'a [String],
    #[serde(flatten)]
    own: &'a E,
}

/// Checks the parameters, opens the directory of results and finds what is left to measure. Starts nothing.
pub fn plan<E: Experiment + 'static>(experiment: E, options: &Options) -> Result<Planned> {
    experiment.check()?;
    let parameters = serde_json::to_value(Parameters {
        seed: options.seed,
        quick: options.quick,
        flags: &options.run.flags,
        own: &experiment,
    });
    let parameters = parameters.map_err(|error| ExperimentError::Usage(error.to_string()))?;
    let (journal, done) = Journal::open::<E>(&options.out, &parameters)?;
    let csv = options.out.join(format!("{}.csv", E::NAME));
    let plan = Plan {
        cells: distinct(experiment.cells()),
        quick: options.quick,
        parameters,
        csv,
        journal,
        done,
        experiment,
    };
    plan.write_csv()?;
    Ok(Planned(Box::new(plan)))
}

/// Measures what is left of all `planned`, one after the other.
pub fn run(planned: Vec<Planned>, options: &Options, progress: ProgressSink<'_>) -> Result<Vec<Outcome>> {
    let mut pace = Pace::default();
    for Planned(plan) in &planned {
        plan.announce(&mut pace);
    }
    let mut stage = Stage::new(options);
    let carry_out = |Planned(mut plan)| plan.carry_out(&mut stage, &mut pace, progress);
    planned.into_iter().map(carry_out).collect()
}

impl<E: Experiment> Plan<E> {
    fn measure(&mut self, cell: &E::Cell, stage: &mut Stage) -> Result<()> {
        let begun = Instant::now();
        let readings = self.experiment.measure(cell, stage)?;
        stage.interrupted()?;
        let done = Done {
            cell: cell.clone(),
            took_seconds: begun.elapsed().as_secs_f64(),
            readings,
        };
        self.journal.append(&done)?;
        self.done.push(done);
        self.write_csv()
    }

    /// In one step, so that a reader sees it whole.
    fn write_csv(&self) -> Result<()> {
        let mark = Mark { quick: self.quick };
        let write = || -> io::Result<()> {
            let mut writer = csv::Writer::from_writer(Vec::new());
            for row in self.done.iter().flat_map(|done| &done.readings) {
                writer.serialize((&mark, row))?;
            }
            let text = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
            replace(&self.csv, &text)
        };
        write().map_err(ExperimentError::out(&self.csv))
    }
}

impl<E: Experiment> CarryOut for Plan<E> {
    fn announce(&self, pace: &mut Pace) {
        for cell in &self.cells {
            pace.add(self.experiment.cost(cell));
        }
        for done in self.done.iter().filter(|done| self.cells.contains(&done.cell)) {
            pace.finish(self.experiment.cost(&done.cell), done.took());
        }
    }

    fn carry_out(&mut self, stage: &mut Stage, pace: &mut Pace, sink: ProgressSink<'_>) -> Result<Outcome> {
        let is_done = |cell: &&E::Cell| self.done.iter().any(|done| done.cell == **cell);
        let left: Vec<E::Cell> = self.cells.iter().filter(|cell| !is_done(cell)).cloned().collect();
        for cell in left {
            let label = self.experiment.label(&cell);
            let (done, all) = pace.count();
            sink(&Progress {
                experiment: E::NAME,
                cell: &label,
                done,
                all,
                left: pace.left(),
            });
            let begun = Instant::now();
            self.measure(&cell, stage)
                .map_err(|error| error.of(&format!("{} {label}", E::NAME)))?;
            pace.finish(self.experiment.cost(&cell), begun.elapsed());
        }
        stage.close();
        let done = std::mem::take(&mut self.done);
        let readings: Vec<E::Reading> = done.into_iter().flat_map(|done| done.readings).collect();
        Ok(Outcome {
            experiment: E::NAME,
            quick: self.quick,
            parameters: self.parameters.clone(),
            cells: self.cells.len(),
            csv: self.csv.clone(),
            findings: self.experiment.findings(&readings),
            histograms: self.experiment.histograms(&readings),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::testing::Squares;
    use mutualstore_fleet::scratch::RunOptions;

    fn options(out: &Path) -> Options {
        Options {
            run: RunOptions {
                binary: "/bin/false".into(),
                ..RunOptions::default()
            },
            out: out.to_owned(),
            seed: 7,
            quick: true,
        }
    }

    fn squares(cells: u64, fails_at: Option<u64>) -> Squares {
        Squares { cells, fails_at }
    }

    #[test]
    fn run_after_a_failure_goes_on_there() {
        let out = tempfile::tempdir().unwrap();
        let options = options(out.path());
        let mut seen = Vec::new();
        let mut note =
            |progress: &Progress<'_>| seen.push((progress.done, progress.all, progress.cell.to_owned()));
        let planned = vec![plan(squares(5, Some(3)), &options).unwrap()];
        let error = run(planned, &options, &mut note).unwrap_err();
        assert!(error.to_string().starts_with("squares cell 3: "), "{error}");
        let csv = out.path().join("squares.csv");
        let kept = "quick,number,square\ntrue,0,0\ntrue,1,1\ntrue,2,4\n";
        assert_eq!(fs::read_to_string(&csv).unwrap(), kept);

        let planned = vec![plan(squares(5, None), &options).unwrap()];
        let outcome = run(planned, &options, &mut note).unwrap();
        let cells: Vec<_> = seen
            .iter()
            .map(|(done, all, cell)| (*done, *all, cell.as_str()))
            .collect();
        let expected = [
            (0, 5, "cell 0"),
            (1, 5, "cell 1"),
            (2, 5, "cell 2"),
            (3, 5, "cell 3"),
        ];
        assert_eq!(cells[..4], expected);
        assert_eq!(cells[4..], [(3, 5, "cell 3"), (4, 5, "cell 4")]);
        assert_eq!(
            fs::read_to_string(&csv).unwrap(),
            format!("{kept}true,3,9\ntrue,4,16\n")
        );
        assert_eq!(outcome[0].findings.notes, ["5 readings"]);
        assert!(outcome[0].quick);
        assert_eq!(outcome[0].parameters["seed"], 7);

        let error = plan(squares(6, None), &options).unwrap_err();
        assert!(error.to_string().contains("cells 5, not 6"), "{error}");
    }

    #[test]
    fn unwritable_csv_is_refused_before_anything_starts() {
        let out = tempfile::tempdir().unwrap();
        fs::create_dir(out.path().join("squares.csv")).unwrap();
        let error = plan(squares(1, None), &options(out.path())).unwrap_err();
        assert!(matches!(error, ExperimentError::Out { .. }), "{error}");
    }
}
