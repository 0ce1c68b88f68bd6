//! Policies in the text format, made from the templates in `guests/`: honest ones, and one for each way to misbehave.

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// Bodies of a balancer's functions. The default does nothing and picks the first endpoint.
#[derive(Debug, Clone)]
pub struct Balancer {
    pub imports: &'static str,
    /// Of 64 KiB, at the start.
    pub pages: u32,
    pub configure: &'static str,
    pub update: &'static str,
    pub pick: &'static str,
    pub observe: &'static str,
    pub tick: &'static str,
}

// Pointers into the template's data.
pub const CONFIGURED: &str = "(i32.const 16)";
pub const WANTS_TICKS: &str = "(i32.const 24)";
pub const WANTS_STATE: &str = "(i32.const 32)";
pub const WANTS_OUTCOMES: &str = "(i32.const 40)";
/// With the words of `REFUSAL`.
pub const REFUSES: &str = "(i32.const 48)";
pub const REFUSAL: &str = "zeal: not a word";
pub const FIRST: &str = "(i32.const 64)";
pub const SECOND: &str = "(i32.const 72)";
pub const EIGHTH: &str = "(i32.const 80)";
pub const FALLBACK: &str = "(i32.const 88)";
pub const LOOP: &str = "(loop (br 0)) unreachable";
/// For functions without a result.
pub const LOOP_UNIT: &str = "(loop (br 0))";
pub const TRAP: &str = "unreachable";
pub const BOMB: &str = "(loop (drop (memory.grow (i32.const 16))) (br 0)) unreachable";

impl Default for Balancer {
    fn default() -> Self {
        Self { imports: "", pages: 1, configure: CONFIGURED, update: "", pick: FIRST, observe: "", tick: "" }
    }
}

impl Balancer {
    pub fn picking(pick: &'static str) -> Self {
        Self { pick, ..Self::default() }
    }

    /// Picks the first endpoint, and conforms: without endpoints, the fallback decides.
    pub fn first() -> Self {
        Self {
            update: "(i32.store (i32.const 200) (local.get 1))",
            pick: "(if (result i32) (i32.load (i32.const 200)) (then (i32.const 64)) (else (i32.const 88)))",
            ..Self::default()
        }
    }

    /// Picks the last endpoint, and conforms.
    pub fn last() -> Self {
        Self {
            update: "(i32.store (i32.const 200) (local.get 1))
                (i32.store (i32.const 76) (i32.sub (local.get 1) (i32.const 1)))",
            pick: "(if (result i32) (i32.load (i32.const 200)) (then (i32.const 72)) (else (i32.const 88)))",
            ..Self::default()
        }
    }

    pub fn component(&self) -> Vec<u8> {
        let text = include_str!("../guests/balancer.wat")
            .replace("{imports}", self.imports)
            .replace("{pages}", &self.pages.to_string())
            .replace("{configure}", self.configure)
            .replace("{update}", self.update)
            .replace("{pick}", self.pick)
            .replace("{observe}", self.observe)
            .replace("{tick}", self.tick);
        component(&text, "load-balancer")
    }
}

/// A router whose `route` has this body.
pub fn router(route: &str) -> Vec<u8> {
    component(&include_str!("../guests/router.wat").replace("{route}", route), "request-router")
}

/// A component that wants what no policy gets.
pub fn wasi() -> Vec<u8> {
    wat::parse_str(r#"(component (import "wasi:io/poll@0.2.6" (instance)))"#).expect("text")
}

/// A balancer that asks the host about an endpoint that does not exist.
pub fn bad_index() -> Balancer {
    Balancer {
        imports: r#"(import "outrigger:policy/stats@0.1.0" "get" (func $get (param i32 i32)))"#,
        pick: "(call $get (i32.const 999) (i32.const 200)) (i32.const 64)",
        ..Balancer::default()
    }
}

/// From the text of a core module to a component of this world.
fn component(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", WIT).expect("the contract");
    let world = resolve.select_world(&[package], Some(world)).expect("a world");
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("metadata");
    let encoder = ComponentEncoder::default().validate(true).module(&module).expect("a module");
    let mut encoder = encoder;
    encoder.encode().expect("a component")
}

const WIT: &str = include_str!("../../sdk/wit/policy.wit");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_whole() {
        for component in [Balancer::default().component(), router(FIRST), bad_index().component()] {
            assert!(component.starts_with(b"\0asm"));
        }
    }
}
