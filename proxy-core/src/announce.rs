//! What proxies are told of clients by the PROXY protocol: what another one told us, and what we tell servers.

use std::cell::{OnceCell, RefCell};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use ipnetwork::IpNetwork;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::pool::{Pool, ServerConnection};
use crate::plan::{SendProxy, TlsVersion};
use crate::proxy_protocol::{self as protocol, BadProxy, Certificate, Client, Tlvs};
use crate::route::Desk;
use crate::tls::Facts;

/// Bytes that an ordinary header has room in.
const ORDINARY: usize = 256;
/// Connections to servers that are kept idle for one client, at most.
const KEPT: usize = 8;

/// A client that was announced.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) client: SocketAddr,
    pub(crate) beside: Beside,
}

/// What was said of a client beside its address.
#[derive(Debug)]
pub(crate) struct Beside {
    /// The address that it came to.
    pub(crate) own: SocketAddr,
    /// As [`Tlvs::of`] reads it.
    tlvs: Box<[u8]>,
}

/// Hears of a new connection whose client it is; `None`: the connection's own. Nothing behind the header is taken.
pub(crate) async fn hear(
    connection: &mut TcpStream,
    peer: SocketAddr,
    trusted: &[IpNetwork],
    limit: Duration,
) -> Result<Option<Announced>, BadProxy> {
    let peer = peer.ip().to_canonical();
    if !trusted.is_empty() && !trusted.iter().any(|network| network.contains(peer)) {
        return Err(BadProxy::Source);
    }
    timeout(limit, read(connection)).await.unwrap_or(Err(BadProxy::Timeout))
}

async fn read(connection: &mut TcpStream) -> Result<Option<Announced>, BadProxy> {
    let (mut room, mut taken) = (vec![0; ORDINARY], 0);
    loop {
        let came = match connection.peek(&mut room[taken..]).await {
            Ok(0) | Err(_) => return Err(BadProxy::Closed),
            Ok(came) => came,
        };
        let header = protocol::read(&room[..taken + came])?;
        let length = header.as_ref().map(|header| header.length);
        let announced = header.and_then(|header| {
            let (client, own) = header.ends?;
            let mut tlvs = Vec::new();
            header.tlvs.write(&mut tlvs, protocol::MOST);
            Some(Announced { client, beside: Beside { own, tlvs: tlvs.into() } })
        });
        // What doesn't make it whole is all its own; and all of it is there.
        let end = length.unwrap_or(taken + came);
        connection.read_exact(&mut room[taken..end]).await.map_err(|_| BadProxy::Closed)?;
        if length.is_some() {
            return Ok(announced);
        }
        taken = end;
        if taken == room.len() {
            room.resize(2 * taken, 0);
        }
    }
}

/// What there is to say of one client's connection to servers that want to know, and the connections that it was said on: they
/// are this client's alone (§2). All streams of an HTTP/2 connection share one.
#[derive(Debug, Default)]
pub(crate) struct Announcing {
    tlvs: Box<[u8]>,
    id: OnceCell<Box<[u8]>>,
    /// The one used last is the last; with the pool of its server, which changes when that is spoken to otherwise.
    idle: RefCell<Vec<(Rc<Pool>, ServerConnection)>>,
}

/// Who came to whom, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) client: SocketAddr,
    pub(crate) own: SocketAddr,
    /// `None`: in the clear.
    pub(crate) tls: Option<&'a Facts>,
    /// The name that the client asked for, in TLS that is passed on.
    pub(crate) asked: Option<&'a str>,
}

impl Announcing {
    /// Of a client of whom something was heard.
    pub(crate) fn after(beside: Beside) -> Announcing {
        Announcing { tlvs: beside.tlvs, ..Announcing::default() }
    }

    /// The header for a new connection to a server.
    pub(crate) fn header(&self, how: SendProxy, arrival: Arrival<'_>, desk: &Desk) -> Vec<u8> {
        let mut out = Vec::with_capacity(ORDINARY);
        let Arrival { client, own, tls, asked } = arrival;
        if how == SendProxy::V1 {
            protocol::write_v1(&mut out, client, own);
            return out;
        }
        let heard = Tlvs::of(&self.tlvs);
        let mut ssl = Vec::new();
        let mut tlvs = match tls {
            // Whatever another proxy said was of its own TLS, with the client itself.
            None => Tlvs { authority: heard.authority.or(asked.map(str::as_bytes)), ..heard },
            Some(facts) => {
                of(facts).write(&mut ssl);
                let authority = facts.server_name.as_deref().map(str::as_bytes);
                Tlvs { alpn: facts.alpn.as_deref(), authority, unique_id: heard.unique_id, ssl: Some(&ssl) }
            }
        };
        tlvs.unique_id = Some(self.id(arrival, desk));
        protocol::write_v2(&mut out, client, own, &tlvs);
        out
    }

    /// What the client's connection is called at all proxies; here if it has no name yet.
    fn id(&self, arrival: Arrival<'_>, desk: &Desk) -> &[u8] {
        self.id.get_or_init(|| match Tlvs::of(&self.tlvs).unique_id {
            Some(id) => id.into(),
            None => unique(arrival, desk).into_bytes().into(),
        })
    }

    /// The same; `None`: no server was told one.
    pub(crate) fn told_id(&self) -> Option<&[u8]> {
        self.id.get().map(|id| &**id)
    }

    /// A connection to a server that it was said on, and that nothing was heard on since its last answer.
    pub(crate) fn lend(&self, pool: &Rc<Pool>) -> Option<ServerConnection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(_, connection)| connection.is_quiet());
        let last = idle.iter().rposition(|(of, _)| Rc::ptr_eq(of, pool))?;
        Some(idle.remove(last).1)
    }

    /// Keeps a connection whose exchange is over on both sides, in place of older ones if there is no room for all.
    pub(crate) fn keep(&self, pool: &Rc<Pool>, connection: ServerConnection, desk: &Desk) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(_, connection)| connection.is_quiet());
        while idle.len() >= KEPT || !desk.has_room_for_idle() {
            if idle.is_empty() {
                return;
            }
            idle.remove(0);
        }
        idle.push((Rc::clone(pool), connection));
    }
}

/// The client's TLS, in the words of the protocol.
fn of(facts: &Facts) -> Client<'_> {
    Client {
        version: match facts.version {
            TlsVersion::V12 => "TLSv1.2",
            TlsVersion::V13 => "TLSv1.3",
        },
        certificate: facts
            .client
            .as_deref()
            .map(|identity| Certificate { now: !facts.resumed, common_name: identity.common_name.as_deref() }),
    }
}

/// The format of HAProxy's manual: the client's end, ours, the time, a number, and whose that is; in hexadecimal.
fn unique(arrival: Arrival<'_>, desk: &Desk) -> String {
    let mut id = String::with_capacity(ORDINARY / 2);
    for (end, behind) in [(arrival.client, '_'), (arrival.own, '_')] {
        let written = match end.ip().to_canonical() {
            IpAddr::V4(ip) => write!(id, "{:08X}:{:X}{behind}", ip.to_bits(), end.port()),
            IpAddr::V6(ip) => write!(id, "{:032X}:{:X}{behind}", ip.to_bits(), end.port()),
        };
        written.expect("a String takes all");
    }
    let number = desk.announced.get();
    desk.announced.set(number.wrapping_add(1));
    let seconds = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
    let written = write!(id, "{seconds:X}_{number:04X}:{:04X}:{:X}", std::process::id(), desk.worker);
    written.expect("a String takes all");
    id
}
