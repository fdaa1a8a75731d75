//! What is left of firewalld in a program built without the feature `firewalld`: there never is one.

use ipnet::IpNet;

use super::SysError;
use crate::plan::firewalld::Contents;

/// There is none.
#[derive(Debug)]
pub enum Firewalld {}

fn absent() -> SysError {
    SysError::Bus("this program was built without the feature firewalld".to_owned())
}

#[expect(
    clippy::unused_async,
    missing_docs,
    reason = "the form is that of the real one"
)]
impl Firewalld {
    pub async fn connect() -> Result<Option<Self>, SysError> {
        Err(absent())
    }

    pub async fn strict_forward_ports(&self) -> Option<String> {
        None
    }

    pub async fn trust(
        &self,
        _: impl IntoIterator<Item = &IpNet>,
        _: bool,
    ) -> Result<(), SysError> {
        Err(absent())
    }

    pub async fn apply(&self, _: &Contents) -> Result<(), SysError> {
        Err(absent())
    }
}

/// There are none.
#[derive(Debug)]
pub enum Reloads {}

#[expect(
    clippy::unused_async,
    missing_docs,
    reason = "the form is that of the real one"
)]
impl Reloads {
    pub async fn listen() -> Result<Self, SysError> {
        Err(absent())
    }

    pub async fn next(&mut self) -> Option<()> {
        None
    }
}
