//! What is shown to people of networks and containers: text, documents and drawings, all from made-up facts.
//! `UPDATE=1` rewrites the files below `golden/`.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../documents/validator.rs"]
mod validator;

mod drawing;
mod facts;
mod inspection;
