//! Owns the kernel's TUN device: the host itself becomes the node.

use std::io;
use std::path::Path;

use ipnet::IpNet;
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::MTU_DEFAULT;
use crate::driver::Device;

/// Longest interface name that Linux takes.
const NAME_MAX: usize = 15;

/// What the device shall be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TunConfig {
    /// The interface's name; the kernel chooses one by default.
    pub name: Option<String>,
    /// Its address; the prefix length makes the kernel route the mesh's own network to it.
    pub address: IpNet,
    /// Its largest packet. Default [`MTU_DEFAULT`].
    pub mtu: usize,
}

impl TunConfig {
    /// A device with this address.
    pub fn new(address: IpNet) -> Self {
        TunConfig { name: None, address, mtu: MTU_DEFAULT }
    }
}

/// An open TUN device; the interface disappears when it is dropped.
pub struct TunDevice {
    device: AsyncDevice,
    name: String,
    mtu: usize,
}

/// Creates the device and brings it up. Needs root or `CAP_NET_ADMIN`, and a tokio runtime.
///
/// # Errors
/// `NotFound` without `/dev/net/tun`, `PermissionDenied` without the right to configure networks,
/// `InvalidInput` for a name or mtu that no interface can have, else what the kernel says.
pub fn open(config: &TunConfig) -> io::Result<TunDevice> {
    check(config)?;
    let mtu = u16::try_from(config.mtu).map_err(|_| invalid(format!("mtu {} is too large", config.mtu)))?;
    if cfg!(target_os = "linux") && !Path::new("/dev/net/tun").exists() {
        let message =
            "/dev/net/tun does not exist: load the kernel module `tun`, or give the container that device";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let mut builder = DeviceBuilder::new().mtu(mtu);
    if let Some(name) = &config.name {
        builder = builder.name(name);
    }
    builder = match config.address {
        IpNet::V4(net) => builder.ipv4(net.addr(), net.prefix_len(), None),
        IpNet::V6(net) => builder.ipv6(net.addr(), net.prefix_len()),
    };
    let device = builder.build_async().map_err(|error| explain(config, &error))?;
    let name = device.name()?;
    tracing::info!(%name, address = %config.address, mtu, "TUN device is up");
    Ok(TunDevice { device, name, mtu: config.mtu })
}

impl TunDevice {
    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice").field("name", &self.name).field("mtu", &self.mtu).finish_non_exhaustive()
    }
}

impl Device for TunDevice {
    async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buf).await
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.device.send(packet).await.map(|_| ())
    }

    fn mtu(&self) -> usize {
        self.mtu
    }
}

fn check(config: &TunConfig) -> io::Result<()> {
    if let Some(name) = &config.name {
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':' && byte != b'%';
        let is_usable = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed);
        if !is_usable || name == "." || name == ".." {
            return Err(invalid(format!(
                "interface name {name:?} is invalid: 1 to {NAME_MAX} printable ASCII characters without '/', ':' or '%'"
            )));
        }
    }
    let least = if config.address.addr().is_ipv6() { 1280 } else { 576 };
    if (least..=crate::wire::MTU_MAX).contains(&config.mtu) {
        Ok(())
    } else {
        Err(invalid(format!("mtu {} is outside {least}..={}", config.mtu, crate::wire::MTU_MAX)))
    }
}

fn explain(config: &TunConfig, error: &io::Error) -> io::Error {
    let name = config.name.as_deref().unwrap_or("(chosen by the kernel)");
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root or with CAP_NET_ADMIN",
        io::ErrorKind::ResourceBusy => "an interface of that name is in use; choose another",
        io::ErrorKind::AlreadyExists => "the address is already assigned; choose another or remove it",
        _ => "see the kernel's reason above",
    };
    io::Error::new(
        error.kind(),
        format!("cannot create TUN interface {name} with {}: {error}; {advice}", config.address),
    )
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TunConfig {
        TunConfig::new("10.7.0.1/24".parse().unwrap())
    }

    #[test]
    fn names_and_sizes_that_no_interface_can_have_are_refused_before_anything_is_made() {
        for name in ["", "a-name-of-16-byt", "a/b", "ab:1", "t%d", "ä", "."] {
            let error = check(&TunConfig { name: Some(name.into()), ..config() }).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        assert!(check(&TunConfig { name: Some("mesh0".into()), ..config() }).is_ok());
        assert!(check(&TunConfig { mtu: 575, ..config() }).is_err());
        assert!(check(&TunConfig { mtu: 9001, ..config() }).is_err());
        let v6 = TunConfig { mtu: 1279, ..TunConfig::new("fd00::1/64".parse().unwrap()) };
        assert!(check(&v6).is_err());
    }

    #[test]
    fn failures_say_what_to_do() {
        let denied = explain(&config(), &io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
        let busy = explain(&config(), &io::Error::from(io::ErrorKind::ResourceBusy));
        assert!(busy.to_string().contains("choose another"), "{busy}");
    }
}
