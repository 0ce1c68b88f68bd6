//! Reads, at once or when something has changed.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::ask::{Answer, Ask, Problem};
use super::{Server, filter};
use crate::registry_server::ended;
use crate::registry_server::metrics::Metrics;
use crate::registry_server::model::duration;
use crate::registry_server::state::{State, Topic};

const WAIT_DEFAULT: Duration = Duration::from_secs(5 * 60);
const WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// Of the wait, added at random so that many waits do not end together: as Consul has it.
const JITTER_PART: u32 = 16;

/// Until when, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait {
    index: u64,
    time: Duration,
}

impl Server {
    /// Answers with `view` of the state: of the present one or, if the client names an index, of the first in which
    /// what it asks for has another.
    pub(super) async fn read(
        &self,
        ask: &Ask,
        topic: Topic,
        index: impl Fn(&State) -> u64,
        view: impl Fn(&State) -> Result<Answer, Problem>,
    ) -> Result<Answer, Problem> {
        // A filter that cannot be understood is not worth a wait.
        filter::of(ask)?;
        let state = match wait_of(ask)? {
            None => self.registry.state(),
            Some(wait) => self.wait(wait, &topic, &index).await?,
        };
        let mut answer = view(&state)?;
        // An index of 0 would make a client ask again at once, for ever.
        answer.index = Some(index(&state).max(1));
        Ok(answer)
    }

    async fn wait(
        &self,
        wait: Wait,
        topic: &Topic,
        index: &impl Fn(&State) -> u64,
    ) -> Result<Arc<State>, Problem> {
        let until = Instant::now() + wait.time;
        let mut ending = self.ending.clone();
        let mut place = None;
        loop {
            let changed = self.registry.next_change(topic);
            let state = self.registry.state();
            // One that we have never given was somebody else's; the client starts anew with what it gets.
            let foreign = wait.index > state.index.max(1);
            if foreign || index(&state).max(1) > wait.index || *ending.borrow() {
                return Ok(state);
            }
            if place.is_none() {
                place = Some(self.place()?);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until) => return Ok(self.registry.state()),
                () = ended(&mut ending) => {}
            }
        }
    }

    fn place(&self) -> Result<Waiting<'_>, Problem> {
        let Ok(permit) = self.waiters.try_acquire() else {
            self.metrics.refused.with_label_values(&["waiters"]).inc();
            let max = self.settings.limits.waiters;
            let message = format!("{max} blocking reads wait already, the limit (`limits.waiters`)");
            return Err(Problem { status: StatusCode::TOO_MANY_REQUESTS, ..Problem::bad(message) });
        };
        self.metrics.waiters.inc();
        Ok(Waiting { _permit: permit, metrics: &self.metrics })
    }
}

/// One of the places for those who wait, given back when it is dropped.
struct Waiting<'a> {
    _permit: tokio::sync::SemaphorePermit<'a>,
    metrics: &'a Metrics,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.waiters.dec();
    }
}

fn wait_of(ask: &Ask) -> Result<Option<Wait>, Problem> {
    let index = ask.number("index")?.unwrap_or(0);
    let time = match ask.parameter("wait").filter(|text| !text.is_empty()) {
        None => WAIT_DEFAULT,
        // Consul takes a bare number for nanoseconds, which nobody means; `0` is its default.
        Some(text) => match duration(text) {
            Some(Duration::ZERO) => WAIT_DEFAULT,
            Some(time) => time.min(WAIT_MAX),
            None => return Err(Problem::bad(format!("Invalid wait time: {text:?}; as in `30s` or `5m`"))),
        },
    };
    Ok((index > 0).then(|| Wait { index, time: time + random_part(time / JITTER_PART) }))
}

/// Anything from nothing to all of it.
fn random_part(of: Duration) -> Duration {
    // Keys of hash maps are the standard library's randomness.
    let random = RandomState::new().hash_one(0);
    #[allow(clippy::cast_precision_loss, reason = "a fraction need not be exact")]
    of.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(query: &str) -> Result<Option<Wait>, Problem> {
        let request = http::Request::builder().uri(format!("/v1/health/service/web?{query}"));
        wait_of(&Ask::new(request.body(()).unwrap().into_parts().0))
    }

    #[test]
    fn waits_have_a_default_a_limit_and_jitter() {
        assert_eq!(wait("wait=5s").unwrap(), None);
        assert_eq!(wait("index=0").unwrap(), None);
        for (query, seconds) in [("index=3", 300.0), ("index=3&wait=1h", 600.0), ("index=3&wait=16s", 16.0)] {
            for _ in 0..100 {
                let wait = wait(query).unwrap().unwrap();
                assert_eq!(wait.index, 3);
                let range = seconds..=seconds * 17.0 / 16.0;
                assert!(range.contains(&wait.time.as_secs_f64()), "{query}: {wait:?}");
            }
        }
        assert!(wait("index=x").is_err() && wait("index=1&wait=abc").is_err());
    }
}
