//! The checks of balancers: what every one has to stand, then what its author claims.

use super::drive::{Drive, MILLISECOND_NS, setup};
use super::{Claims, Report, Subject, claims};
use crate::balancer::{Choice, Context, Endpoint, Interests, Load, Observation, Outcome};
use crate::testing::harness::status;
use crate::testing::{Random, endpoint, endpoints};

const OUTCOMES: [Outcome; 8] = [
    Outcome::Success,
    Outcome::ClientError,
    Outcome::ServerError,
    Outcome::RateLimited,
    Outcome::Timeout,
    Outcome::Reset,
    Outcome::Refused,
    Outcome::Cancelled,
];
/// Updates in the check of changing membership, and calls between two of them.
const UPDATES: u32 = 60;
const CALLS_BETWEEN_UPDATES: u32 = 40;

/// Runs all checks; each begins with a fresh instance. The same subject and configuration give the same report.
pub fn check_balancer(subject: &mut dyn Subject, config: &str, claims: &Claims) -> Report {
    let mut report = Report::default();
    let configured = subject.configure(&setup(config));
    let interests = configured.as_ref().map_or(Interests::empty(), |interests| *interests);
    report.run("accepts its configuration", || configured.map(|_| ()));
    if !report.passed() {
        return report;
    }
    let asks = |interest: Interests| {
        if interests.contains(interest) { Ok(()) } else { Err("it does not ask for it") }
    };
    report.run("answers none or fallback without endpoints", || without_endpoints(subject, config));
    report.run("stays inside the list of any size", || sizes(subject, config));
    report.run("stands endpoints that come, go and change places", || membership(subject, config));
    report.run_if("stands every outcome", asks(Interests::OUTCOMES), || outcomes(subject, config));
    report.run_if("stands ticks", asks(Interests::TICKS), || ticks(subject, config));
    report.run_if("hands its state over", asks(Interests::STATE), || hands_over(subject, config));
    report.run_if("stands a stranger's state", asks(Interests::STATE), || strange_state(subject, config));
    report.run("answers the same to the same calls", || deterministic(subject, config));
    claims::check(subject, config, claims, interests, &mut report);
    report
}

fn without_endpoints(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut drive = Drive::start(subject, config, &[], 1)?;
    for _ in 0..20 {
        let ctx = drive.context();
        drive.pick(&ctx)?;
    }
    drive.update(&endpoints(2))?;
    drive.update(&[])?;
    let ctx = Context { attempt: 1, ..drive.context() };
    drive.pick(&ctx).map(|_| ())
}

fn sizes(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    for size in [1, 2, 3, 1_000, 1, 1_000, 2] {
        let mut drive = Drive::start(subject, config, &endpoints(size), 2)?;
        for extreme in [0, u64::MAX, 1 << 63, u64::from(u32::MAX)] {
            let ctx = Context { hash: extreme, random: extreme, ..drive.context() };
            drive.picked(&ctx)?;
            drive.picked(&Context { attempt: u32::MAX, previous: Some(size as u32 - 1), ..ctx })?;
        }
        drive.tally(200)?;
    }
    Ok(())
}

/// Random subsets of a pool in random order, with random loads, calls of all kinds in between.
fn membership(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut drive = Drive::start(subject, config, &[], 3)?;
    let mut pool: Vec<Endpoint> = (0..40).map(|i| varied(i, &mut drive.random)).collect();
    for step in 0..UPDATES {
        drive.random.shuffle(&mut pool);
        let size = if step % 10 == 9 { 0 } else { drive.random.below(pool.len() as u32 + 1) };
        drive.update(&pool[..size as usize])?;
        for _ in 0..CALLS_BETWEEN_UPDATES {
            random_call(&mut drive, size).map_err(|error| format!("after update {step}: {error}"))?;
        }
    }
    Ok(())
}

