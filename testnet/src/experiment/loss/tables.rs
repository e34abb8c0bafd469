//! What `loss` found.

use super::{Loss, Reading};
use crate::experiment::Findings;

pub(super) fn findings(_loss: &Loss, _readings: &[Reading]) -> Findings {
    Findings::default()
}
