//! stella-api
