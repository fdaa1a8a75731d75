//! The executable as engines see it, in labs: requests on standard input, replies on standard output, and the traffic
//! that must or must not pass afterwards.
//!
//! `NETBACKEND` names another executable to run the same tests against, `DNSD` another DNS responder than ours. Tests whose names start with `vm_` need a kernel
//! with more features than a machine may have: `hack/vm-test` runs them.
#![expect(
    clippy::disallowed_methods,
    reason = "these tests are about the operating system"
)]

#[path = "../documents/validator.rs"]
#[expect(clippy::unwrap_used, reason = "a schema that is not one ends the test")]
mod validator;
mod lab;
mod daemon;
mod lan;
mod scene;
mod traffic;

mod calls;
mod capture;
mod create;
mod damage;
mod dhcp;
mod doctor;
mod firewalld;
mod inspect;
mod isolation;
mod legacy;
mod links;
mod macvlan_dhcp;
mod names;
mod plugins;
mod ports;
mod record;
mod recordings;
mod replay;
mod sublinks;
mod units;
mod update;
mod reload;
mod vm;
