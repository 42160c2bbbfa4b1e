//! What the `h2` crate costs as such: HTTP/2 in front, pooled HTTP/1.1 connections behind, one thread, and nothing else.
//!
//! `h2_relay LISTEN SERVER`, to be measured beside HAProxy with `h2load`; what it told is in docs/adr/0015-http2.md.
//! It trusts both sides and is no proxy: bodies of requests are not passed on.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

type Failed = Box<dyn std::error::Error>;

/// Where requests go.
struct Server {
    address: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
}

fn main() -> Result<(), Failed> {
    let mut words = std::env::args().skip(1);
    let mut address =
        |what: &str| words.next().ok_or(format!("which {what}?"))?.parse::<SocketAddr>().map_err(Failed::from);
    let (listen, server) = (address("address to listen on")?, address("server")?);
    let server = Rc::new(Server { address: server, idle: RefCell::default() });
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            client.set_nodelay(true)?;
            let server = Rc::clone(&server);
            spawn_local(async move {
                if let Err(error) = connection(client, server).await {
                    eprintln!("a connection ended: {error}");
                }
            });
        }
    })
}

async fn connection(client: TcpStream, server: Rc<Server>) -> Result<(), Failed> {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(100).initial_window_size(65536).initial_connection_window_size(1 << 20);
    let mut connection = builder.handshake::<_, Bytes>(client).await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        let server = Rc::clone(&server);
        spawn_local(async move {
            if let Err(error) = stream_of(request, respond, &server).await {
                eprintln!("a stream ended: {error}");
            }
        });
    }
    Ok(())
}

async fn stream_of(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    server: &Server,
) -> Result<(), Failed> {
    let mut text = Vec::with_capacity(1024);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    text.extend_from_slice(request.method().as_str().as_bytes());
    text.extend_from_slice(b" ");
    text.extend_from_slice(path.as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    text.extend_from_slice(request.uri().authority().map_or("", |authority| authority.as_str()).as_bytes());
    for (name, value) in request.headers() {
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
    }
    text.extend_from_slice(b"\r\n\r\n");
    let idle = server.idle.borrow_mut().pop();
    let mut stream = match idle {
        Some(stream) => stream,
        None => TcpStream::connect(server.address).await?,
    };
    stream.write_all(&text).await?;
    let mut buffer = Vec::with_capacity(16384);
    let (response, head, length) = loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err("the server closed".into());
        }
        if let Some(whole) = head(&buffer)? {
            break whole;
        }
    };
    let mut left = length;
    let mut body = respond.send_response(response, length == 0)?;
    buffer.drain(..head);
    while left > 0 {
        if buffer.is_empty() && stream.read_buf(&mut buffer).await? == 0 {
            return Err("the server closed".into());
        }
        left -= buffer.len();
        body.send_data(Bytes::copy_from_slice(&buffer), left == 0)?;
        buffer.clear();
    }
    server.idle.borrow_mut().push(stream);
    Ok(())
}

/// The head, how long it was and how long its body is.
fn head(bytes: &[u8]) -> Result<Option<(Response<()>, usize, usize)>, Failed> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut slots);
    let httparse::Status::Complete(end) = parsed.parse(bytes)? else { return Ok(None) };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(parsed.code.unwrap_or(502))?;
    let mut length = 0;
    for field in parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())?;
        match name {
            http::header::CONNECTION | http::header::TRANSFER_ENCODING => continue,
            http::header::CONTENT_LENGTH => length = std::str::from_utf8(field.value)?.parse()?,
            _ => {}
        }
        response.headers_mut().append(name, HeaderValue::from_bytes(field.value)?);
    }
    Ok(Some((response, end, length)))
}
