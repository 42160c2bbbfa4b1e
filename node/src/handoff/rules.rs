//! The text of a hand-off's nft tables. Pure: `nft` itself is run by [`super::kernel`].
//!
//! One table for each VIP and [`Role`]; its name says both and holds nothing that nft could misread. Each text is one
//! transaction: packets see the old rules or the new ones, never half of either. The taker's chain comes before
//! connection tracking (priority -310; raw is -300), so what is passed on is tracked nowhere.
//!
//! A text that deletes nothing is done four times as fast where `nft` has to end before it counts: it ends only when
//! the kernel has cleared away what it deleted.
//!
//! Only addresses, MACs and ports of a peer get into a text, never its words.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Flow, Neighbour, Vip};

/// What the name of every table of ours begins with.
pub const PREFIX: &str = "lbnode-";
/// The source MAC that tells a probe from this node's own packets on `lo`, which have none; locally administered.
pub const PROBE_MAC: [u8; 6] = [0x4e, 0x42, 0x6e, 0x6f, 0x64, 0x65];
/// Makes a table belong to the process that loads it: nobody else can change it, and it goes with that process.
pub const OWNER: &str = "flags owner\n";
/// How many connections the taker may have while the VIP moves. One more is not answered until it has moved: its
/// client says SYN again a second later. The rule that drops it counts.
pub const MINE_AT_MOST: usize = 262_144;
/// Elements in one line: nft reads lines whole.
const LINE: usize = 1000;

/// Which side of a hand-off a table belongs to. A node can be both for one VIP, of two hand-offs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Passes the older connections' packets on.
    Taker,
    /// Says nothing about the VIP on the segment.
    Leaver,
}

/// What a table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Taker, while it isn't known yet which connections are whose: unknown ones that are not new are the leaver's.
    Moving {
        /// Whose the older connections are.
        leaver: Neighbour,
        /// Those that are known.
        old: BTreeSet<Flow>,
    },
    /// Taker, afterwards: all older connections are known.
    Settled {
        /// Whose they are.
        leaver: Neighbour,
        /// They.
        old: BTreeSet<Flow>,
    },
    /// Leaver: no ARP request of this node carries the VIP.
    Prepared,
    /// Leaver: nor does it answer one.
    Muted,
}

impl Rules {
    /// Whose rules these are.
    pub fn role(&self) -> Role {
        match self {
            Rules::Moving { .. } | Rules::Settled { .. } => Role::Taker,
            Rules::Prepared | Rules::Muted => Role::Leaver,
        }
    }

    /// The whole table; `there`: it takes the place of one that is there already. `mine` are this node's own
    /// connections of the VIP; only [`Rules::Moving`] needs them.
    pub fn text(&self, vip: &Vip, mine: &[Flow], there: bool) -> String {
        let words = Words::of(vip.address);
        let family = family(self.role(), vip.address);
        let table = table(self.role(), vip);
        let mut text = if there { format!("delete table {family} {table}\n") } else { String::new() };
        let _ = write!(text, "table {family} {table} {{\n{OWNER}");
        match self {
            Rules::Moving { leaver, .. } | Rules::Settled { leaver, .. } => {
                let moving = matches!(self, Rules::Moving { .. });
                let _ = writeln!(text, "set old {{ type {}; }}", words.key_type);
                if moving {
                    let _ =
                        writeln!(text, "set mine {{ type {}; flags dynamic; size {MINE_AT_MOST}; }}", words.key_type);
                }
                // The jump first needs the chain.
                let _ = writeln!(text, "chain vip {{");
                for rule in taker(vip, leaver, moving) {
                    let _ = writeln!(text, "{rule}");
                }
                let _ = writeln!(text, "}}\nchain prerouting {{\ntype filter hook prerouting priority -310");
                let _ = writeln!(text, "{} daddr {} jump vip\n}}", words.ip, vip.address);
            }
            Rules::Prepared => text += &prepare(vip),
            Rules::Muted => text += &(prepare(vip) + &mute(vip)),
        }
        text += "}\n";
        if let Rules::Moving { old, .. } | Rules::Settled { old, .. } = self {
            elements(&mut text, "add", family, &table, "old", vip.address, old);
        }
        if let Rules::Moving { .. } = self {
            let room = mine.iter().take(MINE_AT_MOST);
            elements(&mut text, "add", family, &table, "mine", vip.address, room);
        }
        text
    }

