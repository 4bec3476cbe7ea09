//! What became of each answer after a handler made it: written, read on by the client, or lost with the connection.
//! It knows connections and bodies, not what the answers say.
//!
//! An answer counts as *written* when its last byte was handed to the kernel, as *confirmed* when the same connection
//! then carried another request or was closed in an orderly way, and as *lost* when the connection went before that, or
//! was reset afterwards: a reset says that the peer's kernel threw unread bytes away. Between "written" and "confirmed" a
//! peer that is killed after reading, but before acting on the answer, cannot be told from one that did both; the ledger
//! therefore also says how the connection ended.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clock::Clock;

/// State of one answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Being made or on its way to the socket.
    Pending,
    /// Every byte is with the kernel.
    Written,
    /// The client went on using the connection, or closed it in order.
    Confirmed,
    /// The client cannot have it.
    Lost,
}

/// How the connection that carried an answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Not yet; or unknown, because a later request confirmed the answer before the end.
    Open,
    /// TLS close, then end of stream.
    Clean,
    /// End of stream without TLS close, as when a process is killed.
    Abrupt,
    /// Reset: the peer had not read everything.
    Reset,
    /// The issuer itself ended it.
    Ours,
}

/// One answer on its way.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) grant_type: String,
    pub(crate) grant: Option<u64>,
    /// Id (never the value) of the refresh token inside.
    pub(crate) refresh_id: Option<String>,
    delivery: AtomicU8,
    handed: AtomicU8,
    ending: AtomicU8,
    written_at_ms: AtomicI64,
    ended_at_ms: AtomicI64,
}

impl Ticket {
    pub(crate) fn new(
        grant_type: &str,
        grant: Option<u64>,
        refresh_id: Option<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            grant_type: grant_type.to_owned(),
            grant,
            refresh_id,
            delivery: AtomicU8::new(0),
            handed: AtomicU8::new(0),
            ending: AtomicU8::new(0),
            written_at_ms: AtomicI64::new(0),
            ended_at_ms: AtomicI64::new(0),
        })
    }

    pub(crate) fn delivery(&self) -> Delivery {
        match self.delivery.load(Ordering::SeqCst) {
            0 => Delivery::Pending,
            1 => Delivery::Written,
            2 => Delivery::Confirmed,
            _ => Delivery::Lost,
        }
    }

    pub(crate) fn ending(&self) -> Ending {
        match self.ending.load(Ordering::SeqCst) {
            0 => Ending::Open,
            1 => Ending::Clean,
            2 => Ending::Abrupt,
            3 => Ending::Reset,
            _ => Ending::Ours,
        }
    }

    /// When the last byte left, by the issuer's clock.
    pub(crate) fn written_at_ms(&self) -> Option<i64> {
        Some(self.written_at_ms.load(Ordering::SeqCst)).filter(|at| *at != 0)
    }

    /// When the connection ended, by the issuer's clock; absent when the answer never had one.
    pub(crate) fn ended_at_ms(&self) -> Option<i64> {
        Some(self.ended_at_ms.load(Ordering::SeqCst)).filter(|at| *at != 0)
    }

    pub(crate) fn lose(&self, ending: Ending) {
        self.set(Delivery::Lost);
        self.end(ending);
    }

    fn set(&self, delivery: Delivery) {
        self.delivery.store(delivery as u8, Ordering::SeqCst);
    }

    fn end(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::SeqCst);
    }
}

/// What one connection still has to learn about its answers.
#[derive(Debug)]
pub(crate) struct Connection {
    clock: Arc<Clock>,
    outstanding: Mutex<Vec<Arc<Ticket>>>,
}

