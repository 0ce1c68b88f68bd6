//! What a file claims to be, read from its outermost layer without compiling it.
//!
//! The cheap half of refusing: a component that wants WASI is turned down in microseconds, with the import named.
//! Nothing here is trusted later; the compiler and the linker check everything again.

use wasmparser::{Encoding, Parser, Payload};

use super::refusal::Refusal;

/// The outside of a policy's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// A core module with its world in a custom section; becomes a component when it is loaded.
    pub is_module: bool,
    /// Interfaces, or modules' names for a core module; without repetition.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub roles: Roles,
    /// Whether it can hand over its state.
    pub has_state: bool,
}

/// What a policy can be used as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    pub balancer: bool,
    pub router: bool,
}

/// Reads imports and exports. Refuses only what is not WebAssembly at all.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Refusal> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Refusal::NotWasm);
    }
    let mut found = Inspection::default();
    let mut described = false;
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(malformed)?;
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            Payload::Version { encoding, .. } => found.is_module = encoding == Encoding::Module,
            Payload::CustomSection(section) => described |= section.name().starts_with("component-type"),
            other => found.add(other)?,
        }
    }
    if found.is_module && !described {
        return Err(Refusal::NoWorld);
    }
    found.conclude();
    Ok(found)
}

impl Inspection {
    fn add(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    add_name(&mut self.imports, import.map_err(malformed)?.module);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    // `outrigger:policy/balancer@0.1.0#pick`: the interface is what counts.
                    let name = export.map_err(malformed)?.name;
                    if let Some((interface, _)) = name.split_once('#') {
                        add_name(&mut self.exports, interface);
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    add_name(&mut self.imports, import.map_err(malformed)?.name.name);
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    add_name(&mut self.exports, export.map_err(malformed)?.name.name);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn conclude(&mut self) {
        let exports = |interface: &str| self.exports.iter().any(|name| is_ours(name, interface));
        let roles = Roles { balancer: exports("balancer"), router: exports("router") };
        self.has_state = exports("state");
        self.roles = roles;
    }

    /// Refuses what this version of the proxy could never run.
    pub fn admit(&self) -> Result<(), Refusal> {
        if let Some(name) = self.imports.iter().find(|name| !self.may_import(name)) {
            return Err(Refusal::ForeignImport { name: name.clone(), remedy: remedy(name) });
        }
        if !self.roles.balancer && !self.roles.router {
            return Err(Refusal::WrongWorld { exports: self.exports.clone() });
        }
        Ok(())
    }

    fn may_import(&self, name: &str) -> bool {
        // Core modules of wit-bindgen also import the canonical ABI's own functions under these names.
        let is_intrinsic = self.is_module && (name.starts_with("[export]") || name.starts_with("$root"));
        is_intrinsic || version(name).is_some_and(|version| version.starts_with(VERSION_PREFIX))
    }
}

fn is_ours(name: &str, interface: &str) -> bool {
    let rest = name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix(interface));
    rest.and_then(|rest| rest.strip_prefix('@')).is_some_and(|version| version.starts_with(VERSION_PREFIX))
}

/// Version of an interface of ours.
fn version(name: &str) -> Option<&str> {
    name.strip_prefix(PACKAGE)?.split_once('@').map(|(_, version)| version)
}

fn remedy(name: &str) -> &'static str {
    if name.starts_with(PACKAGE) {
        "It was built for another version of the contract: rebuild it against 0.1"
    } else if name.starts_with("wasi:") || name.starts_with("wasi_") {
        "There is no WASI here. Rust: build for wasm32-unknown-unknown. Python: `componentize-py componentize \
         --stub-wasi`. JavaScript: `componentize(…, { disableFeatures: ['random', 'stdio', 'clocks', 'http', \
         'fetch-event'] })`. C: link without the WASI libc's I/O"
    } else if name == "env" || name.starts_with("__wbindgen") {
        "A function was left undefined when linking, or wasm-bindgen is in use: policies import the interfaces of \
         `outrigger:policy@0.1` and nothing else"
    } else {
        "Policies import the interfaces of `outrigger:policy@0.1` and nothing else"
    }
}

fn add_name(names: &mut Vec<String>, name: &str) {
    if names.len() < NAMES_MAX && !names.iter().any(|known| known == name) {
        names.push(name.chars().take(NAME_CHARS_MAX).collect());
    }
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn malformed(error: wasmparser::BinaryReaderError) -> Refusal {
    Refusal::Malformed { message: error.to_string() }
}

const PACKAGE: &str = "outrigger:policy/";
const VERSION_PREFIX: &str = "0.1.";
/// Names kept of a file that has many; the contract has far fewer.
const NAMES_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 200;
