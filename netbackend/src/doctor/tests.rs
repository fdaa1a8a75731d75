//! Findings from made-up facts.
