//! stella-telemetry
