//! stella-certs
