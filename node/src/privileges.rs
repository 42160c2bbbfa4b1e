//! What the agent must be allowed to do, and what of it this process is not.

use caps::{CapSet, Capability};

/// Without these there is no VRRP speaker.
const NEEDED: [(Capability, &str); 2] =
    [(Capability::CAP_NET_ADMIN, "to add and remove VIPs"), (Capability::CAP_NET_RAW, "to send and receive adverts")];

/// One line that names every needed capability that is missing; `None`: all are there.
pub fn missing() -> Option<String> {
    let effective = match caps::read(None, CapSet::Effective) {
        Ok(effective) => effective,
        Err(error) => return Some(format!("cannot read the capabilities of this process: {error}")),
    };
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, _)| !effective.contains(capability))
        .map(|(capability, why)| format!("{capability} ({why})"))
        .collect();
    (!missing.is_empty()).then(|| format!("missing {}; run as root or through the systemd unit", missing.join(" and ")))
}
