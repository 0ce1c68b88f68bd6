//! What policies count for themselves, in the text format. Their distributions have buckets of their own, which the
//! crate's histograms cannot take over, so they are written here.

use std::fmt::{Result, Write};

use crate::policy::PolicyMetrics;

use super::declare::Family;

/// Not in the table, because no code observes it.
pub const POLICY_DISTRIBUTION: Family = Family {
    name: "outrigger_policy_distribution",
    labels: &["policy", "name"],
    help: "Distributions that policies keep, in powers of four.",
    buckets: &[],
};

pub(super) fn write<'a>(text: &mut String, policies: impl Iterator<Item = &'a PolicyMetrics>) -> Result {
    let Family { name: family, help, .. } = POLICY_DISTRIBUTION;
    let mut begun = false;
    for policy in policies {
        for (name, histogram) in policy.histograms() {
            if !begun {
                write!(text, "# HELP {family} {help}\n# TYPE {family} histogram\n")?;
                begun = true;
            }
            let labels = format!("policy=\"{}\",name=\"{}\"", escaped(policy.policy()), escaped(name));
            let mut count = 0;
            for (bound, more) in histogram.buckets() {
                count += more;
                let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
                writeln!(text, "{family}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
            }
            writeln!(text, "{family}_sum{{{labels}}} {}", histogram.sum())?;
            writeln!(text, "{family}_count{{{labels}}} {count}")?;
        }
    }
    Ok(())
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
