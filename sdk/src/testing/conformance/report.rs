//! What a run of the kit found.

use std::fmt;

/// All checks in the order in which they ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Short and stable: `stays inside the list`.
    pub name: &'static str,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// What was expected and what happened.
    Fail(String),
    /// Why the check was left out.
    NotApplicable(String),
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The names and reasons of the checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.checks.iter().filter_map(|check| match &check.verdict {
            Verdict::Fail(reason) => Some((check.name, reason.as_str())),
            Verdict::Pass | Verdict::NotApplicable(_) => None,
        })
    }

    pub(super) fn run(&mut self, name: &'static str, check: impl FnOnce() -> Result<(), String>) {
        let verdict = check().map_or_else(Verdict::Fail, |()| Verdict::Pass);
        self.checks.push(Check { name, verdict });
    }

    pub(super) fn run_if(
        &mut self,
        name: &'static str,
        applies: Result<(), &str>,
        check: impl FnOnce() -> Result<(), String>,
    ) {
        match applies {
            Ok(()) => self.run(name, check),
            Err(why) => self.checks.push(Check { name, verdict: Verdict::NotApplicable(why.to_owned()) }),
        }
    }
}

/// One line per check: `pass  stays inside the list`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { name, verdict } in &self.checks {
            match verdict {
                Verdict::Pass => writeln!(f, "pass  {name}")?,
                Verdict::Fail(reason) => writeln!(f, "FAIL  {name}: {reason}")?,
                Verdict::NotApplicable(why) => writeln!(f, "n/a   {name}: {why}")?,
            }
        }
        Ok(())
    }
}
