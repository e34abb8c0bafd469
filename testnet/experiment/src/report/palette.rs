//! Which series has which colour and marker.

use itertools::Itertools;
use strum::VariantArray as _;

/// Okabe & Ito 2008, "Color Universal Design", without black, which is the text's colour and the last.
/// Yellow stands late: on white it is faint.
const COLOURS: [&str; 8] = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
    "currentColor",
    "#F0E442",
];

/// Shape of a point. There are as many as have no divisor in common with the colours: 56 pairs before one
/// comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    TriangleDown,
    Plus,
    Cross,
}

/// How a series looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) colour: &'static str,
    pub(super) marker: Marker,
    /// Dashes of its curves, from the second round of colours on.
    pub(super) dashes: Option<&'static str>,
}

/// Of what has no colour of its own.
pub(super) const NEUTRAL: Look = Look {
    colour: "currentColor",
    marker: Marker::Circle,
    dashes: None,
};

/// Looks by name.
#[derive(Default)]
pub(super) struct Palette(Vec<String>);

impl Palette {
    /// Gives looks in the order of first appearance.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().unique().map(str::to_owned).collect())
    }

    /// The look of a series; of an unknown one that after the last.
    pub(super) fn look(&self, name: &str) -> Look {
        let known = self.0.iter().position(|other| other == name);
        let at = known.unwrap_or(self.0.len());
        let marker = Marker::VARIANTS.get(at % Marker::VARIANTS.len());
        Look {
            colour: COLOURS.get(at % COLOURS.len()).copied().unwrap_or("currentColor"),
            marker: marker.copied().unwrap_or(Marker::Circle),
            dashes: (at >= COLOURS.len()).then_some("6 3"),
        }
    }
}
