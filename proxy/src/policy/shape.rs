//! What a component is made of: whether its policy can be called without the component around it.
//!
//! The usual tools make one core module that speaks the canonical ABI under names that follow from the contract, and
//! glue. A component of that shape gets its module exported, and `direct` calls it. Nothing here is trusted for safety:
//! the module has the same imports, limits and store either way. Any other shape runs as a component.

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind,
    ComponentTypeRef, Parser, Payload,
};

/// Under which the module is exported.
pub(super) const CORE_EXPORT: &str = "outrigger-core-module";

/// The component with its core module exported, if it has the usual shape.
pub(super) fn with_core_exported(component: &[u8]) -> Option<Vec<u8>> {
    let index = core_module(component)?;
    let mut exports = wasm_encoder::ComponentExportSection::new();
    exports.export(CORE_EXPORT, wasm_encoder::ComponentExportKind::Module, index, None);
    let mut extended = component.to_vec();
    wasm_encoder::ComponentSection::append_to_component(&exports, &mut extended);
    Some(extended)
}

/// What is being read.
enum Level {
    Component,
    /// Makes instances of interfaces; may have neither modules nor functions of its own.
    Nested,
    Module(Module),
}

/// A core module in the component.
#[derive(Default)]
struct Module {
    /// Exports the functions of an interface of ours, under their canonical names.
    is_policy: bool,
    /// Has a memory, global variables or data, so more than glue.
    has_state: bool,
}

/// The index of the one core module that is the policy.
fn core_module(component: &[u8]) -> Option<u32> {
    let mut levels = Vec::new();
    let mut modules = 0_u32;
    let mut policy = None;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.ok()?;
        match payload {
            Payload::Version { .. } if levels.is_empty() => levels.push(Level::Component),
            Payload::ModuleSection { .. } if matches!(levels.last(), Some(Level::Component)) => {
                levels.push(Level::Module(Module::default()));
            }
            Payload::ComponentSection { .. } => levels.push(Level::Nested),
            Payload::ModuleSection { .. } => return None,
            Payload::End(_) => {
                if let Some(Level::Module(module)) = levels.pop() {
                    if module.is_policy && policy.replace(modules).is_some() || unusual(&module) {
                        return None;
                    }
                    modules += 1;
                }
            }
            part => match levels.last_mut()? {
                Level::Component => admit(&part)?,
                Level::Nested => is_plain(&part).then_some(())?,
                Level::Module(module) => module.add(&part)?,
            },
        }
    }
    policy
}

/// State outside the policy's own module: two modules that work together.
fn unusual(module: &Module) -> bool {
    module.has_state && !module.is_policy
}

impl Module {
    fn add(&mut self, part: &Payload<'_>) -> Option<()> {
        match part {
            Payload::MemorySection(_) | Payload::GlobalSection(_) | Payload::DataSection(_) => {
                self.has_state = true;
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    let name = export.ok()?.name;
                    self.is_policy |= name.starts_with("outrigger:policy/") && name.contains('#');
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Whether a part of the component itself is as usual: strings in UTF-8, nothing asynchronous, no foreign modules.
fn admit(part: &Payload<'_>) -> Option<()> {
    match part {
        Payload::ComponentCanonicalSection(section) => {
            for function in section.clone() {
                let options = match function.ok()? {
                    CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
                        options
                    }
                    CanonicalFunction::ResourceDrop { .. } => continue,
                    _ => return None,
                };
                options.iter().all(is_usual).then_some(())?;
            }
        }
        Payload::ComponentAliasSection(section) => {
            for alias in section.clone() {
                let is_module = matches!(
                    alias.ok()?,
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. }
                        | ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. }
                );
                (!is_module).then_some(())?;
            }
        }
        Payload::ComponentImportSection(section) => {
            for import in section.clone() {
                (!matches!(import.ok()?.ty, ComponentTypeRef::Module(_))).then_some(())?;
            }
        }
        Payload::ComponentExportSection(section) => {
            for export in section.clone() {
                (export.ok()?.name.name != CORE_EXPORT).then_some(())?;
            }
        }
        Payload::ComponentStartSection { .. } => return None,
        _ => {}
    }
    Some(())
}

fn is_usual(option: &CanonicalOption) -> bool {
    use CanonicalOption::{Memory, PostReturn, Realloc, UTF8};
    matches!(option, UTF8 | Memory(_) | Realloc(_) | PostReturn(_))
}

fn is_plain(part: &Payload<'_>) -> bool {
    !matches!(part, Payload::ComponentCanonicalSection(_) | Payload::ComponentStartSection { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::builtin;

    #[test]
    fn what_the_usual_tools_make_has_the_usual_shape() {
        for name in builtin::names() {
            let extended = with_core_exported(builtin::bytes(name).expect("built in"));
            let extended = extended.unwrap_or_else(|| panic!("{name} has another shape"));
            assert!(wasmparser::Validator::new().validate_all(&extended).is_ok(), "{name}");
            assert_eq!(with_core_exported(&extended), None, "the name is taken");
        }
    }

    #[test]
    fn other_shapes_are_left_alone() {
        let policy = r#"(core module (func (export "outrigger:policy/balancer@0.1.0#pick")))"#;
        let shape = |text: &str| {
            let component = wat::parse_str(format!("(component {text})")).expect("text");
            core_module(&component)
        };
        assert_eq!(shape(policy), Some(0));
        assert_eq!(shape(&format!("(core module) {policy}")), Some(1));
        assert_eq!(shape("(core module)"), None);
        assert_eq!(shape(&format!("{policy} {policy}")), None);
        assert_eq!(shape(&format!("(core module (memory 1)) {policy}")), None);
        assert_eq!(shape(&format!("(component {policy})")), None);
        assert_eq!(shape(&format!(r#"(import "m" (core module $m)) {policy}"#)), None);
        let utf16 = r#"(import "f" (func $f (param "x" string))) (core module $m (memory (export "m") 1))
            (core instance $i (instantiate $m))
            (core func (canon lower (func $f) string-encoding=utf16 (memory $i "m")))"#;
        assert_eq!(shape(&format!("{utf16} {policy}")), None);
    }
}
