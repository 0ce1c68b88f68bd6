//! JSON Schemas (draft 2020-12) of the files we read, for editors and other tools.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::written;

/// The schema of the configuration file.
pub fn schema() -> Value {
    of::<written::Config>()
}

/// The schema of any file whose form is a type.
pub(crate) fn of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}
