//! Sizes, rates, durations and switches as people write them on the command line and in the configuration.
//!
//! A size shows rounded, for people; its alternate form (`{:#}`) is exact and reads back to the same value,
//! as all rates and durations do. Units are read in any case; a bare `K`, `M`, `G`, `T`, `P` is decimal, as
//! in `dd` and `df -H`. Durations have humantime's form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// Units of a size, greatest first within each family, with their bytes.
const SIZE_UNITS: [(&str, u64); 16] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("K", 1_000),
];

/// Units of a rate in bits, with their *bits* per second.
const BIT_UNITS: [(&str, u64); 4] = [
    ("Gbit", 1_000_000_000),
    ("Mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
];

/// An amount of bytes: `64KiB`, `10MiB`, `1.5GiB`, `10GB`, `123`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// An amount of bytes per second: `100Mbit`, `10MiB`, `10MiB/s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

/// A duration: `90s`, `15m`, `1h 30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(pub Duration);

/// So many of a thing that has a regular plural: `1 peer`, `2 peers`.
pub fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{end}")
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Switch {
    /// The word is `on`.
    On,
    /// The word is `off`.
    Off,
}

impl Switch {
    /// Whether it is `on`.
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

/// Why a text is no size, rate, duration or switch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// It does not begin with a decimal number.
    #[error("'{text}' is not a number with a unit (examples: {examples})")]
    Number {
        /// What was given.
        text: String,
        /// What would have done.
        examples: &'static str,
    },
    /// The letters after the number are no unit.
    #[error("'{unit}' in '{text}' is not a unit (examples: {examples})")]
    Unit {
        /// The letters.
        unit: String,
        /// What was given.
        text: String,
        /// What would have done.
        examples: &'static str,
    },
    /// More than 2^64 - 1 bytes.
    #[error("'{text}' is more than 16 EiB")]
    TooLarge {
        /// What was given.
        text: String,
    },
    /// No sum of numbers with units of time.
    #[error("'{text}' is not a duration (90s, 15m, 1h): {why}")]
    TimeSpan {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Neither `on` nor `off`.
    #[error("'{text}' is neither on nor off")]
    Switch {
        /// What was given.
        text: String,
    },
}

const SIZE_EXAMPLES: &str = "64KiB, 10MiB, 2GiB, 10GB";
const RATE_EXAMPLES: &str = "100Mbit, 10MiB/s";

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text, SIZE_EXAMPLES)?;
        let bytes = size_unit(unit).ok_or_else(|| UnitError::Unit {
            unit: unit.to_owned(),
            text: text.to_owned(),
            examples: SIZE_EXAMPLES,
        })?;
        scale(text, number, bytes, SIZE_EXAMPLES).map(Self)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text, RATE_EXAMPLES)?;
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let bits = BIT_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, bits)| *bits);
        if let Some(bits) = bits {
            return scale(text, number, bits, RATE_EXAMPLES).map(|bits| Self(bits / 8));
        }
        let bytes = size_unit(unit).ok_or_else(|| UnitError::Unit {
            unit: unit.to_owned(),
            text: text.to_owned(),
            examples: RATE_EXAMPLES,
        })?;
        scale(text, number, bytes, RATE_EXAMPLES).map(Self)
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let parsed = humantime::parse_duration(text);
        parsed.map(Self).map_err(|error| UnitError::TimeSpan {
            text: text.to_owned(),
            why: error.to_string(),
        })
    }
}

impl FromStr for Switch {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text.trim().to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" => Ok(Self::On),
            "off" | "false" | "no" => Ok(Self::Off),
            _ => Err(UnitError::Switch {
                text: text.to_owned(),
            }),
        }
    }
}

/// The number of `text`, digits and at most one point, and what follows it.
fn split<'a>(text: &'a str, examples: &'static str) -> Result<(&'a str, &'a str), UnitError> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.starts_with(|c: char| c.is_ascii_digit()) {
        Ok((number, unit.trim_start()))
    } else {
        Err(UnitError::Number {
            text: text.to_owned(),
            examples,
        })
    }
}

fn size_unit(unit: &str) -> Option<u64> {
    if unit.is_empty() {
        return Some(1);
    }
    SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, bytes)| *bytes)
}

/// `number × unit`, fractions of a byte dropped.
fn scale(text: &str, number: &str, unit: u64, examples: &'static str) -> Result<u64, UnitError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = fraction.get(..fraction.len().min(9)).unwrap_or(fraction);
    let malformed = || UnitError::Number {
        text: text.to_owned(),
        examples,
    };
    let too_large = || UnitError::TooLarge {
        text: text.to_owned(),
    };
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let numerator: u128 = digits.parse().map_err(|_| malformed())?;
    let denominator = 10u128.pow(u32::try_from(digits.len()).map_err(|_| malformed())?);
    let bytes = u128::from(whole) * u128::from(unit) + numerator * u128::from(unit) / denominator;
    u64::try_from(bytes).map_err(|_| too_large())
}

impl fmt::Display for Size {
    /// Rounded down to one decimal, `1.5 GiB`; `{:#}` is exact, in the greatest binary unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let mut binary = SIZE_UNITS.iter().take(5);
        if f.alternate() {
            let exact = binary.find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
            return match exact {
                None => write!(f, "{bytes}"),
                Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
            };
        }
        let Some((name, unit)) = binary.find(|(_, unit)| bytes >= *unit) else {
            return f.pad(&format!("{bytes} B"));
        };
        let (whole, rest) = (bytes / unit, u128::from(bytes % unit));
        let tenths = rest * 10 / u128::from(*unit);
        // Exact multiples and large numbers need no decimal: `64 KiB`, not `64.0 KiB`.
        if tenths == 0 || whole >= 100 {
            f.pad(&format!("{whole} {name}"))
        } else {
            f.pad(&format!("{whole}.{tenths} {name}"))
        }
    }
}

