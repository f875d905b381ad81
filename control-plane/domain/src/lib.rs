//! stella-domain
