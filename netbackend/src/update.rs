//! A change to a network whose containers run: its DNS servers.
//!
//! The engine has changed its own description of the network already and tells us afterwards. Nobody asks
//! again if we fail, so a list is understood as a whole before anything is written: a server that the
//! responder cannot read would cost all containers of the network their names.

use std::net::IpAddr;

use thiserror::Error;
use wire::names::{NameError, NetworkName};
use wire::zone::{self, ZoneError};

/// The DNS servers that a network is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateRequest {
    /// The network.
    pub network: NetworkName,
    /// Its servers, in the order in which they are asked; none for those of the host.
    pub servers: Vec<IpAddr>,
}

/// Why a change cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpdateError {
    /// There can be no such network.
    #[error("network name: {0}")]
    Name(#[from] NameError),
    /// An item of a list is not an address.
    #[error("network-dns-servers: invalid IP address syntax: \"{item}\" in \"{list}\"")]
    Server {
        /// The item.
        item: String,
        /// The list it is in.
        list: String,
    },
    /// The responder would ask itself.
    #[error(
        "network \"{network}\": dns server {server} is the gateway of the network, which would cause aardvark-dns to forward queries to itself"
    )]
    Loop {
        /// The network.
        network: NetworkName,
        /// The server.
        server: IpAddr,
    },
    /// The zone file is not one.
    #[error(transparent)]
    Zone(#[from] ZoneError),
}

impl UpdateRequest {
    /// Understands the words of the command line. Lists that follow each other are one.
    ///
    /// # Errors
    /// The name cannot be that of a network, or an item is not an address.
    pub fn new(network: &str, lists: &[String]) -> Result<Self, UpdateError> {
        let mut servers = Vec::new();
        for list in lists.iter().filter(|list| !list.is_empty()) {
            for item in list.split(',') {
                let wrong = |_| UpdateError::Server {
                    item: item.to_owned(),
                    list: list.clone(),
                };
                servers.push(item.trim().parse().map_err(wrong)?);
            }
        }
        Ok(Self {
            network: network.parse()?,
            servers,
        })
    }

    /// What the zone file of the network is to say, given what it says.
    ///
    /// # Errors
    /// The file has no usable first line, or one of the servers is an address that it answers on.
    pub fn apply(&self, text: &str) -> Result<String, UpdateError> {
        let (header, changed) = zone::with_servers(text, &self.servers)?;
        let own = |server: &&IpAddr| header.listen.contains(server);
        match self.servers.iter().find(own) {
            None => Ok(changed),
            Some(server) => Err(UpdateError::Loop {
                network: self.network.clone(),
                server: *server,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(lists: &[&str]) -> Result<Vec<String>, String> {
        let lists: Vec<String> = lists.iter().map(|list| (*list).to_owned()).collect();
        let request = UpdateRequest::new("web", &lists).map_err(|error| error.to_string())?;
        Ok(request.servers.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lists_are_joined() {
        let check = |lists: &[&str], expected: &[&str]| {
            assert_eq!(servers(lists).unwrap(), expected, "{lists:?}");
        };
        check(&["1.1.1.1,8.8.8.8"], &["1.1.1.1", "8.8.8.8"]);
        check(&["1.1.1.1", "2620:FE::fe"], &["1.1.1.1", "2620:fe::fe"]);
        check(&["1.1.1.1, 8.8.8.8"], &["1.1.1.1", "8.8.8.8"]);
        check(&[""], &[]);
        check(&["", "9.9.9.9"], &["9.9.9.9"]);
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (list, item) in [
            ("garbage", "garbage"),
            ("1.1.1.1,8.8.8", "8.8.8"),
            ("1.1.1.1,,8.8.8.8", ""),
            ("1.1.1.1,", ""),
            ("1.1.1.1 8.8.8.8", "1.1.1.1 8.8.8.8"),
            ("1.1.1.1:53", "1.1.1.1:53"),
        ] {
            let expected =
                format!("network-dns-servers: invalid IP address syntax: \"{item}\" in \"{list}\"");
            assert_eq!(servers(&[list]), Err(expected));
        }
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        for name in ["../x", "a%int", "aardvark.pid", ""] {
            let error = UpdateRequest::new(name, &[]).unwrap_err();
            assert!(matches!(error, UpdateError::Name(_)), "{name:?}: {error}");
        }
    }

    #[test]
    fn the_responder_does_not_ask_itself() {
        let request = UpdateRequest::new("web", &["9.9.9.9,10.89.0.1".to_owned()]).unwrap();
        let error = request.apply("10.89.0.1\nid 10.89.0.2  a\n").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("would cause aardvark-dns to forward queries to itself"),
            "{error}"
        );
        assert_eq!(
            request.apply("10.89.1.1\nid 10.89.1.2  a\n").unwrap(),
            "10.89.1.1 9.9.9.9,10.89.0.1\nid 10.89.1.2  a\n"
        );
    }
}
