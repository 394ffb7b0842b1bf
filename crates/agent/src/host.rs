//! What the node's own stack must do for the data path.

use std::{fs, io};

/// The kernel routes replies, and with `stack` forwarding requests too.
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Why the host could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("cannot switch on {IP_FORWARD}, without which the kernel does not route replies: {0}")]
pub struct Error(#[from] io::Error);

/// Lets the kernel forward packets. Left as it is afterwards, because other services may rely on it by then.
pub(crate) fn enable_forwarding() -> Result<(), Error> {
    if fs::read_to_string(IP_FORWARD)?.trim() != "1" {
        fs::write(IP_FORWARD, "1")?;
        tracing::warn!("set net.ipv4.ip_forward=1: the kernel routes replies from backends to clients");
    }
    Ok(())
}
