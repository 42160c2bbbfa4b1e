//! `node.toml`: what differs between the nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use vrrp::config::{Checksum, Transport, UnicastPeer};
use vrrp::types::Priority;

use super::diagnostic::Place;
use super::reader::{Section, Value};
use super::sync::{self, SyncConfig};

/// What a node file starts its lines with, at the top level.
pub(super) const TOP_LEVEL: [&str; 9] =
    ["name", "state_dir", "runtime_dir", "bootstrap", "vrrp", "sync", "proxy", "control", "log"];

/// A checked node file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// What status and logs call this node.
    pub name: String,
    /// Where the applied revision is kept.
    pub state_dir: PathBuf,
    /// Where the socket of the proxy core lies; empty after a boot.
    pub runtime_dir: PathBuf,
    /// The cluster file that becomes revision 1 when there is none.
    pub bootstrap: PathBuf,
    /// The VRRP speaker.
    pub vrrp: VrrpConfig,
    /// The channel to the peer; `None`: this node knows of none, and VRRP is all there is between them.
    pub sync: Option<SyncConfig>,
    /// The proxy core.
    pub proxy: ProxyConfig,
    /// The control socket.
    pub control: ControlConfig,
    /// Log lines.
    pub log: LogConfig,
}

/// The VRRP speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VrrpConfig {
    /// For all VIPs that name no other. It need not exist yet.
    pub interface: String,
    /// For all VIPs that name no other.
    pub priority: Priority,
    /// How adverts travel.
    pub transport: Transport,
    /// Source address of adverts; `None`: the interface's primary address.
    pub source: Option<Ipv4Addr>,
    /// What the checksum we send covers.
    pub checksum: Checksum,
    /// By the VIP's name in the cluster file.
    pub vips: BTreeMap<String, VipOverride>,
}

/// What is different for one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipOverride {
    /// Instead of the node's.
    pub priority: Option<Priority>,
    /// Instead of the node's.
    pub interface: Option<String>,
    /// Where it is written.
    pub place: Place,
}

/// The proxy core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// A user's name or number.
    pub user: String,
    /// Worker threads; 0: one per core.
    pub threads: u16,
}

/// The control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// Its path.
    pub socket: PathBuf,
    /// The group whose members may read.
    pub group: String,
}

/// Log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important ones that are written.
    pub level: LogLevel,
    /// What they look like.
    pub format: LogFormat,
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something may break.
    Warn,
    /// Something changed.
    Info,
    /// What a developer wants to see.
    Debug,
    /// Everything.
    Trace,
}

/// What log lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl NodeConfig {
    /// Where a node keeps its state unless its file says otherwise.
    pub const STATE_DIR: &str = "/var/lib/lbnode";

    /// Where certificates are that were imported.
    pub fn certificates(&self) -> PathBuf {
        self.state_dir.join("certificates")
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: LogLevel::Info, format: LogFormat::Text }
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        ControlConfig { socket: ControlConfig::SOCKET.into(), group: "lbnode".into() }
    }
}

impl ControlConfig {
    /// Where the control socket lies unless the node file says otherwise.
    pub const SOCKET: &str = "/run/lbnode/control.sock";
}

impl Default for ProxyConfig {
    fn default() -> Self {
        ProxyConfig { user: "lbnode".into(), threads: 0 }
    }
}

/// Reads a node file; relative paths start at `base`.
pub(super) fn read(root: Section<'_>, base: &Path) -> Option<NodeConfig> {
    let path = |value: Value<'_>| value.string().map(|text| base.join(text));
    let name = root.required("name", sync::node_name);
    let state_dir = root.optional("state_dir", path);
    let runtime_dir = root.optional("runtime_dir", path);
    let bootstrap = root.required("bootstrap", path);
    let vrrp = root.required("vrrp", |value| read_vrrp(value.section()?));
    let sync = root.optional("sync", |value| sync::read(value.section()?, name.as_deref()));
    let proxy = root.optional("proxy", |value| read_proxy(value.section()?));
    let control = root.optional("control", |value| read_control(value.section()?, base));
    let log = root.optional("log", |value| read_log(value.section()?));
    root.finish();
    Some(NodeConfig {
        name: name?,
        state_dir: state_dir.unwrap_or_else(|| NodeConfig::STATE_DIR.into()),
        runtime_dir: runtime_dir.unwrap_or_else(|| "/run/lbnode".into()),
        bootstrap: bootstrap?,
        vrrp: vrrp?,
        sync,
        proxy: proxy.unwrap_or_default(),
        control: control.unwrap_or_default(),
        log: log.unwrap_or_default(),
    })
}

