//! JSON Schemas (draft 2020-12) of the files we read, for editors and other tools.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::written;

/// The schema of the configuration file.
pub fn schema() -> Value {
    schema_of::<written::Config>()
}

/// The schema of any file whose form is a type.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}
