//! What the checks of balancers share: a subject in a known state, and picks whose answers are looked at.

use super::{Host, Subject};
use crate::balancer::{Choice, Context, Endpoint, Interests, Setup};
use crate::testing::Random;

/// Not 0, as the proxy's clock is not.
pub(super) const START_NS: u64 = 1_000_000_000_000;
pub(super) const MILLISECOND_NS: u64 = 1_000_000;

/// A subject in the middle of a check, with the source of all that is random in it.
pub(super) struct Drive<'a> {
    pub(super) subject: &'a mut dyn Subject,
    pub(super) interests: Interests,
    pub(super) random: Random,
    pub(super) host: Host,
    count: u32,
}

impl<'a> Drive<'a> {
    /// A fresh instance with these endpoints, all of them idle.
    pub(super) fn start(
        subject: &'a mut dyn Subject,
        config: &str,
        endpoints: &[Endpoint],
        seed: u64,
    ) -> Result<Self, String> {
        let host = Host { seed, ..Host::idle(0, START_NS) };
        subject.surround(&host);
        let interests = subject.configure(&setup(config)).map_err(|error| format!("configure: {error}"))?;
        let mut drive = Self { subject, interests, random: Random::new(seed), host, count: 0 };
        drive.update(endpoints)?;
        Ok(drive)
    }

    /// New endpoints, all of them idle.
    pub(super) fn update(&mut self, endpoints: &[Endpoint]) -> Result<(), String> {
        self.count = endpoints.len() as u32;
        self.host.loads = Host::idle(endpoints.len(), 0).loads;
        self.host.tried.clear();
        self.surround();
        self.subject
            .update(endpoints)
            .map_err(|error| format!("update with {} endpoints: {error}", self.count))
    }

    /// Hands changes of `host` to the subject.
    pub(super) fn surround(&mut self) {
        self.subject.surround(&self.host);
    }

    pub(super) fn context(&mut self) -> Context {
        Context {
            hash: self.random.next(),
            random: self.random.next(),
            now: self.host.now,
            attempt: 0,
            previous: None,
        }
    }

    /// A pick whose answer is inside the list; without endpoints there is none inside.
    pub(super) fn pick(&mut self, ctx: &Context) -> Result<Choice, String> {
        let choice = self.subject.pick(ctx).map_err(|error| format!("pick of {}: {error}", self.count))?;
        match choice {
            Choice::Endpoint(index) if index >= self.count => {
                Err(format!("picked endpoint {index} of {}, counted from 0", self.count))
            }
            _ => Ok(choice),
        }
    }

    /// A pick that has to name an endpoint, since idle ones are there.
    pub(super) fn picked(&mut self, ctx: &Context) -> Result<u32, String> {
        match self.pick(ctx)? {
            Choice::Endpoint(index) => Ok(index),
            other => Err(format!("answered {other:?} with {} idle endpoints", self.count)),
        }
    }

    /// How often each endpoint is named in first attempts with a random hash and random bits.
    pub(super) fn tally(&mut self, picks: u32) -> Result<Vec<u32>, String> {
        let mut counts = vec![0; self.count as usize];
        for _ in 0..picks {
            let ctx = self.context();
            counts[self.picked(&ctx)? as usize] += 1;
        }
        Ok(counts)
    }
}

pub(super) fn setup(config: &str) -> Setup {
    Setup {
        config: config.to_owned(),
        own_service: "caller".into(),
        own_zone: "a".into(),
        target: "web".into(),
    }
}