    /// What makes these rules out of others: only what differs. Fits only a table that stands as it was loaded.
    /// `None`: there is no short way.
    pub fn step_from(&self, before: &Rules, vip: &Vip) -> Option<String> {
        let family = family(self.role(), vip.address);
        let table = table(self.role(), vip);
        match (before, self) {
            (Rules::Moving { leaver: same, old: before }, Rules::Settled { leaver, old }) if leaver == same => {
                let mut text = format!("flush chain {family} {table} vip\n");
                for rule in taker(vip, leaver, false) {
                    let _ = writeln!(text, "add rule {family} {table} vip {rule}");
                }
                let _ = writeln!(text, "delete set {family} {table} mine");
                elements(&mut text, "delete", family, &table, "old", vip.address, before.difference(old));
                elements(&mut text, "add", family, &table, "old", vip.address, old.difference(before));
                Some(text)
            }
            // What a table's block names is added to the table that is there.
            (Rules::Prepared, Rules::Muted) => Some(format!("table {family} {table} {{\n{OWNER}{}}}\n", mute(vip))),
            _ => None,
        }
    }
}

/// The table's name.
pub fn table(role: Role, vip: &Vip) -> String {
    let role = match role {
        Role::Taker => "taker",
        Role::Leaver => "leaver",
    };
    // A colon ends a name.
    format!("{PREFIX}{role}-{}-{}", vip.vrid, vip.address.to_string().replace(':', "_"))
}

/// The table's family, as nft calls it.
pub fn family(role: Role, address: IpAddr) -> &'static str {
    match (role, address) {
        (Role::Taker, IpAddr::V4(_)) => "ip",
        (Role::Leaver, IpAddr::V4(_)) => "arp",
        (_, IpAddr::V6(_)) => "ip6",
    }
}

/// What the two families call the same things.
struct Words {
    ip: &'static str,
    key_type: &'static str,
    icmp_errors: &'static str,
}

impl Words {
    fn of(address: IpAddr) -> Words {
        match address {
            IpAddr::V4(_) => Words {
                ip: "ip",
                key_type: "ipv4_addr . inet_service . inet_service",
                icmp_errors: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
            },
            IpAddr::V6(_) => Words {
                ip: "ip6",
                key_type: "ipv6_addr . inet_service . inet_service",
                icmp_errors: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
            },
        }
    }
}

/// What becomes of a packet for the VIP that arrives at the taker; at the end it is this node's.
fn taker(vip: &Vip, leaver: &Neighbour, moving: bool) -> Vec<String> {
    let Words { ip, icmp_errors, .. } = Words::of(vip.address);
    let flow = format!("{ip} saddr . tcp sport . tcp dport");
    let pass_on = format!("dup to {} device \"{}\"", leaver.address, vip.interface);
    let mut rules = Vec::new();
    if moving {
        rules.push(format!("iif \"lo\" @ll,48,48 0x{} {pass_on} drop", hex(PROBE_MAC, "")));
    }
    rules.extend([
        // What this node itself sends to the VIP that it has now.
        "iif \"lo\" accept".to_owned(),
        format!("ether saddr {} accept", hex(leaver.mac, ":")),
        format!("{icmp_errors} {pass_on}"),
        format!("{flow} @old {pass_on} drop"),
    ]);
    if moving {
        rules.extend([
            format!("{flow} @mine accept"),
            format!("tcp flags & (syn | ack) == syn add @mine {{ {flow} }} accept"),
            // No room: see MINE_AT_MOST.
            "tcp flags & (syn | ack) == syn counter drop".to_owned(),
            format!("meta l4proto tcp {pass_on} drop"),
        ]);
    }
    rules
}

/// What else is said in ARP than the VIP.
fn prepare(vip: &Vip) -> String {
    format!(
        "chain output {{\ntype filter hook output priority 0\n\
         arp operation request arp saddr ip {0} arp saddr ip set {1}\n}}\n",
        vip.address, vip.own.address
    )
}

