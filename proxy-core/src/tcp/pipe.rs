//! Pipes that carry bytes from socket to socket inside the kernel (splice(2)): what is long needs no copy through us.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that a pipe may hold, if the kernel lets us have as many (`/proc/sys/fs/pipe-max-size`).
const SIZE: i32 = 256 * 1024;
/// Pipes of one worker, in use or idle; who gets none copies.
pub(crate) const MOST: usize = 32;

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    made: Rc<Cell<usize>>,
}

/// A pipe with what is under way in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
    /// Counts it until it is closed, wherever that happens: a body that is cut takes its pipe along.
    made: Rc<Cell<usize>>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.made.set(self.made.get() - 1);
    }
}

impl Pipes {
    /// `None`: all are in use, or the kernel has none to give.
    pub(crate) fn lend(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.made.get() >= MOST {
            return None;
        }
        let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        // A smaller one does as well.
        let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(SIZE));
        self.made.set(self.made.get() + 1);
        Some(Pipe { out, into, held: 0, made: Rc::clone(&self.made) })
    }

    /// One that still holds something is closed.
    pub(crate) fn give_back(&self, pipe: Pipe) {
        if pipe.held == 0 {
            self.idle.borrow_mut().push(pipe);
        }
    }
}

impl Pipe {
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes up to `most` bytes from a socket into the empty pipe: how many, 0 at the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let taken = from.try_io(Interest::READABLE, || moved(from, &self.into, most));
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => {
                    self.held += taken.as_ref().map_or(0, |count| *count);
                    return Poll::Ready(taken);
                }
            }
        }
    }

    /// Passes on to a socket what it takes of what the pipe holds.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let passed = to.try_io(Interest::WRITABLE, || moved(&self.out, to, self.held));
            match passed {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                passed => {
                    self.held -= passed.as_ref().map_or(0, |count| *count);
                    return Poll::Ready(passed);
                }
            }
        }
    }
}

fn moved(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    splice(from, None, to, None, most, flags).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_was_lost_with_its_body_makes_room_for_another_and_one_that_came_back_is_lent_again() {
        let pipes = Pipes::default();
        let all: Vec<_> = std::iter::from_fn(|| pipes.lend()).collect();
        assert_eq!(all.len(), MOST);
        drop(all);
        let first = pipes.lend().expect("they were closed");
        let mut held = pipes.lend().expect("there is room");
        held.held = 1;
        pipes.give_back(first);
        pipes.give_back(held);
        assert_eq!((pipes.idle.borrow().len(), pipes.made.get()), (1, 1));
        let lent: Vec<_> = std::iter::from_fn(|| pipes.lend()).collect();
        assert_eq!((lent.len(), pipes.made.get()), (MOST, MOST));
    }
}
