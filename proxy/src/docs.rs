//! The reference documents beside this crate, held to the code: tests only.
//!
//! Each table between `<!-- NAME: begin -->` and `<!-- NAME: end -->` is generated from what the program uses itself.
//! `UPDATE_DOCS=1 cargo test -p outrigger docs` rewrites the tables; without it, a table that differs fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config;
use crate::control::registry::file;
use crate::metrics::{FAMILIES, Family, POLICY_DISTRIBUTION};
use crate::net;
use crate::registry_server;

/// Compares the part `name` of a document with what it should be, or writes it.
pub(crate) fn keep(document: &str, name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let marks = [format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->")];
    let marked = text
        .split_once(&marks[0])
        .and_then(|(before, rest)| rest.split_once(&marks[1]).map(|(found, after)| (before, found, after)));
    let Some((before, found, after)) = marked else { panic!("{document} has no part `{name}`") };
    let wanted = format!("\n{}\n\n", table.trim());
    if found == wanted {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "{document}, part `{name}`, differs from the code. Run: UPDATE_DOCS=1 cargo test -p outrigger docs"
    );
    let text = [before, &marks[0], &wanted, &marks[1], after].concat();
    std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[test]
fn metrics_are_documented() {
    keep("METRICS.md", "families", &families(FAMILIES.iter().chain([&POLICY_DISTRIBUTION])));
    keep("REGISTRY.md", "families", &families(registry_server::metrics::FAMILIES.iter()));
    keep("NETWORK.md", "families", &families(net::watch::metrics::FAMILIES.iter()));
}

fn families<'a>(families: impl Iterator<Item = &'a Family>) -> String {
    let mut table = String::from("| family | type | labels | meaning |\n|---|---|---|---|\n");
    for family in families {
        let kind = match family.name {
            _ if !family.buckets.is_empty() || family.name == POLICY_DISTRIBUTION.name => "histogram",
            name if name.ends_with("_total") => "counter",
            _ => "gauge",
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        line(&mut table, &[&format!("`{}`", family.name), kind, &labels.join(", "), family.help]);
    }
    table
}

#[test]
fn the_registry_s_settings_are_documented() {
    keep("REGISTRY.md", "settings", &Reference::of(&registry_server::settings::schema()));
}

#[test]
fn the_network_file_is_documented() {
    keep("NETWORK.md", "settings", &Reference::of(&net::settings::schema()));
}

/// What the fields of `capture` mean is said with the network file.
#[test]
fn the_cni_plugin_is_documented() {
    let whole = Reference::of(&net::cni::schema()).replace("the whole file", "the plugin");
    let tables: Vec<&str> = whole.split("### ").filter(|table| !table.starts_with("`capture")).collect();
    keep("CNI.md", "settings", &tables.join("### ").replace("(#capture)", "(NETWORK.md#capture)"));
}

#[test]
fn configuration_is_documented() {
    keep("CONFIGURATION.md", "configuration", &Reference::of(&config::schema()));
}

#[test]
fn the_services_file_is_documented() {
    keep("CONFIGURATION.md", "services", &Reference::of(&file::schema()));
}

/// A schema as one table per mapping, in the order in which they are met.
struct Reference<'a> {
    definitions: Option<&'a Map<String, Value>>,
    text: String,
    /// Mappings still to be shown: where they stand, and what they hold.
    open: Vec<(String, &'a Value)>,
    /// Shown already, by definition: where.
    shown: BTreeMap<&'a str, String>,
}

impl<'a> Reference<'a> {
    fn of(schema: &'a Value) -> String {
        let definitions = schema["$defs"].as_object();
        let mut reference = Self {
            definitions,
            text: String::new(),
            open: vec![(String::new(), schema)],
            shown: BTreeMap::new(),
        };
        while !reference.open.is_empty() {
            let (path, mapping) = reference.open.remove(0);
            reference.mapping(&path, mapping);
        }
        reference.text
    }

    fn mapping(&mut self, path: &str, mapping: &'a Value) {
        let about = mapping["description"].as_str().unwrap_or_default();
        let title = if path.is_empty() { "the whole file".to_owned() } else { format!("`{path}`") };
        let _ = write!(
            self.text,
            "### {title}\n\n{about}\n\n| field | value | default | meaning |\n|---|---|---|---|\n"
        );
        let required = mapping["required"].as_array();
        for (name, field) in mapping["properties"].as_object().into_iter().flatten() {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let value = self.value(&at, field);
            let about = field["description"].as_str().unwrap_or_default();
            let (meaning, default) = about.split_once("Default: ").unwrap_or((about, ""));
            let is_required = required.is_some_and(|r| r.iter().any(|r| r == name.as_str()));
            let default = if is_required { "required" } else { default.trim_end_matches('.') };
            line(&mut self.text, &[&format!("`{name}`"), &value, default, meaning.trim()]);
        }
        self.text.push('\n');
    }

    /// What may be written there, in words. Mappings met on the way are shown later.
    fn value(&mut self, at: &str, schema: &'a Value) -> String {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
            return self.definition(at, name);
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(all) = schema[choice].as_array() {
                let all = all.iter().filter(|s| s["type"] != "null").map(|s| self.value(at, s));
                return all.collect::<Vec<_>>().join(" or ");
            }
        }
        if let Some(constant) = schema["const"].as_str() {
            return format!("`{constant}`");
        }
        if let Some(all) = schema["enum"].as_array() {
            return all
                .iter()
                .filter_map(Value::as_str)
                .map(|v| format!("`{v}`"))
                .collect::<Vec<_>>()
                .join(" or ");
        }
        let kinds = schema["type"].as_array().map_or(std::slice::from_ref(&schema["type"]), Vec::as_slice);
        match kinds.iter().find_map(Value::as_str).unwrap_or("any") {
            "object" if schema["properties"].is_object() => match tagged(schema) {
                Some(choice) => choice,
                None => self.later(at, schema),
            },
            "object" if schema["additionalProperties"].is_object() => {
                let inner = self.value(&format!("{at}.NAME"), &schema["additionalProperties"]);
                format!("map of {inner}")
            }
            "object" => "mapping".to_owned(),
            "array" => format!("list of {}", self.value(&format!("{at}[]"), &schema["items"])),
            "string" => "text".to_owned(),
            "integer" | "number" => "number".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            other => other.to_owned(),
        }
    }

    fn definition(&mut self, at: &str, name: &'a str) -> String {
        let Some(schema) = self.definitions.and_then(|all| all.get(name)) else { return name.to_owned() };
        if !schema["properties"].is_object() {
            return if ["Duration", "Size"].contains(&name) {
                name.to_lowercase()
            } else {
                self.value(at, schema)
            };
        }
        match self.shown.get(name) {
            Some(first) => linked(first),
            None => {
                self.shown.insert(name, at.to_owned());
                self.later(at, schema)
            }
        }
    }

    fn later(&mut self, at: &str, schema: &'a Value) -> String {
        self.open.push((at.to_owned(), schema));
        linked(at)
    }
}

/// A choice that is written as a mapping with one field, itself not described: `{header: NAME}`.
fn tagged(schema: &Value) -> Option<String> {
    let fields = schema["properties"].as_object()?;
    let name = fields.keys().next().filter(|_| fields.len() == 1 && schema["description"].is_string())?;
    (fields[name]["description"].is_null()).then(|| format!("`{{{name}: NAME}}`"))
}

fn linked(path: &str) -> String {
    let kept = path.chars().filter(|c| c.is_alphanumeric() || "_-".contains(*c));
    format!("[`{path}`](#{})", kept.collect::<String>().to_lowercase())
}

fn line(table: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    let _ = writeln!(table, "| {} |", cells.join(" | "));
}
