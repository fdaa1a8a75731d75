//! Writes frames of every kind as inputs of `packets`: seeds DIRECTORY.

#[path = "../../tests/events/model/mod.rs"]
mod model;

fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    for (name, input) in model::seeds() {
        std::fs::write(format!("{directory}/{name}"), input)?;
    }
    Ok(())
}
