//! As much of JSON Schema (2020-12) as our schemas need. A keyword that is not known here is a panic, so that none is
//! passed over.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use wire::names::MacAddr;

/// What is wrong with a document, if anything.
pub(crate) fn check(schema: &Value, document: &Value) -> Result<(), String> {
    Validator { root: schema }.check(schema, document, "")
}

struct Validator<'a> {
    root: &'a Value,
}

impl Validator<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let Some(keywords) = schema.as_object() else {
            assert_eq!(schema, &Value::Bool(true), "a schema is an object or true");
            return Ok(());
        };
        for (keyword, wanted) in keywords {
            self.keyword(keyword, wanted, value, at).map_err(|why| {
                if why.contains(": ") {
                    why
                } else {
                    format!("{at}: {why}")
                }
            })?;
        }
        Ok(())
    }

    fn keyword(
        &self,
        keyword: &str,
        wanted: &Value,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let schemas = || wanted.as_array().expect("a list of schemas");
        match keyword {
            "$schema" | "$defs" | "title" | "description" | "default" => Ok(()),
            "$ref" => {
                let path = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                self.check(self.root.pointer(path).expect("it is defined"), value, at)
            }
            "type" => is_type(wanted, value),
            "format" => has_format(wanted.as_str().unwrap(), value),
            "minimum" => bound(value, |number| number >= wanted.as_f64().unwrap()),
            "maximum" => bound(value, |number| number <= wanted.as_f64().unwrap()),
            "anyOf" => {
                let any = schemas()
                    .iter()
                    .any(|schema| self.check(schema, value, at).is_ok());
                any.then_some(())
                    .ok_or_else(|| "none of several forms".to_owned())
            }
            "oneOf" => {
                let fits = |schema: &&Value| self.check(schema, value, at).is_ok();
                match schemas().iter().filter(fits).count() {
                    1 => Ok(()),
                    count => Err(format!("{value} has {count} of several forms")),
                }
            }
            "const" if wanted == value => Ok(()),
            "const" => Err(format!("{value} is not {wanted}")),
            "enum" if schemas().contains(value) => Ok(()),
            "enum" => Err(format!("{value} is none of {wanted}")),
            "allOf" => schemas()
                .iter()
                .try_for_each(|schema| self.check(schema, value, at)),
            "required" => {
                let missing = |key: &&Value| {
                    value
                        .as_object()
                        .is_some_and(|object| !object.contains_key(key.as_str().unwrap()))
                };
                schemas()
                    .iter()
                    .find(missing)
                    .map_or(Ok(()), |key| Err(format!("{key} is missing")))
            }
            "properties" => {
                let properties = wanted.as_object().unwrap();
                let mut given = properties
                    .iter()
                    .filter_map(|(key, schema)| Some((key, schema, value.get(key)?)));
                given.try_for_each(|(key, schema, value)| {
                    self.check(schema, value, &format!("{at}/{key}"))
                })
            }
            "additionalProperties" => {
                let mut given = value.as_object().into_iter().flatten();
                given.try_for_each(|(key, value)| self.check(wanted, value, &format!("{at}/{key}")))
            }
            "items" => {
                let mut given = value.as_array().into_iter().flatten().enumerate();
                given.try_for_each(|(n, value)| self.check(wanted, value, &format!("{at}/{n}")))
            }
            other => panic!("unknown keyword {other}"),
        }
    }
}

fn is_type(wanted: &Value, value: &Value) -> Result<(), String> {
    let is = |wanted: &Value| match wanted.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("unknown type {other}"),
    };
    let fits = wanted
        .as_array()
        .map_or_else(|| is(wanted), |types| types.iter().any(is));
    if fits {
        Ok(())
    } else {
        Err(format!("{value} is not {wanted}"))
    }
}

fn has_format(format: &str, value: &Value) -> Result<(), String> {
    let Some(text) = value.as_str() else {
        return Ok(());
    };
    let fits = match format {
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.parse::<IpNet>().is_ok(),
        "mac" => text.parse::<MacAddr>().is_ok(),
        "uint8" | "uint16" | "uint32" => true, // of numbers, beside bounds
        other => panic!("unknown format {other}"),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{text} is not {format}"))
    }
}

fn bound(value: &Value, holds: impl Fn(f64) -> bool) -> Result<(), String> {
    match value.as_f64() {
        Some(number) if !holds(number) => Err(format!("{number} is out of bounds")),
        _ => Ok(()),
    }
}
