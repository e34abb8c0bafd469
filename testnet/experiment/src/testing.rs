//! An experiment without daemons, for the tests of what carries experiments out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use mutualstore_fleet::net::FleetError;

use super::{Experiment, Findings, Result, Stage};

#[derive(Debug, Serialize)]
pub(super) struct Squares {
    pub(super) cells: u64,
    #[serde(skip)]
    pub(super) fails_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Square {
    pub(super) number: u64,
    pub(super) square: u64,
}

impl Experiment for Squares {
    const NAME: &'static str = "squares";
    type Cell = u64;
    type Reading = Square;

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn cells(&self) -> Vec<u64> {
        (0..self.cells).collect()
    }

    fn cost(&self, _: &u64) -> Duration {
        Duration::from_secs(1)
    }

    fn label(&self, cell: &u64) -> String {
        format!("cell {cell}")
    }

    fn measure(&mut self, cell: &u64, _: &mut Stage) -> Result<Vec<Square>> {
        if self.fails_at == Some(*cell) {
            return Err(FleetError::Unavailable("no end".to_owned()).into());
        }
        Ok(vec![Square {
            number: *cell,
            square: cell * cell,
        }])
    }

    fn findings(&self, readings: &[Square]) -> Findings {
        Findings {
            notes: vec![format!("{} readings", readings.len())],
            ..Findings::default()
        }
    }
}
