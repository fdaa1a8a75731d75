//! What Podman really asked of its network program, and what that answered: `data/podman-5.8.6/<scenario>/NN-<verb>.*`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The directory it is in.
    pub scenario: String,
    /// `01-setup` and so on: its place in the scenario and the verb.
    pub name: String,
    /// `setup`, `teardown` or `update`.
    pub verb: String,
    /// The document on standard input.
    pub input: String,
    /// The document that came back, if the verb has one.
    pub output: Option<Value>,
    argv: Vec<String>,
}

/// Where things are now that were elsewhere when the call was recorded.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The directory given as `--config`.
    pub config: &'a Path,
    /// The container's network namespace.
    pub netns: &'a Path,
    /// The DNS server that the program is to start.
    pub aardvark: &'a Path,
}

/// The scenarios with calls of a network program, in alphabetical order.
pub fn scenarios() -> Result<Vec<String>> {
    let mut scenarios = Vec::new();
    for name in names_in(&data())? {
        if names_in(&data().join(&name))?
            .iter()
            .any(|file| file.ends_with(".in.json"))
        {
            scenarios.push(name);
        }
    }
    Ok(scenarios)
}

/// The calls of one scenario, in order.
pub fn calls(scenario: &str) -> Result<Vec<Call>> {
    let directory = data().join(scenario);
    let mut calls = Vec::new();
    for file in names_in(&directory)? {
        let Some(name) = file.strip_suffix(".in.json") else {
            continue;
        };
        let verb = name.split_once('-').map_or(name, |(_number, verb)| verb);
        let output = directory.join(format!("{name}.out.json"));
        calls.push(Call {
            scenario: scenario.to_owned(),
            name: name.to_owned(),
            verb: verb.to_owned(),
            input: read(&directory.join(&file))?,
            output: if output.exists() {
                Some(parse(&output)?)
            } else {
                None
            },
            argv: read(&directory.join(format!("{name}.argv")))?
                .lines()
                .map(ToOwned::to_owned)
                .collect(),
        });
    }
    Ok(calls)
}

impl Call {
    /// A call that nobody made, in the namespace of this name.
    #[must_use]
    pub fn made_up(name: &str, netns: &str, input: String) -> Self {
        let verb = name.split_once('-').map_or(name, |(_number, verb)| verb);
        Self {
            scenario: "made up".to_owned(),
            name: name.to_owned(),
            verb: verb.to_owned(),
            input,
            output: None,
            argv: vec![format!("/run/netns/{netns}")],
        }
    }

    /// The arguments, with today's places in them.
    pub fn argv(&self, places: Places<'_>) -> Vec<String> {
        let mut argv = self.argv.clone();
        let mut previous = String::new();
        for arg in &mut argv {
            let recorded = arg.clone();
            if previous == "--config" {
                *arg = places.config.display().to_string();
            } else if recorded.starts_with("--aardvark-binary=") {
                *arg = format!("--aardvark-binary={}", places.aardvark.display());
            } else if recorded.starts_with("/run/netns/") {
                *arg = places.netns.display().to_string();
            }
            previous = recorded;
        }
        argv
    }

    /// The name of the recorded namespace: calls of one scenario with the same one were about the same container.
    pub fn netns_name(&self) -> Option<&str> {
        self.argv
            .iter()
            .find_map(|arg| arg.strip_prefix("/run/netns/"))
    }

    /// The document on standard input, parsed.
    pub fn request(&self) -> Result<Value> {
        serde_json::from_str(&self.input)
            .with_context(|| format!("{}/{}.in.json is not JSON", self.scenario, self.name))
    }
}

/// The same status document with every MAC address replaced by `<mac>`: they are chosen anew each time.
#[must_use]
pub fn without_macs(mut status: Value) -> Value {
    mask(&mut status);
    status
}

fn mask(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        for (key, value) in object {
            if key == "mac_address" {
                *value = "<mac>".into();
            } else {
                mask(value);
            }
        }
    } else if let Some(array) = value.as_array_mut() {
        array.iter_mut().for_each(mask);
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/podman-5.8.6")
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn parse(path: &Path) -> Result<Value> {
    serde_json::from_str(&read(path)?).with_context(|| format!("{} is not JSON", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_loads() {
        let scenarios = scenarios().unwrap();
        assert!(scenarios.len() >= 27, "{scenarios:?}");
        for scenario in scenarios {
            let calls = calls(&scenario).unwrap();
            assert!(!calls.is_empty(), "{scenario}");
            for call in calls {
                assert!(call.request().unwrap().is_object() || call.verb == "update");
                assert_eq!(
                    call.output.is_some(),
                    call.verb == "setup",
                    "{scenario}/{}",
                    call.name
                );
            }
        }
    }

    #[test]
    fn places_are_substituted() {
        let call = calls("connect").unwrap().remove(0);
        let places = Places {
            config: Path::new("/c"),
            netns: Path::new("/n"),
            aardvark: Path::new("/a"),
        };
        assert_eq!(
            call.argv(places),
            [
                "--config",
                "/c",
                "--rootless=false",
                "--aardvark-binary=/a",
                "setup",
                "/n"
            ]
        );
    }
}
