use super::*;

fn plan(text: &str) -> Result<Plan, String> {
    read_plan(text.as_bytes())
}

/// As in flannel's own documentation.
#[test]
fn reads_what_flannel_s_users_write() {
    let plain = plan(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#).unwrap();
    assert_eq!((plain.vni, plain.port, plain.direct_routing, plain.ipv6), (1, 8472, false, None));
    let Range { length, first, last, .. } = plain.ipv4;
    assert_eq!((length, first.to_string(), last.to_string()), (24, "10.5.1.0".into(), "10.5.255.0".into()));
    let whole = plan(
        r#"{"EnableIPv6": true, "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0",
            "SubnetMax": "10.99.0.0", "IPv6Network": "2001:cafe:42::/56",
            "Backend": {"type": "vxlan", "vni": 7, "Port": 4789, "DirectRouting": true}}"#,
    );
    let whole = whole.unwrap();
    assert_eq!((whole.vni, whole.port, whole.direct_routing), (7, 4789, true));
    assert_eq!((whole.ipv4.first.to_string(), whole.ipv4.length), ("10.10.0.0".into(), 20));
    let ipv6 = whole.ipv6.unwrap();
    assert_eq!((ipv6.length, ipv6.first.to_string()), (64, "2001:cafe:42:1::".into()));
    assert_eq!(ipv6.last.to_string(), "2001:cafe:42:ff::");
}

#[test]
fn a_plan_is_written_as_it_is_read() {
    let ipv4 = Range::of("10.5.0.0/16".parse().unwrap(), Some(26)).unwrap();
    let ipv6 = Some(Range::of("fd05::/48".parse().unwrap(), None).unwrap());
    let plan = Plan { ipv4, ipv6, vni: 9, port: 8472, direct_routing: true };
    assert_eq!(read_plan(write_plan(&plan).as_bytes()).unwrap(), plan);
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let backend = r#""Backend": {"Type": "vxlan"}"#;
    for (text, reason) in [
        ("[]".to_owned(), "not a JSON object"),
        ("{".to_owned(), "EOF"),
        (r#"{"Network": "10.5.0.0/16"}"#.to_owned(), "`Backend` is missing"),
        (r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}"#.to_owned(), "host-gw"),
        (format!("{{{backend}}}"), "`network` is missing"),
        (format!(r#"{{"Network": "fd05::/48", {backend}}}"#), "other family"),
        (format!(r#"{{"Network": "10.5.0.0/29", {backend}}}"#), "four subnets"),
        (format!(r#"{{"Network": "10.5.0.0/16", "SubnetLen": 31, {backend}}}"#), "four subnets"),
        (format!(r#"{{"Network": "10.5.0.0/16", "SubnetMin": "10.6.0.0", {backend}}}"#), "subnetmin"),
        (format!(r#"{{"Network": "10.5.0.0/16", "EnableIPv4": false, {backend}}}"#), "EnableIPv4"),
        (r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": 99999999}}"#.to_owned(), "VNI"),
        (r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "Port": 70000}}"#.to_owned(), "port"),
    ] {
        let refused = plan(&text).unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn keys_name_subnets() {
    for text in ["10.5.34.0-24", "10.5.34.0-24&fd05:22::-64"] {
        assert_eq!(key(&read_key(text).unwrap()), text);
    }
    for text in
        ["", "10.5.34.0", "10.5.34.1-24", "10.5.34.0-33", "fd05::-64", "10.5.34.0-24&10.5.35.0-24", "a-b"]
    {
        assert_eq!(read_key(text), None, "{text}");
    }
}

#[test]
fn values_say_how_a_host_is_reached() {
    // As a flannel of today writes it.
    let text = r#"{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"vxlan",
        "BackendData":{"VNI":1,"VtepMAC":"0a:ab:cd:ef:01:02"}}"#;
    let attributes = read_attributes(text.as_bytes(), 1).unwrap();
    let vtep = attributes.ipv4.clone().unwrap();
    assert_eq!(
        (vtep.address.to_string(), vtep.mac.to_string()),
        ("192.168.0.1".into(), "0a:ab:cd:ef:01:02".into())
    );
    assert_eq!(attributes.ipv6, None);
    assert_eq!(read_attributes(write_attributes(&attributes, 1).as_bytes(), 1).unwrap(), attributes);
    let ipv6 = Vtep { address: "fd99::1".parse().unwrap(), mac: Mac([2, 1, 1, 1, 1, 1]) };
    let both = Attributes { ipv6: Some(ipv6), ..attributes };
    let text = write_attributes(&both, 1);
    assert!(text.contains(r#""BackendV6Data":{"VNI":1,"VtepMAC":"02:01:01:01:01:01"}"#), "{text}");
    assert_eq!(read_attributes(text.as_bytes(), 1).unwrap(), both);
    for (from, to) in [
        ("vxlan", "udp"),
        ("\"VNI\":1", "\"VNI\":2"),
        ("192.168.0.1", "127.0.0.1"),
        ("0a:ab:cd:ef:01:02", "0b:ab:cd:ef:01:02"),
        ("0a:ab:cd:ef:01:02", "00:00:00:00:00:00"),
        ("192.168.0.1", "0.0.0.0"),
        ("192.168.0.1", "fd99::1"),
    ] {
        let text = write_attributes(&Attributes { ipv6: None, ..both.clone() }, 1).replace(from, to);
        assert!(read_attributes(text.as_bytes(), 1).is_err(), "{text}");
    }
}

#[test]
fn subnets_are_counted() {
    let range = Range::of("10.5.0.0/16".parse().unwrap(), Some(24)).unwrap();
    let subnet = range.nth(34).unwrap();
    assert_eq!((range.count(), subnet.to_string(), range.index(subnet)), (256, "10.5.34.0/24".into(), 34));
    assert!(
        range.has(subnet) && !range.has(range.nth(0).unwrap()) && !range.has("10.6.1.0/24".parse().unwrap())
    );
    assert_eq!(range.nth(256), None);
    let range = Range::of("fd05::/48".parse().unwrap(), None).unwrap();
    assert_eq!(range.nth(0x22).unwrap().to_string(), "fd05:0:0:22::/64");
}
