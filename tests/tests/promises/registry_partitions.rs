//! A network that tears between three members of etcd and the sidecar, each on a host of its own. Whatever is cut: no
//! request fails, the age of the catalogue is told as it is, and once the network has healed the catalogue catches up
//! and the workload is registered.

use std::time::{Duration, Instant};

use outrigger_tests::backend::Backend;
use outrigger_tests::etcd::Etcd;
use outrigger_tests::load::Load;
use outrigger_tests::netns::{Host, Network};
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;

/// From the heal to a catalogue that is up to date: the longest pause between attempts is 15 s, and three members may
/// have to be tried for a second each.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(20);
/// How often the sidecar asks the quorum, and how long one exchange may take.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than the workload's entry lives without being renewed.
const LONG_S: f64 = 6.0;
const OWN_KEY: &str = "/outrigger/services/web/own";

/// The network goes last: with it go its hosts and what is left on them.
struct Mesh {
    etcd: Etcd,
    members: Vec<Host>,
    sidecar: Host,
    network: Network,
}

/// What runs on the sidecar's host.
struct Traffic {
    proxy: Proxy,
    load: Load,
    a: Backend,
    own: Backend,
    b: Backend,
}

impl Mesh {
    fn new() -> Option<Self> {
        let mut network = Network::new()?;
        let members: Vec<Host> = ["m0", "m1", "m2"].iter().map(|name| network.host(name)).collect();
        let sidecar = network.host("sidecar");
        let etcd = Etcd::cluster_on(&members);
        Some(Self { etcd, members, sidecar, network })
    }

    /// On the sidecar's host, which this has to be called on.
    fn traffic(&self) -> Traffic {
        let (a, own, b) = (Backend::named("a"), Backend::named("own"), Backend::named("b"));
        self.etcd.instance("web", "a", a.address);
        let urls: Vec<String> = self.etcd.addresses().iter().map(|at| format!("'http://{at}'")).collect();
        let register = format!("{{service: web, id: own, address: '{}', ttl: 3s}}", own.address);
        let etcd = format!("{{endpoints: [{}], timeout: {}s}}", urls.join(", "), TIMEOUT.as_secs());
        let proxy = Scene::new().registry(&format!("{{etcd: {etcd}, register: {register}}}")).start();
        proxy.wait_for_endpoints("web", &[&a, &own]);
        let load = Load::start(proxy.outbound, 2, "web");
        load.wait_for(50);
        Traffic { proxy, load, a, own, b }
    }

    fn part_sidecar_from(&self, members: &[usize]) {
        members.iter().for_each(|at| self.network.part(&self.sidecar, &self.members[*at]));
    }

    fn followers(&self, leader: usize) -> Vec<usize> {
        (0..self.members.len()).filter(|at| *at != leader).collect()
    }
}

impl Traffic {
    fn age(&self) -> f64 {
        self.proxy.metrics().sum("outrigger_registry_last_confirmed_seconds", &[])
    }

    /// The registry is lost, and the age that is told is that of the cut; `cut` is when it was made.
    fn assert_lost_since(&self, cut: Instant) {
        self.proxy.wait_for_ready("the loss", |ready| ready["registry_valid"] == false);
        wait::until_true("the catalogue to age", || self.age() > LONG_S);
        let before = cut.elapsed();
        let told = Duration::from_secs_f64(self.age());
        let after = cut.elapsed();
        // An answer that was under way may have come a moment after the cut.
        assert!(told + TIMEOUT >= before, "told {told:?}, and it was cut {before:?} ago");
        let oldest = after + CONFIRM_EVERY + TIMEOUT;
        assert!(told <= oldest, "told {told:?}, and before the cut of {after:?} ago it was confirmed");
    }

