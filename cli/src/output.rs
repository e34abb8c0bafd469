//! What people and programs see: tables, colours, progress bars, JSON, errors and exit codes.
//!
//! Invariants: standard output carries the result and nothing else; progress, events and remarks go to
//! standard error; colour and bars only where a terminal is. A reader that went away is not an error to talk
//! about. Whatever is printed comes from paths, names and other peers in part, so all of it is escaped here,
//! but for the bytes of files.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use mutualstore_client::ClientError;
use mutualstore_contract::escape;
use mutualstore_contract::exit;
use mutualstore_experiment::ExperimentError;
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::spawn::LOG_FOLLOWS;
use serde::Serialize;

/// Why a command failed, with its exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The daemon, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A testnet command.
    #[error(transparent)]
    Net(#[from] FleetError),
    /// An experiment.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// The command cannot mean anything here; nothing was done.
    #[error("{0}")]
    Usage(String),
    /// The command did its work and found what its exit code says.
    #[error("{message}")]
    Found {
        /// What was found.
        message: String,
        /// The exit code.
        code: u8,
    },
    /// The daemon process ended with a failure of its own.
    #[error("{message}")]
    Daemon {
        /// What happened.
        message: String,
        /// The exit code.
        code: u8,
    },
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// Ctrl-C could not be tidied up after, so nothing was begun.
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
}

impl CliError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if !self.is_broken_pipe() => error.exit_code(),
            Self::Net(error) => error.exit_code(),
            Self::Experiment(error) => error.exit_code(),
            Self::Usage(_) => exit::USAGE,
            Self::Found { code, .. } | Self::Daemon { code, .. } => *code,
            Self::Client(_) | Self::Output(_) | Self::Signals(_) => exit::UNEXPECTED,
        }
    }

    /// Whoever read our output stopped reading.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) | Self::Client(ClientError::Output(error))
            if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Where a command prints.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
pub(crate) struct Screen {
    /// One JSON document instead of text.
    pub(crate) json: bool,
    quiet: bool,
    colour: bool,
    error_colour: bool,
    bars: bool,
}

