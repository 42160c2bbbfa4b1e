//! Half-close in every combination of TLS and clear text: what one side ends the other sees as an end, and answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::ends::{Ca, accept, secure_back, secure_front, shake_hands};
use crate::data_support::{PATIENCE, at, client, listeners, plan, server, start, wait_for};

/// More than everything on the way holds.
const LONG: usize = 20 << 20;

/// One end of a session.
trait End: Read + Write {
    /// It says no more.
    fn finish(&mut self);
}

impl End for TcpStream {
    fn finish(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl End for StreamOwned<ClientConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        self.flush().unwrap();
    }
}

impl End for StreamOwned<ServerConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        self.flush().unwrap();
    }
}

/// Says something, ends, and hears the other side out: how much that was.
fn ends_first(mut end: Box<dyn End>) -> usize {
    end.write_all(b"that is all").unwrap();
    end.finish();
    let mut heard = Vec::new();
    end.read_to_end(&mut heard).expect("its end was said, not cut");
    heard.len()
}

/// Hears the other side out, and has much to say only then.
fn answers(mut end: Box<dyn End>) -> usize {
    let mut heard = Vec::new();
    end.read_to_end(&mut heard).expect("its end was said, not cut");
    assert_eq!(heard, b"that is all");
    end.write_all(&vec![7; LONG]).unwrap();
    end.finish();
    LONG
}

#[test]
fn an_end_passes_either_way_and_the_other_direction_goes_on_with_tls_on_either_side() {
    let ca = Ca::new();
    for case in 0..8 {
        let [tls_front, tls_back, client_first] = [1, 2, 4].map(|bit| case & bit != 0);
        let said = format!("TLS in front: {tls_front}, behind: {tls_back}, the client ends first: {client_first}");
        let config = Arc::new(ca.server(&["b.test"]));
        let (heard, hears) = sync_channel(1);
        let (behind, _) = server(move |socket| {
            socket.set_read_timeout(Some(3 * PATIENCE)).unwrap();
            let end: Box<dyn End> = if tls_back { Box::new(accept(socket, &config)) } else { Box::new(socket) };
            heard.send(if client_first { answers(end) } else { ends_first(end) }).unwrap();
        });
        let (address, sockets) = listeners(1);
        let mut plan = plan(address, vec![at("one", behind)]);
        plan.backends[0].connect_timeout = PATIENCE;
        if tls_front {
            secure_front(&mut plan, &ca);
        }
        if tls_back {
            secure_back(&mut plan, &ca);
        }
        let plane = start(plan, 1, sockets);
        let end: Box<dyn End> = match tls_front {
            true => Box::new(shake_hands(address, &Arc::new(ca.client())).unwrap()),
            false => Box::new(client(address)),
        };
        assert_eq!(if client_first { ends_first(end) } else { answers(end) }, LONG, "{said}");
        assert_eq!(hears.recv_timeout(3 * PATIENCE), Ok(LONG), "{said}");
        wait_for(&said, || plane.stats().sessions == 0);
    }
}
