//! What we say about our documents and our command line holds: schemas against recordings and parsers, the manual page
//! against the command line. `UPDATE=1` rewrites the page.

#![expect(clippy::unwrap_used, reason = "tests")]

mod manual;
mod schemas;
mod validator;
