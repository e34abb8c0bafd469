//! Ranges of axes and where their ticks stand: at 1, 2 and 5 times powers of ten.
//!
//! Every range this module gives has a lower end below its upper end, both finite and, on a log axis,
//! above 0.

use itertools::Itertools;

use super::figure::{Axis, Scale, plottable};
use super::text::superscript;
use crate::findings::real;

/// A mark on an axis; small ones have no label.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: Option<String>,
}

/// What an axis is asked to enclose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// A little more than the values, so that markers do not lie on the frame.
    Padded,
    /// From tick to tick, and from 0 when that is near.
    Ticked,
    /// As `Ticked`, from 0.
    FromZero,
    /// Just the values.
    Tight,
}

/// 1, 2, 5 or 10 times a power of ten, the next at or above.
pub(super) fn round_up(value: f64) -> f64 {
    if value.is_nan() || value <= 0.0 {
        return 0.0;
    }
    let power = value.log10().floor();
    // Division is exact where the multiplication by 0.1 is not.
    let scaled = |factor: f64| {
        if power < 0.0 {
            factor / 10_f64.powf(-power)
        } else {
            factor * 10_f64.powf(power)
        }
    };
    let steps = [1.0, 2.0, 5.0, 10.0].map(scaled);
    let enough = steps.iter().find(|step| **step >= value * (1.0 - 1e-9));
    enough.copied().unwrap_or(value)
}

/// Step between at most about `most` ticks.
fn step(low: f64, high: f64, most: usize, whole: bool) -> f64 {
    let step = round_up((high - low) / real(most.max(1)));
    if whole { step.max(1.0) } else { step }
}

/// First and last value of an axis that shows `values`.
pub(super) fn range(axis: &Axis, values: &[f64], room: Room) -> (f64, f64) {
    let log = axis.scale == Scale::Log;
    let possible = |low, high| plottable(low) && plottable(high) && apart(low, high) && (!log || low > 0.0);
    if let Some(range) = axis.range.filter(|(low, high)| possible(*low, *high)) {
        return range;
    }
    let shown = values.iter().copied();
    let shown = shown.filter(|value| plottable(*value) && (!log || *value > 1e-100));
    let Some((low, high)) = shown.minmax().into_option() else {
        return if log { (0.1, 1.0) } else { (0.0, 1.0) };
    };
    if log {
        log_range(low, high, room)
    } else {
        linear_range(low, high, room, axis.scale == Scale::Count)
    }
}

/// Whether two ends are far enough apart to be told from each other.
fn apart(low: f64, high: f64) -> bool {
    high - low > low.abs().max(high.abs()) * 1e-9
}

fn log_range(low: f64, high: f64, room: Room) -> (f64, f64) {
    let (low, high) = (low.log10(), high.log10());
    let (low, high) = match room {
        Room::Padded | Room::Tight if high - low > 1e-9 => {
            let pad = (high - low) * if room == Room::Padded { 0.06 } else { 0.0 };
            (low - pad, high + pad)
        }
        Room::Padded | Room::Tight => (low - 0.5, high + 0.5),
        Room::Ticked | Room::FromZero => {
            if room == Room::Ticked && high - low > 1e-9 && high - low < 1.5 {
                // Whole decades would leave most of the axis empty.
                let (low, high) = (10_f64.powf(low), 10_f64.powf(high));
                return (1.0 / round_up(1.0 / low), round_up(high));
            }
            let (low, high) = ((low + 1e-9).floor(), (high - 1e-9).ceil());
            let pad = if high > low { 0.0 } else { 1.0 };
            (low - pad, high + pad)
        }
    };
    (10_f64.powf(low), 10_f64.powf(high))
}

fn linear_range(low: f64, high: f64, room: Room, whole: bool) -> (f64, f64) {
    let (low, high) = match room {
        Room::FromZero => (low.min(0.0), high.max(0.0)),
        Room::Ticked if low >= 0.0 && low < 0.6 * high => (0.0, high),
        Room::Ticked | Room::Padded | Room::Tight => (low, high),
    };
    let narrow = !apart(low, high);
    if narrow && low.abs() < f64::MIN_POSITIVE {
        return (0.0, 1.0);
    }
    let pad = (low.abs() / 2.0).max(f64::from(u8::from(whole)));
    let pad = if narrow { pad } else { 0.0 };
    let (low, high) = (low - pad, high + pad);
    match room {
        Room::Tight => (low, high),
        Room::Padded => {
            let pad = (high - low) * 0.05;
            (low - pad, high + pad)
        }
        Room::Ticked | Room::FromZero => {
            let step = step(low, high, 5, whole);
            let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
            (first * step, last.max(first + 1.0) * step)
        }
    }
}

