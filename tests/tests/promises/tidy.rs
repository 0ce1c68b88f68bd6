//! Rules about the sources that no lint knows: who may use whom, what stays where, how long things may get.

use std::fs;
use std::path::{Path, PathBuf};

use outrigger_tests::program;

/// A source file, with the tests at its end cut off.
struct Source {
    /// Within the repository.
    path: String,
    code: String,
}

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 400;

/// Longer for a reason: end of the path, and the reason.
const LONG_FILES: [(&str, &str); 1] =
    [("proxy/src/worker/exchange.rs", "both directions of one exchange, which are read side by side")];
const LONG_FUNCTIONS: [(&str, &str); 0] = [];

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&program::root().join(folder), &["rs"], &mut found);
    assert!(!found.is_empty(), "{folder} has sources");
    found.sort();
    found.into_iter().map(Source::read).collect()
}

fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        let name = entry.file_name();
        let skipped = ["target", "vendor", ".git"].iter().any(|skipped| name == *skipped);
        let fits = path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e));
        if path.is_dir() && !skipped {
            collect(&path, extensions, found);
        } else if fits {
            found.push(path);
        }
    }
}

impl Source {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(program::root()).unwrap().to_str().unwrap().to_owned();
        let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        Self { path, code: text[..end].to_owned() }
    }

    fn is_test(&self) -> bool {
        ["tests.rs", "tests/", "testing", "fixtures.rs"].iter().any(|part| self.path.contains(part))
    }

    /// Lines that are not comments, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Places that hold one of these words.
    fn places(&self, words: &[&str]) -> Vec<String> {
        let holds = |line: &str| words.iter().any(|word| line.contains(word));
        self.lines()
            .filter(|(_, line)| holds(line))
            .map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }
}

/// Nothing outside these places says these words.
fn assert_only_in(allowed: &[&str], words: &[&str]) {
    let strangers = sources("proxy/src").into_iter().filter(|source| {
        !source.is_test()
            && !allowed.iter().any(|place| source.path.starts_with(&format!("proxy/src/{place}")))
    });
    let places: Vec<String> = strangers.flat_map(|source| source.places(words)).collect();
    assert!(places.is_empty(), "{words:?} only in {allowed:?}, but:\n{}", places.join("\n"));
}

#[test]
fn worker_control_and_names_never_import_each_other() {
    let rooms = ["worker", "control", "names"];
    let mut places = Vec::new();
    for source in sources("proxy/src").iter().filter(|source| !source.is_test()) {
        let Some(room) = rooms.iter().find(|room| source.path.starts_with(&format!("proxy/src/{room}")))
        else {
            continue;
        };
        for other in rooms.iter().filter(|other| *other != room) {
            places.extend(source.places(&[&format!("crate::{other}")]));
        }
    }
    assert!(places.is_empty(), "{}", places.join("\n"));
}

#[test]
fn what_all_rest_on_knows_nobody_above() {
    let above = ["crate::worker", "crate::control", "crate::names", "crate::app", "crate::cli"];
    let rooms = ["snapshot", "policy", "metrics", "head", "link", "clock", "logging", "release", "tls"];
    for room in rooms.into_iter().chain(["backoff", "etcd", "http_client"]) {
        let own = sources("proxy/src")
            .into_iter()
            .filter(|source| !source.is_test() && source.path.starts_with(&format!("proxy/src/{room}")));
        let places: Vec<String> = own.flat_map(|source| source.places(&above)).collect();
        assert!(places.is_empty(), "{}", places.join("\n"));
    }
    assert_only_in(&["app.rs", "main.rs", "cli"], &["crate::app"]);
}

/// It could be a program of its own.
#[test]
fn the_registry_server_knows_configuration_and_metrics_only() {
    let rooms = ["app", "cli", "control", "head", "link", "policy", "snapshot", "worker"];
    let rooms = rooms.map(|room| format!("crate::{room}"));
    let words: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let own = sources("proxy/src/registry_server").into_iter().filter(|source| !source.is_test());
    let places: Vec<String> = own.flat_map(|source| source.places(&words)).collect();
    assert!(places.is_empty(), "{}", places.join("\n"));
    assert_only_in(
        &["cli/registry.rs", "docs.rs", "registry_server"],
        &["crate::registry_server", "registry_server::"],
    );
}

