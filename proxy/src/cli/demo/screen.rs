//! What is seen while the demo runs: a table drawn over itself on a terminal, a line per second elsewhere.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use super::backends::{Backend, Condition};
use super::tally::{Figures, WINDOW};
use super::{DemoArgs, PHASES, Stage, report};

/// The table fits a terminal of this size; on a smaller one lines are printed.
const COLUMNS: u16 = 80;
const LINES: u16 = 24;
const BAR: usize = 24;

#[derive(Debug)]
pub(super) enum Screen {
    Table { drawn: usize, paint: Paint },
    Lines { next: Instant },
}

/// Colours, unless the user wants none (no-color.org).
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Screen {
    pub(super) fn new(plain: bool) -> Self {
        let fits = rustix::termios::tcgetwinsize(io::stdout())
            .is_ok_and(|size| size.ws_col >= COLUMNS && size.ws_row >= LINES);
        if plain || !fits {
            return Self::Lines { next: Instant::now() };
        }
        Self::Table { drawn: 0, paint: Paint::wanted() }
    }

    pub(super) fn opening(&self, args: &DemoArgs) {
        println!(
            " outrigger demo: three backends, a sidecar and {} requests a second, for {} s",
            args.rate, args.seconds
        );
    }

    pub(super) fn begin(&mut self, stage: &Stage, took: Duration) {
        let names: Vec<String> =
            stage.backends.iter().map(|b| format!("{} ({} ms)", b.name, b.usual_ms())).collect();
        println!(" {}: all ready after {} ms\n", names.join(", "), took.as_millis());
        if let Self::Table { .. } = self {
            // The cursor is hidden: it would flicker.
            print!("\x1b[?25l");
        }
    }

    /// A phase begins.
    pub(super) fn phase(&mut self, stage: &Stage) {
        if let Self::Lines { next } = self {
            let phase = &PHASES[stage.phase];
            println!("-- {}: {}. {}", phase.policy, phase.happens, phase.why);
            // A first line when there is something to tell.
            *next = Instant::now() + Duration::from_secs(1);
        }
    }

    pub(super) fn draw(&mut self, stage: &Stage) {
        match self {
            Self::Table { drawn, paint } => {
                let lines = table(stage, *paint);
                let mut frame = String::new();
                if *drawn > 0 {
                    let _ = write!(frame, "\x1b[{drawn}A\r");
                }
                for line in &lines {
                    let _ = writeln!(frame, "{line}\x1b[K");
                }
                *drawn = lines.len();
                show(&frame);
            }
            Self::Lines { next } if Instant::now() >= *next => {
                *next += Duration::from_secs(1);
                show(&(line(stage) + "\n"));
            }
            Self::Lines { .. } => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        match self {
            // The report takes the table's place.
            Self::Table { drawn: lines @ 1.., .. } => show(&format!("\x1b[{lines}A\r\x1b[J\x1b[?25h")),
            Self::Table { .. } => show("\x1b[?25h"),
            Self::Lines { .. } => show("\n"),
        }
    }
}

/// A reader that has gone away is no reason to stop.
fn show(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(stage: &Stage) -> String {
    let recent = stage.tally.recent();
    let shares: Vec<String> = stage
        .backends
        .iter()
        .zip(&recent.backends)
        .map(|(backend, figures)| format!("{} {:>3.0}%", backend.name, figures.share * 100.0))
        .collect();
    let since = stage.word.readings - stage.before;
    format!(
        "{:>3} s  {}  {}  p50 {} p99 {} ms  pick {}  retries {}  fallbacks {}  failed {}{}",
        stage.load.began.elapsed().as_secs(),
        stage.word.digest,
        shares.join(" "),
        report::ms(recent.all.p50).trim_start(),
        report::ms(recent.all.p99).trim_start(),
        report::ns(since.pick_ns()),
        since.retries,
        since.fallbacks,
        stage.tally.failed,
        if stage.word.quarantined { "  QUARANTINED" } else { "" },
    )
}

/// The whole table, at most `LINES - 1` lines of at most `COLUMNS` columns.
fn table(stage: &Stage, paint: Paint) -> Vec<String> {
    let mut lines = script(stage, paint);
    let phase = &PHASES[stage.phase];
    lines.push(String::new());
    let quarantined = match stage.word.quarantined {
        true => paint.red("  QUARANTINED: the sidecar decides itself"),
        false => String::new(),
    };
    let name = paint.bold(phase.policy);
    lines.push(format!(" In force: {name}  sha256 {}{quarantined}", stage.word.digest));
    lines.push(format!(" {}", paint.dim(phase.why)));
    lines.push(String::new());
    let head = format!(
        " {:<14}{:<30}{:>8}{:>9}{:>6}  state",
        "backend",
        format!("share of the last {} s", WINDOW.as_secs()),
        "p50 ms",
        "p99 ms",
        "500s"
    );
    lines.push(paint.dim(&head));
    let recent = stage.tally.recent();
    for ((backend, figures), state) in stage.backends.iter().zip(&recent.backends).zip(&stage.word.states) {
        lines.push(endpoint(backend, figures, state, paint));
    }
    let (p50, p99) = (report::ms(recent.all.p50), report::ms(recent.all.p99));
    let all = paint.bold(&format!(" {:<14}{:<30}{p50:>8}{p99:>9}", "the client", "sees all of them as"));
    lines.push(format!("{all}{:>8}{}", "", failures(stage.tally.failed, paint)));
    lines.push(String::new());
    let (now, since) = (stage.word.readings - stage.start, stage.word.readings - stage.before);
    lines.push(format!(
        " a pick {}   swaps {}   traps {}   fallbacks {}   retries {}   ejections {}",
        paint.bold(&report::ns(since.pick_ns())),
        now.swaps,
        now.failures,
        now.fallbacks,
        now.retries,
        now.ejections,
    ));
    lines
}

/// The phases: what those behind us came to, and how far we are.
fn script(stage: &Stage, paint: Paint) -> Vec<String> {
    let elapsed = stage.load.began.elapsed().as_secs().min(stage.args.seconds.into());
    let title =
        format!(" {:<13}{:<23}{:>9}{:>9}{:>9}", " policy", "what happens", "p50 ms", "p99 ms", "failed");
    let clock = format!("{elapsed} of {} s", stage.args.seconds);
    let mut lines = vec![format!("{}{clock:>15}", paint.dim(&title))];
    for (index, phase) in PHASES.iter().enumerate() {
        let name = format!("{:<12}{:<23}", phase.policy, phase.happens);
        lines.push(match stage.rows.get(index) {
            Some(row) => {
                let all = &row.summary.all;
                let numbers =
                    format!("{}{}{:>9}", report::ms(all.p50), report::ms(all.p99), row.summary.failed);
                format!(" {} {name}{numbers}", paint.green("✓"))
            }
            None if index == stage.phase => format!(" {}", paint.bold(&format!("▶ {name}"))),
            None => paint.dim(&format!(" · {name}")),
        });
    }
    lines
}

fn endpoint(backend: &Backend, figures: &Figures, state: &str, paint: Paint) -> String {
    let filled = (figures.share * BAR as f64).round() as usize;
    let bar = format!("{}{}", "█".repeat(filled), paint.dim(&"░".repeat(BAR - filled.min(BAR))));
    let (does, colour): (String, fn(Paint, &str) -> String) = match backend.condition() {
        Condition::Well => (format!("{} ms", backend.usual_ms()), |paint, text| paint.green(text)),
        Condition::Slow(ms) => (format!("{ms} ms"), |paint, text| paint.yellow(text)),
        Condition::Failing => ("fails".to_owned(), |paint, text| paint.red(text)),
    };
    let state = match state {
        "ready" => state.to_owned(),
        other => paint.red(other),
    };
    format!(
        " {:<7}{} {} {:>3.0} % {}{}{:>6}  {state}",
        backend.name,
        colour(paint, &format!("{does:>5} ")),
        colour(paint, &bar),
        figures.share * 100.0,
        report::ms(figures.p50),
        report::ms(figures.p99),
        backend.errors(),
    )
}

fn failures(failed: u64, paint: Paint) -> String {
    if failed == 0 { paint.green("0 failed") } else { paint.red(&format!("{failed} failed")) }
}

impl Paint {
    pub(super) fn wanted() -> Self {
        use std::io::IsTerminal as _;
        Self(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
