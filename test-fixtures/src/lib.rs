//! Throw-away namespaces, golden files and recorded data for the tests of this workspace.
