//! The ports, with TLS and on loopback without: accepts connections, keeps hostile and forgotten ones from costing much, and lets go in an orderly way.
//!
//! Owns sockets, certificates and time limits. Refuses to know what a request means: that is an [`HttpService`]. A limit of another
//! kind is a field of [`ListenerLimits`] and one place in this file.

mod certificate;
mod own_errors;
mod proxies;
mod stall;
mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gridkeep_keeper::{Crowd, CrowdLimits};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::measure;
use crate::peer::Channel;
pub use certificate::Validity;
use own_errors::OwnErrors;
pub use proxies::TrustedProxies;
use stall::Stall;
pub use tls::{ReloadableTls, TlsError, TlsFiles};

/// How long one more request is waited for on each connection when the port stops.
const ONE_MORE_REQUEST: Duration = Duration::from_secs(1);

/// What answers requests.
pub trait HttpService: Clone + Send + Sync + 'static {
    /// Answers one request that came from `peer`. Every failure is an answer.
    fn call(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Bounds of the port.
#[derive(Debug, Clone)]
pub struct ListenerLimits {
    /// Connections at one time. When they are all taken no more are accepted: a client then meets its connect timeout, the one
    /// failure on which the stock clients try the next address.
    pub connections: usize,
    /// Connections at one time from one IPv4 address or one IPv6 network of 64 bits. More are closed at once. From one IPv6 network of
    /// 56 or 48 bits, which may be one customer's, as many, or a quarter of all if that is more.
    pub connections_per_address: usize,
    /// Front servers, which carry everybody's connections and have no such bound.
    pub trusted: TrustedProxies,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for the head of a request, which includes the idle time before it on a kept connection.
    pub idle: Duration,
    /// The same for connections accepted while more than three quarters of all are taken.
    pub idle_under_pressure: Duration,
    /// Time in which a receiver must take at least something of an answer.
    pub stalled_write: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Time for requests under way when the server stops.
    pub drain: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        ListenerLimits {
            connections: 2048,
            connections_per_address: 256,
            trusted: TrustedProxies::default(),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            idle_under_pressure: Duration::from_secs(5),
            stalled_write: Duration::from_secs(20),
            // A Kerberos ticket with authorisation data takes up to 48 KiB of one header.
            head_bytes: 64 << 10,
            headers: 64,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown` becomes true (or its sender is gone), then lets requests under way finish within the time to drain.
pub async fn serve<S: HttpService>(
    listener: TcpListener,
    tls: Arc<ReloadableTls>,
    service: S,
    limits: ListenerLimits,
    shutdown: watch::Receiver<bool>,
) {
    serve_with(listener, Some(tls), service, limits, shutdown).await;
}

/// The same without TLS, for programs on this host: only on a loopback address, else it says so and serves nothing.
pub async fn serve_plain<S: HttpService>(
    listener: TcpListener,
    service: S,
    limits: ListenerLimits,
    shutdown: watch::Receiver<bool>,
) {
    match listener.local_addr() {
        Ok(address) if address.ip().to_canonical().is_loopback() => {
            serve_with(listener, None, service, limits, shutdown).await;
        }
        address => tracing::error!(
            ?address,
            "a port without TLS is served on loopback addresses only; this one is not served"
        ),
    }
}

async fn serve_with<S: HttpService>(
    listener: TcpListener,
    tls: Option<Arc<ReloadableTls>>,
    service: S,
    limits: ListenerLimits,
    mut shutdown: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::new(&limits);
    let mut connections = JoinSet::new();
    let mut trouble = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, peer, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: wait a little instead of asking in a circle.
                trouble = (trouble * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(trouble).await;
                continue;
            }
        };
        trouble = Duration::ZERO;
        let trusted = limits.trusted.contains(peer.ip());
        let seat = Addresses::enter(&addresses, peer.ip());
        if seat.is_none() && !trusted {
            tracing::debug!(%peer, "too many connections from this address");
            measure::refused("address_limit");
            continue;
        }
        let idle = if room.available_permits() < limits.connections / 4 {
            limits.idle_under_pressure
        } else {
            limits.idle
        };
        let connection = Connection {
            acceptor: tls.as_ref().map(|tls| tls.acceptor()),
            service: service.clone(),
            limits: limits.clone(),
            idle,
            shutdown: shutdown.clone(),
        };
        connections.spawn(async move {
            let open = measure::Open::counted();
            connection.run(stream, peer).await;
            drop((permit, seat, open));
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(limits.drain, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        tracing::warn!(
            open = connections.len(),
            "connections were still busy when the time to drain was over"
        );
        connections.shutdown().await;
    }
}

/// Returns when the server is to stop, which it also is when nobody is left to say so.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Returns when that is so for some time.
async fn stopped_since(shutdown: &mut watch::Receiver<bool>, some_time: Duration) {
    stopped(shutdown).await;
    tokio::time::sleep(some_time).await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

struct Connection<S> {
    /// `None` on a port without TLS.
    acceptor: Option<TlsAcceptor>,
    service: S,
    limits: ListenerLimits,
    idle: Duration,
    shutdown: watch::Receiver<bool>,
}

impl<S: HttpService> Connection<S> {
    async fn run(mut self, stream: TcpStream, peer: SocketAddr) {
        // Answers are one small write each; waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = self.acceptor.take() else {
            return self.talk(stream, peer, None).await;
        };
        let shaking = tokio::time::timeout(self.limits.handshake, shake_hands(&acceptor, stream));
        let shaken = tokio::select! {
            shaken = shaking => shaken,
            () = stopped_since(&mut self.shutdown, ONE_MORE_REQUEST) => return,
        };
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake");
                measure::refused("handshake");
                return;
            }
            Err(_) => {
                measure::refused("handshake");
                return;
            }
        };
        let channel = Channel::of(stream.get_ref().1);
        self.talk(stream, peer, channel).await;
    }

    /// HTTP over what is connected by now.
    async fn talk<T>(mut self, stream: T, peer: SocketAddr, channel: Option<Channel>)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let io = TokioIo::new(OwnErrors::new(Stall::new(
            stream,
            self.limits.stalled_write,
        )));
        let service = self.service;
        let stopping = self.shutdown.clone();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let service = service.clone();
            let stopping = stopping.clone();
            if let Some(channel) = channel {
                request.extensions_mut().insert(channel);
            }
            async move {
                let mut answer = service.call(request, peer).await;
                if *stopping.borrow() {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle)
            .max_buf_size(self.limits.head_bytes)
            .max_headers(self.limits.headers)
            // What a client asked for is finished and audited also when it goes away in the middle.
            .half_close(true)
            .serve_connection(io, answer);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = stopped(&mut self.shutdown) => None,
        };
        // A request may be on the way: it is answered, as the last, also while a server is being sealed or unsealed and somebody else
        // answers those who connect from now on.
        let ended = match ended {
            Some(ended) => Some(ended),
            None => tokio::time::timeout(ONE_MORE_REQUEST, connection.as_mut())
                .await
                .ok(),
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection");
        }
    }
}

/// The TLS handshake, or a readable answer for somebody who speaks HTTP without TLS.
async fn shake_hands(
    acceptor: &TlsAcceptor,
    mut stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 85\r\n\r\n{\"errors\":[\"this port speaks HTTPS: begin the address of the server with https://\"]}\n";
    let mut first = [0];
    // TLS begins with the byte 22; a method of HTTP with a letter.
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        // Closing over unread bytes would take the answer back.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        return Err(std::io::Error::other("HTTP without TLS"));
    }
    acceptor.accept(stream).await
}

/// Counts open connections by where they come from.
struct Addresses {
    limits: CrowdLimits,
    open: Mutex<Crowd>,
}

struct Seat {
    addresses: Arc<Addresses>,
    from: IpAddr,
}

impl Addresses {
    fn new(limits: &ListenerLimits) -> Arc<Addresses> {
        let address = limits.connections_per_address;
        Arc::new(Addresses {
            limits: CrowdLimits {
                address,
                // A laboratory's own hosts may all be in one such network, so that a tenth of all would be too little.
                wider: address.max(limits.connections / 4),
            },
            open: Mutex::default(),
        })
    }

    fn enter(addresses: &Arc<Addresses>, from: IpAddr) -> Option<Seat> {
        let mut open = addresses
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !open.has_room(from, addresses.limits) {
            return None;
        }
        open.enter(from);
        Some(Seat {
            addresses: Arc::clone(addresses),
            from,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.addresses
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .leave(self.from);
    }
}

#[cfg(test)]
mod tests;
