//! How busy this machine's processors are, from `/proc/stat`: what is reported as the workload's load.

use std::fs;

/// Remembers the last reading.
#[derive(Debug, Default)]
pub struct Meter {
    last: Option<Ticks>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Meter {
    /// The share of time, 0 to 1, spent busy since the reading before; `None` for the first one.
    pub fn read(&mut self) -> Option<f64> {
        let now = Ticks::parse(&fs::read_to_string("/proc/stat").ok()?)?;
        now.since(self.last.replace(now)?)
    }
}

impl Ticks {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<u64> =
            line.split_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
        let idle = fields.get(3)? + fields.get(4)?;
        let all = fields.iter().sum::<u64>();
        Some(Self { busy: all - idle, all })
    }

    fn since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        #[allow(clippy::cast_precision_loss, reason = "ticks of some seconds")]
        let share = self.busy.saturating_sub(before.busy) as f64 / all as f64;
        Some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_not_idle() {
        let before = Ticks::parse("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1\n").unwrap();
        let now = Ticks::parse("cpu  60 0 10 110 20 0 0 0 0 0\n").unwrap();
        assert_eq!(now.since(before), Some(0.5));
        assert_eq!(now.since(now), None);
        assert!(Ticks::parse("cpu  1 2\n").is_none() && Ticks::parse("").is_none());
        assert!(Meter::default().read().is_none());
    }
}
