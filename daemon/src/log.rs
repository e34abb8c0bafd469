//! The daemon's log: lines on standard error that nothing else waits for.
//!
//! Whoever reads them may stop: a terminal after Ctrl-S, a pipe nobody empties. Lines therefore go through a
//! queue to a thread that only writes; while the queue is full they are dropped and counted, and the count is
//! written when there is room. Panics go the same way. Equal lines, and more than [`SITE`] of one place in
//! the program, are written once in [`WINDOW`], and their number at its end. Foreign text is escaped, see
//! [`escape`].

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use mutualstore_contract::escape;
use mutualstore_contract::units::counted;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Lines that wait to be written at most.
const QUEUE: usize = 4096;
/// Characters of one line at most.
const LONGEST: usize = 8 << 10;
/// How long lines are told apart from those before.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one place in the program within [`WINDOW`].
const SITE: u64 = 100;
/// Different lines, and places, that are remembered.
const REMEMBERED: usize = 1024;
/// How often it is looked whether a window is over.
const LOOK: Duration = Duration::from_secs(2);
/// How long the end of the daemon waits for the last lines.
const FLUSH: Duration = Duration::from_millis(300);
const FLUSH_LOOK: Duration = Duration::from_millis(2);

/// What the queue of this process dropped.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines dropped since the start, because nobody read those before in time.
pub(crate) fn dropped() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// What is wrong with a filter, if anything is. `RUST_LOG` also takes a word alone for a part of the program
/// of that name, and a mistyped level would silently log nothing: here such a name has a `_` or `::`, or a
/// level behind it.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_clear = |word: &str| is_level(word) || word.contains(['_', ':', '=', '[', ']', '{', '}']);
    let mut words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    match words.find(|word| !is_clear(word)) {
        Some(word) => Err(format!("'{word}' is no level")),
        None => Ok(()),
    }
}

/// The log of this process.
pub(crate) struct Log {
    lines: Arc<Lines>,
    /// Kept to the end: its own waiting for a writer that hangs would take too long, see [`Log::flush`].
    _guard: WorkerGuard,
}

impl Log {
    /// From now on everything of `filter` is logged, which [`check_filter`] found good.
    pub(crate) fn start(filter: &str) -> Self {
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
        let dropped = Arc::new(OnceLock::new());
        let written = Arc::new(AtomicUsize::new(0));
        let output = Output {
            to: io::stderr(),
            dropped: Arc::clone(&dropped),
            reported: 0,
            written: Arc::clone(&written),
        };
        let (queue, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE)
            .thread_name("log")
            .finish(output);
        let counter = queue.error_counter();
        dropped.get_or_init(|| counter.clone());
        DROPPED.get_or_init(|| counter.clone());
        let lines = Arc::new(Lines {
            queue,
            counter,
            sent: AtomicUsize::new(0),
            written,
            repeats: Mutex::default(),
            colour: io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        });
        let layer = ToLines(Arc::clone(&lines));
        let started = tracing_subscriber::registry().with(filter).with(layer).try_init();
        if started.is_ok() {
            std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        }
        Self { lines, _guard: guard }
    }

    /// Says how often lines were repeated, as long as it is polled.
    pub(crate) fn count_repeats(&self) -> impl Future<Output = ()> + Send + use<> {
        let lines = Arc::clone(&self.lines);
        async move {
            loop {
                tokio::time::sleep(LOOK).await;
                lines.report(Instant::now());
            }
        }
    }

    /// Waits until all is written, not for long: nobody may be reading.
    pub(crate) fn flush(&self) {
        self.lines.report(Instant::now() + WINDOW);
        let until = Instant::now() + FLUSH;
        while !self.lines.is_written() && Instant::now() < until {
            std::thread::sleep(FLUSH_LOOK);
        }
    }
}

/// What the layer and the end of the daemon share.
struct Lines {
    queue: NonBlocking,
    counter: ErrorCounter,
    /// Lines handed to the queue, and those of them that were written.
    sent: AtomicUsize,
    written: Arc<AtomicUsize>,
    repeats: Mutex<Repeats>,
    colour: bool,
}

impl Lines {
    fn send(&self, line: &Line) {
        self.sent.fetch_add(1, Ordering::AcqRel);
        // The queue drops what it cannot take, and counts it.
        drop(self.queue.clone().write_all(line.shown(self.colour).as_bytes()));
    }

