//! A server whose connections last: idle and busy ones that echo, long uploads and long downloads.
//!
//! The first byte of a connection says what it is for; there are no lines and no headers:
//!
//! - [`ECHO`]: whatever the client sends goes back, for as long as it likes.
//! - [`UPLOAD`]: the client sends a length (u64, big endian) and so many bytes of the [pattern](fill); the server
//!   answers how many came (u64) and the place of the first wrong one (u64; [`NONE_WRONG`]: none), and ends it.
//! - [`DOWNLOAD`]: the client sends a length (u64), the server so many bytes of the pattern, and ends it.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::netns::Netns;
use crate::server::{Server, ServerError};

/// What comes goes back.
pub const ECHO: u8 = b'E';
/// The server counts and compares.
pub const UPLOAD: u8 = b'U';
/// The client does.
pub const DOWNLOAD: u8 = b'D';
/// In place of the place of a wrong byte.
pub const NONE_WRONG: u64 = u64::MAX;

/// Small, because there are thousands: an echo is a few bytes.
const ECHO_BYTES: usize = 1024;
/// Of an upload or download, from call to call.
pub const CHUNK: usize = 64 * 1024;

/// A server on a thread of its own; ends when dropped.
#[derive(Debug)]
pub struct StreamServer {
    _server: Server,
}

impl StreamServer {
    /// Listens on `address` inside `netns`.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<StreamServer, ServerError> {
        let server = Server::start(netns, "stream", address, |stream| async move {
            // Who goes away is missed by the client's side of the lab, which counts.
            let _ = serve(stream).await;
        })?;
        Ok(StreamServer { _server: server })
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        ECHO => echo(stream).await,
        // Boxed: a task is as large as the largest of them, and most of them echo.
        UPLOAD => Box::pin(upload(stream)).await,
        DOWNLOAD => Box::pin(download(stream)).await,
        _ => Ok(()),
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; ECHO_BYTES];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

async fn upload(mut stream: TcpStream) -> io::Result<()> {
    let length = stream.read_u64().await?;
    let (mut done, mut wrong) = (0, NONE_WRONG);
    let mut buffer = vec![0; CHUNK];
    while done < length {
        let limit = chunk(length - done);
        match stream.read(&mut buffer[..limit]).await? {
            0 => break,
            more => {
                if wrong == NONE_WRONG {
                    wrong = first_wrong(done, &buffer[..more]).unwrap_or(NONE_WRONG);
                }
                done += more as u64;
            }
        }
    }
    stream.write_u64(done).await?;
    stream.write_u64(wrong).await?;
    stream.shutdown().await
}

async fn download(mut stream: TcpStream) -> io::Result<()> {
    let length = stream.read_u64().await?;
    let mut done = 0;
    let mut buffer = vec![0; CHUNK];
    while done < length {
        let piece = &mut buffer[..chunk(length - done)];
        fill(done, piece);
        stream.write_all(piece).await?;
        done += piece.len() as u64;
    }
    stream.shutdown().await
}

/// How much of what is `left` is done at once.
pub fn chunk(left: u64) -> usize {
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}

/// Writes the pattern from place `from` on: every byte is known by its place, so a lost, a doubled and a moved one
/// all show.
pub fn fill(from: u64, buffer: &mut [u8]) {
    for (place, byte) in (from..).zip(buffer) {
        *byte = byte_at(place);
    }
}

/// The place of the first byte that is not the pattern's, where `bytes` begin at place `from`.
pub fn first_wrong(from: u64, bytes: &[u8]) -> Option<u64> {
    (from..).zip(bytes).find(|(place, byte)| byte_at(*place) != **byte).map(|(place, _)| place)
}

fn byte_at(place: u64) -> u8 {
    // An odd factor, and the highest bits of the product: neighbours differ, and no short piece comes again soon.
    place.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_a_lost_and_a_doubled_byte_show_at_their_place() {
        let mut bytes = vec![0; 1000];
        fill(7, &mut bytes);
        assert_eq!(first_wrong(7, &bytes), None);
        let mut wrong = bytes.clone();
        wrong[500] ^= 1;
        assert_eq!(first_wrong(7, &wrong), Some(507));
        let mut lost = bytes.clone();
        lost.remove(500);
        assert!(first_wrong(7, &lost).is_some_and(|place| (507..510).contains(&place)));
        let mut doubled = bytes.clone();
        doubled.insert(500, bytes[500]);
        assert!(first_wrong(7, &doubled).is_some_and(|place| (508..511).contains(&place)));
    }

    #[test]
    fn pieces_make_up_the_whole() {
        let (mut whole, mut pieces) = (vec![0; 300], vec![0; 300]);
        fill(0, &mut whole);
        let (first, second) = pieces.split_at_mut(123);
        fill(0, first);
        fill(123, second);
        assert_eq!(whole, pieces);
        assert_eq!((chunk(0), chunk(5), chunk(u64::MAX)), (0, 5, CHUNK));
    }
}