/// It makes networks; it knows configuration's way of reading files, how metrics are declared, and etcd.
#[test]
fn the_net_room_stands_alone() {
    let rooms = ["app", "cli", "control", "head", "link", "names", "policy", "snapshot", "worker"];
    let rooms = rooms.map(|room| format!("crate::{room}"));
    let words: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let own = sources("proxy/src/net").into_iter().filter(|source| !source.is_test());
    let places: Vec<String> = own.flat_map(|source| source.places(&words)).collect();
    assert!(places.is_empty(), "{}", places.join("\n"));
    assert_only_in(&["cli/cni.rs", "cli/doctor.rs", "cli/net", "docs.rs", "net"], &["crate::net"]);
    assert_only_in(&["net"], &["rtnetlink", "move_into_link_name_space"]);
}

#[test]
fn foreign_types_stay_in_their_rooms() {
    assert_only_in(&["policy"], &["wasmtime::", "use wasmtime"]);
    assert_only_in(&["policy", "cli/policy"], &["wit_component", "wit_parser"]);
    assert_only_in(
        &["control/admin", "cli/demo", "net/watch/server.rs", "registry_server"],
        &["hyper::server", "hyper::service"],
    );
    assert_only_in(
        &[
            "control/admin",
            "http_client.rs",
            "control/register/health.rs",
            "cli/admin",
            "cli/demo",
            "net/watch/server.rs",
            "registry_server",
        ],
        &["hyper_util"],
    );
    assert_only_in(&["tls"], &["rustls::", "use rustls"]);
    assert_only_in(&["registry_server/store.rs"], &["redb::"]);
    assert_only_in(&["release/keys.rs"], &["use ring::"]);
    assert_only_in(&["names/answer/alias.rs", "registry_server/dns"], &["hickory_proto"]);
    assert_only_in(
        &[
            "metrics",
            "worker/record",
            "control/admin/scrape.rs",
            "control/register/health.rs",
            "logging.rs",
            "names/forward/shares.rs",
            "names/metrics.rs",
            "names/sight.rs",
            "net/watch/metrics.rs",
            "registry_server/metrics.rs",
        ],
        &["use prometheus"],
    );
    assert_only_in(&["config"], &["saphyr"]);
    assert_only_in(&["watch"], &["notify::{", "use notify"]);
}

#[test]
fn state_of_workers_and_names_stays_on_its_thread() {
    let mut rooms = sources("proxy/src/worker");
    rooms.extend(sources("proxy/src/names"));
    let words = ["tokio::spawn(", "task::spawn(", "spawn_blocking", "Mutex", "RwLock"];
    let places: Vec<String> =
        rooms.iter().filter(|source| !source.is_test()).flat_map(|source| source.places(&words)).collect();
    assert!(places.is_empty(), "spawn_local: the state of workers and names is !Send\n{}", places.join("\n"));
}

