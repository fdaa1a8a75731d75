//! Questions to a running daemon ([`ask`]), as somebody asks who may, or must not, have an answer.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use ask::{Form, Question};

use crate::traffic;

/// What process `pid` answers, as a version 1 document, to who proves that the question was his, seen to answer nothing to who
/// does not: it calls who listens at the port of the question.
pub fn answers_only_who_has_asked(pid: i32) -> Result<()> {
    let process = ask::sys::open(pid)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let question = Question {
        port: listener.local_addr()?.port(),
        form: Form::Json,
        most: 1,
        token: 0x1_2345_6789,
    };
    let called = |countersign: &[u8]| -> Result<Vec<u8>> {
        ask::sys::send(&process, &question)?;
        let (hail, heard) = traffic::called(&listener, ask::HAIL, countersign)?;
        ensure!(hail == question.hail(), "{hail:?}");
        Ok(heard)
    };
    for wrong in [&b"\x67\x88"[..], b"\x67", b"GET / HTTP/1.1\r\n\r\n"] {
        let heard = called(wrong)?;
        ensure!(heard.is_empty(), "{heard:?}");
    }
    let heard = called(&question.countersign())?;
    let answer = heard.get(ask::HEAD..).unwrap_or_default();
    let told: serde_json::Value = serde_json::from_slice(answer)?;
    ensure!(told["version"] == 1, "{told:#}");
    Ok(())
}
