//! What wit-bindgen makes of `wit/policy.wit`: one module per exported interface, over one set of shared types.
//!
//! Authors meet these types through [`crate::balancer`] and [`crate::router`]; only [`crate::export`] names this module.
//! Three worlds with one export each replace the contract's worlds here, so that a component with both halves has the
//! same Rust types as one with a single half. wit-component merges their descriptions, and drops unused imports, so
//! the component that results has the contract's world.
#![allow(unsafe_code, reason = "generated: lifts and lowers values over the canonical ABI")]
#![allow(unused_qualifications, unreachable_pub, missing_docs, reason = "generated")]
#![allow(clippy::all, clippy::use_self, clippy::allow_attributes_without_reason, reason = "generated")]

pub use balancer_world::exports::outrigger::policy::balancer;
pub use balancer_world::outrigger::policy::{env, request, stats, types};
pub use router_world::exports::outrigger::policy::router;
pub use state_world::exports::outrigger::policy::state;

pub mod balancer_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package outrigger:sdk;
            world balancer-half {
                import outrigger:policy/request@0.1.0;
                import outrigger:policy/stats@0.1.0;
                import outrigger:policy/env@0.1.0;
                export outrigger:policy/balancer@0.1.0;
            }
        ",
        generate_all,
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_half",
        default_bindings_module: "outrigger_sdk::bindings::balancer_world",
    });
}

pub mod router_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package outrigger:sdk;
            world router-half {
                import outrigger:policy/request@0.1.0;
                import outrigger:policy/env@0.1.0;
                export outrigger:policy/router@0.1.0;
            }
        ",
        with: {
            "outrigger:policy/types@0.1.0": crate::bindings::types,
            "outrigger:policy/request@0.1.0": crate::bindings::request,
            "outrigger:policy/env@0.1.0": crate::bindings::env,
        },
        generate_all,
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_half",
        default_bindings_module: "outrigger_sdk::bindings::router_world",
    });
}

pub mod state_world {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package outrigger:sdk;
            world state-half {
                export outrigger:policy/state@0.1.0;
            }
        ",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_half",
        default_bindings_module: "outrigger_sdk::bindings::state_world",
    });
}
