//! The macros that turn a type into a component, and the little they need at run time.
//!
//! Code is generated for Wasm only, so that native test binaries may link any number of policies. A call that comes
//! before `configure` is answered with "no opinion": nothing here can trap.

use std::cell::RefCell;

use crate::balancer::Balancer;
use crate::bindings::{balancer, router};
use crate::config::Config;
use crate::router::Router;

/// Exports a [`Balancer`] as a component: `export_balancer!(MyPolicy);`, once per crate.
#[macro_export]
macro_rules! export_balancer {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__hold!(Component, HasBalancer, $policy);
            $crate::__state!(Component, HasBalancer);
            $crate::bindings::balancer_world::export_half!(Component with_types_in $crate::bindings::balancer_world);
            $crate::bindings::state_world::export_half!(Component with_types_in $crate::bindings::state_world);
        };
    };
}

/// Exports a [`Router`] as a component: `export_router!(MyPolicy);`, once per crate.
#[macro_export]
macro_rules! export_router {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__hold!(Component, HasRouter, $policy);
            $crate::__state!(Component, HasRouter);
            $crate::bindings::router_world::export_half!(Component with_types_in $crate::bindings::router_world);
            $crate::bindings::state_world::export_half!(Component with_types_in $crate::bindings::state_world);
        };
    };
}

/// Exports a [`Balancer`] and a [`Router`] in one component: `export_policy!(MyBalancer, MyRouter);`, once per crate.
/// Each place that uses the component has an instance of its own, in which only one of the two is configured.
#[macro_export]
macro_rules! export_policy {
    ($balancer:ty, $router:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__hold!(Component, HasBalancer, $balancer);
            $crate::__hold!(Component, HasRouter, $router);
            $crate::__state!(Component, HasBalancer, HasRouter);
            $crate::bindings::balancer_world::export_half!(Component with_types_in $crate::bindings::balancer_world);
            $crate::bindings::router_world::export_half!(Component with_types_in $crate::bindings::router_world);
            $crate::bindings::state_world::export_half!(Component with_types_in $crate::bindings::state_world);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __hold {
    ($component:ident, $has:ident, $policy:ty) => {
        impl $crate::export::$has for $component {
            type Policy = $policy;
            fn slot<R>(visit: impl FnOnce(&$crate::export::Slot<$policy>) -> R) -> R {
                ::std::thread_local! {
                    static POLICY: $crate::export::Slot<$policy> = const { $crate::export::Slot::new() };
                }
                POLICY.with(visit)
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __state {
    ($component:ident, $($has:ident),+) => {
        impl $crate::bindings::state::Guest for $component {
            fn export_state() -> ::std::vec::Vec<u8> {
                $(if let Some(bytes) = <$component as $crate::export::$has>::slot(|slot| slot.with(|policy| policy.export_state())) {
                    return bytes;
                })+
                ::std::vec::Vec::new()
            }
            fn import_state(bytes: ::std::vec::Vec<u8>) -> ::std::result::Result<(), ::std::string::String> {
                $(if let Some(result) = <$component as $crate::export::$has>::slot(|slot| slot.with(|policy| policy.import_state(&bytes))) {
                    return result;
                })+
                ::std::result::Result::Ok(())
            }
        }
        // The macro names methods of these traits on values whose types are the author's.
        #[allow(unused_imports, reason = "one of them is unused in a component with one half")]
        use $crate::{balancer::Balancer as _, router::Router as _};
    };
}

/// Holds the policy of this instance from `configure` on.
pub struct Slot<T>(RefCell<Option<T>>);

impl<T> Slot<T> {
    #[expect(clippy::new_without_default, reason = "has to be const")]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// `None` before `configure`. The borrow cannot fail: calls into an instance never overlap.
    pub fn with<R>(&self, call: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.try_borrow_mut().ok()?.as_mut().map(call)
    }

    fn put(&self, policy: T) {
        if let Ok(mut place) = self.0.try_borrow_mut() {
            *place = Some(policy);
        }
    }
}

/// A component with a balancer in it.
pub trait HasBalancer {
    type Policy: Balancer;
    fn slot<R>(visit: impl FnOnce(&Slot<Self::Policy>) -> R) -> R;
}

impl<C: HasBalancer> balancer::Guest for C {
    fn configure(setup: balancer::Setup) -> Result<balancer::Interests, String> {
        let policy = C::Policy::new(Config::parse(&setup.config)?, &setup)?;
        let interests = policy.interests();
        C::slot(|slot| slot.put(policy));
        Ok(interests)
    }

    fn update(endpoints: Vec<balancer::Endpoint>) {
        C::slot(|slot| slot.with(|policy| policy.update(endpoints)));
    }

    fn pick(ctx: balancer::Context) -> balancer::Choice {
        C::slot(|slot| slot.with(|policy| policy.pick(&ctx))).unwrap_or(balancer::Choice::Fallback)
    }

    fn observe(observation: balancer::Observation) {
        C::slot(|slot| slot.with(|policy| policy.observe(&observation)));
    }

    fn tick(now: u64) {
        C::slot(|slot| slot.with(|policy| policy.tick(now)));
    }
}

/// A component with a router in it.
pub trait HasRouter {
    type Policy: Router;
    fn slot<R>(visit: impl FnOnce(&Slot<Self::Policy>) -> R) -> R;
}

impl<C: HasRouter> router::Guest for C {
    fn configure(setup: router::Setup, backends: Vec<String>) -> Result<router::Interests, String> {
        let policy = C::Policy::new(Config::parse(&setup.config)?, &setup, &backends)?;
        let interests = policy.interests();
        C::slot(|slot| slot.put(policy));
        Ok(interests)
    }

    fn route(head: router::Head, ctx: router::Context) -> router::Decision {
        C::slot(|slot| slot.with(|policy| policy.route(&head, &ctx))).unwrap_or(router::Decision::Next)
    }

    fn tick(now: u64) {
        C::slot(|slot| slot.with(|policy| policy.tick(now)));
    }
}
