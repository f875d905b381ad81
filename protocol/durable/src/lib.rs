//! stella-durable