/// Ticks within a range, about `most` of them labelled.
pub(super) fn ticks(axis: &Axis, (low, high): (f64, f64), most: usize) -> Vec<Tick> {
    let inside = |value: f64| {
        let slack = (high - low) * 1e-9;
        value >= low - slack && value <= high + slack
    };
    if axis.scale == Scale::Log {
        let found = log_ticks(low, high, most);
        if found.iter().filter(|tick| tick.label.is_some()).count() >= 2 {
            return found;
        }
    }
    let step = step(low, high, most, axis.scale == Scale::Count);
    let first = (low / step - 1e-9).ceil();
    let places = (0..=most.saturating_add(1)).map(|number| (first + real(number)) * step);
    labelled(&places.take_while(|value| inside(*value)).collect::<Vec<_>>())
}

/// Labels with as many digits as the finest of them needs.
fn labelled(places: &[f64]) -> Vec<Tick> {
    let largest = places.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let needs = |digits: usize| {
        let scale = 10_f64.powi(i32::try_from(digits).unwrap_or(0));
        places
            .iter()
            .all(|value| ((value * scale).round() - value * scale).abs() < 1e-6 * scale * largest.min(1.0))
    };
    let digits = (0..=4).find(|digits| needs(*digits));
    let label = |value: f64| match digits {
        _ if value.abs() <= largest * 1e-9 => "0".to_owned(),
        Some(digits) if largest < 1e6 => minus(&format!("{value:.digits$}")),
        Some(_) | None => scientific(value),
    };
    let tick = |value: &f64| Tick {
        value: *value,
        label: Some(label(*value)),
    };
    places.iter().map(tick).collect()
}

/// `2×10⁹`.
fn scientific(value: f64) -> String {
    let rounded = format!("{value:.3e}");
    let (digits, power) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    let power = superscript(power);
    match digits {
        "1" => format!("10{power}"),
        _ => format!("{}×10{power}", minus(digits)),
    }
}

fn minus(text: &str) -> String {
    text.replacen('-', "−", 1)
}

