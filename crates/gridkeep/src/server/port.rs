//! What clients reach: the sockets, the certificate, and how many connections there may be. It stays the same whether the server is
//! sealed or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gridkeep_dialect_vault::listener::{
    self, HttpService, ListenerLimits, ReloadableTls, TlsFiles, TrustedProxies,
};
use gridkeep_keeper::Keeper;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{anew, audit};
use crate::config::{self, CERTIFICATE_DAYS, Config, Setting};

/// The sockets, and what is served on them.
pub(super) struct Port {
    tls_sockets: Vec<std::net::TcpListener>,
    plain_sockets: Vec<std::net::TcpListener>,
    limits: ListenerLimits,
    /// The certificate.
    pub(super) tls: Arc<ReloadableTls>,
}

impl Port {
    /// Reads the certificate and binds the addresses, or takes the sockets that are handed over.
    pub(super) fn open(config: &Config, handed: Option<&str>) -> anyhow::Result<Port> {
        let files = raise_file_limit();
        // Where the audit log of a node of a cluster goes is in the store.
        if config.gridkeep.etcd.is_none() {
            audit::probe(config)?;
        }
        let tls = ReloadableTls::load(TlsFiles {
            certificate: config.gridkeep.certificate.value.clone(),
            key: config.gridkeep.key.value.clone(),
        })?;
        let [tls_sockets, plain_sockets] = match handed {
            Some(handed) => anew::taken(handed)?,
            None => [
                bind(&config.gridkeep.listen)?,
                bind(&config.gridkeep.plain_listen)?,
            ],
        };
        let limits = limits_of_port(files, tls_sockets.len() + plain_sockets.len());
        Ok(Port {
            tls_sockets,
            plain_sockets,
            limits,
            tls,
        })
    }

    /// Those with TLS, and those without.
    pub(super) fn sockets(&self) -> [&[std::net::TcpListener]; 2] {
        [&self.tls_sockets, &self.plain_sockets]
    }

    /// The first address, whose port others are told where none is configured.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.tls_sockets.first()?.local_addr().ok()
    }

    /// All addresses, for people.
    pub(super) fn addresses(&self) -> std::io::Result<Vec<String>> {
        let open = self
            .tls_sockets
            .iter()
            .map(|socket| Ok(socket.local_addr()?.to_string()));
        let plain = self
            .plain_sockets
            .iter()
            .map(|socket| Ok(format!("{} (without TLS)", socket.local_addr()?)));
        open.chain(plain).collect()
    }

    /// Has `service` answer on all addresses until `stopping`; whoever was served before it has stopped or is about to.
    pub(super) fn serve(
        &self,
        service: &impl HttpService,
        proxies: TrustedProxies,
        tasks: &mut JoinSet<()>,
        stopping: &watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let limits = ListenerLimits {
            trusted: proxies,
            ..self.limits.clone()
        };
        for socket in &self.tls_sockets {
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            tasks.spawn(listener::serve(
                listener,
                self.tls.clone(),
                service.clone(),
                limits.clone(),
                stopping.clone(),
            ));
        }
        for socket in &self.plain_sockets {
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            tasks.spawn(listener::serve_plain(
                listener,
                service.clone(),
                limits.clone(),
                stopping.clone(),
            ));
        }
        Ok(())
    }
}

/// Says each day that the certificate ends soon, from [`CERTIFICATE_DAYS`] days before.
pub(super) async fn warn_of_the_certificates_end(
    tls: Arc<ReloadableTls>,
    keeper: Keeper,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        if let Some(days) = tls
            .days_left(keeper.now())
            .filter(|days| *days < CERTIFICATE_DAYS)
        {
            let ends = config::ends(days);
            let meaning = if days < 0 {
                "clients refuse it"
            } else {
                "no client will connect then"
            };
            tracing::warn!(
                days,
                "the server's certificate {ends}, and {meaning}; renew it and replace both files, they are read again by themselves"
            );
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(Duration::from_secs(86_400)) => {}
        }
    }
}

fn bind(addresses: &[Setting<SocketAddr>]) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = listen(address.value).and_then(TcpListener::into_std);
        listeners.push(listener.with_context(|| {
            format!("the server cannot listen on {} ({}); is another server running there? change the address or stop the other", address.value, address.origin)
        })?);
    }
    Ok(listeners)
}

pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// One connection is one file descriptor; the usual soft limit of 1024 is less than the server accepts. Answers the limit in force.
fn raise_file_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    let wanted = hard.min(65_536);
    if soft >= wanted {
        return soft;
    }
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
        tracing::warn!(
            soft,
            "the limit of open files could not be raised; with many clients connections will wait"
        );
        return soft;
    }
    wanted
}

/// Strangers' connections must not take the descriptors that the store, the audit log and requests to issuers need: a quarter, at least
/// 64, is kept from them.
fn limits_of_port(files: u64, ports: usize) -> ListenerLimits {
    let usual = ListenerLimits::default();
    let own = (files / 4).max(64);
    let share = files.saturating_sub(own) / u64::try_from(ports.max(1)).unwrap_or(1);
    let share = usize::try_from(share).unwrap_or(usize::MAX).max(8);
    if share < usual.connections {
        tracing::warn!(
            files,
            connections = share,
            "the limit of open files allows fewer connections than usual; raise it (LimitNOFILE=) when clients have to wait"
        );
    }
    ListenerLimits {
        connections: share.min(usual.connections),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_mean_few_connections() {
        let usual = ListenerLimits::default().connections;
        for (files, ports, connections) in [
            (65_536, 1, usual),
            (u64::MAX, 2, usual),
            (1024, 1, 768),
            (1024, 2, 384),
            (128, 1, 64),
            (10, 1, 8),
            (1024, 0, 768),
        ] {
            assert_eq!(limits_of_port(files, ports).connections, connections);
        }
    }
}