impl fmt::Display for Rate {
    /// In `Mbit` or `kbit` where that is exact, else as a size per second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MBIT: u64 = 125_000;
        const KBIT: u64 = 125;
        let in_bits = self.0 > 0 && self.0.checked_mul(8).is_some();
        if in_bits && self.0.is_multiple_of(MBIT) {
            write!(f, "{}Mbit", self.0 / MBIT)
        } else if in_bits && self.0.is_multiple_of(KBIT) {
            write!(f, "{}kbit", self.0 / KBIT)
        } else {
            write!(f, "{:#}/s", Size(self.0))
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// Reads a value from text, or from the plain TOML type where one is unambiguous.
struct FromText<T> {
    expected: &'static str,
    number: Option<fn(u64) -> T>,
    boolean: Option<fn(bool) -> T>,
}

impl<T> FromText<T> {
    const fn new(expected: &'static str) -> Self {
        Self {
            expected,
            number: None,
            boolean: None,
        }
    }
}

impl<T: FromStr<Err = UnitError>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        match self.number {
            Some(make) => Ok(make(value)),
            None => Err(E::invalid_type(de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
        }
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        match self.boolean {
            Some(make) => Ok(make(value)),
            None => Err(E::invalid_type(de::Unexpected::Bool(value), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText {
            number: Some(Self),
            ..FromText::new("a size such as \"10GiB\" or a number of bytes")
        })
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new("a rate such as \"100Mbit\" or \"10MiB/s\""))
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new("a string such as \"90s\" or \"15m\""))
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText {
            boolean: Some(|on| if on { Self::On } else { Self::Off }),
            ..FromText::new("\"on\" or \"off\"")
        })
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:#}"))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Switch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn count_of_one_is_singular() {
        let counts = [0, 1, 2].map(|count: usize| super::counted(count, "peer"));
        assert_eq!(counts, ["0 peers", "1 peer", "2 peers"]);
    }

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn size_with_a_known_unit_is_read() {
        for (text, bytes) in [
            ("123", 123),
            ("64KiB", 65_536),
            ("10MiB", 10 << 20),
            ("2GiB", 2 << 30),
            ("10GB", 10_000_000_000),
            ("1.5 GiB", 3 << 29),
            ("10M", 10_000_000),
            ("1tib", 1 << 40),
            ("0.5kb", 500),
            ("0", 0),
            (" 7 B ", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn size_that_is_none_says_what_is_wrong() {
        for text in ["", "GiB", "-1", "ten", ".5MiB", "1.MiB", "1..5MiB", "1.2.3"] {
            assert!(
                matches!(text.parse::<Size>(), Err(UnitError::Number { .. })),
                "{text}"
            );
        }
        for text in ["10Mi", "10 apples", "1,5GiB", "10Mbit", "1e9"] {
            assert!(
                matches!(text.parse::<Size>(), Err(UnitError::Unit { .. })),
                "{text}"
            );
        }
        for text in ["16384PiB", "18446744073709551616", "99999999999999999999999999"] {
            assert!(
                matches!(text.parse::<Size>(), Err(UnitError::TooLarge { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn rate_is_read_as_bytes_per_second() {
        for (text, bytes) in [
            ("100Mbit", 12_500_000),
            ("1gbit/s", 125_000_000),
            ("10MiB/s", 10 << 20),
            ("10MiB", 10 << 20),
            ("1000", 1000),
        ] {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
        assert!("fast".parse::<Rate>().is_err());
        assert_eq!(Rate(12_500_000).to_string(), "100Mbit");
        assert_eq!(Rate(10 << 20).to_string(), "10MiB/s");
        assert_eq!(Rate(124_875).to_string(), "999kbit");
    }

    #[test]
    fn size_shows_rounded_down() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (65_536, "64 KiB"),
            (3 << 29, "1.5 GiB"),
            ((100 << 20) - 1, "99.9 MiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}", Size(1)), "     1 B");
    }

    #[test]
    fn duration_without_a_unit_is_none_and_says_so() {
        assert_eq!("1h 30m".parse(), Ok(TimeSpan(Duration::from_mins(90))));
        for text in ["", "5", "soon"] {
            let error = text.parse::<TimeSpan>().unwrap_err().to_string();
            assert!(error.contains("is not a duration"), "{error}");
        }
    }

    #[test]
    fn switch_is_on_or_off() {
        assert_eq!("on".parse(), Ok(Switch::On));
        assert_eq!("OFF".parse(), Ok(Switch::Off));
        assert!("maybe".parse::<Switch>().is_err());
    }

    proptest! {
        #[test]
        fn exact_forms_read_back(bytes: u64, shift in 0u32..60) {
            for bytes in [bytes, bytes >> shift, (bytes >> shift).rotate_left(20)] {
                prop_assert_eq!(format!("{:#}", Size(bytes)).parse(), Ok(Size(bytes)));
                prop_assert_eq!(Rate(bytes).to_string().parse(), Ok(Rate(bytes)));
                let span = TimeSpan(Duration::from_nanos(bytes));
                prop_assert_eq!(span.to_string().parse(), Ok(span));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}", number in "[0-9.]{0,25}[a-zA-Z/ ]{0,6}") {
            for text in [text, number] {
                let is_number = text.trim().starts_with(|c: char| c.is_ascii_digit());
                prop_assert!(text.parse::<Size>().is_err() || is_number);
                prop_assert!(text.parse::<Rate>().is_err() || is_number);
            }
        }
    }
}
