//! x
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::TcpStream;
use crate::route::Entrance;
pub(crate) async fn serve(_client: TcpStream, _peer: SocketAddr, _entrance: Rc<Entrance>) {}
