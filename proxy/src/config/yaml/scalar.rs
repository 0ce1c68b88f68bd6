//! What a plain scalar means, by YAML 1.2's core schema.

/// A scalar's value. `no`, `on` and dates are text, as YAML 1.2 has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

/// Resolves an unquoted scalar. Whole numbers beyond 64 bits become floats, as in JSON.
pub(super) fn resolve(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ => {}
    }
    number(text).unwrap_or(Scalar::Text(text))
}

/// `.inf` and `.nan`, which neither JSON nor any of our fields can hold.
pub(super) fn is_not_finite(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    matches!(text, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
}

fn number(text: &str) -> Option<Scalar<'_>> {
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let looks_numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && text.bytes().any(|b| b.is_ascii_digit());
    if !looks_numeric {
        return None;
    }
    let unsigned = text.parse().map(Scalar::Unsigned);
    let whole = unsigned.or_else(|_| text.parse().map(Scalar::Signed));
    whole.ok().or_else(|| text.parse().ok().filter(|value: &f64| value.is_finite()).map(Scalar::Float))
}

fn radix(digits: &str, radix: u32) -> Option<Scalar<'static>> {
    // `from_str_radix` would take a sign after the prefix.
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, radix).ok().map(Scalar::Unsigned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_by_the_core_schema() {
        for (text, value) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("yes", Scalar::Text("yes")),
            ("0", Scalar::Unsigned(0)),
            ("007", Scalar::Unsigned(7)),
            ("+5", Scalar::Unsigned(5)),
            ("-5", Scalar::Signed(-5)),
            ("0x1F", Scalar::Unsigned(31)),
            ("0o17", Scalar::Unsigned(15)),
            ("0x-1", Scalar::Text("0x-1")),
            ("1.5", Scalar::Float(1.5)),
            ("1e3", Scalar::Float(1000.0)),
            (".5", Scalar::Float(0.5)),
            ("18446744073709551615", Scalar::Unsigned(u64::MAX)),
            ("18446744073709551616", Scalar::Float(18_446_744_073_709_551_616.0)),
            ("1e999", Scalar::Text("1e999")),
            ("10.0.0.7", Scalar::Text("10.0.0.7")),
            ("-", Scalar::Text("-")),
            ("e", Scalar::Text("e")),
            ("inf", Scalar::Text("inf")),
            ("2026-01-01", Scalar::Text("2026-01-01")),
            ("500ms", Scalar::Text("500ms")),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
        assert!(is_not_finite("-.inf") && is_not_finite(".NaN") && !is_not_finite("inf"));
    }
}
