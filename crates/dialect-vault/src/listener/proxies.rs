//! Front servers whose word about a client's address is taken (`X-Forwarded-For`).
//!
//! Only a connection that comes from one of them may say that somebody else is asking; from anybody else the header is text. Of the
//! addresses it lists the rightmost that is not itself a trusted front server is the client: all left of it may be forged.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use gridkeep_keeper::Network;
use http::HeaderMap;
use thiserror::Error;

const HEADER: &str = "x-forwarded-for";

/// The trusted front servers. Cheap to clone; a change shows in all clones.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<RwLock<Vec<Network>>>);

/// A trusted front server said something that is no list of addresses. Guessing could make somebody out of an address that is not
/// theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the front server sent an X-Forwarded-For that is not a list of addresses; set it to append the client's address"
)]
pub struct ForwardedError;

impl TrustedProxies {
    /// Trusts these and no others from now on.
    pub fn set(&self, networks: Vec<Network>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    /// Whether `address` is one of theirs.
    pub fn contains(&self, address: IpAddr) -> bool {
        let networks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        networks.iter().any(|network| network.contains(address))
    }

    /// Who sends a request that arrives from `peer`. The port stays that of the connection.
    pub(crate) fn client(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
    ) -> Result<SocketAddr, ForwardedError> {
        if !self.contains(peer.ip()) {
            return Ok(peer);
        }
        let mut farthest = peer.ip();
        for value in headers.get_all(HEADER).into_iter().rev() {
            let value = value.to_str().map_err(|_| ForwardedError)?;
            for element in value.rsplit(',') {
                farthest = address(element.trim()).ok_or(ForwardedError)?;
                if !self.contains(farthest) {
                    return Ok(SocketAddr::new(farthest, peer.port()));
                }
            }
        }
        Ok(SocketAddr::new(farthest, peer.port()))
    }
}

/// An address, which some front servers write with its port.
fn address(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&'static str]) -> Result<String, ForwardedError> {
        let proxies = TrustedProxies::default();
        proxies.set(vec![
            "192.0.2.0/28".parse().unwrap(),
            "2001:db8::/64".parse().unwrap(),
        ]);
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(HEADER, HeaderValue::from_static(value));
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 4000);
        proxies
            .client(peer, &headers)
            .map(|client| client.to_string())
    }

    #[test]
    fn a_forged_header_counts_for_nothing() {
        let theirs = Ok("203.0.113.5:4000".to_owned());
        assert_eq!(client("203.0.113.5", &["10.0.0.1"]), theirs);
        assert_eq!(client("203.0.113.5", &["nonsense"]), theirs);
        assert_eq!(client("203.0.113.5", &["192.0.2.1"]), theirs);
        // Sent along to a front server, which appends the truth.
        assert_eq!(client("192.0.2.1", &["10.0.0.1, 203.0.113.5"]), theirs);
        assert_eq!(client("192.0.2.1", &["10.0.0.1", "203.0.113.5"]), theirs);
        assert_eq!(
            client("192.0.2.1", &["10.0.0.1, 203.0.113.5, 192.0.2.2"]),
            theirs
        );
        assert_eq!(
            client("192.0.2.1", &["nonsense, 203.0.113.5"]),
            theirs,
            "what stands left of the client is not looked at"
        );
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        for (peer, forwarded, expected) in [
            ("192.0.2.1", vec!["203.0.113.5"], "203.0.113.5:4000"),
            ("::ffff:192.0.2.1", vec!["203.0.113.5"], "203.0.113.5:4000"),
            ("192.0.2.1", vec!["203.0.113.5:1234"], "203.0.113.5:4000"),
            ("192.0.2.1", vec!["::ffff:203.0.113.5"], "203.0.113.5:4000"),
            (
                "2001:db8::5",
                vec!["[2001:db8:1::9]:99"],
                "[2001:db8:1::9]:4000",
            ),
            (
                "2001:db8::5",
                vec!["2001:db8:1::9,2001:db8::6"],
                "[2001:db8:1::9]:4000",
            ),
            // Front servers among themselves, and asking for themselves.
            ("192.0.2.1", vec!["192.0.2.3, 192.0.2.2"], "192.0.2.3:4000"),
            ("192.0.2.1", vec![], "192.0.2.1:4000"),
        ] {
            assert_eq!(client(peer, &forwarded).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_a_front_server_says_must_be_addresses() {
        for bad in ["", "unknown", "203.0.113.5,", "_hidden", "203.0.113"] {
            assert_eq!(client("192.0.2.1", &[bad]), Err(ForwardedError), "{bad:?}");
        }
    }
}
