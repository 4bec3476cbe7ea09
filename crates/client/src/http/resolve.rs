//! From a name to addresses. Owns the order in which they will be tried; a test brings its own [`Resolver`].

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;

/// The answer of a lookup, in time.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Turns a host name into addresses of both families.
pub trait Resolver: Send + Sync {
    /// Looks up `host`, which is a name and not an address.
    fn resolve(&self, host: &str) -> Lookup;
}

/// The resolver of the operating system (`getaddrinfo`).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: &str) -> Lookup {
        let host = host.to_owned();
        let (answer, receive) = tokio::sync::oneshot::channel();
        // A thread of its own, which ends with its lookup: one from a pool would stay, and a lookup that hangs would hold up the end of the program.
        let started = std::thread::Builder::new()
            .name("resolver".to_owned())
            .stack_size(1 << 20)
            .spawn(move || {
                let found = (host.as_str(), 0).to_socket_addrs();
                let _ = answer.send(found.map(|all| all.map(|address| address.ip()).collect()));
            });
        Box::pin(async move {
            started?;
            receive
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the lookup ended without an answer")))
        })
    }
}

/// Puts the families in turns, IPv6 first, each family in the order of the resolver (RFC 8305 section 4), without duplicates.
#[must_use]
pub fn interleave(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let mut six = addresses.iter().filter(|address| address.is_ipv6());
    let mut four = addresses.iter().filter(|address| address.is_ipv4());
    let mut ordered: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    loop {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            return ordered;
        }
        for address in pair.into_iter().flatten() {
            let address = SocketAddr::new(*address, port);
            if !ordered.contains(&address) {
                ordered.push(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let ordered = interleave(
            &[
                parse("10.0.0.1"),
                parse("10.0.0.2"),
                parse("10.0.0.1"),
                parse("fd00::1"),
                parse("10.0.0.3"),
            ],
            8200,
        );
        let text: Vec<String> = ordered.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "[fd00::1]:8200",
                "10.0.0.1:8200",
                "10.0.0.2:8200",
                "10.0.0.3:8200"
            ]
        );
    }

    #[tokio::test]
    async fn the_system_knows_itself() {
        let found = SystemResolver.resolve("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty());
    }
}
