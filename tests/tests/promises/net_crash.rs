//! A run of `outrigger net` that fails, is killed, or is not alone: all or nothing, and nothing lost.
//!
//! strace ends the run at the n-th call of a kind, for every n there is: no hook in the program is needed.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use outrigger_tests::netlab::{Lab, assert_same, ip};
use outrigger_tests::netns::Host;
use outrigger_tests::program::{self, Said, say};
use serde_json::Value;

/// More steps than any run here has.
const STEPS_MAX: usize = 400;

fn file(workloads: &[(String, &Host)]) -> String {
    let mut text = "networks:\n  web: {subnets: [10.88.0.0/27, 'fd88::/64']}\nworkloads:\n".to_owned();
    for (id, host) in workloads {
        let path = host.path();
        text +=
            &format!("  {id}: {{namespace: {{path: {}}}, network: web, capture: {{}}}}\n", path.display());
    }
    text
}

/// The run, with something done to its n-th call.
fn disturbed(lab: &Lab, call: &str, what: &str, nth: usize, arguments: &[&str]) -> Said {
    let mut command = lab.node.command("strace");
    let inject = format!("inject={call}:{what}:when={nth}");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    command.arg(program::outrigger()).arg("net").args(arguments).arg("--state").arg(lab.state());
    say(&mut command)
}

/// What writes to the kernel or to the disk.
const CALLS: [&str; 4] = ["sendto", "write", "rename", "fsync"];

/// A run that can be made, taken back and compared.
struct Case<'a> {
    lab: &'a Lab,
    hosts: [&'a Host; 2],
    file: String,
    /// Without anything of ours, and with all of it.
    before: [String; 2],
    whole: [String; 2],
}

#[test]
fn killed_at_any_step_the_next_run_goes_on() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let fixed = "network: web, addresses: [10.88.0.9, 'fd88::9'],";
    let text = lab.write(&file(&[("a".into(), &a)]).replace("network: web,", fixed));
    let hosts = [&lab.node, &a];
    let before = hosts.map(|host| lab.dump(host));
    lab.net(&["apply", &text]).expect_ok("apply");
    let case = Case { lab: &lab, hosts, file: text, before, whole: hosts.map(shape) };
    lab.undo();
    let steps: usize = CALLS.iter().map(|call| case.kill_apply(call) + case.kill_undo(call)).sum();
    assert!(steps > 80, "{steps} runs killed");
}

impl Case<'_> {
    /// Kills `apply` at each of its calls. The next run, whichever it is, goes on.
    fn kill_apply(&self, call: &str) -> usize {
        for nth in 1..STEPS_MAX {
            let what = format!("apply, {call} {nth}");
            let is_over = disturbed(self.lab, call, "signal=KILL", nth, &["apply", &self.file]).ok();
            if !is_over && nth % 2 == 0 {
                self.apply(&what);
            }
            self.undo(&what);
            if is_over {
                assert!(nth > 1, "{what}: there was nothing to kill");
                return nth - 1;
            }
        }
        panic!("{call}: there is no end");
    }

    /// The same with `undo`.
    fn kill_undo(&self, call: &str) -> usize {
        for nth in 1..STEPS_MAX {
            let what = format!("undo, {call} {nth}");
            self.apply(&what);
            let is_over = disturbed(self.lab, call, "signal=KILL", nth, &["undo"]).ok();
            if !is_over && nth % 2 == 0 {
                self.apply(&what);
            }
            self.undo(&what);
            if is_over {
                assert!(nth > 1, "{what}: there was nothing to kill");
                return nth - 1;
            }
        }
        panic!("{call}: there is no end");
    }

    fn apply(&self, what: &str) {
        self.lab.net(&["apply", &self.file]).expect_ok(what);
        self.lab.net(&["status"]).expect_ok(what);
        assert_eq!(self.hosts.map(shape), self.whole, "{what}");
    }

    fn undo(&self, what: &str) {
        self.lab.net(&["undo"]).expect_ok(what);
        for (host, before) in self.hosts.iter().zip(&self.before) {
            assert_same(&self.lab.dump(host), before, what);
        }
    }
}

/// What is there, without the numbers that every making gives anew.
fn shape(host: &Host) -> String {
    let links = ip(host, &["-brief", "link"]);
    let names = links.lines().map(|line| line.split('@').next().unwrap().split_whitespace().next().unwrap());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    let addresses = ip(host, &["-brief", "address", "show", "scope", "global"]);
    let mut addresses: Vec<String> = addresses
        .lines()
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains('/'))
        .map(str::to_owned)
        .collect();
    addresses.sort();
    let rules = say(host.command("nft").args(["list", "ruleset"])).expect_ok("nft").out;
    let routes =
        ip(host, &["-4", "route", "show", "default"]) + &ip(host, &["-6", "route", "show", "default"]);
    format!("{names:?}\n{addresses:?}\n{routes}\n{rules}")
}

#[test]
fn what_fails_half_way_is_taken_back() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let one = lab.write(&file(&[("a".into(), &a)]));
    lab.net(&["apply", &one]).expect_ok("apply");
    let hosts = [&lab.node, &a, &b];
    let before = hosts.map(shape);
    let both = lab.dir.path().join("both.yaml");
    std::fs::write(&both, file(&[("a".into(), &a), ("b".into(), &b)])).unwrap();
    let both = both.to_str().unwrap();
    let mut failed = 0;
    for nth in 1..STEPS_MAX {
        let said = disturbed(&lab, "sendto", "error=ENOMEM", nth, &["apply", both]);
        if said.ok() {
            break;
        }
        failed += 1;
        assert_eq!(hosts.map(shape), before, "call {nth}: {}", said.err);
        lab.net(&["status"]).expect_ok(&format!("call {nth}: {}", said.err));
    }
    assert!(failed > 20, "{failed} runs failed");
    assert_eq!(lab.net(&["status"]).expect_ok("status").out.matches("there").count(), 2);
}

