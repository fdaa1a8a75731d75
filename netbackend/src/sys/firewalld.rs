//! firewalld, over the system bus.
//!
//! A connection is made when something is to be asked or told, and then kept for the call. There may be no bus, or nobody
//! on it by the name of firewalld; that is an error only for the driver `firewalld`. An empty `DBUS_SYSTEM_BUS_ADDRESS`
//! means that there is no bus.
//!
//! [`crate::plan::firewalld`] tells what firewalld holds with the driver `firewalld`. With the driver `nftables` the subnets are
//! put into its zone `trusted`, or its rules, which come after ours, would drop what ours accept.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use ipnet::IpNet;
use zbus::{Connection, Message, MessageStream, OwnedVariant, Variant};

use super::SysError;
use crate::plan::firewalld::{
    Contents, ForwardPort, HOST_FORWARD, POLICIES, PORT_FORWARD, Policy, TRUSTED, ZONE,
};

const NAME: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const ZONES: &str = "org.fedoraproject.FirewallD1.zone";
const POLICY: &str = "org.fedoraproject.FirewallD1.policy";
const CONFIG: &str = "org.fedoraproject.FirewallD1.config";
const CONFIG_PATH: &str = "/org/fedoraproject/FirewallD1/config";

/// How long firewalld may take for an answer: it is slow with many rules, and does one thing after the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// A firewalld that runs.
#[derive(Debug)]
pub struct Firewalld {
    bus: Connection,
}

impl Firewalld {
    /// The firewalld of the system bus. `None`: it does not run there.
    ///
    /// # Errors
    /// There is no bus.
    pub async fn connect() -> Result<Option<Self>, SysError> {
        let address = super::input::variable("DBUS_SYSTEM_BUS_ADDRESS");
        if address.as_deref() == Some("") {
            return Err(SysError::Bus("DBUS_SYSTEM_BUS_ADDRESS is empty".to_owned()));
        }
        let bus = zbus::connection::Builder::system()
            .method_timeout(PATIENCE)
            .build();
        let bus = bus.await.map_err(no_bus)?;
        let reply = bus
            .call_method(
                Some("org.freedesktop.DBus"),
                "/org/freedesktop/DBus",
                Some("org.freedesktop.DBus"),
                "NameHasOwner",
                &NAME,
            )
            .await
            .map_err(no_bus)?;
        let runs: bool = reply.body().deserialize().map_err(no_bus)?;
        Ok(runs.then_some(Self { bus }))
    }

    /// The value of the setting that forbids forwarding of ports by others. Older versions have none.
    pub async fn strict_forward_ports(&self) -> Option<String> {
        let reply = self
            .bus
            .call_method(
                Some(NAME),
                CONFIG_PATH,
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &(CONFIG, "StrictForwardPorts"),
            )
            .await
            .ok()?;
        let value: OwnedVariant = reply.body().deserialize().ok()?;
        String::try_from(value).ok()
    }

    /// Puts subnets into the zone whose traffic nobody asks about, or takes them out.
    ///
    /// # Errors
    /// firewalld refuses.
    pub async fn trust(
        &self,
        subnets: impl IntoIterator<Item = &IpNet>,
        trusted: bool,
    ) -> Result<(), SysError> {
        for subnet in subnets {
            self.place(TRUSTED, &subnet.to_string(), trusted).await?;
        }
        Ok(())
    }

