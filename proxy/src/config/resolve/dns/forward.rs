//! `dns.forward`, checked and completed.

use super::super::super::diagnostic::{FieldPath, Problems};
use super::super::super::resolved::Forward;
use super::super::super::written;

pub(super) fn resolve(written: written::Forward, _at: &FieldPath<'_>, _problems: &mut Problems) -> Forward {
    let written::Forward {} = written;
    Forward {}
}
