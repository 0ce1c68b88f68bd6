//! The promises made to users, one file each, proved against the real program.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod admin;
mod authors;
mod bench;
mod cache;
mod capacity;
mod config_errors;
mod demo;
mod endpoints_die;
mod hostile_policies;
mod http1;
mod http1_bodies;
mod lifecycle;
mod memory;
mod net;
mod net_capture;
mod net_crash;
mod policies_work;
mod registry_consul;
mod registry_embedded;
mod registry_etcd;
mod registry_register;
mod registry_reload;
mod registry_server;
mod registry_server_clients;
mod registry_server_crash;
mod registry_server_dns;
mod routers;
mod smuggling;
mod swap;
mod tidy;
mod timeouts;
mod upstreams;
