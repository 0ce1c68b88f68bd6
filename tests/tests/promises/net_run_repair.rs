//! What others break comes back by itself: at once, without a connection lost, and without an endless fight.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use outrigger_tests::netlab::{Lab, OUTSIDE6, ip};
use outrigger_tests::netns::Host;
use outrigger_tests::netrun::{Running, has_table, time_until, tool};
use outrigger_tests::program::say;
use outrigger_tests::wait;

/// Generous: the machine may be busy. What it takes is printed.
const SOON: Duration = Duration::from_secs(10);
const FLUSHES: usize = 8;

fn file(workloads: &[(&str, &Host, &str)]) -> String {
    let mut text = "networks:\n  web: {subnets: [10.88.0.0/24, 'fd88::/64']}\nworkloads:\n".to_owned();
    for (id, host, more) in workloads {
        let path = host.path();
        text += &format!("  {id}: {{namespace: {{path: {}}}, network: web{more}}}\n", path.display());
    }
    text
}

fn start(lab: &Lab, text: &str) -> Running {
    let file = PathBuf::from(lab.write(text));
    Running::start(&lab.node, &file, lab.dir.path()).until_ready()
}

/// Answers each byte with itself, until the other side ends.
fn echo(host: &Host, port: u16) {
    let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// A connection on which bytes go to and fro without pause.
struct Talk {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Talk {
    fn start(from: &Host, to: SocketAddr) -> Self {
        let mut stream = from.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap());
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut byte = [7];
            while !stopped.load(SeqCst) {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
                counted.fetch_add(1, SeqCst);
            }
            Ok(())
        });
        Self { rounds, stop, thread }
    }

    /// Waits until it has gone on.
    fn goes_on(&self, what: &str) {
        let before = self.rounds.load(SeqCst);
        wait::until_true(what, || self.thread.is_finished() || self.rounds.load(SeqCst) > before + 20);
    }

    fn end(self, what: &str) {
        self.stop.store(true, SeqCst);
        let ended = self.thread.join().unwrap();
        assert!(ended.is_ok(), "{what}: {ended:?} after {} rounds", self.rounds.load(SeqCst));
    }
}

/// What is broken, how, and how it shows that it is back.
type Case<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn() -> bool);

/// Breaks one thing after the other, and waits for each to be back.
fn break_all(lab: &Lab, run: &Running, cases: &[Case<'_>]) {
    for (what, disturb, is_back) in cases {
        assert!(is_back(), "{what}: it is there before");
        disturb();
        let took = time_until(what, is_back);
        println!("{what}: back within {took:?}");
        assert!(took < SOON, "{what}: {took:?}");
    }
    wait::until_true("all to be in order", || lab.net(&["status"]).ok());
    // It is there a moment before it is counted.
    wait::until_true("each to be counted", || {
        run.metrics().sum("outrigger_net_repairs_total", &[]) >= cases.len() as f64
    });
}

#[test]
fn rules_that_are_broken_come_back() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let run = start(&lab, &file(&[("a", &a, ", publish: ['8080:80'], capture: {}")]));
    let node = &lab.node;
    let nft = |host: &Host, words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        drop(tool(host, &[&["nft"], &words[..]].concat()));
    };
    let lists = |host: &Host, words: &str| {
        say(host.command("nft").args(["list", "table", "inet", "outrigger"])).out.contains(words)
    };
    let added = "add rule inet outrigger sources udp dport 999 drop";
    let cases: [Case<'_>; 5] = [
        ("host: flush ruleset", &|| nft(node, "flush ruleset"), &|| lists(node, "masquerade")),
        ("workload: flush ruleset", &|| nft(&a, "flush ruleset"), &|| lists(&a, "15001")),
        ("workload: a chain emptied", &|| nft(&a, "flush chain inet outrigger inbound"), &|| {
            lists(&a, "15006")
        }),
        ("host: a port removed", &|| nft(node, "flush map inet outrigger published4"), &|| {
            lists(node, "8080")
        }),
        ("host: a rule of somebody's", &|| nft(node, added), &|| !lists(node, "999")),
    ];
    break_all(&lab, &run, &cases);
}

