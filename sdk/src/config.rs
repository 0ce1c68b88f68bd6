//! From the JSON text of `configure` to a policy's own type, with errors that an operator can act on.
//!
//! The export macros and the test harness call this before `new`. An error always names the field.

mod error;
mod json;

use serde::de::DeserializeOwned;

/// A policy's configuration: any type that serde can deserialise, or [`NoConfig`].
///
/// Give it `#[serde(deny_unknown_fields)]`, so that a misspelt field is an error and not a default, and
/// `#[serde(default)]` where a field may be left out. Without configuration the text is `{}`.
pub trait Config: Sized {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Where the text does not fit, as one line for the operator: `choices: invalid type: string "two", expected u32`.
    fn parse(json: &str) -> Result<Self, String>;
}

impl<T: DeserializeOwned> Config for T {
    fn parse(json: &str) -> Result<Self, String> {
        let mut reader = json::Reader::new(json);
        let value = T::deserialize(&mut reader).map_err(|error| error.to_string())?;
        reader.end().map_err(|error| error.to_string())?;
        Ok(value)
    }
}

/// For policies without configuration: accepts `{}` only. Costs a component nothing, where serde costs some 30 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoConfig;

impl Config for NoConfig {
    fn parse(json: &str) -> Result<Self, String> {
        let inside = json.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match inside.map(str::trim) {
            Some("") => Ok(Self),
            _ => Err("config: this policy has no settings; leave `config` out".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, Default, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        choices: u32,
        rules: Vec<Rule>,
        factor: Option<f64>,
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        header: String,
        mode: Option<Mode>,
        on: Option<bool>,
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Plain,
        Sized(u8),
    }

    fn error(json: &str) -> String {
        Settings::parse(json).unwrap_err()
    }

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        let cases = [
            (r#"{"choices": "two"}"#, "choices: invalid type: string \"two\", expected u32"),
            (r#"{"choices": 1.5}"#, "choices: invalid type: `1.5`, expected u32"),
            (r#"{"choices": null}"#, "choices: invalid type: `null`, expected u32"),
            (r#"{"choices": -1}"#, "choices: invalid value: integer `-1`, expected u32"),
            (r#"{"choices": 4294967296}"#, "choices: invalid value: integer `4294967296`, expected u32"),
            (
                r#"{"choises": 2}"#,
                "choises: unknown field `choises`, expected one of `choices`, `rules`, `factor`",
            ),
            (r#"{"rules": [{"header": "x"}, {}]}"#, "rules[1]: missing field `header`"),
            (r#"{"rules": [{"header": []}]}"#, "rules[0].header: invalid type: a list, expected a string"),
            (
                r#"{"rules": [{"header": "", "mode": "odd"}]}"#,
                "rules[0].mode: unknown value `odd`, expected one of `plain`, `sized`",
            ),
            (r#"{"factor": "x"}"#, "factor: invalid type: string \"x\", expected f64"),
            ("5", "config: invalid type: `5`, expected struct Settings"),
        ];
        for (json, expected) in cases {
            assert_eq!(error(json), expected);
        }
    }

    #[test]
    fn defaults_apply_and_what_is_not_json_is_refused() {
        assert_eq!(Settings::parse(" {}\n").unwrap(), Settings::default());
        for json in [
            "",
            "{",
            "{} x",
            "{,}",
            r#"{"choices"}"#,
            r#"{"choices":}"#,
            r#"{"choices":2,}"#,
            r#"{"a"#,
            r#"{"\x""#,
        ] {
            assert!(error(json).contains("not JSON"), "{json}: {}", error(json));
        }
        assert!(Vec::<Nested>::parse(&"[".repeat(10_000)).unwrap_err().contains("nested"));
    }

    #[derive(serde::Deserialize, Debug)]
    struct Nested(#[expect(dead_code, reason = "only its depth matters")] Vec<Self>);

    #[test]
    fn every_kind_of_value() {
        let json = r#"{"choices": 7, "factor": -1.5e3, "rules": [
            {"header": "a\"\\\/\n\u00e9\ud83e\udd80", "mode": "plain", "on": true},
            {"header": "", "mode": {"sized": 3}, "on": false}, {"header": "\u0041", "on": null}]}"#;
        let settings = Settings::parse(json).unwrap();
        assert_eq!((settings.choices, settings.factor), (7, Some(-1_500.0)));
        let rules: Vec<_> =
            settings.rules.into_iter().map(|rule| (rule.header, rule.mode, rule.on)).collect();
        assert_eq!(rules[0], ("a\"\\/\n\u{e9}\u{1f980}".into(), Some(Mode::Plain), Some(true)));
        assert_eq!(rules[1], (String::new(), Some(Mode::Sized(3)), Some(false)));
        assert_eq!(rules[2], ("A".into(), None, None));
    }

    #[test]
    fn no_config_takes_only_the_empty_object() {
        assert_eq!(NoConfig::parse(" { } "), Ok(NoConfig));
        assert!(NoConfig::parse(r#"{"a": 1}"#).unwrap_err().contains("no settings"));
    }
}