fn random_call(drive: &mut Drive<'_>, size: u32) -> Result<(), String> {
    drive.host.now += drive.random.next() % (50 * MILLISECOND_NS);
    for _ in 0..size.min(3) {
        let place = drive.random.below(size) as usize;
        drive.host.loads[place] = random_load(&mut drive.random);
    }
    drive.host.tried = if size > 0 { vec![drive.random.below(size)] } else { Vec::new() };
    drive.surround();
    let now = drive.host.now;
    match drive.random.below(4) {
        0 if size > 0 && drive.interests.contains(Interests::OUTCOMES) => {
            let outcome = OUTCOMES[drive.random.below(8) as usize];
            let took = drive.random.next() % (2_000 * MILLISECOND_NS);
            let endpoint = drive.random.below(size);
            drive.subject.observe(&observation(endpoint, outcome, took, now))
        }
        1 if drive.interests.contains(Interests::TICKS) => drive.subject.tick(now),
        _ => {
            let attempt = drive.random.below(3);
            let previous = (attempt > 0 && size > 0).then(|| drive.random.below(size));
            let ctx = Context { attempt, previous, ..drive.context() };
            drive.pick(&ctx).map(|_| ())
        }
    }
}

fn outcomes(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut drive = Drive::start(subject, config, &endpoints(3), 4)?;
    for took in [0, 1, MILLISECOND_NS, u64::MAX] {
        for outcome in OUTCOMES {
            for now in [drive.host.now, drive.host.now + 1, 0, u64::MAX] {
                let observation = observation(2, outcome, took, now);
                drive
                    .subject
                    .observe(&observation)
                    .map_err(|error| format!("{outcome:?} after {took} ns: {error}"))?;
            }
            drive.tally(5)?;
        }
    }
    Ok(())
}

fn ticks(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut drive = Drive::start(subject, config, &[], 5)?;
    for size in [0, 1, 20] {
        drive.update(&endpoints(size))?;
        for _ in 0..50 {
            drive.host.now += 100 * MILLISECOND_NS;
            drive.surround();
            drive.subject.tick(drive.host.now)?;
            let ctx = drive.context();
            drive.pick(&ctx)?;
        }
    }
    Ok(())
}

fn hands_over(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    for (before, after) in [(5, 5), (5, 2), (2, 5), (0, 3), (3, 0)] {
        let mut drive = Drive::start(subject, config, &endpoints(before), 6)?;
        for _ in 0..100 {
            random_call(&mut drive, before as u32)?;
        }
        let state = drive.subject.export_state().map_err(|error| format!("export-state: {error}"))?;
        let mut drive = Drive::start(drive.subject, config, &endpoints(after), 7)?;
        let imported =
            drive.subject.import_state(&state).map_err(|error| format!("import-state: {error}"))?;
        imported.map_err(|error| format!("refuses its own state: {error}"))?;
        for _ in 0..100 {
            random_call(&mut drive, after as u32)?;
        }
    }
    Ok(())
}

fn strange_state(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut random = Random::new(8);
    for length in [0, 1, 3, 8, 16, 17, 64, 1_000, 1 << 20] {
        let state: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let mut drive = Drive::start(subject, config, &endpoints(4), 8)?;
        // Both answers are right; only a trap is not.
        let _answer =
            drive.subject.import_state(&state).map_err(|error| format!("{length} bytes: {error}"))?;
        drive.tally(50)?;
    }
    Ok(())
}

fn deterministic(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut run = || -> Result<Vec<Choice>, String> {
        let mut drive = Drive::start(subject, config, &endpoints(7), 9)?;
        let contexts: Vec<Context> = (0..200).map(|_| drive.context()).collect();
        contexts.iter().map(|ctx| drive.pick(ctx)).collect()
    };
    let (first, second) = (run()?, run()?);
    match first.iter().zip(&second).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => Err(format!("pick {i} was {:?}, then {:?}", first[i], second[i])),
    }
}

/// An endpoint with everything that may vary.
fn varied(i: u32, random: &mut Random) -> Endpoint {
    let weight = [1, 1, 2, 10, 65_535][random.below(5) as usize];
    let zone = ["", "a", "b"][random.below(3) as usize];
    endpoint(&format!("[fd00::{i:x}]:80")).with_weight(weight).with_zone(zone).with_label("version", "v1")
}

fn random_load(random: &mut Random) -> Load {
    let in_flight = [0, 1, 5, 100, u32::MAX][random.below(5) as usize];
    let latency_us = [0, 100, 5_000, u32::MAX][random.below(4) as usize];
    Load { in_flight, latency_us, success: random.below(1_001), reported: random.below(1_001) }
}

pub(super) fn observation(endpoint: u32, outcome: Outcome, took: u64, now: u64) -> Observation {
    let status = status(outcome);
    let first_byte = if status == 0 { 0 } else { took };
    Observation { endpoint, outcome, status, attempt: 0, first_byte, total: took, now }
}