    /// Once the network is whole, so is everything else.
    fn assert_back(self, mesh: &Mesh) {
        let healed = Instant::now();
        let mut wanted =
            [&self.a, &self.own, &self.b].map(|backend| (backend.address.to_string(), "ready".to_owned()));
        wanted.sort();
        wait::until_within(CAUGHT_UP_WITHIN, "the catalogue to catch up", || {
            let ready = self.proxy.ask("/ready");
            (self.proxy.endpoints("web") == wanted && ready["registry_valid"] == true).then_some(())
        });
        eprintln!("caught up {:?} after the heal", healed.elapsed());
        self.proxy.wait_for_metric("outrigger_registered", &[], 1.0);
        assert!(mesh.etcd.entry(OWN_KEY).is_some(), "the workload is registered");
        wait::until_true("a fresh word", || self.age() < CONFIRM_EVERY.as_secs_f64());
        self.load.wait_for(50);
        self.load.stop().assert_clean();
    }
}

/// The leader is cut off from its followers, and the sidecar hangs on that leader: it says nothing new and cannot
/// confirm the old. The sidecar finds the majority, while the partition lasts.
#[test]
fn a_leader_without_followers_is_left() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.sidecar.enter(|| {
        let leader = mesh.etcd.leader();
        let followers = mesh.followers(leader);
        mesh.part_sidecar_from(&followers);
        let traffic = mesh.traffic();
        // It stays where it is for as long as that answers.
        mesh.network.heal();
        followers.iter().for_each(|at| mesh.network.part(&mesh.members[leader], &mesh.members[*at]));
        mesh.etcd.instance_through(followers[0], "web", "b", traffic.b.address);
        wait::until_within(CAUGHT_UP_WITHIN, "the majority's word", || {
            let known = traffic.proxy.endpoints("web");
            known.iter().any(|(address, _)| *address == traffic.b.address.to_string()).then_some(())
        });
        assert!(traffic.proxy.metrics().sum("outrigger_registry_failures_total", &[]) > 0.0);
        mesh.network.heal();
        traffic.assert_back(&mesh);
    });
}

/// The sidecar is left with a minority, which may not answer for the whole.
#[test]
fn a_minority_is_not_believed() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.sidecar.enter(|| {
        let traffic = mesh.traffic();
        let cut = Instant::now();
        mesh.part_sidecar_from(&[1, 2]);
        [1, 2].iter().for_each(|at: &usize| mesh.network.part(&mesh.members[0], &mesh.members[*at]));
        mesh.etcd.instance_through(1, "web", "b", traffic.b.address);
        traffic.assert_lost_since(cut);
        mesh.network.heal();
        traffic.assert_back(&mesh);
    });
}

/// What the sidecar says arrives, and nothing comes back.
#[test]
fn a_one_way_cut_is_a_cut() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.sidecar.enter(|| {
        let traffic = mesh.traffic();
        let cut = Instant::now();
        mesh.members.iter().for_each(|member| mesh.network.cut(member, &mesh.sidecar));
        mesh.etcd.instance_through(0, "web", "b", traffic.b.address);
        traffic.assert_lost_since(cut);
        mesh.network.heal();
        traffic.assert_back(&mesh);
    });
}

/// Nothing goes through for so long that the workload's entry expires; it is there again after the heal.
#[test]
fn a_full_cut_heals() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.sidecar.enter(|| {
        let traffic = mesh.traffic();
        let cut = Instant::now();
        mesh.part_sidecar_from(&[0, 1, 2]);
        mesh.etcd.instance_through(2, "web", "b", traffic.b.address);
        wait::until_true("the entry to expire", || mesh.etcd.entry(OWN_KEY).is_none());
        traffic.assert_lost_since(cut);
        assert_eq!(traffic.proxy.metrics().sum("outrigger_registered", &[]), 0.0);
        mesh.network.heal();
        traffic.assert_back(&mesh);
    });
}

/// The sidecar's link goes down and comes up again and again, each time before all is well.
#[test]
fn a_link_that_flaps_is_survived() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.sidecar.enter(|| {
        let traffic = mesh.traffic();
        let failures = || traffic.proxy.metrics().sum("outrigger_registry_failures_total", &[]);
        for _ in 0..6 {
            let before = failures();
            mesh.network.unplug(&mesh.sidecar);
            wait::until_true("the link to be missed", || failures() > before);
            mesh.network.plug_in(&mesh.sidecar);
            traffic.load.wait_for(20);
        }
        mesh.etcd.instance_through(0, "web", "b", traffic.b.address);
        traffic.assert_back(&mesh);
    });
}
