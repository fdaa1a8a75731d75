//! Descriptions of our documents, for those who write or read them.

use clap::ValueEnum;
use serde_json::{Map, Value};
use wire::schema::{self, Document};

/// A document, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// What setup reads.
    SetupInput,
    /// What setup writes.
    SetupOutput,
    /// What teardown reads.
    TeardownInput,
    /// What create reads.
    CreateInput,
    /// What create writes.
    CreateOutput,
    /// What inspect writes.
    Inspection,
    /// What doctor writes.
    Diagnosis,
    /// What record writes and replay reads.
    Recording,
    /// What replay writes.
    Report,
    /// What topology writes as JSON.
    Topology,
    /// What gc writes as JSON.
    Collection,
    /// What plan writes as JSON.
    Plan,
    /// What version writes.
    Version,
    /// What every sub-command writes when it fails.
    Error,
}

impl Name {
    /// Its schema.
    #[must_use]
    pub fn schema(self) -> Value {
        schema::of(match self {
            Self::SetupInput | Self::TeardownInput => Document::Request,
            Self::SetupOutput => Document::Status,
            Self::CreateInput => Document::CreateRequest,
            Self::CreateOutput => Document::Network,
            Self::Inspection => Document::Inspection,
            Self::Diagnosis => Document::Diagnosis,
            Self::Recording => Document::Recording,
            Self::Report => Document::Report,
            Self::Topology => Document::Topology,
            Self::Collection => Document::Collection,
            Self::Plan => Document::Plan,
            Self::Version => Document::Version,
            Self::Error => Document::Error,
        })
    }
}

/// The schemas of all documents, by their names.
#[must_use]
pub fn all() -> Value {
    let named = |name: &Name| {
        let value = name.to_possible_value()?;
        Some((value.get_name().to_owned(), name.schema()))
    };
    let documents: Map<_, _> = Name::value_variants().iter().filter_map(named).collect();
    Value::Object(documents)
}
