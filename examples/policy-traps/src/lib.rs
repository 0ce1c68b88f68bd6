//! A policy with a bug: random choice that works for half a second, then traps.
//!
//! `outrigger demo` puts it in force under load to show what a sidecar does about it: each trap costs one decision,
//! which the sidecar takes itself, and the instance, which it replaces; after a few of them it gives the policy up.

use outrigger_sdk::balancer::*;

export_balancer!(Traps);

/// Long enough to be seen at work, short enough to fail several times in a few seconds.
const WORKS_FOR: Nanoseconds = 500_000_000;

pub struct Traps {
    count: u32,
    first_pick: Option<Nanoseconds>,
}

impl Balancer for Traps {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Setup) -> Result<Self, String> {
        Ok(Self { count: 0, first_pick: None })
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.count = endpoints.len() as u32;
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        let since = *self.first_pick.get_or_insert(ctx.now);
        if ctx.now.saturating_sub(since) > WORKS_FOR {
            trap();
        }
        choose::index(ctx.random, self.count).into()
    }
}

#[expect(clippy::panic, reason = "the point of this policy")]
fn trap() -> ! {
    panic!("this policy works for half a second, then traps")
}
