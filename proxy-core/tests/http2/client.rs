//! A good client, and the stage that it plays on.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use proxy_core::plan::{Plan, Server};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::data_support::Plane;
use crate::data_support::http::{http, stage as stage_of_http1};

/// For what comes at last, if it comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A plane that speaks HTTP/2 too.
pub(crate) fn stage(servers: Vec<Server>, change: impl FnOnce(&mut Plan)) -> (SocketAddr, Plane) {
    stage_of_http1(servers, |plan| {
        http(plan).http2 = true;
        change(plan);
    })
}

/// Plays a scene to its end.
pub(crate) fn play<T>(scene: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, scene).await.expect("the scene ends in time") })
}

/// One connection of a client.
pub(crate) struct Client {
    pub(crate) send: SendRequest<Bytes>,
    /// How the connection ended.
    pub(crate) end: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub(crate) async fn to(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        // The window of the whole is not what is tested where one stream isn't read.
        let mut builder = client::Builder::new();
        builder.initial_connection_window_size(4 * 1024 * 1024);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        Client { send, end: tokio::spawn(connection) }
    }

    /// Begins a request that has a body.
    pub(crate) async fn begin(&mut self, request: Request<()>) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.send = self.send.clone().ready().await.unwrap();
        self.send.send_request(request, false).unwrap()
    }

    pub(crate) async fn ask(&mut self, request: Request<()>) -> Result<Answer, h2::Error> {
        self.send = self.send.clone().ready().await?;
        let (response, _) = self.send.send_request(request, true)?;
        Answer::of(response.await?).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask(get(path)).await.unwrap()
    }
}

pub(crate) fn get(path: &str) -> Request<()> {
    request("GET", path)
}

pub(crate) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://a.test{path}")).body(()).unwrap()
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) async fn of(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
        let (head, mut rest) = response.into_parts();
        let body = all(&mut rest).await?;
        let trailers = rest.trailers().await?;
        Ok(Answer { head, body, trailers })
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Everything to the end of a body.
pub(crate) async fn all(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// Sends all of `bytes` as the window allows, and with them the end if there is to be one.
pub(crate) async fn send_all(to: &mut SendStream<Bytes>, bytes: &[u8], end: bool) -> Result<(), h2::Error> {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        to.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await.ok_or(Reason::CANCEL)??;
        let piece = rest.split_to(room.min(rest.len()));
        to.send_data(piece, false)?;
    }
    if end { to.send_data(Bytes::new(), true) } else { Ok(()) }
}