impl Screen {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let unwanted = |name: &str, value: &str| std::env::var_os(name).is_some_and(|found| found == value);
        let colours =
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !unwanted("TERM", "dumb");
        Self {
            json,
            quiet,
            colour: colours && io::stdout().is_terminal(),
            error_colour: colours && io::stderr().is_terminal(),
            bars: io::stderr().is_terminal() && !quiet && !json,
        }
    }

    /// A line of the result, or several.
    #[expect(clippy::unused_self, reason = "whoever prints has a screen")]
    pub(crate) fn line(&self, text: impl Display) -> Result<(), CliError> {
        write_out(format!("{}\n", escape::lines(&text.to_string())).as_bytes())
    }

    /// The result as the one JSON document.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Output(error.into()))?;
        self.line(escape::json(&text))
    }

    /// A table of the result; words of health and state are coloured.
    pub(crate) fn table(&self, table: &Rows) -> Result<(), CliError> {
        let text = escape::lines(&table.to_string()).into_owned();
        let text = if self.colour { coloured(&text) } else { text };
        write_out(format!("{text}\n").as_bytes())
    }

    /// A remark beside the result; `--quiet` and `--json` do without.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet && !self.json {
            error_line(&escape::lines(&text.to_string()));
        }
    }

    /// [`Self::note`] for later, on whatever thread.
    pub(crate) fn note_later(&self, text: String) -> impl FnOnce() + Send + 'static {
        let silent = self.quiet || self.json;
        move || {
            if !silent {
                error_line(&escape::lines(&text));
            }
        }
    }

    /// Something the user must hear of even with `--quiet`.
    pub(crate) fn warning(&self, text: impl Display) {
        let text = text.to_string();
        error_line(&format!(
            "{} {}",
            self.painted("warning:", YELLOW),
            escape::line(&text)
        ));
    }

    /// What is wrong with what was examined, in lines; the user must read it even with `--quiet`.
    #[expect(clippy::unused_self, reason = "whoever prints has a screen")]
    pub(crate) fn complaint(&self, text: impl Display) {
        error_line(escape::lines(text.to_string().trim_end()).as_ref());
    }

    /// Says why the command failed, unless nobody listens.
    pub(crate) fn report(&self, error: &CliError) {
        if !error.is_broken_pipe() {
            error_line(&self.text_of(error));
        }
    }

    /// [`Self::report`], which waits for the reader of standard error for `limit` at most.
    pub(crate) fn report_within(&self, error: &CliError, limit: Duration) {
        let line = self.text_of(error);
        let (done, written) = mpsc::channel::<()>();
        let write = move || {
            error_line(&line);
            drop(done);
        };
        if thread::Builder::new().spawn(write).is_ok() {
            // Whether it was read or not, the process ends now.
            written.recv_timeout(limit).unwrap_or_default();
        }
    }

    /// One line, and below it the end of a daemon's log where the error brings one.
    fn text_of(&self, error: &CliError) -> String {
        let message = error.to_string();
        let (first, log) = match message.split_once(LOG_FOLLOWS) {
            Some((first, log)) => (format!("{first}{}", LOG_FOLLOWS.trim_end()), Some(log)),
            None => (message, None),
        };
        let mut text = format!(
            "{} {}",
            self.painted("error:", RED),
            escape::line(&escape::shortened(&first))
        );
        if let Some(log) = log {
            text.push('\n');
            text.push_str(&escape::lines(log));
        }
        text
    }

    /// A bar for a transfer; invisible without a terminal.
    pub(crate) fn bar(&self, what: &str) -> ProgressBar {
        let target = if self.bars {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_message(what.to_owned());
        bar.set_style(style("{msg} {decimal_bytes} {decimal_bytes_per_sec}"));
        bar
    }

    /// A bar for a number of runs; invisible without a terminal.
    pub(crate) fn counter(&self, runs: u64) -> ProgressBar {
        let bar = self.bar("scenarios");
        bar.set_style(style("{wide_bar} {pos} of {len} {msg} {eta}"));
        bar.set_length(runs);
        bar
    }

    /// A bar for unequal steps, with the time left as somebody else estimates it; invisible without a
    /// terminal.
    pub(crate) fn steps(&self) -> Steps {
        let bar = self.bar("");
        let end = Arc::new(Mutex::new(None::<Instant>));
        let shown = Arc::clone(&end);
        let left = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let end = *shown.lock().unwrap_or_else(PoisonError::into_inner);
            let text = end.map_or_else(String::new, |end| {
                left(end.saturating_duration_since(Instant::now()))
            });
            // A bar that cannot be drawn is not missed.
            out.write_str(&text).unwrap_or_default();
        };
        bar.set_style(style("{msg}\n{wide_bar} {pos} of {len}, {left}").with_key("left", left));
        if self.bars {
            bar.enable_steady_tick(Duration::from_secs(1));
        }
        Steps { bar, end }
    }

    /// Something that takes a while; invisible without a terminal.
    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        let bar = self.bar(what);
        bar.set_style(style("{spinner} {msg}"));
        if self.bars {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }

    fn painted(&self, text: &str, colour: &str) -> String {
        if self.error_colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// See [`Screen::steps`].
pub(crate) struct Steps {
    bar: ProgressBar,
    end: Arc<Mutex<Option<Instant>>>,
}

impl Steps {
    /// So many are done; `what` is being done.
    pub(crate) fn show(&self, done: usize, all: usize, left: Duration, what: String) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_add(left);
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(what);
    }

    /// The bar itself.
    pub(crate) fn bar(&self) -> &ProgressBar {
        &self.bar
    }
}

