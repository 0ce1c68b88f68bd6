//! The checks that apply only where the author claims something.

use super::balancer::observation;
use super::drive::{Drive, MILLISECOND_NS};
use super::{Claims, Report, Subject};
use crate::balancer::{Context, Endpoint, Interests, Outcome};
use crate::testing::endpoints;

const WEIGHTS: [u32; 5] = [1, 2, 3, 4, 10];
const PICKS: u32 = 20_000;
/// How far a count may be from its mean: 5 standard deviations of the binomial distribution (one false alarm in about
/// a million), and 2 % of the mean, which hash tables of a finite size need.
const DEVIATIONS: f64 = 5.0;
const SLACK: f64 = 0.02;
/// Endpoints and keys in the checks of hashing.
const RING: usize = 20;
const KEYS: u64 = 5_000;

pub(super) fn check(
    subject: &mut dyn Subject,
    config: &str,
    claims: &Claims,
    interests: Interests,
    report: &mut Report,
) {
    let claimed = |claim: bool| if claim { Ok(()) } else { Err("not claimed") };
    let hashed = claims.hashed;
    let needless = hashed.unwrap_or(0.0);
    report.run_if("respects weights", claimed(claims.weighted), || weights(subject, config));
    report.run_if("sends a hash to one place", claimed(hashed.is_some()), || affinity(subject, config));
    report.run_if("moves few keys", claimed(hashed.is_some()), || churn(subject, config, needless));
    report.run_if("avoids a loaded endpoint", claimed(claims.load_aware), || loaded(subject, config));
    let observes =
        if interests.contains(Interests::OUTCOMES) { Ok(()) } else { Err("it does not ask for outcomes") };
    let failing = claimed(claims.avoids_failures).and(observes);
    report.run_if("avoids an endpoint that fails fast", failing, || failures(subject, config));
    report.run_if("retries elsewhere", claimed(claims.retries_elsewhere), || retries(subject, config));
}

fn weights(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let list: Vec<Endpoint> =
        endpoints(5).into_iter().zip(WEIGHTS).map(|(e, weight)| e.with_weight(weight)).collect();
    for (list, weights) in [(&list, WEIGHTS), (&endpoints(5), [1; 5])] {
        let counts = Drive::start(subject, config, list, 11)?.tally(PICKS)?;
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let share = f64::from(weight) / f64::from(total);
            let mean = f64::from(PICKS) * share;
            let bound = DEVIATIONS * (mean * (1.0 - share)).sqrt() + SLACK * mean;
            if (f64::from(*count) - mean).abs() > bound {
                return Err(format!(
                    "weights {weights:?} gave {counts:?} of {PICKS}; {mean:.0} \u{b1} {bound:.0} expected of weight {weight}"
                ));
            }
        }
    }
    Ok(())
}

/// Where each key goes, by endpoint id.
fn placed(subject: &mut dyn Subject, config: &str, list: &[Endpoint], seed: u64) -> Result<Vec<u64>, String> {
    let mut drive = Drive::start(subject, config, list, seed)?;
    (0..KEYS)
        .map(|key| {
            let ctx = Context { hash: crate::hash::mix(key + 1), ..drive.context() };
            drive.picked(&ctx).map(|index| list[index as usize].id)
        })
        .collect()
}

fn affinity(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut list = endpoints(RING);
    let first = placed(subject, config, &list, 12)?;
    if first != placed(subject, config, &list, 13)? {
        return Err("the same hash went elsewhere with other random bits".into());
    }
    list.reverse();
    if first != placed(subject, config, &list, 12)? {
        return Err("the same hash went elsewhere after the list was reversed: hash ids, not indices".into());
    }
    let mut used = first;
    used.sort_unstable();
    used.dedup();
    if used.len() == RING {
        Ok(())
    } else {
        Err(format!("{KEYS} keys reached {} of {RING} endpoints", used.len()))
    }
}

fn churn(subject: &mut dyn Subject, config: &str, needless: f64) -> Result<(), String> {
    let list = endpoints(RING);
    let with_all = placed(subject, config, &list, 14)?;
    for gone in [0, RING / 2, RING - 1] {
        let mut rest = list.clone();
        let lost = rest.remove(gone).id;
        let with_rest = placed(subject, config, &rest, 14)?;
        // Read backwards, the same comparison is an endpoint that comes.
        let pairs = with_all.iter().zip(&with_rest);
        let moved = pairs.filter(|&(before, after)| before != after && *before != lost).count();
        let share = moved as f64 / KEYS as f64;
        if share > needless {
            return Err(format!(
                "{:.2} % of the keys moved without need as 1 of {RING} endpoints left; {:.2} % are claimed",
                share * 100.0,
                needless * 100.0
            ));
        }
    }
    Ok(())
}

fn loaded(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    let mut drive = Drive::start(subject, config, &endpoints(5), 15)?;
    drive.host.loads[2].in_flight = 1_000;
    drive.surround();
    below_half_share(&drive.tally(1_000)?, 2, "1,000 requests in flight and the others with none")
}

fn failures(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    for outcome in
        [Outcome::ServerError, Outcome::RateLimited, Outcome::Timeout, Outcome::Reset, Outcome::Refused]
    {
        let mut drive = Drive::start(subject, config, &endpoints(5), 16)?;
        for _ in 0..20 {
            drive.host.now += 50 * MILLISECOND_NS;
            drive.surround();
            for endpoint in 0..5 {
                let now = drive.host.now;
                let fast = observation(endpoint, outcome, MILLISECOND_NS / 10, now);
                let fine = observation(endpoint, Outcome::Success, 10 * MILLISECOND_NS, now);
                drive.subject.observe(if endpoint == 2 { &fast } else { &fine })?;
            }
        }
        below_half_share(
            &drive.tally(1_000)?,
            2,
            &format!("{outcome:?} after 0.1 ms, others success after 10 ms"),
        )?;
    }
    Ok(())
}

fn below_half_share(counts: &[u32], endpoint: usize, why: &str) -> Result<(), String> {
    let share = counts.iter().sum::<u32>() / counts.len() as u32;
    if counts[endpoint] * 2 < share {
        return Ok(());
    }
    Err(format!("endpoint {endpoint} ({why}) was picked {} times; {share} is its share", counts[endpoint]))
}

fn retries(subject: &mut dyn Subject, config: &str) -> Result<(), String> {
    for size in [2, 3, 20] {
        let mut drive = Drive::start(subject, config, &endpoints(size), 17)?;
        for _ in 0..500 {
            let first = drive.context();
            let previous = drive.picked(&first)?;
            drive.host.tried = vec![previous];
            drive.surround();
            let ctx = Context { attempt: 1, previous: Some(previous), random: drive.random.next(), ..first };
            if drive.picked(&ctx)? == previous {
                return Err(format!("the second attempt went to endpoint {previous} of {size} again"));
            }
        }
    }
    Ok(())
}
