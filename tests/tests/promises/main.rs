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
mod capture_http;
mod capture_inbound;
mod capture_life;
mod capture_tcp;
mod capture_tproxy;
mod clock_jumps;
mod cni;
mod cni_life;
mod cni_overlay;
mod config_errors;
mod containers_compose;
mod containers_ctr;
mod containers_docker;
mod containers_podman;
mod containers_pods;
mod containers_sidecar;
mod demo;
mod dns_captured;
mod dns_conformance;
mod dns_forward;
mod dns_local;
mod dns_server;
mod doctor;
mod endpoints_die;
mod hostile_policies;
mod http1;
mod http1_bodies;
mod lifecycle;
mod memory;
mod net;
mod net_capture;
mod net_crash;
mod net_namespaces;
mod net_overlay;
mod net_overlay_lease;
mod net_overlay_ways;
mod net_run;
mod net_run_repair;
mod policies_work;
mod registry_certificates;
mod registry_check;
mod registry_consul;
mod registry_embedded;
mod registry_etcd;
mod registry_partitions;
mod registry_register;
mod registry_reload;
mod registry_scale;
mod registry_server;
mod registry_server_clients;
mod registry_server_crash;
mod registry_server_dns;
mod releases;
mod releases_refused;
mod routers;
mod smuggling;
mod swap;
mod tidy;
mod timeouts;
mod upgrade;
mod upstreams;
