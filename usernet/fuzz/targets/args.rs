//! Any command line: it is refused with a message, or a run is decided whose ports are in order.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use usernet::cli::{self, Request};
use usernet::config::{self, Facts};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let words = input.split(|&byte| byte == 0 || byte == b'\n');
    let words = words.map(|word| OsString::from_vec(word.to_vec()));
    let options = match cli::parse(words) {
        Ok(Request::Run(options)) => options,
        Ok(_) => return,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let facts = Facts {
        resolv_conf: b"nameserver 192.0.2.53\nnameserver fe80::53%eth0\nsearch a b.c\n".to_vec(),
        ipv6: true,
        ..Facts::default()
    };
    match config::decide(&options, &facts) {
        Ok(decision) => {
            for listener in &decision.config.listeners {
                assert!(listener.first <= listener.last, "{listener:?}");
                let span = listener.last - listener.first;
                assert!(listener.target.checked_add(span).is_some(), "{listener:?}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
