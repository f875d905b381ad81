//! A network between hosts: a bridge in a namespace of its own, and a cable to each host that can be pulled.

use anyhow::{Context as _, Result};
use std::process::Command;

use crate::host::Host;

/// The network's address without the last number.
const PREFIX: &str = "10.77.0";

/// A switch with a cable to each host.
#[derive(Debug)]
pub struct Network {
    name: String,
    cables: u8,
}

/// A cable between a host and the switch.
#[derive(Clone, Debug)]
pub struct Cable {
    network: String,
    end: String,
    /// The host's address.
    pub address: String,
}

impl Network {
    /// A switch without cables.
    ///
    /// # Errors
    /// If it cannot be made: this needs root.
    pub fn make(name: &str) -> Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let network = Self { name, cables: 0 };
        ip(&["-n", &network.name, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &network.name, "link", "set", "switch", "up"])?;
        Ok(network)
    }

    /// Connects a host. The cable stays where the host's power is cut.
    ///
    /// # Errors
    /// If it cannot be connected.
    pub fn connect(&mut self, host: &Host) -> Result<Cable> {
        self.cables += 1;
        let end = format!("cable{}", self.cables);
        let address = format!("{PREFIX}.{}", self.cables);
        let (network, there) = (self.name.as_str(), host.network());
        let (near, far) = (["-n", network], ["-n", there]);
        ip(&[&near[..], &["link", "add", &end, "type", "veth", "peer", "name", "eth0", "netns", there]]
            .concat())?;
        ip(&[&near[..], &["link", "set", &end, "master", "switch", "up"]].concat())?;
        ip(&[&far[..], &["addr", "add", &format!("{address}/24"), "dev", "eth0"]].concat())?;
        ip(&[&far[..], &["link", "set", "eth0", "up"]].concat())?;
        Ok(Cable { network: self.name.clone(), end, address })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cables go with it.
        ip(&["netns", "del", &self.name]).ok();
    }
}

impl Cable {
    /// Pulls the cable: what is sent is lost, and nobody is told.
    ///
    /// # Errors
    /// If there is no such cable.
    pub fn pull(&self) -> Result<()> {
        ip(&["-n", &self.network, "link", "set", &self.end, "down"])
    }

    /// Puts it in again.
    ///
    /// # Errors
    /// If there is no such cable.
    pub fn plug(&self) -> Result<()> {
        ip(&["-n", &self.network, "link", "set", &self.end, "up"])
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "ip {}: {said}", arguments.join(" "));
    Ok(())
}
