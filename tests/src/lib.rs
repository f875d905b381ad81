//! stella-tests
