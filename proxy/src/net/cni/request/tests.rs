use super::*;

fn environment(command: &str) -> Environment {
    let text = |text: &str| Some(text.to_owned());
    Environment {
        command: text(command),
        container: text("c1"),
        namespace: text("/run/netns/c1"),
        interface: text("eth0"),
        arguments: None,
    }
}

fn ask(environment: &Environment, config: &str) -> Result<Request, Refusal> {
    read(command(environment)?, environment, config.as_bytes()).map_err(|(_, refusal)| refusal)
}

const CONFIG: &str = r#"{"cniVersion": "1.1.0", "name": "web", "type": "outrigger"}"#;

#[test]
fn an_attachment_is_known_by_network_container_and_interface() {
    let request = ask(&environment("ADD"), CONFIG).unwrap();
    assert_eq!((request.id().as_str(), request.network_key().as_str()), ("web/c1/eth0", "cni/web"));
    assert_eq!(request.namespace.unwrap().to_str(), Some("/run/netns/c1"));
    // Nothing may be left when the container goes.
    let gone = Environment { namespace: None, ..environment("DEL") };
    assert_eq!(ask(&gone, CONFIG).unwrap().id(), "web/c1/eth0");
    let whole = Environment { command: Some("GC".into()), ..Environment::default() };
    assert_eq!(ask(&whole, CONFIG).unwrap().ids(), "web/");
}

#[test]
fn what_makes_no_sense_has_the_code_that_the_specification_gives_it() {
    let with = |change: fn(&mut Environment)| {
        let mut changed = environment("ADD");
        change(&mut changed);
        changed
    };
    let good = environment("ADD");
    let cases = [
        (with(|e| e.command = None), CONFIG, 4, "CNI_COMMAND is missing"),
        (with(|e| e.command = Some("add".into())), CONFIG, 4, "there is no `add`"),
        (
            with(|e| (e.container, e.interface) = (None, None)),
            CONFIG,
            4,
            "missing: CNI_CONTAINERID, CNI_IFNAME",
        ),
        (with(|e| e.namespace = None), CONFIG, 4, "missing: CNI_NETNS"),
        (with(|e| e.container = Some("a/b".into())), CONFIG, 4, "CNI_CONTAINERID: `a/b`"),
        (with(|e| e.container = Some("-a".into())), CONFIG, 4, "CNI_CONTAINERID: `-a`"),
        (with(|e| e.interface = Some("..".into())), CONFIG, 4, "CNI_IFNAME: `..`"),
        (with(|e| e.interface = Some("sixteen-letters-".into())), CONFIG, 4, "CNI_IFNAME"),
        (with(|e| e.arguments = Some("IP".into())), CONFIG, 4, "CNI_ARGS: `IP` is not KEY=VALUE"),
        (
            with(|e| e.arguments = Some("K8S_POD_NAME=a".into())),
            CONFIG,
            4,
            "nothing is known of `K8S_POD_NAME`",
        ),
        (
            with(|e| e.arguments = Some("IgnoreUnknown=1;MAC=02::1".into())),
            CONFIG,
            4,
            "MAC=02::1 cannot be had",
        ),
        (good.clone(), "{", 6, "standard input"),
        (good.clone(), "[]", 6, "standard input"),
        (good.clone(), r#"{"name": "web"}"#, 1, "`cniVersion` is missing"),
        (good.clone(), r#"{"cniVersion": "0.2.0", "name": "web"}"#, 1, "`cniVersion` is 0.2.0"),
        (good.clone(), r#"{"cniVersion": "1.2.0", "name": "web"}"#, 1, "`cniVersion` is 1.2.0"),
        (good.clone(), r#"{"cniVersion": 1, "name": "web"}"#, 7, "`cniVersion` is not text"),
        (good.clone(), r#"{"cniVersion": "1.0.0"}"#, 7, "`name`"),
        (good, r#"{"cniVersion": "1.0.0", "name": "a/b"}"#, 7, "`a/b` cannot be the name"),
        (environment("CHECK"), r#"{"cniVersion": "0.3.1", "name": "web"}"#, 1, "came with 0.4.0"),
        (environment("GC"), r#"{"cniVersion": "1.0.0", "name": "web"}"#, 1, "came with 1.1.0"),
        (environment("STATUS"), r#"{"cniVersion": "1.0.0", "name": "web"}"#, 1, "came with 1.1.0"),
    ];
    for (environment, config, code, message) in cases {
        let refusal = ask(&environment, config).unwrap_err();
        assert!(refusal.code == code && refusal.message.contains(message), "{message}: {refusal:?}");
    }
}

#[test]
fn addresses_are_asked_for_by_arguments() {
    let mut with = environment("ADD");
    with.arguments = Some("IgnoreUnknown=1;K8S_POD_NAME=a;IP=10.88.0.9,fd88::9;".into());
    assert_eq!(ask(&with, CONFIG).unwrap().addresses, ["10.88.0.9", "fd88::9"]);
}

#[test]
fn versions_are_told_whatever_is_asked() {
    for (input, version) in [("", "1.1.0"), ("{\"cniVersion\": \"0.4.0\"}", "0.4.0"), ("nonsense", "1.1.0")] {
        let answer = versions(input.as_bytes());
        assert_eq!(answer["cniVersion"], version);
        assert_eq!(answer["supportedVersions"][4], "1.1.0");
    }
}
