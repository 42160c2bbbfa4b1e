//! The control channel with real sockets: descriptors arrive whole and under their keys, and whoever cheats is cut off.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use proxy_core::control::{Channel, ChannelError, DescriptorKey, Descriptors, FromCore, Received, ToCore};
use proxy_core::listener::ListenerKey;

type Core = Channel<FromCore, ToCore>;
type Agent = Channel<ToCore, FromCore>;

fn pair() -> (Agent, Core) {
    let (agent, core) = UnixStream::pair().unwrap();
    (Channel::new(agent.into()).unwrap(), Channel::new(core.into()).unwrap())
}

/// The core's end, and ours as a bare socket, for frames that no honest agent sends.
fn cheat() -> (UnixStream, Core) {
    let (agent, core) = UnixStream::pair().unwrap();
    (agent, Channel::new(core.into()).unwrap())
}

async fn received(core: &mut Core) -> Result<Option<Received<ToCore>>, ChannelError> {
    tokio::time::timeout(Duration::from_secs(10), core.receive()).await.expect("an answer within 10 s")
}

/// The bytes of what an honest agent would send, without the descriptors.
async fn frames(messages: &[ToCore]) -> Vec<u8> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut agent: Agent = Channel::new(ours.into()).unwrap();
    for message in messages {
        agent.queue(message).unwrap();
    }
    agent.flush().await.unwrap();
    drop(agent);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &theirs, &mut bytes).unwrap();
    bytes
}

fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[&File]) {
    let raw: Vec<_> = descriptors.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let iov = [std::io::IoSlice::new(bytes)];
    let sent = sendmsg::<UnixAddr>(socket.as_raw_fd(), &iov, &rights, MsgFlags::empty(), None).unwrap();
    assert_eq!(sent, bytes.len());
}

#[tokio::test]
async fn two_hundred_listeners_arrive_under_their_own_keys() {
    let (mut agent, mut core) = pair();
    let mut sent = Descriptors::new();
    for number in 0..200 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let key = ListenerKey { address: listener.local_addr().unwrap(), worker: number % 4 };
        sent.insert(DescriptorKey::Listener(key), Arc::new(OwnedFd::from(listener)));
    }
    agent.queue_descriptors(&sent).unwrap();
    agent.queue(&ToCore::Stats).unwrap();
    let (flushed, arrived) = tokio::join!(agent.flush(), received(&mut core));
    flushed.unwrap();
    let Ok(Some(Received::Descriptors(arrived))) = arrived else { panic!("{arrived:?}") };
    assert_eq!(arrived.len(), 200);
    for (key, fd) in arrived {
        let DescriptorKey::Listener(key) = key else { panic!("{key}") };
        assert!(FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC));
        let listener = TcpListener::from(fd.try_clone().unwrap());
        assert_eq!(listener.local_addr().unwrap(), key.address);
    }
    assert!(matches!(received(&mut core).await, Ok(Some(Received::Message(ToCore::Stats)))));
}

#[tokio::test]
async fn fewer_or_more_descriptors_than_announced_end_the_channel() {
    let file = File::open("/dev/null").unwrap();
    let keys: BTreeSet<_> = (0..2).map(DescriptorKey::Probe).collect();
    for (claimed, real) in [(2, 1), (1, 2), (3, 3), (0, 1)] {
        let (socket, mut core) = cheat();
        let bytes = frames(&[ToCore::Manifest(keys.clone()), ToCore::Descriptors { count: claimed }]).await;
        send(&socket, &bytes, &vec![&file; real]);
        let end = received(&mut core).await;
        assert!(matches!(end, Err(ChannelError::Descriptors(_))), "claimed {claimed}, sent {real}: {end:?}");
    }
}

#[tokio::test]
async fn descriptors_that_nobody_announced_end_the_channel() {
    let file = File::open("/dev/null").unwrap();
    let (socket, mut core) = cheat();
    send(&socket, &frames(&[ToCore::Stats]).await, &[&file]);
    assert!(matches!(received(&mut core).await, Err(ChannelError::Descriptors(_))));
    let (socket, mut core) = cheat();
    send(&socket, &frames(&[ToCore::Stats]).await[..2], &[&file; 65]);
    assert!(matches!(received(&mut core).await, Err(ChannelError::Descriptors(_))));
}

#[tokio::test]
async fn another_message_among_announced_descriptors_ends_the_channel() {
    let (socket, mut core) = cheat();
    let bytes = frames(&[ToCore::Manifest([DescriptorKey::Board].into()), ToCore::Stats]).await;
    send(&socket, &bytes, &[]);
    assert!(matches!(received(&mut core).await, Err(ChannelError::Descriptors(_))));
}

#[tokio::test]
async fn noise_ends_the_channel_and_a_closed_one_ends_in_order() {
    let (socket, mut core) = cheat();
    send(&socket, b"GET / HTTP/1.1\r\n\r\n", &[]);
    assert!(matches!(received(&mut core).await, Err(ChannelError::Frame(_))));
    let (agent, mut core) = pair();
    drop(agent);
    assert!(matches!(received(&mut core).await, Ok(None)));
    let (socket, mut core) = cheat();
    send(&socket, &[0, 0], &[]);
    drop(socket);
    assert!(matches!(received(&mut core).await, Err(ChannelError::Cut)));
}
