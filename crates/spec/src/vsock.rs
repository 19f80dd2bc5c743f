//! The socket device.

use std::path::PathBuf;

use crate::Error;
use crate::boot::check_path;
use crate::limits::GUEST_CID_MIN;

/// Sockets between host and guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    guest_cid: u32,
    socket: PathBuf,
}

impl Vsock {
    /// A device by which the guest has the context id `guest_cid`, and whose host side is the Unix
    /// socket at `socket`.
    pub fn new(guest_cid: u32, socket: impl Into<PathBuf>) -> Result<Self, Error> {
        if guest_cid < GUEST_CID_MIN {
            let (min, max) = (u64::from(GUEST_CID_MIN), u64::from(u32::MAX));
            return Err(Error::Range { field: "guest_cid", value: guest_cid.into(), min, max });
        }
        let socket = socket.into();
        check_path("uds_path", &socket)?;
        Ok(Self { guest_cid, socket })
    }

    /// The guest's context id.
    pub fn guest_cid(&self) -> u32 {
        self.guest_cid
    }

    /// The Unix socket that host programs connect to; with `_PORT` appended, those that they
    /// listen on.
    pub fn socket(&self) -> &PathBuf {
        &self.socket
    }
}
