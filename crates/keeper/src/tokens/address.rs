//! Addresses a token may be used from.

use std::net::IpAddr;

use crate::network::Network;

/// Whether `from` lies in one of `cidrs`; an empty list allows all. A text that is no network matches nothing.
pub(crate) fn allowed_address(cidrs: &[String], from: Option<IpAddr>) -> bool {
    cidrs.is_empty()
        || from.is_some_and(|from| networks(cidrs).any(|network| network.contains(from)))
}

/// Whether `cidr` is an address, or an address and a length that fits it.
pub(crate) fn is_range(cidr: &str) -> bool {
    cidr.parse::<Network>().is_ok()
}

/// Whether every address of `inner` lies in one of `outer`; an empty `outer` allows all.
pub(crate) fn within(inner: &str, outer: &[String]) -> bool {
    inner
        .parse::<Network>()
        .is_ok_and(|inner| outer.is_empty() || networks(outer).any(|outer| outer.covers(&inner)))
}

fn networks(cidrs: &[String]) -> impl Iterator<Item = Network> {
    cidrs.iter().filter_map(|cidr| cidr.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_inside_its_networks_only() {
        for (cidr, address, inside) in [
            ("192.0.2.0/24", "192.0.2.77", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("192.0.2.0/24", "::ffff:192.0.2.1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:db8::/32", "192.0.2.1", false),
            ("::/0", "2001:db8::1", true),
            ("nonsense", "192.0.2.1", false),
            ("192.0.2.0/x", "192.0.2.1", false),
        ] {
            let from = Some(address.parse().expect("an address"));
            assert_eq!(
                allowed_address(&[cidr.to_owned()], from),
                inside,
                "{cidr} {address}"
            );
        }
        for (inner, outer, inside) in [
            ("192.0.2.0/25", "192.0.2.0/24", true),
            ("192.0.2.7", "192.0.2.0/24", true),
            ("192.0.2.0/23", "192.0.2.0/24", false),
            ("198.51.100.0/24", "192.0.2.0/24", false),
            ("0.0.0.0/0", "::/0", false),
            ("2001:db8:1::/48", "2001:db8::/32", true),
            ("nonsense", "0.0.0.0/0", false),
        ] {
            assert_eq!(
                within(inner, &[outer.to_owned()]),
                inside,
                "{inner} {outer}"
            );
        }
        assert!(within("192.0.2.7", &[]));
        for bad in [
            "",
            "192.0.2.0/33",
            "192.0.2.0/-1",
            "::/129",
            "a/8",
            "192.0.2.0/8/8",
        ] {
            assert!(!is_range(bad), "{bad}");
        }
        assert!(allowed_address(&[], None));
        assert!(!allowed_address(&["0.0.0.0/0".to_owned()], None));
    }
}
