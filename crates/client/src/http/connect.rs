//! Racing for a connection (RFC 8305): addresses start one after the other with a small head start, the first that finishes its
//! TLS handshake wins, the others are dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::trust::Trust;
use crate::environment::Timing;

/// What every attempt needs.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) tls: TlsConnector,
    pub(super) trust: Arc<Trust>,
    pub(super) name: ServerName<'static>,
    pub(super) timing: Timing,
}

pub(super) type Stream = TlsStream<TcpStream>;

impl Dialer {
    /// Connects to one of `addresses`, preferring the earlier ones by `stagger` each.
    ///
    /// # Errors
    /// Every address with its failure, in the order they failed.
    pub(super) async fn race(
        &self,
        addresses: &[SocketAddr],
        stagger: Duration,
    ) -> Result<(SocketAddr, Stream), Vec<(SocketAddr, String)>> {
        let mut failures = Vec::new();
        let mut waiting = addresses.iter().copied();
        let mut running: JoinSet<(SocketAddr, Result<Stream, String>)> = JoinSet::new();
        let start = |running: &mut JoinSet<_>, address: Option<SocketAddr>| {
            if let Some(address) = address {
                let dialer = self.clone();
                running.spawn(async move { (address, dialer.attempt(address).await) });
            }
        };
        start(&mut running, waiting.next());
        while !running.is_empty() {
            tokio::select! {
                finished = running.join_next() => match finished {
                    Some(Ok((address, Ok(stream)))) => return Ok((address, stream)),
                    Some(Ok((address, Err(reason)))) => {
                        failures.push((address, reason));
                        start(&mut running, waiting.next());
                    }
                    // A task that panicked or was cancelled: its address counts as untried.
                    Some(Err(_)) | None => start(&mut running, waiting.next()),
                },
                () = sleep(stagger), if waiting.len() > 0 => start(&mut running, waiting.next()),
            }
        }
        Err(failures)
    }

    async fn attempt(&self, address: SocketAddr) -> Result<Stream, String> {
        let limit = self.timing.connect;
        let stream = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(lower(&error)),
            Err(_) => return Err(format!("no answer within {} s", limit.as_secs_f32())),
        };
        let _ = stream.set_nodelay(true);
        // A busy server may need longer for its handshake than the network for a packet; the race goes on meanwhile.
        let limit = self.timing.read;
        match timeout(limit, self.tls.connect(self.name.clone(), stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.tls_failure(&error)),
            Err(_) => Err(format!("no TLS answer within {} s", limit.as_secs_f32())),
        }
    }

    fn tls_failure(&self, error: &io::Error) -> String {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(error) => self.trust.explain(error),
            None => format!("TLS failed: {}", lower(error)),
        }
    }
}

/// The text of an operating system error without its number.
pub(super) fn lower(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::UnexpectedEof => "connection closed".to_owned(),
        _ => error.to_string(),
    }
}
