//! Datagrams as they may arrive: as they are, and with a signature that makes them worth reading. What is believed then
//! goes into a router, as a standby and as a holder.
#![no_main]

use std::net::Ipv4Addr;
use std::time::Duration;

use hmac::{Hmac, Mac};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::event::Input;
use vrrp::machine::Router;
use vrrp::peer::{Keys, Peer};
use vrrp::types::Time;

const KEY: [u8; 32] = [7; 32];

fuzz_target!(|data: &[u8]| {
    let mut peer = Peer::new(2);
    peer.rekey(Keys { id: 1, send: [8; 32], receive: KEY }, Time(0));
    assert!(peer.open(0, data, Time(1)).is_err(), "nobody has signed this");
    let mut router = Router::new(config(), Time(0));
    router.handle(Input::Serving(true), Time(0));
    router.handle(Input::Source(Some(Ipv4Addr::new(192, 0, 2, 1))), Time(0));
    // Several datagrams, each as long as its first byte says, at times that its second byte says.
    let (mut rest, mut sequence, mut now) = (data, 0, Time(1));
    while let [length, pause, tail @ ..] = rest {
        let (content, after) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = after;
        sequence += u64::from(pause % 3);
        now = now + Duration::from_millis(u64::from(*pause) * 10);
        if let Ok(Some(claims)) = peer.open(usize::from(pause % 2), &signed(sequence, content), now) {
            for claim in claims {
                router.handle(Input::Peer(claim), now);
            }
        }
        router.handle_timeout(now);
        while router.poll_output().is_some() {}
        let claim = router.claim(now);
        for datagram in peer.datagrams(&[claim; 30]) {
            assert!(datagram.len() <= vrrp::peer::MAX_DATAGRAM);
        }
        assert!(peer.acknowledged() <= peer.sent());
    }
});

fn signed(sequence: u64, content: &[u8]) -> Vec<u8> {
    let signed = [&b"lb\x01"[..], &1_u32.to_be_bytes(), &sequence.to_be_bytes(), content].concat();
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&KEY).expect("of any length");
    mac.update(&signed);
    [signed, mac.finalize().into_bytes().to_vec()].concat()
}

fn config() -> RouterConfig {
    RouterConfig {
        name: "web".into(),
        interface: "eth0".into(),
        vrid: 51.try_into().expect("in range"),
        addresses: vec![Ipv4Addr::new(192, 0, 2, 100)],
        priority: 100.try_into().expect("in range"),
        advert_interval: Duration::from_millis(100).try_into().expect("in range"),
        preempt: None,
        transport: Transport::Multicast,
        source: None,
        checksum: Checksum::Rfc9568,
    }
}
