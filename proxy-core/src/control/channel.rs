//! One end of the control channel: a unix stream socket that carries frames and descriptors.
//!
//! Both directions keep their state here, so every `async fn` may be dropped half-way (in a `select!`) without
//! losing anything. What waits to be sent is bounded: a peer that reads nothing ends the channel.
#![allow(unsafe_code, reason = "receives descriptors in ancillary data")]

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::codec::{FrameError, decode, encode};
use super::{About, BATCH, DescriptorKey, Descriptors, Keys, MAX_DESCRIPTORS, Message};

/// Bytes that may wait to be sent; more end the channel.
const MAX_WAITING: usize = 64 << 20;
/// What one receive takes at most.
const READ: usize = 64 << 10;
/// No descriptor's number is made higher: the kernel keeps eight bytes for each one up to the highest in use.
const TOP: u64 = 1 << 20;
/// The kernel passes no more in one message (SCM_MAX_FD).
const KERNEL_MAX: usize = 253;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The system.
    #[error("the control channel failed")]
    Io(#[from] io::Error),
    /// The other side sent something that is no message.
    #[error("the other side of the control channel broke the protocol")]
    Frame(#[from] FrameError),
    /// The other side's descriptors are not those that it announced.
    #[error("the other side of the control channel broke the protocol: {0}")]
    Descriptors(String),
    /// The other side reads nothing.
    #[error("the other side of the control channel reads nothing: {0} bytes wait")]
    Stuck(usize),
    /// The other side is gone, in the middle of a frame or of its descriptors.
    #[error("the control channel closed in the middle of a message")]
    Cut,
}

/// One end; sends `Tx`, receives `Rx`.
#[derive(Debug)]
pub struct Channel<Tx, Rx> {
    stream: UnixStream,
    outgoing: VecDeque<Chunk>,
    waiting: usize,
    incoming: Vec<u8>,
    arrived: VecDeque<OwnedFd>,
    announced: VecDeque<DescriptorKey>,
    collected: Descriptors,
    types: PhantomData<fn(Tx) -> Rx>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    /// Travel with the first byte.
    descriptors: Vec<Arc<OwnedFd>>,
}

/// What came in.
#[derive(Debug)]
pub enum Received<Rx> {
    /// A message.
    Message(Rx),
    /// A manifest, and all that it announced.
    Descriptors(Descriptors),
}

impl<Tx: Message, Rx: Message> Channel<Tx, Rx> {
    /// Takes over a connected unix stream socket. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// It is no socket, or cannot be polled.
    pub fn new(socket: OwnedFd) -> io::Result<Channel<Tx, Rx>> {
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(Channel::from_stream(UnixStream::from_std(stream)?))
    }

    /// As [`Channel::new`], with the socket moved to the highest number that there is below `limit`, if that is possible.
    ///
    /// A process that is killed closes its highest descriptor first: so the other side knows before ten thousand
    /// connections are closed, which takes the kernel tens of milliseconds.
    ///
    /// # Errors
    /// As there.
    pub fn on_top(socket: OwnedFd, limit: u64) -> io::Result<Channel<Tx, Rx>> {
        Channel::new(on_top(&socket, limit).unwrap_or(socket))
    }

    /// Takes over a connection.
    pub fn from_stream(stream: UnixStream) -> Channel<Tx, Rx> {
        Channel {
            stream,
            outgoing: VecDeque::new(),
            waiting: 0,
            incoming: Vec::new(),
            arrived: VecDeque::new(),
            announced: VecDeque::new(),
            collected: Descriptors::new(),
            types: PhantomData,
        }
    }

    /// Queues a message; [`Channel::flush`] sends it.
    ///
    /// # Errors
    /// [`ChannelError::Stuck`] when over 64 MiB wait already; [`ChannelError::Frame`] when it is too long.
    pub fn queue(&mut self, message: &Tx) -> Result<(), ChannelError> {
        self.push(message, Vec::new())
    }

    /// Queues descriptors: their manifest, then batches of at most [`BATCH`]. Nothing for none.
    ///
    /// # Errors
    /// As [`Channel::queue`].
    pub fn queue_descriptors(&mut self, descriptors: &Descriptors) -> Result<(), ChannelError> {
        if descriptors.is_empty() {
            return Ok(());
        }
        self.push(&Tx::manifest(descriptors.keys().copied().collect()), Vec::new())?;
        let all: Vec<_> = descriptors.values().cloned().collect();
        for batch in all.chunks(BATCH) {
            let count = u16::try_from(batch.len()).expect("a batch is small");
            self.push(&Tx::descriptors(count), batch.to_vec())?;
        }
        Ok(())
    }

    fn push(&mut self, message: &Tx, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), ChannelError> {
        let bytes = encode(message)?;
        self.waiting += bytes.len();
        if self.waiting > MAX_WAITING {
            return Err(ChannelError::Stuck(self.waiting));
        }
        self.outgoing.push_back(Chunk { bytes, sent: 0, descriptors });
        Ok(())
    }

    /// Sends all that is queued. May be dropped and called again.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn flush(&mut self) -> Result<(), ChannelError> {
        while !self.outgoing.is_empty() {
            self.stream.writable().await?;
            self.send_now()?;
        }
        Ok(())
    }

    /// Sends what the socket takes at once.
    fn send_now(&mut self) -> io::Result<()> {
        while let Some(chunk) = self.outgoing.front_mut() {
            match self.stream.try_io(Interest::WRITABLE, || chunk.send(&self.stream)) {
                Ok(sent) => {
                    chunk.sent += sent;
                    chunk.descriptors.clear();
                    self.waiting -= sent;
                    if chunk.sent == chunk.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message, or all descriptors of a manifest; `None` when the other side closed the channel in good
    /// order. What is queued is sent meanwhile. May be dropped and called again.
    ///
    /// # Errors
    /// The connection failed, or the other side broke the protocol. The channel is of no use afterwards.
    pub async fn receive(&mut self) -> Result<Option<Received<Rx>>, ChannelError> {
        loop {
            if let Some((message, length)) = decode::<Rx>(&self.incoming)? {
                self.incoming.drain(..length);
                if let Some(received) = self.sort(message)? {
                    return Ok(Some(received));
                }
                continue;
            }
            let interest =
                if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() && !self.outgoing.is_empty() {
                // A connection that cannot be written to any more is still read to its end.
                if let Err(error) = self.send_now()
                    && !ready.is_readable()
                {
                    return Err(error.into());
                }
            }
            if !ready.is_readable() {
                continue;
            }
            let (incoming, arrived, stream) = (&mut self.incoming, &mut self.arrived, &self.stream);
            match stream.try_io(Interest::READABLE, || receive(stream, incoming, arrived)) {
                Ok(0) if self.incoming.is_empty() && self.announced.is_empty() => return Ok(None),
                Ok(0) => return Err(ChannelError::Cut),
                Ok(_) if self.arrived.len() > BATCH => {
                    return Err(ChannelError::Descriptors(format!("{} in one frame", self.arrived.len())));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Descriptors or bytes of a dead peer may be lost with it; for us it is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(ChannelError::Cut),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts arrived descriptors under their keys; gives back what is of interest to the caller.
    fn sort(&mut self, message: Rx) -> Result<Option<Received<Rx>>, ChannelError> {
        let broken = |why: String| Err(ChannelError::Descriptors(why));
        let received = match message.about_descriptors() {
            About::Announced(keys) => {
                if !self.announced.is_empty() {
                    return broken(format!("a manifest while {} descriptors are missing", self.announced.len()));
                }
                if keys.is_empty() || keys.len() > MAX_DESCRIPTORS {
                    return broken(format!("a manifest of {} descriptors", keys.len()));
                }
                self.announced = keys.iter().copied().collect::<Keys>().into_iter().collect();
                None
            }
            About::Carried(count) => {
                let count = usize::from(count);
                if count == 0 || count > self.announced.len() || count != self.arrived.len() {
                    return broken(format!(
                        "{} descriptors came with a frame of {count}, {} were announced",
                        self.arrived.len(),
                        self.announced.len()
                    ));
                }
                self.collected.extend(self.announced.drain(..count).zip(self.arrived.drain(..).map(Arc::new)));
                self.announced.is_empty().then(|| Received::Descriptors(std::mem::take(&mut self.collected)))
            }
            About::Nothing if !self.announced.is_empty() => {
                return broken(format!("another message while {} descriptors are missing", self.announced.len()));
            }
            About::Nothing => Some(Received::Message(message)),
        };
        // Descriptors that came with a later frame are still in the buffer with its bytes; others belong nowhere.
        if self.incoming.is_empty() && !self.arrived.is_empty() {
            return broken(format!("{} descriptors that no frame carries", self.arrived.len()));
        }
        Ok(received)
    }
}

impl Chunk {
    fn send(&self, stream: &UnixStream) -> io::Result<usize> {
        let raw: Vec<_> = self.descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights: &[_] = if raw.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        Ok(sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(&self.bytes[self.sent..])], rights, flags, None)?)
    }
}

/// Numbers at the top that are tried: the channel to an agent that is gone may still have one.
const ROOM_ON_TOP: u64 = 8;

fn on_top(socket: &OwnedFd, limit: u64) -> io::Result<OwnedFd> {
    let lowest = i32::try_from(limit.min(TOP).saturating_sub(ROOM_ON_TOP)).map_err(io::Error::other)?;
    let number = fcntl(socket, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: a descriptor that the kernel just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// One receive. Every descriptor is owned, and closed on exec, before anything is judged.
fn receive(stream: &UnixStream, bytes: &mut Vec<u8>, arrived: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    const SPACE: usize = 2048;
    #[repr(C, align(16))]
    struct Ancillary([u8; SPACE]);
    // SAFETY: CMSG_SPACE is arithmetic.
    const _: () = assert!(unsafe { libc::CMSG_SPACE((KERNEL_MAX * size_of::<i32>()) as u32) } as usize <= SPACE);

    let filled = bytes.len();
    bytes.resize(filled + READ, 0);
    let mut ancillary = Ancillary([0; SPACE]);
    let mut vector = libc::iovec { iov_base: bytes[filled..].as_mut_ptr().cast(), iov_len: READ };
    // SAFETY: msghdr is plain data, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = ancillary.0.as_mut_ptr().cast();
    header.msg_controllen = SPACE as _;
    // SAFETY: the header points to buffers of the lengths it says, which outlive the call.
    let got =
        unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    let error = io::Error::last_os_error();
    bytes.truncate(filled + usize::try_from(got).unwrap_or(0));
    if got < 0 {
        return Err(error);
    }
    // SAFETY: the kernel filled the header; CMSG_* walk inside msg_controllen.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR/NXTHDR gave a whole header.
        let (level, kind, length) = unsafe { ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: the data of this header are that many descriptors, all new and ours alone.
            unsafe {
                let data = libc::CMSG_DATA(message).cast::<i32>();
                let count = (length - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
                arrived.extend((0..count).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
        }
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("descriptors were lost on the way: is the descriptor limit reached?"));
    }
    Ok(got as usize)
}
