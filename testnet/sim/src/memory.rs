//! The last events before a failure, in words.

use std::collections::{BTreeSet, VecDeque};

use super::check::Violation;
use super::world::{Event, Who, seconds};

/// Events remembered.
const REMEMBERED: usize = 60;
/// Fewer of those concerned than this say less than the last of all.
const FEW: usize = 5;
/// Characters of one event, at most.
const LONGEST: usize = 400;

/// Remembers what happened to the hosts and stripes a violation names, or everything where it names none.
#[derive(Debug)]
pub(super) struct Memory {
    hosts: BTreeSet<Who>,
    /// The first digits of stripes, or of virtual nodes, as they appear in events.
    digits: BTreeSet<String>,
    concerned: VecDeque<String>,
    /// For violations whose words appear in no event.
    all: VecDeque<String>,
}

impl Memory {
    /// For the second run of what ended like this.
    pub(super) fn about(violation: &Violation) -> Self {
        let words = || {
            let detail = violation.detail.as_str();
            detail.split(|letter: char| !letter.is_ascii_alphanumeric())
        };
        let pairs = words().zip(words().skip(1));
        let hosts =
            pairs.filter_map(|(before, word)| before.starts_with("host").then(|| word.parse().ok())?);
        let is_id = |word: &&str| word.len() == 8 && word.chars().all(|digit| digit.is_ascii_hexdigit());
        Self {
            hosts: hosts.collect(),
            digits: words().filter(is_id).map(str::to_owned).collect(),
            concerned: VecDeque::new(),
            all: VecDeque::new(),
        }
    }

    /// An event is about to be handled.
    pub(super) fn event(&mut self, now: u64, event: &Event) {
        let text = format!("{event:?}");
        let mut hosts = event.hosts().into_iter().flatten();
        let concerned = (self.hosts.is_empty() || hosts.any(|who| self.hosts.contains(&who)))
            && (self.digits.is_empty() || self.digits.iter().any(|digits| text.contains(digits)));
        self.keep(now, text, concerned);
    }

    /// A step of the scenario is carried out.
    pub(super) fn step(&mut self, now: u64, step: String) {
        self.keep(now, step, true);
    }

    fn keep(&mut self, now: u64, mut text: String, concerned: bool) {
        if let Some((end, _)) = text.char_indices().nth(LONGEST) {
            text.truncate(end);
            text.push('…');
        }
        let line = format!("{:.6} s  {text}", seconds(now));
        if concerned {
            self.concerned.push_back(line.clone());
        }
        self.all.push_back(line);
        for lines in [&mut self.concerned, &mut self.all] {
            if lines.len() > REMEMBERED {
                lines.pop_front();
            }
        }
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        let few = self.concerned.len() < FEW;
        let lines = if few { self.all } else { self.concerned };
        lines.into()
    }
}
