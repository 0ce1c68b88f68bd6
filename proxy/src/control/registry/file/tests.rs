use super::*;

fn read(text: &str) -> Catalogue {
    parse(text, "s.yaml").unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn errors(text: &str) -> Vec<String> {
    let errors = parse(text, "s.yaml").expect_err("an error");
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn reads_both_forms() {
    let text = "
services:
  web:
    endpoints:
      - 10.0.0.7:8080
      - {address: 10.0.0.8:8080, weight: 2, zone: b, labels: {version: v2}, status: draining}
      - {address: '[fd00::1]:80', status: down}
  idle: {endpoints: []}
";
    let catalogue = read(text);
    let [short, full, v6] = &catalogue.services["web"][..] else { panic!("three endpoints") };
    let plain = EndpointRecord {
        address: "10.0.0.7:8080".parse().unwrap(),
        weight: 1,
        zone: String::new(),
        labels: BTreeMap::new(),
        status: EndpointStatus::Ready,
    };
    assert_eq!(*short, plain);
    assert_eq!((full.weight, full.zone.as_str(), full.labels["version"].as_str()), (2, "b", "v2"));
    assert_eq!((full.status, v6.status), (EndpointStatus::Draining, EndpointStatus::Down));
    assert!(catalogue.services["idle"].is_empty());
    assert_eq!(read("services: {}"), Catalogue::default());
}

#[test]
fn reports_every_error_at_its_place() {
    let text = "\
services:
  Web_1:
    endpoints: [10.0.0.1:80]
  web:
    endpoints:
      - 10.0.0.7:8080
      - localhost:8080
      - 10.0.0.7
      - {address: 10.0.0.9:70000}
      - {address: 10.0.0.8:8080, weight: 0}
      - {address: 10.0.0.6:8080, weight: 65536, wieght: 3}
      - {adress: 10.0.0.5:8080}
      - {weight: 2}
      - {address: 10.0.0.7:8080}
      - {address: 10.0.0.4:80, status: drainning}
      - {address: 10.0.0.3:80, labels: {version: 1.10}}
      - 0.0.0.0:80
      - 10.0.0.2:0
      - {address: 10.0.0.1:80, weight: -1}
      - 8080
  none: {}
";
    let name_rule = "1 to 63 lower-case letters, digits and hyphens, no hyphen at either end";
    let form = "an address is IP:port, as in `10.0.0.7:8080` or `[fd00::7]:8080`";
    assert_eq!(
        errors(text),
        [
            format!("s.yaml:2:3: services.Web_1: `Web_1` cannot be a name: {name_rule}"),
            "s.yaml:7:9: services.web.endpoints[1]: `localhost` is a host name, and names are not looked up; write the IP address".into(),
            format!("s.yaml:8:9: services.web.endpoints[2]: `10.0.0.7` has no port; {form}"),
            format!("s.yaml:9:19: services.web.endpoints[3].address: port 70000 is out of range: 0 to 65535; {form}"),
            "s.yaml:10:42: services.web.endpoints[4].weight: 0 is out of range: 1 to 65535".into(),
            "s.yaml:11:42: services.web.endpoints[5].weight: 65536 is out of range: 1 to 65535".into(),
            "s.yaml:11:49: services.web.endpoints[5].wieght: unknown field `wieght`; did you mean `weight`?".into(),
            "s.yaml:12:10: services.web.endpoints[6].adress: unknown field `adress`; did you mean `address`?".into(),
            "s.yaml:13:9: services.web.endpoints[7].address: field `address` is missing".into(),
            "s.yaml:14:9: services.web.endpoints[8]: 10.0.0.7:8080 is already given on line 6".into(),
            "s.yaml:15:40: services.web.endpoints[9].status: unknown value `drainning`; did you mean `draining`?".into(),
            "s.yaml:16:50: services.web.endpoints[10].labels.version: expected text, found a number with a fraction; put it in quotes if it is meant as text".into(),
            "s.yaml:17:9: services.web.endpoints[11]: nothing can be reached at 0.0.0.0:80".into(),
            "s.yaml:18:9: services.web.endpoints[12]: nothing can be reached at 10.0.0.2:0".into(),
            "s.yaml:19:40: services.web.endpoints[13].weight: expected a whole number from 0 to 4294967295, found -1".into(),
            "s.yaml:20:9: services.web.endpoints[14]: expected text or a mapping, found a number".into(),
            "s.yaml:21:9: services.none.endpoints: field `endpoints` is missing; `endpoints: []` says that there are none".into(),
        ]
    );
}

#[test]
fn refuses_a_file_that_says_nothing() {
    let missing = "services: field `services` is missing; `services: {}` says that there are none";
    assert_eq!(errors(""), [format!("s.yaml:1:1: {missing}")]);
    assert_eq!(errors("---\n"), [format!("s.yaml:2:1: {missing}")]);
    assert_eq!(errors("services:\n"), [format!("s.yaml:1:9: {missing}")]);
}

#[test]
fn a_misspelt_service_does_not_hide_the_same_address_elsewhere() {
    let text = "services: {a: {endpoints: [10.0.0.1:80]}, b: {endpoints: [10.0.0.1:80]}}";
    assert_eq!(read(text).services.len(), 2, "services may share an address");
}

#[test]
fn many_errors_in_a_huge_file_are_refused_quickly() {
    let mut text = "services:\n  web:\n    endpoints:\n".to_owned();
    for index in 0..50_000_u32 {
        text.push_str(&format!("      - {{addres: '10.{}.{}.1:80'}}\n", index / 250, index % 250));
    }
    assert_eq!(parse(&text, "s.yaml").expect_err("errors").len(), 64);
}

#[test]
fn has_a_schema() {
    let schema = schema();
    assert_eq!(schema["title"], "Outrigger services");
    assert_eq!(schema["required"], serde_json::json!(["services"]));
    let endpoint = &schema["$defs"]["WrittenEndpoint"];
    assert_eq!(endpoint["required"], serde_json::json!(["address"]));
    assert_eq!(endpoint["additionalProperties"], false);
}
