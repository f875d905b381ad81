//! stella-journal