    fn is_written(&self) -> bool {
        let done = self.written.load(Ordering::Acquire) + self.counter.dropped_lines();
        done >= self.sent.load(Ordering::Acquire)
    }

    /// Writes the numbers of the windows that are over.
    fn report(&self, now: Instant) {
        let ended = self.repeats().ended(now);
        for line in &ended {
            self.send(line);
        }
    }

    fn repeats(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns events into lines.
struct ToLines(Arc<Lines>);

impl<S: Subscriber> Layer<S> for ToLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let line = Line::new(event.metadata(), &text.whole());
        // Who wants details wants all of them.
        if *event.metadata().level() <= Level::INFO {
            let now = Instant::now();
            self.0.report(now);
            if !self.0.repeats().admits(now, event.metadata().callsite(), &line) {
                return;
            }
        }
        self.0.send(&line);
    }
}

/// The words of an event: its message, then `name=value` of each field.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(self) -> String {
        let whole = self.message + &self.fields;
        match whole.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", whole.get(..end).unwrap_or_default()),
            None => whole,
        }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string does not fail.
        if field.name() == "message" {
            write!(self.message, "{value:?}").unwrap_or_default();
        } else {
            write!(self.fields, " {}={value:?}", field.name()).unwrap_or_default();
        }
    }
}

/// One line to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    level: Level,
    target: &'static str,
    /// The text is escaped.
    text: String,
}

impl Line {
    fn new(of: &'static Metadata<'static>, text: &str) -> Self {
        Self {
            level: *of.level(),
            target: of.target(),
            text: escape::line(text).into_owned(),
        }
    }

    fn shown(&self, colour: bool) -> String {
        let Self { level, target, text } = self;
        let now = humantime::format_rfc3339_micros(SystemTime::now());
        if !colour {
            return format!("{now} {level:>5} {target}: {text}\n");
        }
        let paint = match *level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        format!("\x1b[2m{now}\x1b[0m \x1b[{paint}m{level:>5}\x1b[0m \x1b[2m{target}:\x1b[0m {text}\n")
    }
}

/// A window that began with a line.
#[derive(Debug)]
struct Window {
    since: Instant,
    /// Lines written.
    shown: u64,
    /// Lines left out.
    hidden: u64,
    /// The last of them.
    last: Line,
}

