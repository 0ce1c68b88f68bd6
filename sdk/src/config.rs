//! From the JSON text of `configure` to a policy's own type, with errors that an operator can act on.
//!
//! The export macros and the test harness call this before `new`. An error always names the field.

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
        let mut text = serde_json::Deserializer::from_str(json);
        let value = serde_path_to_error::deserialize(&mut text).map_err(|error| {
            let path = error.path().to_string();
            explain(&path, &error.inner().to_string())
        })?;
        text.end().map_err(|error| error.to_string())?;
        Ok(value)
    }
}

/// For policies without configuration: accepts `{}` only. Costs a component nothing, where serde costs 40 KiB.
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

/// The position that serde_json appends is one in our own rendering of the operator's file: it would mislead.
fn explain(path: &str, message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    if path == "." { format!("config: {message}") } else { format!("{path}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        choices: u32,
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        header: String,
    }

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        let error = |json| Settings::parse(json).unwrap_err();
        assert_eq!(error(r#"{"choices": "two"}"#), r#"choices: invalid type: string "two", expected u32"#);
        assert_eq!(
            error(r#"{"choises": 2}"#),
            "choises: unknown field `choises`, expected `choices` or `rules`"
        );
        assert_eq!(error(r#"{"rules": [{"header": "x"}, {}]}"#), "rules[1]: missing field `header`");
        assert_eq!(error("5"), "config: invalid type: integer `5`, expected struct Settings");
    }

    #[test]
    fn defaults_apply_and_trailing_text_is_refused() {
        assert_eq!(Settings::parse("{}").unwrap(), Settings { choices: 0, rules: vec![] });
        assert!(Settings::parse("{} x").is_err());
    }

    #[test]
    fn no_config_takes_only_the_empty_object() {
        assert_eq!(NoConfig::parse(" { } "), Ok(NoConfig));
        assert!(NoConfig::parse(r#"{"a": 1}"#).unwrap_err().contains("no settings"));
    }
}
