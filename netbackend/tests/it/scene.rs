//! Networks and containers to ask for, and the program to ask.
//!
//! Networks are numbered: network 3 is `net3` on bridge `br3` with 10.70.3.0/24 and fd70:3::/64, gateways at .1 and ::1.
//! Host number 2 on it has 10.70.3.2 and fd70:3::2.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_fixtures::netns::Netns;
use test_fixtures::program::{Finished, Program};
use test_fixtures::snapshot::Snapshot;
use test_fixtures::traffic::eventually;

use crate::lab::{self, Host};

/// The program under test, without arguments.
pub(crate) fn netbackend() -> Program {
    Program::under_test("NETBACKEND", env!("CARGO_BIN_EXE_netbackend"))
}

/// A host, and how the program is called on it.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) host: &'a Host,
    /// The state directory.
    pub(crate) config: PathBuf,
    /// The DNS responder.
    pub(crate) aardvark: PathBuf,
    env: Vec<(String, String)>,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(host: &'a Host) -> Result<Self> {
        Ok(Self {
            host,
            config: host.dir("networks")?,
            aardvark: lab::dnsd(),
            env: Vec::new(),
        })
    }

    /// Sets a variable of the environment for all calls.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A call with the arguments that Podman gives.
    pub(crate) fn program(&self, words: &[&str], netns: &Path, request: impl ToString) -> Program {
        let mut program = netbackend().arg("--config").arg(&self.config).args([
            "--rootless=false".to_owned(),
            format!("--aardvark-binary={}", self.aardvark.display()),
        ]);
        for (name, value) in &self.env {
            program = program.env(name, value);
        }
        program
            .args(words)
            .arg(netns)
            .stdin(request.to_string())
            .timeout(Duration::from_secs(30))
    }

    /// Attaches a container; returns the reply.
    pub(crate) fn setup(&self, netns: &Netns, request: &Request) -> Result<Value> {
        let finished = self
            .program(&["setup"], netns.path(), request.json())
            .run_in(self.host)?;
        reply(&finished)
    }

    /// Detaches a container, which must succeed without a word.
    pub(crate) fn teardown(&self, netns: &Netns, request: &Request) -> Result<()> {
        silent(
            &self
                .program(&["teardown"], netns.path(), request.json())
                .run_in(self.host)?,
        )
    }

    /// Asks for something that must fail; returns the error's text.
    pub(crate) fn fails(&self, verb: &str, netns: &Path, request: &Request) -> Result<String> {
        error(
            &self
                .program(&[verb], netns, request.json())
                .run_in(self.host)?,
        )
    }

    /// The state of the host, once the kernel has done what it does for new IPv6 addresses in its own time.
    ///
    /// Left out is what stays on purpose: forwarding, since others may have come to rely on it, with the router's addresses
    /// that the kernel adds for it; settings of a module that the first rule loads; and the lock of the zone files, which
    /// cannot be removed while somebody may wait for it.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let directories = [self.config.as_path(), Path::new("/run/sysctl.d")];
        let stays = |line: &str| {
            line.starts_with("sysctl")
                && (line.contains("forward") || line.contains("nf_conntrack"))
                || line.starts_with("route anycast ")
                || line.starts_with("file") && line.contains("/aardvark.lock ")
        };
        eventually(Duration::from_secs(2), || {
            self.is_settled().unwrap_or(false)
        });
        Ok(Snapshot::take(self.host, &directories)?.without(stays))
    }

    /// Whether every IPv6 address has got its local route. That takes a moment after the link has come up.
    fn is_settled(&self) -> Result<bool> {
        let addresses = self.host.sh("ip -6 -oneline addr show scope global")?;
        let routes = self.host.sh("ip -6 route show table local type local")?;
        let has_route = |line: &str| {
            let address = line.split_whitespace().nth(3).unwrap_or_default();
            let address = address.split('/').next().unwrap_or_default();
            routes.contains(&format!("local {address} dev "))
        };
        Ok(addresses.lines().all(has_route))
    }

    /// Panics unless the host is as it was. The DNS responder ends in its own time.
    #[track_caller]
    pub(crate) fn assert_same_as(&self, before: &Snapshot) {
        let now = || self.snapshot().expect("the host can be looked at");
        if !eventually(Duration::from_secs(2), || now() == *before) {
            now().assert_same_as(before);
        }
    }
}

/// The one document of a call that succeeded without anything to complain of.
pub(crate) fn reply(finished: &Finished) -> Result<Value> {
    ensure!(
        finished.success() && finished.stderr.is_empty(),
        "{finished}"
    );
    ensure!(!finished.held_open, "a child holds our output: {finished}");
    ensure!(finished.stdout.ends_with('\n'), "no newline: {finished}");
    serde_json::from_str(&finished.stdout).with_context(|| format!("not one document: {finished}"))
}

/// The text of a failed call's error document.
pub(crate) fn error(finished: &Finished) -> Result<String> {
    ensure!(finished.code() == Some(1), "{finished}");
    ensure!(!finished.held_open, "a child holds our output: {finished}");
    let document: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("not one document: {finished}"))?;
    let keys: Vec<_> = document.as_object().into_iter().flatten().collect();
    match keys.as_slice() {
        [(key, Value::String(text))] if *key == "error" => Ok(text.clone()),
        _ => anyhow::bail!("not an error document: {finished}"),
    }
}