impl Window {
    fn new(since: Instant, line: &Line) -> Self {
        Self {
            since,
            shown: 1,
            hidden: 0,
            last: line.clone(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    /// Whether one more line is shown when `most` are.
    fn admits(&mut self, most: u64, line: &Line) -> bool {
        let admitted = self.shown < most;
        if admitted {
            self.shown += 1;
        } else {
            self.hidden += 1;
            self.last = line.clone();
        }
        admitted
    }
}

/// Which lines were written lately.
#[derive(Debug, Default)]
struct Repeats {
    lines: HashMap<Line, Window>,
    sites: HashMap<Identifier, Window>,
}

impl Repeats {
    /// Whether a line is to be written; else it is counted.
    fn admits(&mut self, now: Instant, site: Identifier, line: &Line) -> bool {
        if let Some(window) = self.lines.get_mut(line) {
            return window.admits(1, line);
        }
        if self.lines.len() < REMEMBERED {
            self.lines.insert(line.clone(), Window::new(now, line));
        }
        if let Some(window) = self.sites.get_mut(&site) {
            return window.admits(SITE, line);
        }
        if self.sites.len() < REMEMBERED {
            self.sites.insert(site, Window::new(now, line));
        }
        true
    }

    /// Forgets windows that are over; what was left out in them.
    fn ended(&mut self, now: Instant) -> Vec<Line> {
        let mut ended = Vec::new();
        let mut say = |window: &Window, what: &str| {
            if window.hidden > 0 {
                let Window { hidden, last, .. } = window;
                let seconds = WINDOW.as_secs();
                let text = format!("{} … {hidden} {what} more in {seconds} s", last.text);
                ended.push(Line { text, ..last.clone() });
            }
        };
        self.lines.retain(|_, window| {
            let over = window.is_over(now);
            if over {
                say(window, "times");
            }
            !over
        });
        self.sites.retain(|_, window| {
            let over = window.is_over(now);
            if over {
                say(window, "lines like this");
            }
            !over
        });
        ended
    }
}

/// The end of the queue.
struct Output<W> {
    to: W,
    dropped: Arc<OnceLock<ErrorCounter>>,
    /// Dropped lines that were reported.
    reported: usize,
    written: Arc<AtomicUsize>,
}

impl<W: Write> Write for Output<W> {
    /// Writes a whole line; before it, how many were dropped since the last one. Where they cannot be written
    /// nobody can be told so.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        if dropped > self.reported {
            let text = format!(
                "{} dropped: nobody read in time",
                counted(dropped - self.reported, "log line")
            );
            self.reported = dropped;
            let (level, target) = (Level::WARN, module_path!());
            drop(
                self.to
                    .write_all(Line { level, target, text }.shown(false).as_bytes()),
            );
        }
        drop(self.to.write_all(line));
        self.written.fetch_add(1, Ordering::AcqRel);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite as _;

    use super::*;

    fn line(text: &str) -> Line {
        Line {
            level: Level::WARN,
            target: "t",
            text: text.to_owned(),
        }
    }

    fn site() -> Identifier {
        tracing::callsite!(name: "site", kind: tracing::metadata::Kind::EVENT, fields: message)
            .metadata()
            .callsite()
    }

    #[test]
    fn equal_lines_are_written_once_in_a_window_and_then_counted() {
        let mut repeats = Repeats::default();
        let begun = Instant::now();
        assert!(repeats.admits(begun, site(), &line("a")));
        assert!((0..37).all(|_| !repeats.admits(begun, site(), &line("a"))));
        assert!(repeats.admits(begun, site(), &line("b")));
        assert!(repeats.ended(begun + WINDOW / 2).is_empty());
        let ended = repeats.ended(begun + WINDOW);
        assert_eq!(ended, [line("a … 37 times more in 10 s")]);
        assert!(repeats.admits(begun + WINDOW, site(), &line("a")));
    }

    #[test]
    fn one_place_does_not_flood_with_different_lines() {
        let mut repeats = Repeats::default();
        let (now, site) = (Instant::now(), site());
        let shown = (0..5000).filter(|n| repeats.admits(now, site.clone(), &line(&n.to_string())));
        assert_eq!(shown.count() as u64, SITE);
        assert!(repeats.lines.len() <= REMEMBERED);
        let ended = repeats.ended(now + WINDOW);
        assert_eq!(ended, [line("4999 … 4900 lines like this more in 10 s")]);
    }

    #[test]
    fn filters_that_would_log_something_else_are_refused() {
        for good in [
            "",
            "info",
            "WARN",
            "off",
            "info,mutualstore_daemon=debug",
            "mutualstore_net",
            "hyper=trace, debug",
            "[span{field=1}]=info",
        ] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for wrong in ["debgu", "a=b=c", "mutualstore_daemon=loud", "info,everything"] {
            assert!(check_filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_are_bounded_and_escaped() {
        let text = Text {
            message: "ö".repeat(LONGEST + 5),
            fields: String::new(),
        };
        assert_eq!(text.whole().chars().count(), LONGEST + 1);
        let shown = line("x").shown(false);
        assert!(shown.ends_with("  WARN t: x\n"), "{shown}");
    }

    #[test]
    fn dropped_lines_are_reported_when_there_is_room() {
        let (ours, mut pipe) = io::pipe().unwrap();
        let long = vec![b'x'; 1 << 20];
        let (mut queue, _guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(1)
            .finish(pipe.try_clone().unwrap());
        let counter = queue.error_counter();
        // Nobody reads: one is being written, one waits, the others are dropped.
        while counter.dropped_lines() < 3 {
            queue.write_all(&long).unwrap();
        }
        let dropped = Arc::new(OnceLock::new());
        let mut output = Output {
            to: Vec::new(),
            dropped: Arc::clone(&dropped),
            reported: 0,
            written: Arc::default(),
        };
        output.write_all(b"one\n").unwrap();
        dropped.get_or_init(|| counter);
        output.write_all(b"two\n").unwrap();
        output.write_all(b"three\n").unwrap();
        let text = String::from_utf8(output.to).unwrap();
        assert!(
            text.starts_with("one\n") && text.ends_with(" in time\ntwo\nthree\n"),
            "{text}"
        );
        assert!(text.contains(" 3 log lines dropped: "), "{text}");
        assert_eq!(output.written.load(Ordering::Acquire), 3);
        drop(ours);
        pipe.flush().unwrap();
    }
}
