//! JSON Schemas of the documents, made of the types that read and write them.
//!
//! Addresses have the format `ip`, subnets `cidr`, MAC addresses `mac`: words of ours, which validators ignore.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::collection::Collection;
use crate::create::CreateRequest;
use crate::diagnosis::Diagnosis;
use crate::inspection::Inspection;
use crate::names::MacAddr;
use crate::network::{Network, NetworkOptions, Networks, PerNetworkOptions};
use crate::plan::Plan;
use crate::recording::Recording;
use crate::replay::Report;
use crate::status::{ErrorReply, Status};
use crate::topology::Topology;
use crate::version::Version;

/// A document that programs exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// What `setup` and `teardown` read.
    Request,
    /// What `setup` writes.
    Status,
    /// What `create` reads.
    CreateRequest,
    /// What `create` writes; a plugin reads and writes the same.
    Network,
    /// What `inspect` writes.
    Inspection,
    /// What `doctor` writes.
    Diagnosis,
    /// What `record` writes and `replay` reads.
    Recording,
    /// What `replay` writes.
    Report,
    /// What `topology` writes as JSON.
    Topology,
    /// What `gc` writes as JSON.
    Collection,
    /// What `plan` writes as JSON.
    Plan,
    /// What `version` writes.
    Version,
    /// What every sub-command writes when it fails.
    Error,
}

/// The schema of a document.
#[must_use]
pub fn of(document: Document) -> serde_json::Value {
    let read = SchemaSettings::draft2020_12();
    let written = SchemaSettings::draft2020_12().for_serialize();
    let schema = match document {
        Document::Request => read
            .into_generator()
            .into_root_schema_for::<NetworkOptions>(),
        Document::Status => written.into_generator().into_root_schema_for::<Status>(),
        Document::CreateRequest => read
            .into_generator()
            .into_root_schema_for::<CreateRequest>(),
        Document::Network => written.into_generator().into_root_schema_for::<Network>(),
        Document::Inspection => written
            .into_generator()
            .into_root_schema_for::<Inspection>(),
        Document::Diagnosis => written.into_generator().into_root_schema_for::<Diagnosis>(),
        Document::Recording => written.into_generator().into_root_schema_for::<Recording>(),
        Document::Report => written.into_generator().into_root_schema_for::<Report>(),
        Document::Topology => written.into_generator().into_root_schema_for::<Topology>(),
        Document::Collection => written
            .into_generator()
            .into_root_schema_for::<Collection>(),
        Document::Plan => written.into_generator().into_root_schema_for::<Plan>(),
        Document::Version => written.into_generator().into_root_schema_for::<Version>(),
        Document::Error => written
            .into_generator()
            .into_root_schema_for::<ErrorReply>(),
    };
    schema.to_value()
}

/// An address and a prefix length.
#[derive(Debug)]
pub(crate) struct Cidr;

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "cidr"})
    }
}

impl JsonSchema for MacAddr {
    fn schema_name() -> Cow<'static, str> {
        "MacAddr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "mac"})
    }
}

impl JsonSchema for Networks {
    fn schema_name() -> Cow<'static, str> {
        "Networks".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let options = generator.subschema_for::<PerNetworkOptions>();
        json_schema!({
            "description": "What the container wants of each network: by name (Podman 5), or in a list (Podman 6).",
            "anyOf": [
                {"type": "object", "additionalProperties": options},
                {
                    "type": "array",
                    "items": {
                        "allOf": [
                            options,
                            {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
                        ],
                    },
                },
            ],
        })
    }
}
