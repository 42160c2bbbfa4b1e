//! One end of the veth as a plain Ethernet port: hears every frame, sends any frame, and has what was
//! heard decoded by somebody else's program.

use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender};
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::util::MacAddr;
use vrrp::packet::MULTICAST;

use crate::lab::Namespace;

const ETHERNET: usize = 14;
const IP: usize = 20;
const ARP: usize = 28;
const UDP: usize = 8;

/// The hardware address of a host that is not there.
pub(crate) const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// The interface `lan` of a namespace.
pub(crate) struct Wire {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Wire {
    /// Frames from here on are heard, those that the namespace itself sends too.
    pub(crate) fn open(namespace: &Namespace) -> Wire {
        namespace.run(|| {
            let lan =
                datalink::interfaces().into_iter().find(|interface| interface.name == "lan").expect("it is there");
            let config = Config { read_timeout: Some(Duration::from_millis(50)), ..Config::default() };
            match datalink::channel(&lan, config).expect("root may open a packet socket") {
                Channel::Ethernet(sender, receiver) => Wire { sender, receiver },
                _ => panic!("a veth speaks Ethernet"),
            }
        })
    }

    /// The frames of the time that comes.
    pub(crate) fn listen(&mut self, length: Duration) -> Vec<Vec<u8>> {
        let end = Instant::now() + length;
        let mut frames = Vec::new();
        while Instant::now() < end {
            match self.receiver.next() {
                Ok(frame) => frames.push(frame.to_vec()),
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => panic!("cannot hear: {error}"),
            }
        }
        frames
    }

    /// What the UDP datagrams of the time that comes hold, those from this address to this port.
    pub(crate) fn datagrams(&mut self, source: Ipv4Addr, port: u16, length: Duration) -> Vec<Vec<u8>> {
        let content = |frame: &Vec<u8>| {
            let udp = frame.get(ETHERNET + IP..)?;
            let wanted = frame[23] == IpNextHeaderProtocols::Udp.0
                && frame[26..30] == source.octets()
                && udp.get(2..4)? == port.to_be_bytes();
            let end = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
            if wanted { udp.get(UDP..end).map(<[u8]>::to_vec) } else { None }
        };
        self.listen(length).iter().filter_map(content).collect()
    }

    /// Says by a gratuitous ARP that `mac` has `address`.
    pub(crate) fn claim(&mut self, mac: [u8; 6], address: Ipv4Addr) {
        let mut frame = [0; ETHERNET + ARP];
        header(&mut frame, mac, [0xff; 6], EtherTypes::Arp);
        let mut arp = MutableArpPacket::new(&mut frame[ETHERNET..]).expect("the buffer has room");
        arp.set_hardware_type(ArpHardwareTypes::Ethernet);
        arp.set_protocol_type(EtherTypes::Ipv4);
        arp.set_hw_addr_len(6);
        arp.set_proto_addr_len(4);
        arp.set_operation(ArpOperations::Request);
        arp.set_sender_hw_addr(mac.into());
        arp.set_sender_proto_addr(address);
        arp.set_target_proto_addr(address);
        self.send(&frame);
    }

    /// Sends a VRRP message to the group, with an IP header whose checksum is right.
    pub(crate) fn multicast(&mut self, source: Ipv4Addr, ttl: u8, message: &[u8]) {
        self.packet(source, MULTICAST, [0x01, 0, 0x5e, 0, 0, 18], ttl, message);
    }

    /// Sends a VRRP message to one host.
    pub(crate) fn packet(&mut self, source: Ipv4Addr, destination: Ipv4Addr, mac: [u8; 6], ttl: u8, message: &[u8]) {
        let mut frame = vec![0; ETHERNET + IP + message.len()];
        header(&mut frame, STRANGER, mac, EtherTypes::Ipv4);
        let mut packet = MutableIpv4Packet::new(&mut frame[ETHERNET..]).expect("the buffer has room");
        packet.set_version(4);
        packet.set_header_length(5);
        packet.set_total_length(u16::try_from(IP + message.len()).expect("a short message"));
        packet.set_ttl(ttl);
        packet.set_next_level_protocol(IpNextHeaderProtocols::Vrrp);
        packet.set_source(source);
        packet.set_destination(destination);
        packet.set_payload(message);
        packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
        self.send(&frame);
    }

    fn send(&mut self, frame: &[u8]) {
        self.sender.send_to(frame, None).expect("a packet socket takes one frame").expect("the link is up");
    }
}

fn header(frame: &mut [u8], source: [u8; 6], destination: [u8; 6], kind: pnet::packet::ethernet::EtherType) {
    let mut ethernet = MutableEthernetPacket::new(frame).expect("the buffer has room");
    ethernet.set_source(MacAddr::from(source));
    ethernet.set_destination(MacAddr::from(destination));
    ethernet.set_ethertype(kind);
}

/// What `tshark` reads in those of the frames that `filter` selects: for each frame, these fields.
pub(crate) fn decode(frames: &[Vec<u8>], filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut arguments = vec!["-n", "-r", "-", "-Y", filter, "-T", "fields", "-E", "separator=/t"];
    arguments.extend(fields.iter().flat_map(|field| ["-e", field]));
    let mut program = Program::new("tshark")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tshark is installed");
    // It reads everything before it prints more than a pipe holds: the captures are short.
    program.stdin.take().expect("a pipe").write_all(&capture(frames)).expect("tshark reads it");
    let output = program.wait_with_output().expect("its output");
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// A capture file of Ethernet frames, all of the same time.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    // Magic number, version 2.4, zone, accuracy, longest frame, Ethernet.
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0xffff, 1_u32] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let length = u32::try_from(frame.len()).expect("a short frame");
        for word in [0, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}
