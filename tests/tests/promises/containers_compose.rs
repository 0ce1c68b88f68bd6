//! The example for Compose, run as it stands by podman-compose: the step with a privilege ends before the workload
//! starts, and sidecar and workload come and go by themselves.

use std::fs;
use std::path::PathBuf;

use outrigger_tests::container::Container;
use outrigger_tests::images::{IMAGE, SIDECAR};
use outrigger_tests::machine::{Machine, Podman, Status};
use outrigger_tests::netlab::Lab;
use outrigger_tests::program::{self, say};

const PAUSE: &str = "localhost/outrigger-pause:1";
const WEB: &str = "http://web.mesh.internal/";

struct Compose<'a> {
    machine: &'a Machine,
    podman: &'a Podman<'a>,
}

impl Compose<'_> {
    #[track_caller]
    fn ok(&self, arguments: &[&str]) {
        let program = program::clients().join("python/bin/podman-compose");
        assert!(program.is_file(), "{} is missing; tests/run.sh installs it", program.display());
        let mut command = self.machine.command("env");
        command.arg(format!("OUTRIGGER_IMAGE={SIDECAR}")).arg(format!("PAUSE_IMAGE={PAUSE}"));
        command.arg(format!("WORKLOAD_IMAGE={IMAGE}")).arg(program);
        command.arg("--podman-path").arg(self.podman.wrapper()).arg("--podman-pull-args=--policy=never");
        command.arg("--file").arg(example()).args(arguments);
        say(&mut command).expect_ok(&format!("podman-compose {arguments:?}"));
    }
}

fn example() -> PathBuf {
    program::root().join("examples/compose/compose.yaml")
}

fn name(service: &str) -> String {
    format!("outrigger-compose_{service}_1")
}

#[test]
fn the_compose_file_puts_a_workload_behind_a_sidecar() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    podman.sidecar_image();
    podman.pause_image(PAUSE);
    let compose = Compose { machine: &machine, podman: &podman };
    let shop = name("shop");
    let shop = Container { runtime: &podman, name: &shop };
    // podman before 5.6 starts none that requires one which has ended.
    compose.ok(&["up", "--detach", "--no-deps"]);
    shop.until_answered(WEB);
    let mut answers: Vec<String> = (0..4).map(|_| shop.curl(WEB).expect_ok(WEB).out).collect();
    answers.sort();
    assert_eq!(answers, ["web-1\n", "web-1\n", "web-2\n", "web-2\n"]);
    let publicly = machine.run("curl", &["-sSf", "--max-time", "2", "http://127.0.0.1:8080/"]);
    assert_eq!(publicly.expect_ok("the published port").out, "shop\n");
    assert_eq!(shop.counted(&[("direction", "inbound"), ("service", "shop")]), 1.0);
    podman.ok(&["healthcheck", "run", &name("shop-sidecar")]);

    // Nobody who stays has a privilege of ours, and the workload started when its traffic was captured.
    let sidecar = Status::of(&podman, &name("shop-sidecar"));
    assert_eq!((sidecar.uid.as_str(), sidecar.capabilities.as_str()), ("1337", "0000000000000000"));
    assert_eq!(Status::of(&podman, &name("shop-net")).capabilities, "0000000000000000");
    let when = |service: &str, field: &str| {
        podman.ok(&["inspect", "--format", &format!("{{{{.State.{field}.UnixNano}}}}"), &name(service)])
    };
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", &name("shop-capture")]), "0");
    assert!(when("shop-capture", "FinishedAt") < when("shop", "StartedAt"));

    // The sidecar goes and comes back, then the workload.
    podman.ok(&["stop", "--time=0", &name("shop-sidecar")]);
    assert!(!shop.curl("http://10.79.0.11/").ok(), "captured, and nobody there");
    podman.ok(&["start", &name("shop-sidecar")]);
    shop.until_answered(WEB);
    podman.ok(&["restart", "--time=0", &name("shop")]);
    let before = shop.counted(&[("direction", "outbound"), ("service", "web")]);
    shop.until_answered(WEB);
    assert!(shop.counted(&[("direction", "outbound"), ("service", "web")]) > before);

    compose.ok(&["down", "--timeout=0"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
    assert!(!podman.ok(&["network", "ls"]).contains("outrigger-compose"));
    assert!(!lab.dump(&lab.node).contains("inet outrigger"));
    assert!(fs::read_dir(lab.state()).is_err(), "nothing is remembered on the host");
}
