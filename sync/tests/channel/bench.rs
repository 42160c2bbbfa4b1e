//! Two nodes in one process, a hostile third one, and what was logged.

use std::fmt::{self, Write as _};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sync::pairing::Pairing;
use sync::{Channel, Event, Keys, Settings, Status};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::field::{Field, Visit};

/// What the tests say to each other.
pub(crate) type Message = (u64, String);

/// How long a state may take to come.
const DEADLINE: Duration = Duration::from_secs(20);

/// Two nodes that are paired, "a" dials; goes with the test.
pub(crate) struct Bench {
    folder: PathBuf,
    pub(crate) address: SocketAddr,
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) channel: Channel<Message>,
    pub(crate) events: mpsc::Receiver<Event<Message>>,
}

impl Bench {
    pub(crate) fn new(name: &str) -> Bench {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let folder = std::env::temp_dir().join(format!("lbnode-sync-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let address = free(Ipv4Addr::new(127, 0, 77, NEXT.fetch_add(1, Ordering::Relaxed)));
        let bench = Bench { folder, address };
        let [mut a, mut b] = ["a", "b"].map(|node| bench.made(node));
        let invitation = |pairing: &Pairing, node| pairing.invitation(node).expect("made").expect("a good name");
        let [from_a, from_b] = [invitation(&a, "a"), invitation(&b, "b")];
        a.trust(from_b).expect("writable");
        b.trust(from_a).expect("writable");
        bench
    }

    pub(crate) fn identity(&self, node: &str) -> PathBuf {
        self.folder.join(node).join("identity")
    }

    pub(crate) fn pairing(&self, node: &str) -> Pairing {
        Pairing::open(&self.identity(node)).expect("readable")
    }

    /// A node's pairing, with an identity.
    pub(crate) fn made(&self, node: &str) -> Pairing {
        let mut pairing = self.pairing(node);
        if pairing.identity().is_none() {
            pairing.create("x").expect("writable");
        }
        pairing
    }

    pub(crate) fn settings(&self, node: &str) -> Settings {
        Settings {
            node: node.into(),
            pair: "p".into(),
            pairing: self.pairing(node),
            listen: vec![self.address],
            peer_addresses: vec![self.address],
        }
    }

    pub(crate) fn start(&self, node: &str) -> Node {
        Node::start(self.settings(node))
    }

    /// Both nodes, with a session.
    pub(crate) async fn up(&self) -> (Node, Node) {
        let (mut a, mut b) = (self.start("a"), self.start("b"));
        a.up().await;
        b.up().await;
        (a, b)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An address that nobody listens at.
pub(crate) fn free(ip: Ipv4Addr) -> SocketAddr {
    let listener = StdListener::bind((ip, 0)).expect("loopback");
    listener.local_addr().expect("bound")
}

impl Node {
    pub(crate) fn start(settings: Settings) -> Node {
        let (channel, events) = Channel::spawn(settings).expect("good settings");
        Node { channel, events }
    }

    pub(crate) async fn next(&mut self) -> Event<Message> {
        timeout(DEADLINE, self.events.recv()).await.expect("an event in time").expect("the channel runs")
    }

    /// Waits for a session, whatever comes before.
    pub(crate) async fn up(&mut self) -> (SocketAddr, Keys) {
        loop {
            if let Event::Up { path, keys, .. } = self.next().await {
                return (path, keys);
            }
        }
    }

    pub(crate) async fn down(&mut self) -> String {
        loop {
            if let Event::Down { why } = self.next().await {
                return why;
            }
        }
    }

    pub(crate) async fn message(&mut self) -> Message {
        match self.next().await {
            Event::Message(message) => message,
            other => panic!("no message but {other:?}"),
        }
    }

    /// Waits for a status.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.channel.status();
        let found = timeout(DEADLINE, status.wait_for(is_so)).await;
        match found {
            Ok(found) => found.expect("the channel runs").clone(),
            Err(_) => panic!("not in time: {what}; {:?}", self.channel.status().borrow()),
        }
    }
}

/// Both nodes hear each other on the session that is there.
pub(crate) async fn talk(a: &mut Node, b: &mut Node, number: u64) {
    a.channel.send((number, "from a".into())).expect("up");
    assert_eq!(b.message().await, (number, "from a".into()));
    b.channel.send((number, "from b".into())).expect("up");
    assert_eq!(a.message().await, (number, "from b".into()));
}

/// A connection that proves whatever identity it was given, and believes anybody.
pub(crate) async fn connect(address: SocketAddr, identity: Option<&Path>) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match identity {
        Some(identity) => {
            let certificate = CertificateDer::from_pem_file(identity.join("certificate.pem")).expect("a certificate");
            let key = PrivateKeyDer::from_pem_file(identity.join("key.pem")).expect("a key");
            config.with_client_auth_cert(vec![certificate], key).expect("they belong together")
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("x").expect("a name"), stream).await
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Collects what this thread logs.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// From now on, until the guard is dropped.
    pub(crate) fn start() -> (Log, tracing::subscriber::DefaultGuard) {
        // For the other tests' threads: without a subscriber there, a line that one of them says first may be forgotten
        // for all (tracing keeps for each line whether anybody wants it). Setting it again does nothing.
        let _ = tracing::subscriber::set_global_default(Log::default());
        let log = Log::default();
        let guard = tracing::subscriber::set_default(log.clone());
        (log, guard)
    }

    /// Waits for a line.
    pub(crate) async fn until(&self, words: &str) {
        let said = async {
            while !self.0.lock().expect("no panic").iter().any(|line| line.contains(words)) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, said).await.expect("said in time");
    }

    /// The lines about one reason.
    pub(crate) fn about(&self, reason: &str) -> Vec<String> {
        let field = format!(" reason={reason} ");
        let lines = self.0.lock().expect("no panic");
        lines.iter().filter(|line| line.contains(&field)).cloned().collect()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?} ", field.name()).expect("a string");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("sync")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no panic").push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