fn log_ticks(low: f64, high: f64, most: usize) -> Vec<Tick> {
    let (first, last) = ((low.log10() - 1e-9).ceil(), (high.log10() + 1e-9).floor());
    let decades = last - first;
    let most = real(most.max(2));
    // Every decade, or every second, third, ...
    let every = ((decades + 1.0) / most).ceil().max(1.0);
    // Short axes have labels at 2 and 5 as well.
    let between = every <= 1.0 && (high / low).log10() * 3.0 <= most + 1.0;
    let plain = low > 0.9e-3 && high < 1.1e4;
    let mut ticks = Vec::new();
    let mut power = first - 1.0;
    while power <= last && ticks.len() < 1000 {
        for factor in 1..10_u8 {
            // Written in decimals and read, for 0.3 rather than 0.30000000000000004.
            let value: f64 = format!("{factor}e{power:.0}").parse().unwrap_or(f64::NAN);
            let mid = factor != 1;
            let inside = value >= low * (1.0 - 1e-9) && value <= high * (1.0 + 1e-9);
            if !inside || (mid && every > 1.0) {
                continue;
            }
            let due = ((power - first) % every).abs() < 0.5;
            let shown = (!mid && due) || (mid && between && matches!(factor, 2 | 5));
            let written = if plain {
                value.to_string()
            } else {
                scientific(value)
            };
            let label = shown.then_some(written);
            ticks.push(Tick { value, label });
        }
        power += 1.0;
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, range: (f64, f64), most: usize) -> Vec<String> {
        ticks(axis, range, most)
            .into_iter()
            .filter_map(|tick| tick.label)
            .collect()
    }

    fn linear() -> Axis {
        Axis::new("x", "s", Scale::Linear)
    }

    fn ranged(axis: Axis, range: (f64, f64)) -> Axis {
        Axis {
            range: Some(range),
            ..axis
        }
    }

    #[test]
    fn ticks_of_a_linear_axis_are_round() {
        assert_eq!(
            labels(&linear(), (0.0, 1.0), 5),
            ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(labels(&linear(), (-3.0, 8.0), 6), ["−2", "0", "2", "4", "6", "8"]);
        assert_eq!(labels(&linear(), (0.0, 3e9), 4), ["0", "10⁹", "2×10⁹", "3×10⁹"]);
        assert_eq!(labels(&linear(), (0.0, 2e-6), 3), ["0", "10⁻⁶", "2×10⁻⁶"]);
        assert_eq!(
            labels(&Axis::new("n", "peers", Scale::Count), (0.0, 2.0), 8),
            ["0", "1", "2"]
        );
    }

    #[test]
    fn ticks_of_a_log_axis_are_decades_with_small_ones_between() {
        let axis = Axis::new("p", "fraction", Scale::Log);
        assert_eq!(labels(&axis, (1e-3, 1.0), 5), ["0.001", "0.01", "0.1", "1"]);
        let all = ticks(&axis, (1e-3, 1.0), 5);
        assert_eq!(all.len(), 28);
        assert!(all.windows(2).all(|pair| pair[0].value < pair[1].value));
        assert_eq!(
            labels(&axis, (1e-8, 1.0), 5),
            ["10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²", "10⁰"]
        );
        assert_eq!(labels(&axis, (2.5, 30.0), 5), ["5", "10", "20"]);
        assert_eq!(labels(&axis, (31.0, 39.0), 4), ["32", "34", "36", "38"]);
        assert_eq!(labels(&axis, (1e-100, 1.0), 4).len(), 4);
    }

    #[test]
    fn axis_of_any_values_has_a_range() {
        let log = Axis::new("y", "s", Scale::Log);
        let hard: [&[f64]; 8] = [
            &[],
            &[0.0, 0.0],
            &[5.0],
            &[-7.0],
            &[f64::NAN, f64::INFINITY],
            &[1e15, 1e15 + 1.0],
            &[-1e100, 1e100],
            &[1e-300],
        ];
        for values in hard {
            for room in [Room::Padded, Room::Ticked, Room::FromZero, Room::Tight] {
                for axis in [&linear(), &log, &Axis::new("n", "peers", Scale::Count)] {
                    let (low, high) = range(axis, values, room);
                    assert!(
                        low < high && low.is_finite() && high.is_finite(),
                        "{values:?} {room:?}"
                    );
                    assert!(axis.scale != Scale::Log || low > 0.0, "{values:?} {room:?}");
                    let count = labels(axis, (low, high), 6).len();
                    assert!(
                        (1..=8).contains(&count),
                        "{count} ticks for {values:?} {room:?} {axis:?}"
                    );
                }
            }
        }
        assert_eq!(range(&linear(), &[0.0, 0.0], Room::Ticked), (0.0, 1.0));
        assert_eq!(range(&linear(), &[1.0, 9.3], Room::Ticked), (0.0, 10.0));
        let (low, high) = range(&log, &[0.9, 3.0], Room::Ticked);
        assert!(
            (low - 0.5).abs() < 1e-9 && (high - 5.0).abs() < 1e-9,
            "{low} {high}"
        );
        assert_eq!(range(&linear(), &[95.0, 99.0], Room::FromZero), (0.0, 100.0));
    }

    #[test]
    fn axis_of_an_impossible_range_ignores_it() {
        let values = [1.0, 10.0];
        for bad in [(3.0, 3.0), (5.0, 1.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
            let axis = ranged(linear(), bad);
            assert_eq!(range(&axis, &values, Room::Tight), (1.0, 10.0), "{bad:?}");
        }
        assert!(
            range(
                &ranged(Axis::new("y", "s", Scale::Log), (0.0, 1.0)),
                &values,
                Room::Tight
            )
            .0 > 0.9
        );
        assert_eq!(
            range(&ranged(linear(), (2.0, 4.0)), &values, Room::Ticked),
            (2.0, 4.0)
        );
    }

    #[test]
    fn rounding_up_gives_1_2_or_5() {
        for (value, round) in [
            (0.3, 0.5),
            (1.0, 1.0),
            (1.1, 2.0),
            (7.0, 10.0),
            (0.1, 0.1),
            (2e-7, 2e-7),
            (0.0, 0.0),
        ] {
            let found = round_up(value);
            assert!((found - round).abs() <= round * 1e-12, "{value} {found}");
        }
        assert!(round_up(f64::NAN) < 1.0);
    }
}
