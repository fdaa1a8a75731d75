//! The service that watches the packet filter: when somebody takes rules away, they are written anew.
//!
//! It sleeps until the kernel tells of a change of our table ([`crate::plan::watch`] says when that matters) or a signal
//! asks it to end. Records are read, and the lock is taken, only for a look. What goes wrong with a look is logged, and
//! the look repeated later: a service that watches must not end for that.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::input::Interrupts;
use super::{SysError, reload};
use crate::nft::notice::notices;
use crate::observed::Settings;
use crate::plan::ruleset::TABLE;
use crate::plan::watch::{Look, Watch};

/// The group in which the kernel tells of changes (`NFNLGRP_NFTABLES`).
const GROUP: u32 = 7;

/// Bytes of notices that may wait. A large table that goes is told of by one for each element.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The longest datagram.
const DATAGRAM: usize = 64 << 10;

/// Watches until a signal comes.
///
/// # Errors
/// The kernel does not tell of changes.
pub async fn run(
    settings: &Settings,
    nft: Option<&Path>,
    interrupts: &Interrupts,
) -> Result<(), SysError> {
    let told = Told::open()?;
    let mut watch = Watch::default();
    watch.want(Look::Check, Instant::now());
    while interrupts.check().is_ok() {
        if let Some(look) = watch.take(Instant::now()) {
            if let Err(error) = perform(look, settings, nft).await {
                tracing::error!("{error}");
                watch.retry(look, Instant::now());
            }
            // What we just did is among it; if it was not enough, a look finds that out.
            if told.read(&mut Watch::default())? {
                watch.want(Look::Check, Instant::now());
            }
        }
        wait(&told, interrupts, watch.due())?;
        told.read(&mut watch)?;
    }
    Ok(())
}

async fn perform(
    look: Look,
    settings: &Settings,
    nft: Option<&Path>,
) -> Result<(), reload::ReloadError> {
    match look {
        Look::Check => {
            if reload::restore(settings, nft).await? {
                tracing::warn!("rules were missing and have been written anew");
            }
            Ok(())
        }
        Look::Restore => reload::reload(settings, nft).await,
    }
}

/// Waits for a notice, a signal or the moment at which something is due.
fn wait(told: &Told, interrupts: &Interrupts, due: Option<Instant>) -> Result<(), SysError> {
    let limit = match due {
        None => PollTimeout::NONE,
        Some(due) => {
            let left = due.saturating_duration_since(Instant::now());
            // Rounded up, or it would be woken too early over and over.
            let milliseconds = left.as_micros().div_ceil(1000);
            PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
        }
    };
    let mut sources = vec![PollFd::new(told.descriptor(), PollFlags::POLLIN)];
    let signals = interrupts.descriptor();
    sources.extend(signals.map(|signals| PollFd::new(signals, PollFlags::POLLIN)));
    match poll(&mut sources, limit) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(failed("wait for changes of nftables")(errno.into())),
    }
}

/// What the kernel tells.
struct Told(Socket);

impl Told {
    fn open() -> Result<Self, SysError> {
        let mut socket =
            Socket::new(NETLINK_NETFILTER).map_err(failed("open a netfilter socket"))?;
        let listen = failed("listen to changes of nftables");
        socket.bind(&SocketAddr::new(0, 0)).map_err(&listen)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
                .map_err(|errno| listen(errno.into()))?;
        }
        socket.add_membership(GROUP).map_err(&listen)?;
        Ok(Self(socket))
    }

    #[expect(
        unsafe_code,
        reason = "the crate's socket lends its descriptor as a number only"
    )]
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is that of `self.0`, open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }

    /// Hands over all that is waiting; tells whether there was anything.
    fn read(&self, watch: &mut Watch) -> Result<bool, SysError> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        let mut any = false;
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {
                    let notices = notices(&buffer, TABLE);
                    any |= !notices.is_empty();
                    for notice in &notices {
                        watch.tell(notice, Instant::now());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Too much at once: nobody knows what.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    watch.want(Look::Check, Instant::now());
                    any = true;
                }
                Err(error) => return Err(failed("hear of changes of nftables")(error)),
            }
        }
    }
}

fn failed(context: &'static str) -> impl Fn(io::Error) -> SysError {
    move |source| SysError::Io {
        context: context.to_owned(),
        source,
    }
}