impl Connection {
    pub(crate) fn new(clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            outstanding: Mutex::new(Vec::new()),
        })
    }

    fn tickets<R>(&self, act: impl FnOnce(&mut Vec<Arc<Ticket>>) -> R) -> R {
        act(&mut self
            .outstanding
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn carry(&self, ticket: Arc<Ticket>) {
        self.tickets(|list| list.push(ticket));
    }

    fn flushed(&self) {
        self.tickets(|list| {
            for ticket in list.iter() {
                if ticket.delivery() == Delivery::Pending
                    && ticket.handed.load(Ordering::SeqCst) == 1
                {
                    ticket
                        .written_at_ms
                        .store(self.clock.now_ms(), Ordering::SeqCst);
                    ticket.set(Delivery::Written);
                }
            }
        });
    }

    fn read_on(&self) {
        self.tickets(|list| {
            list.retain(|ticket| {
                let written = ticket.delivery() == Delivery::Written;
                if written {
                    ticket.set(Delivery::Confirmed);
                }
                !written
            });
        });
    }

    fn ended(&self, ending: Ending) {
        self.tickets(|list| {
            for ticket in list.drain(..) {
                match (ticket.delivery(), ending) {
                    (Delivery::Written, Ending::Clean) => ticket.set(Delivery::Confirmed),
                    (Delivery::Written, Ending::Reset) | (Delivery::Pending, _) => {
                        ticket.set(Delivery::Lost)
                    }
                    _ => {}
                }
                ticket
                    .ended_at_ms
                    .store(self.clock.now_ms(), Ordering::SeqCst);
                ticket.end(ending);
            }
        });
    }
}

/// A connection's stream that reports flushes, reads and its end.
pub(crate) struct Watched<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, connection: Arc<Connection>) -> Self {
        Self { stream, connection }
    }

    fn failed(&self, error: &io::Error) {
        self.connection.ended(match error.kind() {
            io::ErrorKind::UnexpectedEof => Ending::Abrupt,
            _ => Ending::Reset,
        });
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.connection.ended(Ending::Ours);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &result {
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.connection.read_on(),
            Poll::Ready(Ok(())) if buf.remaining() > 0 => self.connection.ended(Ending::Clean),
            Poll::Ready(Err(error)) => self.failed(error),
            _ => {}
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Err(error)) = &result {
            self.failed(error);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        match &result {
            Poll::Ready(Ok(())) => self.connection.flushed(),
            Poll::Ready(Err(error)) => self.failed(error),
            Poll::Pending => {}
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A whole body that reports when it was handed over, or breaks off on purpose.
pub(crate) struct TicketBody {
    bytes: Option<Bytes>,
    length: u64,
    ticket: Option<Arc<Ticket>>,
    cut: bool,
}

impl TicketBody {
    /// `cut`: send only the first half, then break the connection.
    pub(crate) fn new(bytes: Bytes, ticket: Option<Arc<Ticket>>, cut: bool) -> Self {
        let length = bytes.len() as u64;
        Self {
            bytes: Some(if cut {
                bytes.slice(..bytes.len() / 2)
            } else {
                bytes
            }),
            length,
            ticket,
            cut,
        }
    }
}

impl Body for TicketBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(bytes) = self.bytes.take() {
            if !self.cut
                && let Some(ticket) = &self.ticket
            {
                ticket.handed.store(1, Ordering::SeqCst);
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if self.cut {
            return Poll::Ready(Some(Err(io::Error::other("answer cut short on purpose"))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && !self.cut
    }

    fn size_hint(&self) -> SizeHint {
        // Until the data frame is taken the whole length stands; a cut body promises more than it gives.
        SizeHint::with_exact(if self.bytes.is_some() { self.length } else { 0 })
    }
}

impl Drop for TicketBody {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket
            && ticket.handed.load(Ordering::SeqCst) == 0
        {
            ticket.lose(Ending::Ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn handed() -> Arc<Ticket> {
        let ticket = Ticket::new("refresh_token", Some(1), Some("r1".to_owned()));
        ticket.handed.store(1, Ordering::SeqCst);
        ticket
    }

    #[tokio::test]
    async fn an_answer_is_written_by_a_flush_and_confirmed_by_the_next_request() {
        let connection = Connection::new(Arc::default());
        let (ours, mut theirs) = duplex(64);
        let mut stream = Watched::new(ours, Arc::clone(&connection));
        let ticket = handed();
        connection.carry(Arc::clone(&ticket));
        stream.write_all(b"answer").await.unwrap();
        assert_eq!(ticket.delivery(), Delivery::Pending);
        stream.flush().await.unwrap();
        assert_eq!(ticket.delivery(), Delivery::Written);
        theirs.write_all(b"next").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(ticket.delivery(), Delivery::Confirmed);
    }

    #[tokio::test]
    async fn an_answer_that_was_never_flushed_is_lost_with_its_connection() {
        let connection = Connection::new(Arc::default());
        let (ours, theirs) = duplex(64);
        let stream = Watched::new(ours, Arc::clone(&connection));
        let ticket = Ticket::new("refresh_token", None, None);
        connection.carry(Arc::clone(&ticket));
        drop(theirs);
        drop(stream);
        assert_eq!(
            (ticket.delivery(), ticket.ending()),
            (Delivery::Lost, Ending::Ours)
        );
    }

    #[tokio::test]
    async fn an_orderly_end_confirms_a_written_answer() {
        let connection = Connection::new(Arc::default());
        let (ours, theirs) = duplex(64);
        let mut stream = Watched::new(ours, Arc::clone(&connection));
        let ticket = handed();
        connection.carry(Arc::clone(&ticket));
        stream.flush().await.unwrap();
        drop(theirs);
        assert_eq!(stream.read(&mut [0; 4]).await.unwrap(), 0);
        assert_eq!(
            (ticket.delivery(), ticket.ending()),
            (Delivery::Confirmed, Ending::Clean)
        );
    }
}
