//! The one request with many responses: the events so far, and from then on, if wanted, each new one as it happens.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncWrite, BufReader};
use tokio::net::unix::{ReadHalf, WriteHalf};

use super::Response;
use super::server::send;
use crate::events::{Event, Next, Store};

/// The events after this number (`None`: all), and their end.
pub(super) async fn past(writer: &mut WriteHalf<'_>, events: &Store, after: Option<u64>) -> io::Result<()> {
    tell(writer, events.after(after).iter().map(|event| Event::clone(event)), events).await
}

/// The same, and then what happens, until the caller hangs up, says anything, or takes too long to read.
pub(super) async fn follow(
    reader: &mut BufReader<ReadHalf<'_>>,
    writer: &mut WriteHalf<'_>,
    events: &Store,
    after: Option<u64>,
) -> io::Result<()> {
    let (past, mut follower) = events.follow(after);
    tell(writer, past.iter().map(|event| Event::clone(event)), events).await?;
    loop {
        let next = tokio::select! {
            next = follower.next() => next,
            heard = reader.fill_buf() => return heard.map(|_| ()),
        };
        let response = match next {
            Next::Event(event) => Response::Event { event: Box::new(Event::clone(&event)) },
            Next::Missed(count) => Response::EventsMissed { count },
            Next::End => return Ok(()),
        };
        send(writer, &response).await?;
    }
}

async fn tell(
    writer: &mut (impl AsyncWrite + Unpin),
    past: impl Iterator<Item = Event>,
    events: &Store,
) -> io::Result<()> {
    for event in past {
        send(writer, &Response::Event { event: Box::new(event) }).await?;
    }
    send(writer, &Response::EventsEnd { unwritten: events.unwritten() }).await
}
