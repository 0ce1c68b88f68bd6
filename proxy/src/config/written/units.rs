//! Durations and sizes with their unit.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

const SPAN_UNITS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A stretch of time: `500ms`, `2s`, `1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// A number of bytes: `64KiB`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

/// A whole number directly followed by one of the units, in the smallest one.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, such as `500ms`, `2s` or `1m`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        let micros = parse(text, &SPAN_UNITS).ok_or_else(|| {
            E::custom(format!(
                "`{text}` is not a duration: a whole number and `us`, `ms`, `s`, `m` or `h`, as in `500ms`"
            ))
        })?;
        Ok(Span(Duration::from_micros(micros)))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as `64KiB`, `16MiB` or a number of bytes")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        usize::try_from(bytes).map(Size).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        let bytes = parse(text, &SIZE_UNITS).and_then(|bytes| usize::try_from(bytes).ok());
        bytes.map(Size).ok_or_else(|| {
            E::custom(format!(
                "`{text}` is not a size: a whole number and `B`, `KiB`, `MiB` or `GiB`, as in `64KiB`"
            ))
        })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(us|ms|s|m|h)$",
            "description": "A duration with its unit: 500ms, 2s, 1m.",
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": "^[0-9]+(B|KiB|MiB|GiB)$",
            "minimum": 0,
            "description": "A number of bytes, or a size with its unit: 64KiB, 16MiB.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_digits_and_a_known_unit() {
        assert_eq!(parse("500ms", &SPAN_UNITS), Some(500_000));
        assert_eq!(parse("1m", &SPAN_UNITS), Some(60_000_000));
        assert_eq!(parse("64KiB", &SIZE_UNITS), Some(65_536));
        for wrong in ["", "s", "5", "5 s", "-5s", "+5s", "1.5s", "1m30s", "5S", "99999999999999999999s", "٣s"]
        {
            assert_eq!(parse(wrong, &SPAN_UNITS), None, "{wrong}");
        }
        assert_eq!(parse("18446744073709551615h", &SPAN_UNITS), None);
        assert_eq!(parse("64KB", &SIZE_UNITS), None);
    }
}
