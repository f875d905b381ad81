//! The product from outside: real processes, real sockets, real disks.
//!
//! The first half is a harness that starts the real binaries in temporary folders, kills them and starts them again, and
//! talks to them through the public API. The tests in `tests/` tell stories with it. The second half, [`load`], is the
//! load tool: it measures what the product does beside what the machine can do at all.
//!
//! Why processes and not the crates' functions: what is tested here is what survives when a process does not.
//!
//! Reading order: [`cluster`] (a control plane and its agents), [`control_plane`], [`agent`], [`api`] (the client),
//! [`recipe`] (releases to deploy), [`wait`] (until something is so),
//! [`sim`] (hosts that are only a connection), [`monitoring`] (Prometheus and Alertmanager), [`nats`] (an event bus), [`rotel`] (a collector of traces), [`units`] (a stand-in for systemd), [`web`] (a service that is switched under load).

pub mod agent;
pub mod ambush;
pub mod api;
pub mod binaries;
pub mod cluster;
pub mod collector;
pub mod control_plane;
pub mod daemon;
pub mod guide;
pub mod host;
pub mod load;
pub mod mail;
pub mod monitoring;
pub mod nats;
pub mod network;
pub mod openmetrics;
pub mod packaged;
pub mod people;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod recipe;
pub mod relay;
pub mod rotel;
pub mod scraping;
pub mod sim;
pub mod units;
pub mod wait;
pub mod web;
