//! Networks of addresses, as an operator writes them: `192.0.2.0/24`, `2001:db8::/32`, or one address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// An address and how many of its leading bits count. One of IPv4 that was written as one of IPv6 is kept as one of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an address or a network such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct NotANetwork;

impl Network {
    /// Whether `address` lies in it. An IPv4 address written as one of IPv6 (`::ffff:192.0.2.1`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => same(
                u32::from(net).into(),
                u32::from(address).into(),
                32,
                self.bits,
            ),
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                same(net.into(), address.into(), 128, self.bits)
            }
            _ => false,
        }
    }

    /// Whether it leaves out no address of its family.
    pub fn is_everything(&self) -> bool {
        self.bits == 0
    }

    /// Whether every address of `inner` lies in it.
    pub fn covers(&self, inner: &Network) -> bool {
        self.address.is_ipv4() == inner.address.is_ipv4()
            && self.bits <= inner.bits
            && self.contains(inner.address)
    }
}

/// Whether the first `bits` of two numbers of `width` bits are the same.
fn same(a: u128, b: u128, width: u32, bits: u8) -> bool {
    let rest = width - u32::from(bits).min(width);
    (a ^ b).checked_shr(rest).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().map_err(|_| NotANetwork)?
            }
            // What is no number must not become the length of a single address.
            Some(_) => return Err(NotANetwork),
            None => width,
        };
        if bits > width {
            return Err(NotANetwork);
        }
        match (address, address.to_canonical()) {
            // With fewer bits it would be a network of neither family.
            (IpAddr::V6(_), address @ IpAddr::V4(_)) => {
                let bits = bits.checked_sub(96).ok_or(NotANetwork)?;
                Ok(Network { address, bits })
            }
            _ => Ok(Network { address, bits }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_inside_its_networks_only() {
        for (network, address, inside) in [
            ("192.0.2.0/24", "192.0.2.77", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("192.0.2.77/24", "192.0.2.1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("192.0.2.0/24", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.0/120", "192.0.2.77", true),
            ("::ffff:192.0.2.0/120", "192.0.3.1", false),
            ("::ffff:192.0.2.7", "192.0.2.7", true),
            ("::ffff:192.0.2.7", "192.0.2.8", false),
            ("::ffff:0.0.0.0/96", "203.0.113.9", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:db8::/127", "2001:db8::1", true),
            ("2001:db8::/127", "2001:db8::2", false),
            ("2001:db8::/32", "192.0.2.1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
        ] {
            let parsed: Network = network.parse().unwrap();
            let address = address.parse().unwrap();
            assert_eq!(parsed.contains(address), inside, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "nonsense",
            "192.0.2.0/x",
            "192.0.2.0/",
            "192.0.2.0/33",
            "::/129",
            "::ffff:192.0.2.0/95",
            "::ffff:192.0.2.0/24",
            "::/+1",
            "192.0.2.0/-1",
            "192.0.2.0/24/8",
            "300.0.0.1",
            "192.0.2.0/999",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
        let shown: Network = "2001:DB8::/32".parse().unwrap();
        assert_eq!(shown.to_string(), "2001:db8::/32");
        let shown: Network = "::ffff:192.0.2.0/120".parse().unwrap();
        assert_eq!(shown.to_string(), "192.0.2.0/24");
    }
}
