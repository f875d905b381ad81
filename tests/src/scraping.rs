//! What a site brings that has its agents scraped over HTTPS.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// The address that other hosts reach this one by; loopback on a machine that no other reaches.
///
/// # Errors
/// If there is no socket to be had.
pub fn address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Nothing is sent: the kernel chooses the address that it would send from.
    let chosen = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    Ok(chosen.map_or_else(|_| Ipv4Addr::LOCALHOST.into(), |address| address.ip()))
}

/// An authority with a certificate for a listener on this host and one for a scraper, as PEM files in a folder.
///
/// # Errors
/// If they cannot be made or written.
pub fn site(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::from_params(&authority, &key);
    for (name, usage) in
        [("listener", ExtendedKeyUsagePurpose::ServerAuth), ("scraper", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut own = CertificateParams::new(vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            address()?.to_string(),
        ])?;
        own.extended_key_usages = vec![usage];
        let own_key = KeyPair::generate()?;
        fs::write(folder.join(format!("{name}.crt")), own.signed_by(&own_key, &issuer)?.pem())?;
        fs::write(folder.join(format!("{name}.key")), own_key.serialize_pem())?;
    }
    Ok(())
}
