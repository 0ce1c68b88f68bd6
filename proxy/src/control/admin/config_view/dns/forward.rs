//! `dns.forward` in `/config`.

use serde_json::{Value, json};

use crate::config::Forward;

pub(in super::super) fn view(forward: &Forward) -> Value {
    let Forward {} = forward;
    json!({})
}
