//! Reading YAML into serde types with every error reported at its line and column.
//!
//! Three steps: `build` parses the text into nodes that know their place, within limits; `decode` lets serde walk the
//! nodes; and `read` repeats that after each error without the node at fault, so that one run shows all errors.
//! For this to work, fields of the types read are optional and the caller checks for what is missing. Serves the
//! configuration and the registry's services file.

use serde::de::DeserializeOwned;

use super::diagnostic::{Diagnostic, Problems};

mod build;
mod decode;
mod document;
mod scalar;

pub(crate) use document::Document;

/// Errors of one kind of run: after this many the rest is left for the next run.
const ROUNDS_MAX: usize = 64;
/// Bound on nodes walked over all rounds, so that a huge file full of errors is still refused quickly.
const NODES_WALKED_MAX: usize = 16_000_000;

/// Reads one document of YAML.
///
/// `Ok` may carry problems already: the caller adds its own and then asks `Problems::finish`. `Err` means that there
/// is no value at all, because the text is not YAML or its top level has the wrong shape.
pub(crate) fn read<T: DeserializeOwned>(text: &str, file: &str) -> Result<(T, Problems), Vec<Diagnostic>> {
    let (mut document, mut found) = build::parse(text, file)?;
    let rounds = (NODES_WALKED_MAX / document.node_count()).clamp(1, ROUNDS_MAX);
    for _ in 0..rounds {
        match decode::decode::<T>(&document) {
            Ok(value) => return Ok((value, Problems::new(document, found))),
            Err(error) => {
                let (diagnostic, node) = error.into_diagnostic(&mut document);
                found.push(diagnostic);
                if !document.refuse(node) {
                    break;
                }
            }
        }
    }
    found.sort_by_key(|problem| (problem.place.line, problem.place.column));
    Err(found)
}

#[cfg(test)]
mod tests;