fn read_vrrp(section: Section<'_>) -> Option<VrrpConfig> {
    let interface = section.required("interface", interface);
    let priority = section.required("priority", priority);
    let transport = section.optional("transport", |value| {
        if value.is_string() {
            value.choice(&[("multicast", ())]).map(|()| Transport::Multicast)
        } else {
            read_unicast(value.section()?)
        }
    });
    let source = section.optional("source", ipv4);
    let checksum = section.optional("checksum", |value| {
        value.choice(&[("rfc9568", Checksum::Rfc9568), ("pseudo-header", Checksum::PseudoHeader)])
    });
    let vips = section.optional("vip", |value| {
        let vips = value.section()?;
        let overrides = vips
            .entries()
            .filter_map(|(name, place, value)| Some((name.to_owned(), read_override(value.section()?, place))));
        Some(overrides.collect())
    });
    section.finish();
    Some(VrrpConfig {
        interface: interface?,
        priority: priority?,
        transport: transport.unwrap_or(Transport::Multicast),
        source,
        checksum: checksum.unwrap_or_default(),
        vips: vips.unwrap_or_default(),
    })
}

fn read_override(section: Section<'_>, place: Place) -> VipOverride {
    let read = VipOverride {
        priority: section.optional("priority", priority),
        interface: section.optional("interface", interface),
        place,
    };
    section.finish();
    read
}

fn read_unicast(section: Section<'_>) -> Option<Transport> {
    let peers = section.required("unicast", |value| value.each("nobody would hear the adverts", read_peer));
    section.finish();
    Some(Transport::Unicast(peers?))
}

fn read_peer(value: Value<'_>) -> Option<UnicastPeer> {
    if value.is_string() {
        return Some(UnicastPeer { address: ipv4(value)?, min_ttl: 255 });
    }
    let section = value.section()?;
    let address = section.required("address", ipv4);
    let min_ttl = section.optional("min_ttl", |value| value.integer(1..=255u8));
    section.finish();
    Some(UnicastPeer { address: address?, min_ttl: min_ttl.unwrap_or(255) })
}

fn read_proxy(section: Section<'_>) -> Option<ProxyConfig> {
    let default = ProxyConfig::default();
    let read = ProxyConfig {
        user: section.optional("user", Value::string).unwrap_or(default.user),
        threads: section.optional("threads", |value| value.integer(0..=256u16)).unwrap_or(default.threads),
    };
    section.finish();
    Some(read)
}

fn read_control(section: Section<'_>, base: &Path) -> Option<ControlConfig> {
    let default = ControlConfig::default();
    let socket = section.optional("socket", |value| {
        let path = base.join(value.clone().string()?);
        // The kernel has room for 108 bytes and a zero (unix(7)).
        if path.as_os_str().len() > 107 {
            value.report(format!("{} is too long for a socket: at most 107 bytes", path.display()));
            return None;
        }
        Some(path)
    });
    let group = section.optional("group", Value::string);
    section.finish();
    Some(ControlConfig { socket: socket.unwrap_or(default.socket), group: group.unwrap_or(default.group) })
}

fn read_log(section: Section<'_>) -> Option<LogConfig> {
    let default = LogConfig::default();
    let level = section.optional("level", |value| {
        value.choice(&[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ])
    });
    let format =
        section.optional("format", |value| value.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
    section.finish();
    Some(LogConfig { level: level.unwrap_or(default.level), format: format.unwrap_or(default.format) })
}

fn priority(value: Value<'_>) -> Option<Priority> {
    value.integer(1..=254i64).and_then(|number| Priority::try_from(number).ok())
}

/// IFNAMSIZ leaves 15 bytes; a slash or white space is never in a name (`dev_valid_name` in the kernel).
fn interface(value: Value<'_>) -> Option<String> {
    let name = value.clone().string()?;
    let valid = name.len() <= 15 && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    if !valid {
        value.report(format!("`{name}` cannot be an interface: at most 15 bytes, without `/`, `:` and white space"));
    }
    valid.then_some(name)
}

pub(super) fn ipv4(value: Value<'_>) -> Option<Ipv4Addr> {
    match value.clone().ip()? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => {
            value.report(format!("`{address}`: VRRP over IPv6 is not in this version yet; expected an IPv4 address"));
            None
        }
    }
}
