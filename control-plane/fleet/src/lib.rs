//! stella-fleet
