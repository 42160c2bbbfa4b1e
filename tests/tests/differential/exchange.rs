//! The client: sends a case at once, and reads what comes until the proxy closes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::generate::Case;

/// Silence after which the client says that it has no more; what was short of bytes ends then.
const SILENCE: Duration = Duration::from_millis(500);
/// The proxies' own time limits end everything before this.
const PATIENCE: Duration = Duration::from_secs(8);

/// What the client saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Everything that came.
    pub(crate) bytes: Vec<u8>,
    /// The proxy closed by itself, before the client gave up.
    pub(crate) closed: bool,
}

/// Sends a case through a proxy.
pub(crate) fn run(proxy: SocketAddr, case: &Case) -> Seen {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut output = stream.try_clone().unwrap();
    thread::scope(|scope| {
        // A proxy that refuses reads no further: sending must not keep from reading. That it failed shows in the answer.
        scope.spawn(|| drop(output.write_all(&case.bytes)));
        let seen = read(&mut stream);
        // Frees a writer that waits for a proxy that has stopped reading; one that closed has done so already.
        let _ = stream.shutdown(Shutdown::Both);
        seen
    })
}

fn read(stream: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut closed = true;
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Seen { bytes, closed },
            Ok(more) => bytes.extend_from_slice(&buffer[..more]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && closed => {
                closed = false;
                // The connection may have ended this very moment.
                let _ = stream.shutdown(Shutdown::Write);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            // A reset is an end too: the proxy closed with bytes unread.
            Err(_) => return Seen { bytes, closed },
        }
    }
}