    async fn place(&self, zone: &str, source: &str, there: bool) -> Result<(), SysError> {
        let method = if there {
            "changeZoneOfSource"
        } else {
            "removeSource"
        };
        match self.call(PATH, ZONES, method, &(zone, source)).await {
            Ok(_) => Ok(()),
            // firewalld was reloaded, or somebody else was there before.
            Err(SysError::Firewalld { why, .. })
                if !there && (why.contains("UNKNOWN_SOURCE") || why.contains("ZONE_CONFLICT")) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes zone and policies hold just this.
    ///
    /// # Errors
    /// firewalld refuses.
    pub async fn apply(&self, contents: &Contents) -> Result<(), SysError> {
        let empty = *contents == Contents::default();
        if !self.exist().await? {
            if empty {
                return Ok(());
            }
            self.create().await?;
        }
        self.set_sources(&contents.sources).await?;
        self.fill(PORT_FORWARD, &contents.forward_ports, &contents.port_rules)
            .await?;
        self.fill(HOST_FORWARD, &BTreeSet::new(), &contents.host_rules)
            .await
    }

    /// Whether zone and policies are in force.
    async fn exist(&self) -> Result<bool, SysError> {
        let zones: Vec<String> = self.ask(PATH, ZONES, "getZones", &()).await?;
        let policies: Vec<String> = self.ask(PATH, POLICY, "getPolicies", &()).await?;
        let has_policy = |policy: &Policy| policies.iter().any(|name| name == policy.name);
        Ok(zones.iter().any(|name| name == ZONE) && POLICIES.iter().all(has_policy))
    }

    /// Makes zone and policies, which needs a reload: what others have told firewalld for the time being is lost.
    async fn create(&self) -> Result<(), SysError> {
        let zones: Vec<String> = self.ask(CONFIG_PATH, CONFIG, "getZoneNames", &()).await?;
        if !zones.iter().any(|name| name == ZONE) {
            let none: HashMap<&str, Variant<'_>> = HashMap::new();
            self.call(CONFIG_PATH, CONFIG, "addZone2", &(ZONE, none))
                .await?;
        }
        let policies: Vec<String> = self.ask(CONFIG_PATH, CONFIG, "getPolicyNames", &()).await?;
        for policy in &POLICIES {
            if !policies.iter().any(|name| name == policy.name) {
                let settings = (policy.name, settings(policy));
                self.call(CONFIG_PATH, CONFIG, "addPolicy", &settings)
                    .await?;
            }
        }
        self.call(PATH, NAME, "reload", &()).await.map(drop)
    }

    async fn set_sources(&self, wanted: &BTreeSet<String>) -> Result<(), SysError> {
        let found: Vec<String> = self.ask(PATH, ZONES, "getSources", &ZONE).await?;
        let found: BTreeSet<String> = found.into_iter().collect();
        for source in wanted.difference(&found) {
            self.place(ZONE, source, true).await?;
        }
        for source in found.difference(wanted) {
            self.place(ZONE, source, false).await?;
        }
        Ok(())
    }

    /// Sets what a policy holds. firewalld itself finds out what has changed, and leaves alone what is not named.
    async fn fill(
        &self,
        name: &'static str,
        ports: &BTreeSet<ForwardPort>,
        rules: &BTreeSet<String>,
    ) -> Result<(), SysError> {
        let ports: Vec<ForwardPort> = ports.iter().cloned().collect();
        let rules: Vec<String> = rules.iter().cloned().collect();
        let settings = HashMap::from([
            ("forward_ports", Variant::new(ports)),
            ("rich_rules", Variant::new(rules)),
        ]);
        self.call(PATH, POLICY, "setPolicySettings", &(name, settings))
            .await
            .map(drop)
    }

    async fn ask<B, T>(
        &self,
        path: &'static str,
        interface: &'static str,
        method: &'static str,
        body: &B,
    ) -> Result<T, SysError>
    where
        B: serde::Serialize + zbus::DynamicType,
        T: serde::de::DeserializeOwned + zbus::Type,
    {
        let reply = self.call(path, interface, method, body).await?;
        let body = reply.body();
        body.deserialize().map_err(refused(method))
    }

    async fn call<B>(
        &self,
        path: &'static str,
        interface: &'static str,
        method: &'static str,
        body: &B,
    ) -> Result<Message, SysError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.bus
            .call_method(Some(NAME), path, Some(interface), method, body)
            .await
            .map_err(refused(method))
    }
}

/// Waits for reloads of firewalld, whether it runs already or not.
#[derive(Debug)]
pub struct Reloads(MessageStream);

impl Reloads {
    /// Listens from now on.
    ///
    /// # Errors
    /// There is no bus.
    pub async fn listen() -> Result<Self, SysError> {
        let bus = Connection::system().await.map_err(no_bus)?;
        let rule = format!("type='signal',interface='{NAME}',member='Reloaded',path='{PATH}'");
        let stream = MessageStream::for_match_rule(rule.as_str(), &bus, None);
        Ok(Self(stream.await.map_err(no_bus)?))
    }

    /// The next reload. `None`: the bus is gone.
    pub async fn next(&mut self) -> Option<()> {
        self.0.next().await?.ok().map(drop)
    }
}

fn settings(policy: &Policy) -> HashMap<&'static str, Variant<'static>> {
    HashMap::from([
        ("ingress_zones", Variant::new(vec![policy.from])),
        ("egress_zones", Variant::new(vec![policy.to])),
        ("target", Variant::new(policy.target)),
        ("masquerade", Variant::new(policy.masquerade)),
    ])
}

fn no_bus(error: zbus::Error) -> SysError {
    SysError::Bus(error.to_string())
}

fn refused(what: &'static str) -> impl Fn(zbus::Error) -> SysError {
    move |error| SysError::Firewalld {
        what,
        why: if has_gone(&error) {
            format!("it has ended meanwhile ({error})")
        } else {
            error.to_string()
        },
    }
}

/// Whether there is nobody to answer any more, or no bus.
fn has_gone(error: &zbus::Error) -> bool {
    const NOBODY: [&str; 4] = [
        "ServiceUnknown",
        "NameHasNoOwner",
        "NoReply",
        "Disconnected",
    ];
    // The crate has several forms for the errors of the bus, all of which begin with the name when printed.
    let text = error.to_string();
    let name = text.strip_prefix("org.freedesktop.DBus.Error.");
    let nobody = name.is_some_and(|name| NOBODY.iter().any(|nobody| name.starts_with(nobody)));
    nobody || matches!(error, zbus::Error::InputOutput(_))
}
