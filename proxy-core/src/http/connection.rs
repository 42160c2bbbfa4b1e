//! x
use crate::route::Entrance;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::TcpStream;
pub(crate) async fn serve(_client: TcpStream, _peer: SocketAddr, _entrance: Rc<Entrance>) {}