fn addresses(lab: &Lab) -> Vec<(String, Vec<String>)> {
    let status: Value = serde_json::from_str(&lab.net(&["status", "--json"]).out).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let workloads = status["workloads"].as_array().unwrap().iter();
    workloads
        .map(|found| (text(&found["id"]), found["addresses"].as_array().unwrap().iter().map(text).collect()))
        .collect()
}

/// Each address belongs to one workload, and its interface has it.
#[track_caller]
fn check(lab: &Lab, hosts: &[(String, &Host)], what: &str) {
    let held = addresses(lab);
    let mut all: Vec<&String> = held.iter().flat_map(|(_, addresses)| addresses).collect();
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count, "{what}: {held:?}");
    for (id, addresses) in &held {
        let (_, host) = hosts.iter().find(|(other, _)| other == id).expect("a workload of ours");
        let found = ip(host, &["address", "show", "dev", "eth0"]);
        assert!(
            addresses.iter().all(|address| found.contains(&format!("{address}/"))),
            "{what}: {id}: {found}"
        );
    }
    let cables = ip(&lab.node, &["-brief", "link", "show", "type", "veth", "master", "or-web"]);
    assert_eq!(cables.lines().count(), held.len(), "{what}: {cables}");
}

#[test]
fn many_at_once_get_along() {
    let Some(mut lab) = Lab::new() else { return };
    let hosts: Vec<(String, Host)> =
        (0..8).map(|n| (format!("w{n}"), lab.workload(&format!("w{n}")))).collect();
    let hosts: Vec<(String, &Host)> = hosts.iter().map(|(id, host)| (id.clone(), host)).collect();
    let text = lab.write(&file(&hosts));
    for verb in [&["apply", text.as_str()][..], &["undo"]] {
        let start = |(id, _): &(String, &Host)| {
            let mut command = lab.command(&[verb, &["--workload", id]].concat());
            command.spawn().unwrap()
        };
        let children: Vec<_> = hosts.iter().map(start).collect();
        for mut child in children {
            assert!(child.wait().unwrap().success(), "{verb:?}");
        }
        let there = if verb[0] == "apply" { hosts.len() } else { 0 };
        assert_eq!(addresses(&lab).len(), there);
        if there > 0 {
            check(&lab, &hosts, "many");
            lab.net(&["status"]).expect_ok("status");
        }
    }
    lab.undo();
}

#[test]
fn a_lock_that_is_held_is_waited_for_so_long() {
    let Some(lab) = Lab::new() else { return };
    lab.undo();
    let lock = lab.state().join("lock");
    let mut command = Command::new("flock");
    command
        .arg(&lock)
        .args(["sh", "-c", "echo held; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut held = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut held).unwrap();
    let said = lab.net(&["undo", "--wait", "0"]);
    assert!(!said.ok() && said.err.contains("another run holds"), "{said:?}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    lab.undo();
}

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Two runs that add a workload each, or both the same.
fn at_once(lab: &Lab, text: &str, workloads: [&String; 2], what: &str) {
    std::thread::scope(|scope| {
        for id in workloads {
            scope.spawn(move || lab.net(&["apply", text, "--workload", id]).expect_ok(what));
        }
    });
}

/// A thousand sequences run against a model, in the program's own tests; these few run against the kernel. `SEQUENCES`
/// says how many, for whoever has the time.
#[test]
fn random_sequences_leave_no_orphan_and_no_double() {
    let Some(mut lab) = Lab::new() else { return };
    let owned: Vec<(String, Host)> =
        (0..4).map(|n| (format!("w{n}"), lab.workload(&format!("w{n}")))).collect();
    let hosts: Vec<(String, &Host)> = owned.iter().map(|(id, host)| (id.clone(), host)).collect();
    let text = lab.write(&file(&hosts));
    let all = [&lab.node].into_iter().chain(hosts.iter().map(|(_, host)| *host)).collect::<Vec<_>>();
    let before: Vec<String> = all.iter().map(|host| lab.dump(host)).collect();
    let sequences = std::env::var("SEQUENCES").map_or(10_u64, |count| count.parse().expect("a number"));
    for seed in 1..=sequences {
        let mut dice = Dice(seed * 0x9e37_79b9);
        for step in 0..8 {
            let (id, host) = &hosts[dice.below(hosts.len())];
            let what = format!("seed {seed}, step {step}");
            match dice.below(7) {
                0 | 1 => drop(lab.net(&["apply", &text, "--workload", id]).expect_ok(&what)),
                2 => drop(lab.net(&["undo", "--workload", id]).expect_ok(&what)),
                3 => drop(say(host.command("nft").args(["flush", "ruleset"])).expect_ok(&what)),
                4 => drop(say(host.command("ip").args(["link", "del", "eth0"]))),
                5 => at_once(&lab, &text, [id, &hosts[dice.below(hosts.len())].0], &what),
                _ => drop(disturbed(
                    &lab,
                    "sendto",
                    "signal=KILL",
                    1 + dice.below(60),
                    &["apply", &text, "--workload", id],
                )),
            }
        }
        lab.net(&["apply", &text]).expect_ok("settle");
        lab.net(&["status"]).expect_ok("in order");
        check(&lab, &hosts, &format!("seed {seed}"));
        lab.undo();
        for (host, before) in all.iter().zip(&before) {
            assert_same(&lab.dump(host), before, &format!("seed {seed}"));
        }
        if seed % 50 == 0 {
            eprintln!("{seed} of {sequences} sequences");
        }
    }
    assert!(Path::new(&lab.state()).join("network.json").exists());
}
