//! A real firewalld, on a bus of its own, in the lab. (Also part of `tests/robust`.)

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_fixtures::lab::Host;
use test_fixtures::traffic::eventually;

/// Where everybody looks for it.
pub(crate) const BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// A bus on which everybody may do everything.
const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// A firewalld and its bus, until dropped.
pub(crate) struct Firewalld<'a> {
    /// Where it runs.
    pub(crate) host: &'a Host,
    /// The bus.
    pub(crate) bus: Child,
    /// firewalld.
    pub(crate) daemon: Child,
}

impl<'a> Firewalld<'a> {
    /// Starts one with these lines of configuration.
    pub(crate) fn start(host: &'a Host, config: &str) -> Result<Self> {
        host.sh("mount -t tmpfs firewalld /etc/firewalld
                 mkdir /etc/firewalld/zones /etc/firewalld/policies")?;
        let config = format!("DefaultZone=public\nFirewallBackend=nftables\n{config}\n");
        fs::write("/etc/firewalld/firewalld.conf", config)?;
        fs::create_dir_all("/run/dbus")?;
        fs::write("/run/lab/bus.conf", BUS_CONFIG)?;
        let log = fs::File::create("/run/lab/firewalld.log")?;
        let start = |program: &str, arguments: &[&str]| {
            host.enter(|| {
                Command::new(program)
                    .args(arguments)
                    .env("DBUS_SYSTEM_BUS_ADDRESS", BUS)
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log.try_clone()?)
                    .spawn()
                    .with_context(|| format!("start {program}: hack/deps installs it"))
            })
        };
        let bus = start(
            "dbus-daemon",
            &["--config-file=/run/lab/bus.conf", "--nofork"],
        )?;
        let there = || std::path::Path::new("/run/dbus/system_bus_socket").exists();
        ensure!(eventually(Duration::from_secs(10), there), "no bus");
        let program = std::env::var("FIREWALLD").unwrap_or_else(|_| "firewalld".to_owned());
        let daemon = start(&program, &["--nofork", "--nopid"])?;
        let firewalld = Self { host, bus, daemon };
        let runs = || firewalld.cmd("--state").is_ok();
        ensure!(
            eventually(Duration::from_secs(60), runs),
            "firewalld does not start: {}",
            fs::read_to_string("/run/lab/firewalld.log")?
        );
        Ok(firewalld)
    }

    /// What firewall-cmd answers.
    pub(crate) fn cmd(&self, arguments: &str) -> Result<String> {
        let command = format!("DBUS_SYSTEM_BUS_ADDRESS={BUS} firewall-cmd {arguments}");
        Ok(self.host.sh(&command)?.trim().to_owned())
    }
}

impl Drop for Firewalld<'_> {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.bus] {
            child.kill().ok();
            child.wait().ok();
        }
        self.host.sh("umount /etc/firewalld").ok();
    }
}
