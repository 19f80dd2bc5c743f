//! Network interfaces.

use std::fmt;
use std::str::FromStr;

use crate::error::{check_characters, check_length};
use crate::limits::{HOST_DEVICE_NAME_MAX, MTU_MIN};
use crate::{DeviceId, Error, RateLimiter};

/// One network interface, connected to a tap device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInterface {
    id: DeviceId,
    host_device: String,
    mtu: Option<u16>,
    /// The address that the guest is told to use; it chooses one if there is none.
    pub guest_mac: Option<MacAddress>,
    /// Whether frames that the guest sends from another address than `guest_mac` are dropped, and
    /// not only counted.
    pub drop_spoofed: bool,
    /// How much the guest may receive.
    pub rx_rate_limiter: RateLimiter,
    /// How much the guest may send.
    pub tx_rate_limiter: RateLimiter,
}

impl NetworkInterface {
    /// An interface on the host's device `host_device`, with no limits.
    pub fn new(id: DeviceId, host_device: impl Into<String>) -> Result<Self, Error> {
        let (field, host_device) = ("host_dev_name", host_device.into());
        check_length(field, host_device.len(), 1, HOST_DEVICE_NAME_MAX)?;
        // What Linux refuses in `dev_valid_name`.
        let allowed = "no '/', ':', white space or NUL";
        check_characters(field, &host_device, allowed, |c| {
            !matches!(c, '/' | ':' | '\0') && !c.is_whitespace()
        })?;
        if matches!(host_device.as_str(), "." | "..") {
            let form = "the name of a network device";
            return Err(Error::Form { field, value: host_device, form });
        }
        Ok(Self {
            id,
            host_device,
            mtu: None,
            guest_mac: None,
            drop_spoofed: false,
            rx_rate_limiter: RateLimiter::default(),
            tx_rate_limiter: RateLimiter::default(),
        })
    }

    /// Tells the guest the largest packet that the link carries.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), Error> {
        if mtu < MTU_MIN {
            let (min, max) = (u64::from(MTU_MIN), u64::from(u16::MAX));
            return Err(Error::Range { field: "mtu", value: mtu.into(), min, max });
        }
        self.mtu = Some(mtu);
        Ok(())
    }

    /// The interface's name.
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// The tap device on the host.
    pub fn host_device(&self) -> &str {
        &self.host_device
    }

    /// The largest packet that the link carries, if the guest is to be told.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl FromStr for MacAddress {
    type Err = Error;

    /// Reads `aa:bb:cc:dd:ee:ff`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Form {
            field: "guest_mac",
            value: text.to_owned(),
            form: "like 06:00:ac:10:00:02",
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The network interfaces of a machine, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkInterfaces(Vec<NetworkInterface>);

impl NetworkInterfaces {
    /// Adds an interface, or replaces the one with the same id. Refuses a MAC address twice.
    pub fn put(&mut self, interface: NetworkInterface) -> Result<(), Error> {
        if let Some(mac) = interface.guest_mac {
            let other = self.0.iter().find(|i| i.guest_mac == Some(mac) && i.id != interface.id);
            if let Some(other) = other {
                let (first, second) = (other.id.to_string(), interface.id.to_string());
                return Err(Error::MacInUse { mac: mac.to_string(), first, second });
            }
        }
        match self.0.iter().position(|i| i.id == interface.id) {
            Some(index) => self.0[index] = interface,
            None => self.0.push(interface),
        }
        Ok(())
    }

    /// All interfaces, in the guest's order.
    pub fn iter(&self) -> std::slice::Iter<'_, NetworkInterface> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a NetworkInterfaces {
    type Item = &'a NetworkInterface;
    type IntoIter = std::slice::Iter<'a, NetworkInterface>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(id: &str, mac: Option<&str>) -> NetworkInterface {
        let id = DeviceId::new("iface_id", id).unwrap();
        let mut interface = NetworkInterface::new(id, "tap0").unwrap();
        interface.guest_mac = mac.map(|m| m.parse().unwrap());
        interface
    }

    #[test]
    fn mac_addresses() {
        for (text, expected) in [
            ("06:00:ac:10:00:02", Some([6, 0, 0xAC, 0x10, 0, 2])),
            ("06:00:AC:10:00:02", Some([6, 0, 0xAC, 0x10, 0, 2])),
            ("06:00:ac:10:00", None),
            ("06:00:ac:10:00:02:03", None),
            ("6:0:ac:10:0:2", None),
            ("+6:00:ac:10:00:02", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<MacAddress>().ok().map(|m| m.0), expected, "{text:?}");
        }
        assert_eq!(MacAddress([6, 0, 0xAC, 16, 0, 2]).to_string(), "06:00:ac:10:00:02");
    }

    #[test]
    fn a_mac_address_belongs_to_one_interface() {
        let mac = Some("06:00:ac:10:00:02");
        let mut all = NetworkInterfaces::default();
        all.put(interface("a", mac)).unwrap();
        all.put(interface("a", mac)).unwrap();
        let error = all.put(interface("b", mac)).unwrap_err().to_string();
        assert_eq!(
            error,
            "network interface b cannot have MAC address 06:00:ac:10:00:02: interface a has it"
        );
        all.put(interface("b", None)).unwrap();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn host_device_names_and_mtus() {
        let id = || DeviceId::new("iface_id", "a").unwrap();
        for (name, passes) in
            [("tap0", true), ("", false), ("a/b", false), ("a b", false), ("..", false)]
        {
            assert_eq!(NetworkInterface::new(id(), name).is_ok(), passes, "{name:?}");
        }
        assert!(NetworkInterface::new(id(), "x".repeat(16)).is_err());
        let error = interface("a", None).set_mtu(67).unwrap_err().to_string();
        assert_eq!(error, "mtu is 67; it must be from 68 to 65535");
        assert!(interface("a", None).set_mtu(1500).is_ok());
    }
}
