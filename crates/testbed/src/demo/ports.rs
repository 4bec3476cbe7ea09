//! The demo's ports: free ones of loopback, known before the server starts, so that its configuration can name them twice.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::failure::Failure;

/// Where the server is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// By clients.
    pub(super) server: SocketAddr,
    /// By Prometheus.
    pub(super) metrics: SocketAddr,
}

impl Ports {
    /// Two that nobody listens on.
    pub(super) fn choose() -> Result<Self, Failure> {
        // Both at once, so that they differ.
        let (server, metrics) = (free()?, free()?);
        let address = |listener: &TcpListener| listener.local_addr().map_err(failed);
        Ok(Self {
            server: address(&server)?,
            metrics: address(&metrics)?,
        })
    }
}

fn free() -> Result<TcpListener, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)
}

fn failed(source: std::io::Error) -> Failure {
    Failure::Ports { source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_free_and_two() {
        let ports = Ports::choose().unwrap();
        assert_ne!(ports.server, ports.metrics);
        assert!(ports.server.ip().is_loopback() && ports.server.port() != 0);
    }
}
