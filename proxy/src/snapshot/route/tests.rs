use super::*;
use crate::head::HeadLimits;

fn head(method: &str, authority: &str, path: &str) -> RequestHead {
    let text = format!("{method} {path} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    let mut head = RequestHead::default();
    let parsed = head.parse(text.as_bytes(), HeadLimits { bytes_max: 4096, fields_max: 16 });
    assert!(parsed.is_ok(), "{text}");
    head
}

fn route(name: &str, hosts: &[&str], prefix: Option<&str>, methods: &[&str]) -> Route {
    let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
    let matches =
        RouteMatch { hosts: owned(hosts), path_prefix: prefix.map(str::to_owned), methods: owned(methods) };
    Route::new(name, &matches, RouteTarget::Pool(0))
}

fn table(routes: Vec<Route>) -> RouteTable {
    RouteTable::new(routes, "mesh.internal")
}

fn names(table: &RouteTable, method: &str, authority: &str, path: &str) -> Vec<String> {
    table.find(&head(method, authority, path)).map(|r| r.name.to_string()).collect()
}

#[test]
fn host_is_stripped_of_port_brackets_and_final_dot() {
    for (authority, host) in [
        ("web", "web"),
        ("web:80", "web"),
        ("web.:80", "web"),
        ("web.mesh.internal.", "web.mesh.internal"),
        ("[fd00::7]:8080", "fd00::7"),
        ("[fd00::7]", "fd00::7"),
        ("fd00::7", "fd00::7"),
        ("10.0.0.7:8080", "10.0.0.7"),
        ("web:http", "web:http"),
        ("web:", "web"),
        ("[broken", "[broken"),
        (":80", ""),
        ("", ""),
    ] {
        assert_eq!(host_of(authority), host, "{authority}");
    }
}

#[test]
fn authorities_name_services() {
    let table = table(Vec::new());
    let services = [("web", 0), ("api", 1), ("a.b", 2)].map(|(name, index)| (Arc::from(name), index));
    let services = Names::from_iter(services);
    for (authority, pool) in [
        ("web", Some(0)),
        ("web:8080", Some(0)),
        ("web.mesh.internal", Some(0)),
        ("web.mesh.internal.:80", Some(0)),
        ("a.b.mesh.internal", Some(2)),
        ("api.", Some(1)),
        ("webmesh.internal", None),
        ("x.web.mesh.internal", None),
        (".mesh.internal", None),
        ("mesh.internal", None),
        ("10.0.0.7:8080", None),
        ("[::1]:80", None),
        ("", None),
    ] {
        assert_eq!(table.service_of(authority, &services), pool, "{authority}");
    }
}

#[test]
fn without_a_domain_only_plain_names_count() {
    let services = Names::from_iter([(Arc::from("web"), 0)]);
    let table = RouteTable::new(Vec::new(), "");
    assert_eq!(table.service_of("web:80", &services), Some(0));
    assert_eq!(table.service_of("web.mesh.internal", &services), None);
}

#[test]
fn routes_come_in_the_order_of_the_configuration() {
    let table = table(vec![
        route("wild", &["*.shop.test"], None, &[]),
        route("exact", &["a.shop.test", "a.shop.test:80"], None, &[]),
        route("any", &[], None, &[]),
        route("mixed", &["a.shop.test", "*.test"], None, &[]),
        route("last", &["a.shop.test"], None, &[]),
    ]);
    assert_eq!(names(&table, "GET", "a.shop.test:81", "/"), ["wild", "exact", "any", "mixed", "last"]);
    assert_eq!(names(&table, "GET", "b.c.shop.test", "/"), ["wild", "any", "mixed"]);
    assert_eq!(names(&table, "GET", "shop.test", "/"), ["any", "mixed"]);
    assert_eq!(names(&table, "GET", ".shop.test", "/"), ["any", "mixed"]);
    assert_eq!(names(&table, "GET", "elsewhere", "/"), ["any"]);
}

#[test]
fn prefixes_fit_whole_segments() {
    let table = table(vec![
        route("api", &[], Some("/api"), &[]),
        route("slash", &[], Some("/api/"), &[]),
        route("root", &[], Some("/"), &[]),
    ]);
    for path in ["/api", "/api/", "/api/x", "/api?x=1"] {
        assert_eq!(names(&table, "GET", "web", path), ["api", "slash", "root"], "{path}");
    }
    for path in ["/apiary", "/ap", "/", "/x/api", "/API"] {
        assert_eq!(names(&table, "GET", "web", path), ["root"], "{path}");
    }
    assert!(names(&table, "OPTIONS", "web", "*").is_empty());
}

#[test]
fn methods_are_case_sensitive_and_optional() {
    let table = table(vec![route("read", &[], None, &["GET", "HEAD"]), route("all", &[], None, &[])]);
    assert_eq!(names(&table, "GET", "web", "/"), ["read", "all"]);
    assert_eq!(names(&table, "get", "web", "/"), ["all"]);
    assert_eq!(names(&table, "POST", "web", "/"), ["all"]);
}

/// The index by host must never change what a plain scan finds.
#[test]
fn the_index_finds_what_a_scan_finds() {
    let mut state = 7_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let hosts = ["a.x", "b.x", "*.x", "*.b.x", "x", "*.y", "[::1]"];
    let paths = [None, Some("/"), Some("/p"), Some("/p/q")];
    let methods: [&[&str]; 3] = [&[], &["GET"], &["POST", "PUT"]];
    for _ in 0..200 {
        let routes: Vec<Route> = (0..draw(12))
            .map(|i| {
                let hosts: Vec<&str> = (0..draw(3)).map(|_| hosts[draw(hosts.len())]).collect();
                route(&i.to_string(), &hosts, paths[draw(4)], methods[draw(3)])
            })
            .collect();
        let table = table(routes);
        for authority in ["a.x", "b.x:80", "c.b.x.", "x", "q.y", "[::1]:1", "none"] {
            let head = head(["GET", "PUT", "X"][draw(3)], authority, ["/", "/p", "/pq", "/p/q?r"][draw(4)]);
            let found: Vec<&str> = table.find(&head).map(|r| &*r.name).collect();
            let host = host_of(authority);
            let scanned: Vec<&str> =
                table.routes.iter().filter(|r| r.fits(host, &head)).map(|r| &*r.name).collect();
            assert_eq!(found, scanned, "{authority}");
        }
    }
}

/// A captured request to a service is known to routes by either of its names, in order.
#[test]
fn a_service_s_own_names_find_its_routes() {
    let table = table(vec![
        route("other", &["other"], None, &[]),
        route("full", &["web.mesh.internal"], Some("/full"), &[]),
        route("short", &["web"], None, &[]),
        route("wild", &["*.mesh.internal"], None, &["POST"]),
        route("any", &[], None, &[]),
    ]);
    let all = |service: &str, method: &str, path: &str| {
        let (head, mut from, mut found) = (head(method, "10.0.0.1", path), 0, Vec::new());
        while let Some(index) = table.find_from_for(service, &head, from) {
            found.push(&*table.routes()[index].name);
            from = index + 1;
        }
        found.join(" ")
    };
    assert_eq!(all("web", "GET", "/full"), "full short any");
    assert_eq!(all("web", "POST", "/"), "short wild any");
    assert_eq!(all("api", "GET", "/"), "any");
    assert_eq!(all("other", "GET", "/"), "other any");
}
