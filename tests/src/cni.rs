//! A container runtime, as far as CNI goes: calls plugins with an environment and a configuration on standard input.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::netlab::Lab;
use crate::netns::Host;
use crate::program;

/// The network's name in every configuration here.
pub const NETWORK: &str = "web";
/// Where Debian has the plugins that others made.
pub const PLUGINS: &str = "/usr/lib/cni";

/// What a plugin has answered.
#[derive(Debug)]
pub struct Reply {
    pub code: Option<i32>,
    /// What it wrote; `null` if that was nothing.
    pub json: Value,
    pub err: String,
}

impl Reply {
    #[track_caller]
    pub fn expect_ok(self, what: &str) -> Value {
        assert!(self.code == Some(0) && self.err.is_empty(), "{what}: {self:#?}");
        self.json
    }

    /// It failed with this code, and said this.
    #[track_caller]
    pub fn expect_error(self, code: u32, message: &str) {
        let said = format!("{}\n{}", self.json["msg"], self.json["details"]);
        let is_it =
            self.json["code"] == code && said.contains(message) && self.json["cniVersion"].is_string();
        assert!(is_it && self.code == Some(1), "{code}, {message}: {self:#?}");
    }
}

/// One call, ready to be made on the lab's node.
#[derive(Debug, Clone)]
pub struct Call {
    plugin: PathBuf,
    node: PathBuf,
    environment: Vec<(&'static str, String)>,
    config: Value,
}

impl Call {
    /// About one container.
    pub fn new(lab: &Lab, command: &str, container: &str, namespace: Option<&Host>, config: &Value) -> Self {
        Self::on(&lab.node, command, container, namespace, config)
    }

    /// The same on another host.
    pub fn on(host: &Host, command: &str, container: &str, namespace: Option<&Host>, config: &Value) -> Self {
        let path = namespace.map_or(String::new(), |host| host.path().display().to_string());
        Self::about_all_on(host, command, config)
            .with("CNI_CONTAINERID", container)
            .with("CNI_NETNS", &path)
            .with("CNI_IFNAME", "eth0")
    }

    /// About the network.
    pub fn about_all(lab: &Lab, command: &str, config: &Value) -> Self {
        Self::about_all_on(&lab.node, command, config)
    }

    pub fn about_all_on(host: &Host, command: &str, config: &Value) -> Self {
        let environment = vec![("CNI_COMMAND", command.to_owned()), ("CNI_PATH", PLUGINS.to_owned())];
        Self { plugin: program::outrigger().into(), node: host.path(), environment, config: config.clone() }
    }

    #[must_use]
    pub fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.environment.retain(|(name, _)| *name != variable);
        self.environment.push((variable, value.to_owned()));
        self
    }

    #[must_use]
    pub fn without(mut self, variable: &str) -> Self {
        self.environment.retain(|(name, _)| *name != variable);
        self
    }

    /// Another plugin than ours.
    #[must_use]
    pub fn of(mut self, plugin: &str) -> Self {
        self.plugin = Path::new(PLUGINS).join(plugin);
        self
    }

    #[must_use]
    pub fn by(mut self, plugin: &Path) -> Self {
        self.plugin = plugin.to_owned();
        self
    }

    /// With another user, or whatever else stands before it.
    pub fn make_by(&self, before: &[&str]) -> Reply {
        // Not by `ip netns exec`, which gives mounts of its own: runtimes and plugins see the same files.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.node.display())).args(before).arg(&self.plugin);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let missing = |error| panic!("nsenter: {error}; tests/run.sh installs what tests need");
        let mut child = command.spawn().unwrap_or_else(missing);
        // One that does not read it has said why.
        let _ = child.stdin.take().expect("piped").write_all(self.config.to_string().as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")),
        };
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Reply { code: output.status.code(), json, err }
    }

    pub fn make(&self) -> Reply {
        self.make_by(&[])
    }
}

/// A configuration of the plugin, with the lab's store.
pub fn config(lab: &Lab, fields: &Value) -> Value {
    let state = lab.state();
    let mut config = json!({
        "cniVersion": "1.1.0", "name": NETWORK, "type": "outrigger", "state_dir": state.to_str().unwrap(),
    });
    let own = config.as_object_mut().unwrap();
    own.extend(fields.as_object().unwrap().clone());
    config
}

/// The same with one field more, or another value.
pub fn with(config: &Value, field: &str, value: Value) -> Value {
    let mut config = config.clone();
    config[field] = value;
    config
}

/// The same for a container that has these ports: host's and container's.
pub fn with_ports(config: &Value, ports: &[(u16, u16)]) -> Value {
    let mappings: Vec<Value> =
        ports.iter().map(|(host, container)| json!({"hostPort": host, "containerPort": container})).collect();
    let config = with(config, "capabilities", json!({"portMappings": true}));
    with(&config, "runtimeConfig", json!({"portMappings": mappings}))
}
