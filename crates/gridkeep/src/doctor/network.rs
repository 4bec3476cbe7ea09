//! What lies between the server and everybody else: ports, the service's name in the DNS, and the issuers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Findings, State};
use crate::config::{self, Config};
use crate::server::assemble::{self, Issuers};

/// For one question to the network.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) async fn ports(config: &Config, runs: bool, findings: &mut Findings) {
    for setting in &config.gridkeep.listen {
        let address = setting.value;
        if address.port() == 0 {
            continue;
        }
        if runs {
            let near = SocketAddr::new(reachable(address.ip()), address.port());
            match connect(near).await {
                Ok(()) => findings.good("ports", format!("{address} answers.")),
                Err(why) => findings.push(
                    "ports",
                    State::Bad,
                    format!("The server runs, but {near} does not answer: {why}."),
                    "Was gridkeep.listen changed without a restart? Look at the host's firewall, too.",
                ),
            }
        } else {
            match std::net::TcpListener::bind(address) {
                Ok(_) => findings.good("ports", format!("{address} is free for the server.")),
                Err(error) => findings.push(
                    "ports",
                    State::Bad,
                    format!("{address} cannot be listened on: {error}."),
                    format!(
                        "Another program may hold it (ss -ltnp 'sport = :{}'), or the address is not this host's; see gridkeep.listen.",
                        address.port()
                    ),
                ),
            }
        }
    }
}

/// Where a listener on `address` can be reached from the host itself.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        other => other,
    }
}

async fn connect(address: SocketAddr) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

pub(super) async fn dns(name: &str, port: u16, runs: bool, findings: &mut Findings) {
    let asked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, port))).await;
    let remedy = format!(
        "Give {name} an address in the DNS, or set cluster.name or gridkeep.public_url to what clients use."
    );
    let addresses: Vec<SocketAddr> = match asked {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            let what = format!("The service name {name} cannot be looked up: {error}.");
            return findings.push("dns", State::Bad, what, remedy);
        }
        Err(_) => {
            let what = format!(
                "Nobody answered the look-up of {name} within {} s.",
                PATIENCE.as_secs()
            );
            let remedy = "See /etc/resolv.conf and its servers.";
            return findings.push("dns", State::Bad, what, remedy);
        }
    };
    let list = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    // Only an address of this host can be bound.
    let own = |address: &SocketAddr| std::net::UdpSocket::bind((address.ip(), 0)).is_ok();
    if addresses.iter().any(own) {
        findings.good("dns", format!("{name} is {list}, which is this host."));
    } else {
        findings.push(
            "dns",
            State::Doubtful,
            format!("{name} is {list}, and none of these is an address of this host."),
            "Right behind a load balancer or address translation; otherwise correct the DNS or cluster.name.",
        );
    }
    if !runs {
        return;
    }
    let mut dead = Vec::new();
    for address in &addresses {
        if let Err(why) = connect(*address).await {
            dead.push(format!("{address}: {why}"));
        }
    }
    if !dead.is_empty() {
        let state = if dead.len() < addresses.len() {
            State::Doubtful
        } else {
            State::Bad
        };
        findings.push(
            "dns",
            state,
            format!(
                "Clients of {name} get no connection at some of its addresses ({}).",
                dead.join("; ")
            ),
            "Clients and browsers use port gridkeep.callback_port: does the server, or what stands before it, listen there? Take addresses where nothing answers out of the DNS: the original's clients give up at the first that refuses.",
        );
    }
}

pub(super) async fn issuers(config: &Config, findings: &mut Findings) {
    let mut clients = Issuers::default();
    let setup = assemble::setup(config, &mut clients);
    for (issuer, configured) in setup.issuers.iter().zip(&config.issuers) {
        let name = &issuer.name;
        match tokio::time::timeout(PATIENCE, issuer.client.metadata()).await {
            Ok(Ok(metadata)) => {
                let objections = config::against_discovery(configured, &metadata.document);
                if objections.is_empty() {
                    findings.good("issuers", format!("{name} answers at {}.", issuer.url));
                }
                for objection in objections {
                    findings.push(
                        "issuers",
                        State::Doubtful,
                        format!("{name}: {}", objection.what),
                        objection.means,
                    );
                }
            }
            Ok(Err(error)) => findings.push(
                "issuers",
                State::Bad,
                format!("{name} at {} cannot be used: {error}.", issuer.url),
                format!(
                    "Is the URL right, to the letter? Does the host get there (curl {}/.well-known/openid-configuration)? A private authority goes into ca_file.",
                    issuer.url.trim_end_matches('/')
                ),
            ),
            Err(_) => findings.push(
                "issuers",
                State::Bad,
                format!("{name} at {} did not answer within {} s.", issuer.url, PATIENCE.as_secs()),
                "The network to it, or the issuer itself, is slow or down; users keep what is cached.",
            ),
        }
    }
    clients.stop();
}
