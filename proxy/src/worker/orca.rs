//! What an endpoint says about its own load: the `endpoint-load-metrics` field of ORCA, in its text and JSON forms.
//!
//! <https://github.com/cncf/xds/blob/main/xds/data/orca/v3/orca_load_report.proto>. Application utilisation counts before
//! CPU utilisation, as the specification says.

/// Utilisation in thousandths, at most 10,000; `None` if the field says nothing usable.
pub(super) fn utilisation(value: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (form, rest) = text.split_once(' ')?;
    let number = match form {
        "TEXT" => text_value(rest, "application_utilization").or_else(|| text_value(rest, "cpu_utilization")),
        "JSON" => {
            let report: serde_json::Value = serde_json::from_str(rest).ok()?;
            let field = |name| report.get(name).and_then(serde_json::Value::as_f64);
            field("application_utilization").or_else(|| field("cpu_utilization"))
        }
        _ => None,
    }?;
    (number.is_finite() && number >= 0.0).then(|| (number * 1000.0).min(10_000.0) as u32)
}

fn text_value(text: &str, name: &str) -> Option<f64> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .find(|(n, _)| n.trim() == name)?
        .1
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::utilisation;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(utilisation(b"TEXT cpu_utilization=0.3,mem_utilization=0.8"), Some(300));
        assert_eq!(utilisation(b"TEXT cpu_utilization=0.3, application_utilization=0.5"), Some(500));
        assert_eq!(utilisation(br#"JSON {"cpu_utilization": 1.25}"#), Some(1250));
        for nonsense in
            ["", "TEXT", "TEXT cpu_utilization=x", "JSON {", "BIN AAAA", "TEXT cpu_utilization=-1"]
        {
            assert_eq!(utilisation(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
