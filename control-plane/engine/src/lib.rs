//! stella-engine
