//! The metadata service on the wires of the guest's network interfaces.

use std::net::Ipv4Addr;
use std::time::Duration;

use devices::net::Detour;
use devices::rng::EntropySource;
use host::HostEntropy;
use mmds::{Service, Stack, Store};
use spec::VmSpec;

use crate::{Error, metrics};

/// The service at the end of each of `spec`'s network interfaces, or nothing where the guest does
/// not reach it.
pub(crate) fn detours(spec: &VmSpec, store: &Store) -> Result<Vec<Option<Box<dyn Detour>>>, Error> {
    let Some(config) = &spec.mmds else {
        return Ok(spec.network.iter().map(|_| None).collect());
    };
    let mut key = [0; 32];
    HostEntropy.fill(&mut key).map_err(Error::Entropy)?;
    let counts = metrics::registry().mmds.clone();
    let service = Service::new(store.clone(), config.clone(), spec.id.as_str(), key, counts);
    let at = |interface: &spec::NetworkInterface| -> Result<Option<Box<dyn Detour>>, Error> {
        if !config.interfaces.contains(interface.id()) {
            return Ok(None);
        }
        let mut seed = [0; 8];
        HostEntropy.fill(&mut seed).map_err(Error::Entropy)?;
        let stack = Stack::new(service.clone(), u64::from_le_bytes(seed));
        Ok(Some(Box::new(Metadata { address: config.address, stack })))
    };
    spec.network.iter().map(at).collect()
}

/// The service at the end of one wire.
struct Metadata {
    address: Ipv4Addr,
    stack: Stack,
}

impl Detour for Metadata {
    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn transmit(&mut self, frame: &[u8], now: Duration) -> bool {
        self.stack.transmit(frame, now)
    }

    fn receive(&mut self, into: &mut Vec<u8>, now: Duration) -> bool {
        self.stack.receive(into, now)
    }

    fn next_poll(&mut self, now: Duration) -> Option<Duration> {
        self.stack.next_poll(now)
    }
}