/// A call that succeeded and had nothing to say.
pub(crate) fn silent(finished: &Finished) -> Result<()> {
    ensure!(
        finished.success() && finished.stdout.is_empty() && finished.stderr.is_empty(),
        "{finished}"
    );
    ensure!(!finished.held_open, "a child holds our output: {finished}");
    Ok(())
}

/// The description of a network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    number: u8,
    families: &'static [u8],
    description: Value,
}

impl Network {
    /// The network of this number with both families, without DNS.
    pub(crate) fn new(number: u8) -> Self {
        Self::of(number, &[4, 6])
    }

    /// The network of this number with IPv4 only.
    pub(crate) fn v4(number: u8) -> Self {
        Self::of(number, &[4])
    }

    fn of(number: u8, families: &'static [u8]) -> Self {
        let subnet = |family: &u8| match family {
            4 => {
                json!({"subnet": format!("10.70.{number}.0/24"), "gateway": format!("10.70.{number}.1")})
            }
            _ => {
                json!({"subnet": format!("fd70:{number}::/64"), "gateway": format!("fd70:{number}::1")})
            }
        };
        let description = json!({
            "name": format!("net{number}"),
            "id": format!("{number:064x}"),
            "driver": "bridge",
            "network_interface": format!("br{number}"),
            "created": "0001-01-01T00:00:00Z",
            "subnets": families.iter().map(subnet).collect::<Vec<_>>(),
            "ipv6_enabled": families.contains(&6),
            "internal": false,
            "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
            "options": {},
        });
        Self {
            number,
            families,
            description,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("net{}", self.number)
    }

    /// The same with a field of its description set.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.description[key] = value.into();
        self
    }

    /// The same, closed to the outside.
    pub(crate) fn internal(self) -> Self {
        self.set("internal", true)
    }

    /// The same with names.
    pub(crate) fn dns(self) -> Self {
        self.set("dns_enabled", true)
    }

    /// The same with an option set.
    pub(crate) fn option(mut self, key: &str, value: &str) -> Self {
        self.description["options"][key] = value.into();
        self
    }

    fn addresses(&self, host: u8) -> Vec<String> {
        let address = |family: &u8| match family {
            4 => format!("10.70.{}.{host}", self.number),
            _ => format!("fd70:{}::{host}", self.number),
        };
        self.families.iter().map(address).collect()
    }
}

/// What is asked for a container.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    document: Value,
    array: Vec<Value>,
    as_array: bool,
}

impl Request {
    /// A container of this name and id, without networks.
    pub(crate) fn new(name: &str) -> Self {
        let document = json!({
            "container_id": name, "container_name": name, "network_info": {}, "port_mappings": [],
        });
        Self {
            document,
            array: Vec::new(),
            as_array: false,
        }
    }

    /// The same on one more network, with this host number.
    pub(crate) fn on(self, network: &Network, host: u8) -> Self {
        self.on_with(network, host, &json!({}))
    }

    /// The same on one more network, with fields of the attachment set.
    pub(crate) fn on_with(mut self, network: &Network, host: u8, fields: &Value) -> Self {
        let mut attachment = json!({
            "name": network.name(),
            "interface_name": format!("eth{}", self.array.len()),
            "static_ips": network.addresses(host),
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            attachment[key] = value.clone();
        }
        self.array.push(attachment);
        self.document["network_info"][network.name()] = network.description.clone();
        self
    }

    /// The same with one more published port.
    pub(crate) fn publish(self, host_ip: &str, host: u16, container: u16, protocol: &str) -> Self {
        self.publish_range(host_ip, host, container, protocol, 1)
    }

    /// The same with a range of published ports.
    pub(crate) fn publish_range(
        mut self,
        host_ip: &str,
        host: u16,
        container: u16,
        protocol: &str,
        range: u16,
    ) -> Self {
        let mapping = json!({
            "host_ip": host_ip, "host_port": host, "container_port": container, "protocol": protocol, "range": range,
        });
        self.document["port_mappings"]
            .as_array_mut()
            .expect("it was made as an array")
            .push(mapping);
        self
    }

    /// The same with a field of the document set.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.document[key] = value.into();
        self
    }

    /// The same as Podman 6 writes it.
    pub(crate) fn in_array_form(mut self) -> Self {
        self.as_array = true;
        self
    }

    /// The document.
    pub(crate) fn json(&self) -> Value {
        let mut document = self.document.clone();
        document["networks"] = if self.as_array {
            self.array.clone().into()
        } else {
            let by_name = |attachment: &Value| {
                let name = attachment["name"].as_str().expect("it was made as a text");
                (name.to_owned(), attachment.clone())
            };
            Value::Object(self.array.iter().map(by_name).collect())
        };
        document
    }
}

/// The MAC address of a link.
pub(crate) fn mac_of(netns: &Netns, link: &str) -> Result<String> {
    let links: Value = serde_json::from_str(&netns.sh(&format!("ip -json link show {link}"))?)?;
    let mac = links[0]["address"].as_str();
    Ok(mac.context("a link has a MAC address")?.to_owned())
}
