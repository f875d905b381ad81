//! A fleet of hosts with systemd, each of its own, on a network that can break: a control plane and a balancer on one, a web
//! service as a unit behind nginx on two others, all from the packages. Real but for the cables.
#![expect(clippy::print_stdout, reason = "figures for whoever reads the test's output")]

mod colours;
mod hosts;
mod rolling;