#[test]
fn files_and_functions_stay_short() {
    let mut long = Vec::new();
    for folder in ["proxy/src", "sdk/src", "policies", "examples", "tests"] {
        for source in sources(folder) {
            let lines = source.code.lines().count();
            if lines > FILE_LINES_MAX && !source.is_test() && !is_listed(&LONG_FILES, &source.path) {
                long.push(format!("{}: {lines} lines", source.path));
            }
            for (line, length) in functions(&source) {
                if length > FUNCTION_LINES_MAX && !is_listed(&LONG_FUNCTIONS, &source.path) {
                    long.push(format!("{}:{line}: a function of {length} lines", source.path));
                }
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

fn is_listed(list: &[(&str, &str)], path: &str) -> bool {
    list.iter().any(|(end, reason)| path.ends_with(end) && !reason.is_empty())
}

/// Where functions begin and how many lines they have: up to the brace that stands as deep as they do. The format is
/// rustfmt's, and a table (`#[rustfmt::skip]`) may be long.
fn functions(source: &Source) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = source.code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        let words = code.split("fn ").next().unwrap_or_default();
        let starts = code.contains("fn ")
            && words
                .split_whitespace()
                .all(|word| word.starts_with("pub") || "const async unsafe in super)".contains(word));
        let table = index > 0 && lines[index - 1].contains("rustfmt::skip");
        if !starts || table || code.ends_with(';') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(depth));
        if let Some(length) = lines[index..].iter().position(|line| **line == close) {
            found.push((index + 1, length + 1));
        }
    }
    found
}

#[test]
fn modules_say_what_they_are_for() {
    let mut silent = Vec::new();
    for folder in ["proxy/src", "sdk/src", "policies", "examples", "tests"] {
        for source in sources(folder) {
            let unit_tests = source.path.ends_with("tests.rs");
            if !source.code.trim_start().starts_with("//!") && !unit_tests {
                silent.push(source.path);
            }
        }
    }
    assert!(silent.is_empty(), "no module comment:\n{}", silent.join("\n"));
}

/// Time passes in `wait` alone: everything else waits for a condition.
#[test]
fn tests_do_not_sleep() {
    let mut places = Vec::new();
    for source in sources("tests") {
        if source.path != "tests/src/wait.rs" && !source.path.ends_with("tidy.rs") {
            places.extend(source.places(&["thread::sleep(", "time::sleep(", "park_timeout("]));
        }
    }
    assert!(places.is_empty(), "{}", places.join("\n"));
}

/// A port that is written down is taken some day.
#[test]
fn tests_bind_no_fixed_port() {
    let mut places = Vec::new();
    for source in sources("tests") {
        for (number, line) in source.lines() {
            let binds = line.contains("bind(\"") && !line.contains(":0\"");
            if binds && !source.path.ends_with("tidy.rs") {
                places.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert!(places.is_empty(), "{}", places.join("\n"));
}

/// A table of metrics in a document has all of its program, and no document names one that does not exist.
#[test]
fn documents_and_program_agree_on_metrics() {
    let programs: [&[&str]; 3] = [
        &["proxy/src/metrics.rs", "proxy/src/metrics/policies.rs"],
        &["proxy/src/registry_server/metrics.rs"],
        &["proxy/src/net/watch/metrics.rs"],
    ];
    let declared = programs.map(|paths| {
        let text = |path: &&str| fs::read_to_string(program::root().join(path)).unwrap();
        let names: Vec<String> = paths.iter().flat_map(|path| metrics_between(&text(path), '"')).collect();
        assert!(names.len() > 10, "{names:?}");
        names
    });
    let mut documents = Vec::new();
    collect(program::root(), &["md", "wit"], &mut documents);
    let mut wrong = Vec::new();
    for path in documents {
        let named = metrics_between(&fs::read_to_string(&path).unwrap(), '`');
        let unknown = named.iter().filter(|name| !declared.iter().any(|names| names.contains(name)));
        wrong.extend(unknown.map(|name| format!("{}: {name} does not exist", path.display())));
        for names in &declared {
            let is_table = named.iter().filter(|name| names.contains(name)).count() > 10;
            let missing = names.iter().filter(|name| is_table && !named.contains(name));
            wrong.extend(missing.map(|name| format!("{}: {name} is missing", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names of metrics between two of this quote, each once; what a histogram adds to its name is left out.
fn metrics_between(text: &str, quote: char) -> Vec<String> {
    let mut names = Vec::new();
    for part in text.split(quote) {
        let name = part.split('{').next().unwrap_or_default();
        let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = suffix.unwrap_or(name);
        let fits = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !name.ends_with('_');
        if name.starts_with("outrigger_") && fits && !CRATES.contains(&name) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// They begin like metrics.
const CRATES: [&str; 2] = ["outrigger_sdk", "outrigger_tests"];
