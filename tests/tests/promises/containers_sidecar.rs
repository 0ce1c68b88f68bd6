//! A sidecar that shares the network namespace of a real container: from an image built from scratch, without root, and
//! an unmodified client that knows nothing of it.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use outrigger_tests::machine::{IMAGE, Machine, Podman, plugins};
use outrigger_tests::netlab::Lab;
use outrigger_tests::program::{self, tool};
use outrigger_tests::wait;
use serde_json::{Value, json};

const SIDECAR: &str = "localhost/outrigger:1";

fn example(name: &str) -> PathBuf {
    program::root().join("examples/containers").join(name)
}

/// The example's image of the program under test; `OUTRIGGER_STATIC` is one that needs no libraries.
fn sidecar_image(podman: &Podman<'_>, lab: &Lab) {
    let program =
        std::env::var_os("OUTRIGGER_STATIC").map_or_else(|| program::outrigger().into(), PathBuf::from);
    let folder = lab.dir.path().join("sidecar");
    let arguments = [program.to_str().unwrap(), folder.to_str().unwrap()];
    tool(example("image.sh").to_str().unwrap(), &arguments, lab.dir.path()).expect_ok("image.sh");
    podman.ok(&["build", "--quiet", "--tag", SIDECAR, folder.to_str().unwrap()]);
}

fn conflist(lab: &Lab) -> String {
    let mut list: Value =
        serde_json::from_str(&fs::read_to_string(example("mesh.conflist")).unwrap()).unwrap();
    // What podman 4.3 speaks.
    list["cniVersion"] = json!("0.4.0");
    list["plugins"][0]["state_dir"] = json!(lab.state().to_str().unwrap());
    list.to_string()
}

fn address(podman: &Podman<'_>, name: &str) -> IpAddr {
    let format = "{{(index .NetworkSettings.Networks \"mesh\").IPAddress}}";
    podman.ok(&["inspect", "--format", format, name]).parse().unwrap()
}

#[test]
fn a_captured_container_reaches_services_by_name_through_its_sidecar() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    sidecar_image(&podman, &lab);
    plugins(&lab);
    machine.write("/etc/cni/net.d/mesh.conflist", &conflist(&lab));
    let run = |name: &str, more: &[&str]| {
        let words = ["run", "--detach", "--pull=never", "--network=mesh", "--name", name];
        podman.ok(&[&words[..], more, &[IMAGE]].concat());
    };
    run("shop", &[]);
    run("app", &["--dns=10.89.0.1"]);
    let folder = lab.dir.path().join("etc");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(example("outrigger.yaml"), folder.join("outrigger.yaml")).unwrap();
    let services = format!("services: {{shop: {{endpoints: ['{}:80']}}}}\n", address(&podman, "shop"));
    fs::write(folder.join("services.yaml"), services).unwrap();
    let get = |url: &str| podman.say(&["exec", "app", "/usr/bin/curl", "-sSf", "--max-time", "2", url]);
    let direct = format!("http://{}/cgi-bin/who", address(&podman, "shop"));
    assert!(!get(&direct).ok(), "without a sidecar, nothing leaves a captured container");
    let volume = format!("--volume={}:/etc/outrigger:ro", folder.display());
    let words = ["run", "--detach", "--pull=never", "--network=container:app", "--name=app-sidecar"];
    podman.ok(&[&words[..], &["--cap-drop=all", "--read-only", &volume, SIDECAR]].concat());
    let at_app = address(&podman, "app").to_string();
    let answer = wait::until("the shop to answer through the sidecar", || {
        Some(get("http://shop.mesh.internal/cgi-bin/who")).filter(program::Said::ok)
    });
    assert!(answer.out.contains(&at_app), "{}", answer.out);
    // The sidecar has seen it, with a policy: it is root nowhere.
    let metrics = get("http://127.0.0.1:15020/metrics").expect_ok("metrics").out;
    let counted =
        |line: &&str| line.starts_with("outrigger_requests_total{") && line.contains("service=\"shop\"");
    assert!(metrics.lines().any(|line| counted(&line)), "{metrics}");
    let process = podman.ok(&["inspect", "--format", "{{.State.Pid}}", "app-sidecar"]);
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("Uid:"), field("CapEff:")), ("1337\t1337\t1337\t1337".into(), "0".repeat(16)));
    // The sidecar goes first, and what was captured finds nobody; then its container.
    podman.ok(&["rm", "--force", "--time=0", "app-sidecar"]);
    assert!(!get(&direct).ok());
    podman.ok(&["rm", "--force", "--time=0", "--all"]);
    lab.net(&["status"]).expect_ok("in order");
}