#[test]
fn links_and_settings_that_are_broken_come_back() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let run = start(&lab, &file(&[("a", &a, "")]));
    let node = &lab.node;
    let set = |name: &str, value: &str| node.enter(|| std::fs::write(name, value).unwrap());
    let value = |name: &str| node.enter(|| std::fs::read_to_string(name).unwrap());
    let (forward4, forward6) = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding");
    let link = |host: &Host, words: &str| drop(ip(host, &words.split(' ').collect::<Vec<_>>()));
    let shows = |host: &Host, words: &str, text: &str| {
        let said = host.command("ip").args(words.split(' ')).output().unwrap();
        String::from_utf8_lossy(&said.stdout).contains(text)
    };
    let cases: [Case<'_>; 7] = [
        ("host: bridge deleted", &|| link(node, "link del or-web"), &|| {
            shows(node, "address show dev or-web", "10.88.0.1/24")
                && shows(node, "link show master or-web", "or")
        }),
        ("workload: interface deleted", &|| link(&a, "link del eth0"), &|| {
            shows(&a, "route", "default via 10.88.0.1") && shows(&a, "address", "fd88::2/64")
        }),
        ("workload: address deleted", &|| link(&a, "address del 10.88.0.2/24 dev eth0"), &|| {
            shows(&a, "address", "10.88.0.2/24") && shows(&a, "route", "default via 10.88.0.1")
        }),
        ("workload: interface down", &|| link(&a, "link set eth0 down"), &|| {
            shows(&a, "link show dev eth0 up", "eth0") && shows(&a, "-6 route", "default via fd88::1")
        }),
        ("workload: route deleted", &|| link(&a, "-6 route del default"), &|| {
            shows(&a, "-6 route", "default via fd88::1")
        }),
        ("host: IPv4 not forwarded", &|| set(forward4, "0"), &|| value(forward4) == "1\n"),
        ("host: IPv6 not forwarded", &|| set(forward6, "0"), &|| value(forward6) == "1\n"),
    ];
    break_all(&lab, &run, &cases);
}

/// Once through the host's translation, once through the capture of a workload.
#[test]
fn connections_outlive_flushes_of_the_rules() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let run = start(&lab, &file(&[("a", &a, ", publish: ['8080:80']"), ("b", &b, ", capture: {dns: 0}")]));
    echo(&a, 80);
    // Where the sidecar would be.
    echo(&b, 15001);
    let published = Talk::start(&lab.outside, (lab.node.address, 8080).into());
    let captured = Talk::start(&b, (lab.outside.address, 80).into());
    let captured6 = Talk::start(&b, (OUTSIDE6.parse::<IpAddr>().unwrap(), 80).into());
    let masqueraded = {
        echo(&lab.outside, 81);
        Talk::start(&a, (lab.outside.address, 81).into())
    };
    for nth in 0..FLUSHES {
        for host in [&lab.node, &b] {
            wait::until_true("the table", || has_table(host));
            tool(host, &["nft", "flush", "ruleset"]);
        }
        for talk in [&published, &captured, &captured6, &masqueraded] {
            talk.goes_on(&format!("flush {nth}"));
        }
    }
    // The port and the capture go, and what they had led stays where it is until it ends.
    lab.write(&file(&[("a", &a, ""), ("b", &b, "")]));
    wait::until_true("the table to go", || !has_table(&b));
    for talk in [&published, &captured, &captured6, &masqueraded] {
        talk.goes_on("without rules");
    }
    published.end("published");
    captured.end("captured");
    captured6.end("captured6");
    masqueraded.end("masqueraded");
    let repairs = run.metrics().sum("outrigger_net_repairs_total", &[]);
    assert!(repairs >= FLUSHES as f64, "{repairs}");
}

/// Somebody deletes the table of one workload whenever it is there. Repairs get rare; the neighbour's do not.
#[test]
fn a_fight_is_bounded_and_hurts_nobody_else() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let run = start(&lab, &file(&[("a", &a, ", capture: {}"), ("b", &b, ", capture: {}")]));
    let stop = Arc::new(AtomicBool::new(false));
    let fighter = {
        let (stop, a) = (Arc::clone(&stop), a.clone());
        std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                say(a.command("nft").args(["flush", "ruleset"]));
            }
        })
    };
    let metrics = wait::until("the fight to be seen", || {
        Some(run.metrics()).filter(|metrics| metrics.sum("outrigger_net_places_fought_over", &[]) == 1.0)
    });
    let repairs = metrics.sum("outrigger_net_repairs_total", &[("place", "workload")]);
    tool(&b, &["nft", "flush", "ruleset"]);
    let took = time_until("the neighbour to be repaired", || has_table(&b));
    println!("the neighbour: back within {took:?}");
    assert!(took < SOON && repairs < 50.0, "{took:?}, {repairs} repairs");
    stop.store(true, SeqCst);
    fighter.join().unwrap();
    wait::until_true("the fighter's own to come back", || has_table(&a));
    wait::until_true("all to be in order", || lab.net(&["status"]).ok());
}
