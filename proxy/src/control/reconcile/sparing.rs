//! Changes that must not fail for what others have published: the first snapshot, and a changed configuration. The
//! operator's own files have to be good, releases need not be.

use super::{ApplyError, Change, Reconciler, Refused};
use crate::control::policies::Source;

impl Reconciler {
    /// A release that a use of it refuses is left out and reported: the fallback serves in its place. Whether anything
    /// else may refuse is the caller's decision.
    pub(in crate::control) async fn apply_sparing(
        &mut self,
        change: Change,
        operators: bool,
    ) -> Result<u64, ApplyError> {
        let Some(mut change) = self.unless_waiting(change) else { return Ok(0) };
        loop {
            let refused = match self.apply_as(change.clone(), true).await {
                Err(ApplyError::Refused(refused)) => refused,
                result => return result,
            };
            let before = change.versions.len();
            for one in &refused {
                self.leave_out(&mut change, one);
            }
            if change.versions.len() == before {
                return match operators {
                    true => Err(ApplyError::Refused(refused)),
                    false => self.apply_as(change, false).await,
                };
            }
        }
    }

    fn leave_out(&mut self, change: &mut Change, refused: &Refused) {
        let version = change.versions.get(&refused.policy);
        let Some(Source::Release(released)) = version.map(|version| &version.source) else { return };
        let reason = format!("{released}: {refused}");
        tracing::error!(policy = &*refused.policy, reason, "policy refused; the fallback serves");
        self.metrics.policy_refusals.with_label_values(&[&refused.policy]).inc();
        self.faults.refused(&refused.policy, reason);
        change.versions.remove(&refused.policy);
    }
}