/// Two chains of their own, so that they can come later.
fn mute(vip: &Vip) -> String {
    format!(
        "chain mute {{\ntype filter hook output priority 1\narp operation reply arp saddr ip {0} drop\n}}\n\
         chain deaf {{\ntype filter hook input priority 0\narp operation request arp daddr ip {0} drop\n}}\n",
        vip.address
    )
}

fn elements<'a>(
    text: &mut String,
    verb: &str,
    family: &str,
    table: &str,
    set: &str,
    vip: IpAddr,
    flows: impl IntoIterator<Item = &'a Flow>,
) {
    let mut flows = flows.into_iter().filter(|flow| flow.client.is_ipv4() == vip.is_ipv4()).peekable();
    while flows.peek().is_some() {
        let _ = write!(text, "{verb} element {family} {table} {set} {{ ");
        for Flow { client, client_port, port } in flows.by_ref().take(LINE) {
            let _ = write!(text, "{client} . {client_port} . {port}, ");
        }
        text.truncate(text.len() - 2);
        *text += " }\n";
    }
}

fn hex(bytes: [u8; 6], between: &str) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(address: &str) -> Vip {
        Vip {
            name: "web".into(),
            vrid: 51,
            address: address.parse().unwrap(),
            interface: "eth0".into(),
            own: Neighbour { address: "192.0.2.11".parse().unwrap(), mac: [2, 0, 0, 0, 0, 1] },
        }
    }

    fn leaver() -> Neighbour {
        Neighbour { address: "192.0.2.12".parse().unwrap(), mac: [2, 0, 0, 0, 0, 0xab] }
    }

    fn flows(ports: impl IntoIterator<Item = u16>) -> BTreeSet<Flow> {
        let client = "198.51.100.7".parse().unwrap();
        ports.into_iter().map(|client_port| Flow { client, client_port, port: 443 }).collect()
    }

    #[test]
    fn the_takers_table_is_replaced_whole_and_holds_both_sets_while_it_moves() {
        let rules = Rules::Moving { leaver: leaver(), old: flows([1, 2]) };
        let mine: Vec<Flow> = flows([3]).into_iter().collect();
        assert_eq!(
            rules.text(&vip("192.0.2.15"), &mine, true),
            r#"delete table ip lbnode-taker-51-192.0.2.15
table ip lbnode-taker-51-192.0.2.15 {
flags owner
set old { type ipv4_addr . inet_service . inet_service; }
set mine { type ipv4_addr . inet_service . inet_service; flags dynamic; size 262144; }
chain vip {
iif "lo" @ll,48,48 0x4e426e6f6465 dup to 192.0.2.12 device "eth0" drop
iif "lo" accept
ether saddr 02:00:00:00:00:ab accept
icmp type { destination-unreachable, time-exceeded, parameter-problem } dup to 192.0.2.12 device "eth0"
ip saddr . tcp sport . tcp dport @old dup to 192.0.2.12 device "eth0" drop
ip saddr . tcp sport . tcp dport @mine accept
tcp flags & (syn | ack) == syn add @mine { ip saddr . tcp sport . tcp dport } accept
tcp flags & (syn | ack) == syn counter drop
meta l4proto tcp dup to 192.0.2.12 device "eth0" drop
}
chain prerouting {
type filter hook prerouting priority -310
ip daddr 192.0.2.15 jump vip
}
}
add element ip lbnode-taker-51-192.0.2.15 old { 198.51.100.7 . 1 . 443, 198.51.100.7 . 2 . 443 }
add element ip lbnode-taker-51-192.0.2.15 mine { 198.51.100.7 . 3 . 443 }
"#
        );
    }

    #[test]
    fn once_settled_only_the_known_older_connections_are_passed_on() {
        let text = Rules::Settled { leaver: leaver(), old: flows([1]) }.text(&vip("192.0.2.15"), &[], false);
        assert!(text.contains("@old dup to 192.0.2.12"), "{text}");
        for moving in ["mine", "@ll", "syn", "l4proto"] {
            assert!(!text.contains(moving), "{moving} in {text}");
        }
    }

    #[test]
    fn settling_changes_only_what_differs() {
        let before = Rules::Moving { leaver: leaver(), old: flows([1, 2]) };
        let settled = Rules::Settled { leaver: leaver(), old: flows([2, 3]) };
        assert_eq!(
            settled.step_from(&before, &vip("192.0.2.15")).unwrap(),
            r#"flush chain ip lbnode-taker-51-192.0.2.15 vip
add rule ip lbnode-taker-51-192.0.2.15 vip iif "lo" accept
add rule ip lbnode-taker-51-192.0.2.15 vip ether saddr 02:00:00:00:00:ab accept
add rule ip lbnode-taker-51-192.0.2.15 vip icmp type { destination-unreachable, time-exceeded, parameter-problem } dup to 192.0.2.12 device "eth0"
add rule ip lbnode-taker-51-192.0.2.15 vip ip saddr . tcp sport . tcp dport @old dup to 192.0.2.12 device "eth0" drop
delete set ip lbnode-taker-51-192.0.2.15 mine
delete element ip lbnode-taker-51-192.0.2.15 old { 198.51.100.7 . 1 . 443 }
add element ip lbnode-taker-51-192.0.2.15 old { 198.51.100.7 . 3 . 443 }
"#
        );
        let other = Neighbour { mac: [9; 6], ..leaver() };
        let rules = Rules::Settled { leaver: other, old: flows([2]) };
        assert_eq!(rules.step_from(&before, &vip("192.0.2.15")), None, "another leaver needs all of it");
    }

    #[test]
    fn the_leaver_asks_by_its_own_address_and_muted_it_answers_nobody() {
        let vip = vip("192.0.2.15");
        let prepared = Rules::Prepared.text(&vip, &[], false);
        assert!(prepared.contains("request arp saddr ip 192.0.2.15 arp saddr ip set 192.0.2.11\n"), "{prepared}");
        assert!(!prepared.contains("drop"), "it still answers: {prepared}");
        let muted = Rules::Muted.text(&vip, &[], false);
        assert!(muted.contains("request arp saddr ip 192.0.2.15 arp saddr ip set 192.0.2.11\n"), "{muted}");
        assert!(muted.contains("arp operation reply arp saddr ip 192.0.2.15 drop\n"), "{muted}");
        assert!(muted.contains("arp operation request arp daddr ip 192.0.2.15 drop\n"), "{muted}");
        let step = Rules::Muted.step_from(&Rules::Prepared, &vip).unwrap();
        let head = "table arp lbnode-leaver-51-192.0.2.15 {\nflags owner\n";
        assert_eq!(prepared.trim_end_matches("}\n").to_owned() + "}\n" + step.strip_prefix(head).unwrap(), muted);
    }

    #[test]
    fn a_hundred_thousand_connections_are_in_lines_that_nft_can_read() {
        let old: BTreeSet<Flow> = (0..2_u16)
            .flat_map(|port| {
                (1..=50_000).map(move |client_port| Flow { client: "198.51.100.7".parse().unwrap(), client_port, port })
            })
            .collect();
        let text = Rules::Settled { leaver: leaver(), old }.text(&vip("192.0.2.15"), &[], false);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("add element")).collect();
        assert_eq!(lines.len(), 100);
        assert_eq!(lines.iter().map(|line| line.matches(" . ").count() / 2).sum::<usize>(), 100_000);
    }

    #[test]
    fn ipv6_speaks_of_ip6_and_its_name_has_no_colon() {
        let leaver = Neighbour { address: "2001:db8::12".parse().unwrap(), mac: [2, 0, 0, 0, 0, 0xab] };
        let client = "2001:db8::7".parse().unwrap();
        // A client of the other family is left out: nft would refuse the whole text.
        let old = flows([9]).into_iter().chain([Flow { client, client_port: 5, port: 443 }]).collect();
        let text = Rules::Moving { leaver, old }.text(&vip("2001:db8::15"), &[], false);
        assert!(text.starts_with("table ip6 lbnode-taker-51-2001_db8__15 {\n"), "{text}");
        assert!(text.contains("ip6 daddr 2001:db8::15 jump vip\n"), "{text}");
        assert!(text.contains("packet-too-big"), "{text}");
        assert!(text.ends_with("old { 2001:db8::7 . 5 . 443 }\n"), "{text}");
    }
}
