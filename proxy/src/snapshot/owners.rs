//! Which services have an endpoint at an address: what a connection was meant for that dialled one of them.
//!
//! Control keeps it up (`control/publish/owners`), also for endpoints that are draining or down: clients may still know
//! their addresses. A change costs a piece of it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::shared_map::SharedMap;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Owners(SharedMap<SocketAddr, Owner>);

/// Most addresses have one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    One(Arc<str>),
    /// In order of name.
    Several(Arc<[Arc<str>]>),
}

impl Owners {
    /// In order of name; usually one, or none.
    pub fn at(&self, address: SocketAddr) -> &[Arc<str>] {
        match self.0.get(&key(address)) {
            None => &[],
            Some(Owner::One(service)) => std::slice::from_ref(service),
            Some(Owner::Several(services)) => services,
        }
    }

    pub fn add(&mut self, address: SocketAddr, service: &Arc<str>) {
        let others = self.at(address).iter().filter(|other| *other != service).cloned();
        self.set(address, others.chain([Arc::clone(service)]).collect());
    }

    pub fn remove(&mut self, address: SocketAddr, service: &str) {
        let others = self.at(address).iter().filter(|other| &***other != service).cloned().collect();
        self.set(address, others);
    }

    /// Addresses that somebody has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn set(&mut self, address: SocketAddr, mut services: Vec<Arc<str>>) {
        services.sort();
        match &services[..] {
            [] => drop(self.0.remove(&key(address))),
            [one] => drop(self.0.insert(key(address), Owner::One(Arc::clone(one)))),
            _ => drop(self.0.insert(key(address), Owner::Several(services.into()))),
        }
    }
}

/// The kernel may tell an address in another form than the registry.
fn key(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_several_owners() {
        let mut owners = Owners::default();
        let at: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        let names =
            |owners: &Owners| owners.at(at).iter().map(|name| (**name).to_owned()).collect::<Vec<_>>();
        for service in ["web", "api", "web"] {
            owners.add(at, &service.into());
        }
        assert_eq!(names(&owners), ["api", "web"]);
        assert_eq!(owners.at(mapped).len(), 2);
        assert!(owners.at("10.0.0.1:81".parse().unwrap()).is_empty());
        let before = owners.clone();
        owners.remove(at, "api");
        assert_eq!((names(&owners), names(&before).len()), (vec!["web".to_owned()], 2));
        owners.remove(at, "nobody");
        owners.remove(mapped, "web");
        assert!(owners.is_empty());
    }
}
