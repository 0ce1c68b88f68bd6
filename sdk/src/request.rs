//! The request being decided on. Valid during `pick` and `route` only; elsewhere everything is empty.
//!
//! Each call crosses into the host and copies a string: look at the scalars of the context first.

macro_rules! ask {
    ($function:ident($($argument:expr),*)) => {{
        #[cfg(target_arch = "wasm32")]
        { crate::bindings::request::$function($($argument),*) }
        #[cfg(not(target_arch = "wasm32"))]
        { crate::testing::world::with(|world| world.request.$function($($argument),*)) }
    }};
}

/// `GET`, case kept.
#[must_use]
pub fn method() -> String {
    ask!(method())
}

/// Path and query as received: `/cart?item=7`.
#[must_use]
pub fn path() -> String {
    ask!(path())
}

/// Host and optional port, lower case: `web.mesh.internal:80`.
#[must_use]
pub fn authority() -> String {
    ask!(authority())
}

/// The first value of the header; the name is matched without regard to case.
#[must_use]
pub fn header(name: &str) -> Option<String> {
    ask!(header(name))
}

/// All values of the header, in order.
#[must_use]
pub fn headers(name: &str) -> Vec<String> {
    ask!(headers(name))
}

/// The value of the named cookie (RFC 6265).
#[must_use]
pub fn cookie(name: &str) -> Option<String> {
    ask!(cookie(name))
}

/// The first value of the query parameter, percent-decoded.
#[must_use]
pub fn query(name: &str) -> Option<String> {
    ask!(query(name))
}

/// The peer's verified identity (a SPIFFE id), if the connection has one.
#[must_use]
pub fn identity() -> Option<String> {
    ask!(identity())
}

/// The peer's IP address, without the port.
#[must_use]
pub fn source_address() -> String {
    ask!(source_address())
}

/// Whether an earlier attempt of this request already went to the endpoint.
#[must_use]
pub fn tried(endpoint: u32) -> bool {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::request::tried(endpoint);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| world.tried.contains(&endpoint))
}
