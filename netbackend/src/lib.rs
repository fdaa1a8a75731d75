//! One-shot set-up and teardown of container networks.
//!
//! # Theory of operation
//!
//! An engine calls the program once for each container that comes or goes, with a description of the
//! container and its networks on standard input. The call goes through five stages:
//!
//! 1. **Request** ([`request`]): the document is understood, or refused before anything has happened.
//! 2. **Observe** ([`observed`], `sys::observe`): the facts that matter are read, under a lock. First, a
//!    call that was killed is taken back, if there was one.
//! 3. **Plan** ([`plan`]): a list of steps, decided without looking at the host again. It can be printed.
//! 4. **Apply** (`sys::apply`): the steps are done in order. If one fails at setup, those before it are
//!    undone in reverse order; at teardown the rest is done all the same.
//! 5. **Status**: the reply goes to standard output.
//!
//! What holds always:
//!
//! - A journal is there from before the first change until the reply is out. Whoever takes the lock next
//!   finishes what it tells of.
//! - Rules in the kernel are a function of the records in the state directory. In the common case a call
//!   adds or removes just its own elements, in one transaction; when the table turns out not to be what
//!   the records say, it is written anew from them.
//! - Neither depends on how many containers and networks there are.
//!
//! Modules in reading order:

/// The part of a value, if the value is of this form.
macro_rules! pick {
    ($value:expr, $form:pat => $part:expr) => {
        if let $form = $value {
            Some($part)
        } else {
            None
        }
    };
}

pub mod request;
pub mod observed;
pub mod plan;
pub mod nft;
pub mod update;
pub mod create;
pub mod gc;
pub mod inspect;
pub mod topology;
pub mod engine;
pub mod record;
pub mod replay;
pub mod capture;
pub mod pcapng;
pub mod doctor;
pub mod schema;
pub mod dhcp;
pub mod sys;
pub mod cli;
