//! VRRP packets as they may arrive, IP header first: read, then checked as a multicast router does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vrrp::packet;

fuzz_target!(|data: &[u8]| {
    if let Ok(received) = packet::decode(data) {
        let config = config(received.vrid);
        let _ = config.map(|config| received.check(&config));
    }
});

/// The router that the packet names.
fn config(vrid: u8) -> Option<vrrp::config::RouterConfig> {
    Some(vrrp::config::RouterConfig {
        name: "web".into(),
        interface: "eth0".into(),
        vrid: i64::from(vrid).try_into().ok()?,
        addresses: vec![std::net::Ipv4Addr::new(192, 0, 2, 100)],
        priority: 100.try_into().ok()?,
        advert_interval: std::time::Duration::from_millis(100).try_into().ok()?,
        preempt: None,
        transport: vrrp::config::Transport::Multicast,
        source: None,
        checksum: vrrp::config::Checksum::Rfc9568,
    })
}
