use super::super::name::on_wire;
use super::*;

fn zone() -> Zone {
    let consul =
        ConsulNames { domain: "consul".into(), datacenter: "dc1".into(), tag_label: "version".into() };
    let ranges = VirtualRanges {
        v4: ("240.0.0.0".parse().unwrap(), 4),
        v6: ("fd6f:7574:7269::".parse().unwrap(), 64),
    };
    Zone::new("mesh.internal", Some(&consul), ranges)
}

/// In words, so that a table of them can be read.
fn meaning(name: &str) -> String {
    let (zone, name) = (zone(), on_wire(name));
    let labels = Labels::of(&name);
    let Some(located) = zone.locate(&labels) else { return "foreign".into() };
    match located.meaning {
        Meaning::Service { name, form: Form::Consul(Some(tag)) } => {
            let known = ["blue", "v1.2", "v1", "1.2"].into_iter().find(|known| tag.is(known));
            format!("consul {name} {}", known.unwrap_or("?"))
        }
        Meaning::Service { name, form: Form::Consul(None) } => format!("consul {name}"),
        Meaning::Service { name, form } => format!("{form:?} {name}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn our_names_mean_services_and_endpoints() {
    for (name, expected) in [
        ("mesh.internal", "Apex"),
        ("web.mesh.internal", "Usual web"),
        ("WEB.Mesh.Internal.", "Usual web"),
        ("web.endpoints.mesh.internal", "Endpoints web"),
        ("web.virtual.mesh.internal", "Virtual web"),
        ("00000000000000ff.web.endpoints.mesh.internal", "Endpoint { service: \"web\", id: 255 }"),
        ("ff.web.endpoints.mesh.internal", "Nothing"),
        ("_web._tcp.mesh.internal", "Srv web"),
        ("_http._tcp.web.mesh.internal", "Srv web"),
        ("a.web.mesh.internal", "Below web"),
        ("a.b.c.web.mesh.internal", "Below web"),
        ("endpoints.mesh.internal", "Empty"),
        ("_tcp.mesh.internal", "Empty"),
        ("dns.mesh.internal", "Empty"),
        ("ns.dns.mesh.internal", "Server"),
        ("x.dns.mesh.internal", "Nothing"),
        ("internal", "foreign"),
        ("xmesh.internal", "foreign"),
        ("web.mesh.internal.example", "foreign"),
        ("example.com", "foreign"),
        (".", "foreign"),
    ] {
        assert_eq!(meaning(name), expected, "{name}");
    }
}

/// The same names as in the embedded registry's `dns/answer.rs`.
#[test]
fn consuls_names_mean_what_they_mean_to_consul() {
    for name in ["web.service.consul.", "WEB.Service.dc1.consul.", "web.service.dc1.dc.consul."] {
        assert_eq!(meaning(name), "consul web", "{name}");
    }
    assert_eq!(meaning("blue.web.service.consul."), "consul web blue");
    assert_eq!(meaning("v1.2.web.service.consul."), "consul web v1.2");
    assert_eq!(meaning("v1.3.web.service.consul."), "consul web ?");
    for name in ["_web._tcp.service.consul.", "_web._tcp.consul.", "_web._tcp.service.dc1.consul."] {
        assert_eq!(meaning(name), "consul web", "{name}");
    }
    assert_eq!(meaning("_web._blue.service.consul."), "consul web blue");
    assert_eq!(meaning("0a000007.addr.dc1.consul."), "Address(10.0.0.7)");
    assert_eq!(meaning("consul."), "Apex");
    assert_eq!(meaning("service.consul."), "Empty");
    for name in ["web.service.dc2.consul.", "n1.node.consul.", "web.consul.", "zz.addr.consul."] {
        assert_eq!(meaning(name), "Nothing", "{name}");
    }
}

#[test]
fn some_names_mean_the_same_everywhere() {
    for (name, expected) in [
        ("localhost", "Localhost"),
        ("a.localhost", "Localhost"),
        ("x.invalid", "Nothing"),
        ("7.0.0.10.in-addr.arpa", "Reverse(10.0.0.7)"),
        ("07.0.0.10.in-addr.arpa", "foreign"),
        ("256.0.0.10.in-addr.arpa", "foreign"),
        ("0.0.10.in-addr.arpa", "foreign"),
        ("x.7.0.0.10.in-addr.arpa", "foreign"),
    ] {
        assert_eq!(meaning(name), expected, "{name}");
    }
    let digits = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(meaning(digits), "Reverse(fd00::1)");
    let (zone, name) = (zone(), on_wire("1.0.0.240.in-addr.arpa"));
    assert_eq!(zone.locate(&Labels::of(&name)).unwrap().zone, &*on_wire("240.in-addr.arpa"));
    assert!(zone.is_virtual("255.1.2.3".parse().unwrap()) && !zone.is_virtual("10.0.0.1".parse().unwrap()));
    assert!(zone.is_virtual("fd6f:7574:7269::7".parse().unwrap()));
    assert!(!zone.is_virtual("fd6f:7574:7269:1::7".parse().unwrap()));
}