/// Time left, no finer than it is known.
fn left(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s left"),
        60..3600 => format!("{} min left", seconds.div_ceil(60)),
        _ => format!("{} h {} min left", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Writes bytes of the result.
pub(crate) fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(CliError::Output)
}

/// Prints lines of the transfer protocol (`CORRUPTED_BLOCK ...`) exactly, whatever the options, around a bar.
pub(crate) fn event_lines(bar: &ProgressBar) -> Arc<dyn Fn(&str) + Send + Sync> {
    let bar = bar.clone();
    Arc::new(move |text| bar.suspend(|| error_line(&escape::line(text))))
}

/// Standard error may be closed; there is nobody to tell then. What is foreign in the text was escaped.
pub(crate) fn error_line(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Moves a bar; shows it as a bar once the total is known.
pub(crate) fn advance(bar: &ProgressBar, done: u64, total: Option<u64>) {
    if let Some(total) = total.filter(|total| bar.length() != Some(*total)) {
        bar.set_length(total);
        bar.set_style(style(
            "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
        ));
    }
    bar.set_position(done);
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

const RED: &str = "31;1";
const YELLOW: &str = "33;1";
const GREEN: &str = "32";

/// Colours whole words after the layout, which would count escape codes as width.
fn coloured(text: &str) -> String {
    const WORDS: [(&str, &str); 15] = [
        ("safe", GREEN),
        ("ok", GREEN),
        ("alive", GREEN),
        ("joined", GREEN),
        ("degraded", YELLOW),
        ("pending", YELLOW),
        ("suspect", YELLOW),
        ("joining", YELLOW),
        ("warning", YELLOW),
        ("endangered", RED),
        ("lost", RED),
        ("missing", RED),
        ("unreachable", RED),
        ("gone", RED),
        ("dead", RED),
    ];
    let mut out = String::with_capacity(text.len() * 2);
    for piece in text.split_inclusive([' ', '\n']) {
        let word = piece.trim_end();
        match WORDS.iter().find(|(known, _)| *known == word) {
            Some((_, colour)) => {
                let rest = piece.get(word.len()..).unwrap_or_default();
                out.extend(["\x1b[", colour, "m", word, "\x1b[0m", rest]);
            }
            None => out.push_str(piece),
        }
    }
    out
}

/// Rows under a header, aligned, without frames: also pleasant for `cut` and `awk`.
pub(crate) struct Rows(Table);

impl Rows {
    /// A header; columns named in `right` are numbers.
    pub(crate) fn new<const N: usize>(header: [&str; N], right: &[usize]) -> Self {
        let mut rows = Self::headless();
        rows.0.set_header(header);
        for (index, column) in rows.0.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        rows
    }

    /// Numbers under heads that are wrapped when the terminal is narrow.
    pub(crate) fn numbers(header: &[String], rows: &[Vec<String>]) -> Self {
        let mut all = Self::headless();
        all.0.set_header(header);
        all.0.add_rows(
            rows.iter()
                .map(|row| row.iter().map(|cell| escape::line(cell).into_owned())),
        );
        for column in all.0.column_iter_mut() {
            column.set_padding((0, 2));
            column.set_cell_alignment(CellAlignment::Right);
        }
        all
    }

    /// Names and values.
    pub(crate) fn headless() -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING);
        Self(table)
    }

    pub(crate) fn add<const N: usize>(&mut self, row: [String; N]) {
        self.0.add_row(row.map(|cell| escape::line(&cell).into_owned()));
    }
}

impl Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

/// Peer ids share their beginning; the end tells them apart.
pub(crate) fn short_peer(peer: &str) -> &str {
    peer.get(peer.len().saturating_sub(8)..).unwrap_or(peer)
}

/// Part of a whole, for people.
#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
pub(crate) fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_are_coloured() {
        let text = coloured("safe  safety\nlost");
        assert_eq!(text, "\x1b[32msafe\x1b[0m  safety\n\x1b[31;1mlost\x1b[0m");
    }

    #[test]
    fn rows_are_aligned_without_trailing_space() {
        let mut rows = Rows::new(["name", "size"], &[1]);
        rows.add(["a".to_owned(), "10 KiB".to_owned()]);
        rows.add(["long name".to_owned(), "1 B".to_owned()]);
        assert_eq!(
            rows.to_string(),
            "name         size\na          10 KiB\nlong name     1 B"
        );
    }

    #[test]
    fn time_left_is_no_finer_than_known() {
        let shown = [0, 59, 60, 61, 3599, 3600, 9000].map(|seconds| left(Duration::from_secs(seconds)));
        let expected = [
            "0 s",
            "59 s",
            "1 min",
            "2 min",
            "60 min",
            "1 h 0 min",
            "2 h 30 min",
        ];
        assert_eq!(shown, expected.map(|text| format!("{text} left")));
    }

    #[test]
    fn foreign_text_commands_no_terminal() {
        let evil = "a\u{1b}]0;T\u{7}\n\u{202e}b";
        let mut rows = Rows::new(["NAME"], &[]);
        rows.add([evil.to_owned()]);
        assert_eq!(rows.to_string(), "NAME\na\\u{1b}]0;T\\u{7}\\n\\u{202e}b");
        let screen = Screen::new(false, false);
        let text = screen.text_of(&CliError::Usage("n".repeat(70_000)));
        assert!(text.chars().count() < 400, "{text}");
        let text = screen.text_of(&CliError::Usage(evil.to_owned()));
        assert_eq!(text, "error: a\\u{1b}]0;T\\u{7}\\n\\u{202e}b");
        let text = screen.text_of(&CliError::Usage(format!("{LOG_FOLLOWS}a\r\nb")));
        assert_eq!(text, "error: its log says:\na\\r\nb");
    }

    #[test]
    fn a_reader_that_left_is_no_topic() {
        let left = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert!(left.is_broken_pipe());
        assert_eq!(left.exit_code(), exit::UNEXPECTED);
        assert!(!CliError::Usage(String::new()).is_broken_pipe());
    }
}
