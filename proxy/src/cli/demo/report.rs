//! What the demo came to: a table by phase, what to take from it, and commands to go on with.

use std::time::Duration;

use super::backends::NAMES;
use super::readings::Readings;
use super::screen::Paint;
use super::sidecar::{POLICY, SERVICE};
use super::tally::Summary;
use super::{FAILING, PEAK_EWMA_SLOW, PHASES, ROUND_ROBIN_SLOW, Stage, TRAPS};

/// A phase that is over.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) summary: Summary,
    /// What the sidecar counted meanwhile.
    pub(super) readings: Readings,
}

pub(super) fn print(stage: &Stage, stopped: bool) {
    let paint = Paint::wanted();
    let [alpha, beta, gamma] = NAMES;
    let head = format!(
        " {:<12}{:<20}{:>6}{:>7}{:>7}{:>8}{:>8}{:>8}",
        "policy", "what happened", alpha, beta, gamma, "failed", "p50 ms", "p99 ms"
    );
    println!("{}", paint.bold(&head));
    for (phase, row) in PHASES.iter().zip(&stage.rows) {
        let [alpha, beta, gamma] = row.summary.backends.map(|figures| figures.share * 100.0);
        println!(
            " {:<12}{:<20}{alpha:>5.0}%{beta:>6.0}%{gamma:>6.0}%{:>8}{}{}",
            phase.policy,
            phase.happens,
            row.summary.failed,
            &ms(row.summary.all.p50)[1..],
            &ms(row.summary.all.p99)[1..],
        );
    }
    println!();
    for lesson in lessons(&stage.rows) {
        println!(" {lesson}");
    }
    print_verdict(stage, stopped, paint);
}

fn lessons(rows: &[Row]) -> Vec<String> {
    let p99 = |index: usize| rows.get(index).and_then(|row| row.summary.all.p99);
    let mut lessons = Vec::new();
    if let (Some(before), Some(after)) = (p99(ROUND_ROBIN_SLOW), p99(PEAK_EWMA_SLOW)) {
        let (slow, fast) = (ms(Some(before)), ms(Some(after)));
        lessons.push(format!(
            "Slow backend    p99 {} ms with round-robin, {} with peak-ewma: {}",
            slow.trim_start(),
            fast.trim_start(),
            compared(before, after),
        ));
    }
    if let Some(Row { readings, summary }) = rows.get(TRAPS) {
        lessons.push(format!(
            "Broken policy   {} traps, {} picks by the sidecar itself, {} requests failed",
            readings.failures, readings.fallbacks, summary.failed
        ));
    }
    if let Some(Row { readings, summary }) = rows.get(FAILING) {
        lessons.push(format!(
            "Broken backend  {} attempts sent elsewhere, {} ejections, {} requests failed",
            readings.retries, readings.ejections, summary.failed
        ));
    }
    let timed: f64 = rows.iter().map(|row| row.readings.timed_picks).sum();
    let seconds: f64 = rows.iter().map(|row| row.readings.timed_seconds).sum();
    if timed > 0.0 {
        lessons.push(format!(
            "Cost            {} for a decision in Wasm, cold; `outrigger policy bench p2c`: warm",
            ns(Some(seconds / timed * 1e9))
        ));
    }
    lessons
}

fn compared(before: Duration, after: Duration) -> String {
    let (before, after) = (before.as_secs_f64(), after.as_secs_f64());
    if after <= before {
        format!("{:.1} x lower", before / after)
    } else {
        format!("{:.1} x higher", after / before)
    }
}

fn print_verdict(stage: &Stage, stopped: bool, paint: Paint) {
    let swaps = (stage.word.readings - stage.start).swaps;
    let (sent, failed, lost) = (stage.load.sent(), stage.tally.failed, stage.lost());
    let text = format!("{sent} requests, {swaps} policy swaps under load: {failed} failed, {lost} lost.");
    let clean = failed == 0 && lost == 0;
    println!(
        "\n {}{}",
        if stopped { "Stopped early. " } else { "" },
        match clean {
            true => paint.green(&text),
            false => paint.red(&text),
        }
    );
    if let Some(why) = &stage.tally.first_failure {
        println!(" The first failure: {why}");
    }
}

/// For those who stay.
pub(super) fn print_commands(stage: &Stage) {
    let (outbound, admin) = (stage.sidecar.outbound, stage.sidecar.admin);
    let dir = stage.sidecar.directory.base().display();
    println!(
        "
 All goes on, with a light load, until Ctrl-C. In another terminal:

   curl -H 'Host: {SERVICE}' http://{outbound}/
   curl http://{admin}/policies
   curl -s http://{admin}/metrics | grep policy
   curl -T {dir}/peak-ewma.wasm http://{admin}/policies/{POLICY}
   curl -T {dir}/traps.wasm http://{admin}/policies/{POLICY}
   curl -X POST http://{admin}/policies/{POLICY}/rollback
   $EDITOR {dir}/outrigger.yaml"
    );
}

/// Nine columns of milliseconds.
pub(super) fn ms(time: Option<Duration>) -> String {
    time.map_or_else(|| format!("{:>9}", "-"), |time| format!("{:>9.1}", time.as_secs_f64() * 1000.0))
}

pub(super) fn ns(time: Option<f64>) -> String {
    time.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0} ns"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_way_it_went() {
        let (slow, fast) = (Duration::from_millis(90), Duration::from_millis(12));
        assert_eq!(compared(slow, fast), "7.5 x lower");
        assert_eq!(compared(fast, slow), "7.5 x higher");
    }

    #[test]
    fn numbers_keep_their_columns() {
        assert_eq!(ms(Some(Duration::from_micros(12_340))), "     12.3");
        assert_eq!(ms(None).len(), 9);
        assert_eq!((ns(Some(812.4)), ns(None)), ("812 ns".to_owned(), "-".to_owned()));
    }
}
