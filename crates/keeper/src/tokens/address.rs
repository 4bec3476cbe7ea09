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

    fn texts(cidrs: &[&str]) -> Vec<String> {
        cidrs.iter().map(|cidr| (*cidr).to_owned()).collect()
    }

    #[test]
    fn one_network_is_enough_and_what_is_none_matches_nothing() {
        for (cidrs, address, allowed) in [
            (&[][..], Some("192.0.2.1"), true),
            (&[], None, true),
            (&["0.0.0.0/0"], None, false),
            (&["2001:db8::/32", "192.0.2.0/24"], Some("192.0.2.1"), true),
            (
                &["2001:db8::/32", "192.0.2.0/24"],
                Some("198.51.100.1"),
                false,
            ),
            (&["nonsense", "192.0.2.0/24"], Some("192.0.2.1"), true),
            (&["nonsense"], Some("192.0.2.1"), false),
            (&["192.0.2.0/x"], Some("192.0.2.1"), false),
        ] {
            let from = address.map(|address| address.parse().expect("an address"));
            assert_eq!(
                allowed_address(&texts(cidrs), from),
                allowed,
                "{cidrs:?} {address:?}"
            );
        }
        assert!(is_range("192.0.2.7") && !is_range("192.0.2.0/33"));
    }

    #[test]
    fn a_network_lies_within_one_that_covers_it() {
        for (inner, outer, inside) in [
            ("192.0.2.0/25", &["192.0.2.0/24"][..], true),
            ("192.0.2.7", &["2001:db8::/32", "192.0.2.0/24"], true),
            ("192.0.2.0/23", &["192.0.2.0/24"], false),
            // Two halves cover their whole, but neither does alone.
            ("192.0.2.0/24", &["192.0.2.0/25", "192.0.2.128/25"], false),
            ("198.51.100.0/24", &["192.0.2.0/24"], false),
            ("0.0.0.0/0", &["::/0"], false),
            ("2001:db8:1::/48", &["2001:db8::/32"], true),
            ("::ffff:192.0.2.0/120", &["192.0.2.0/24"], true),
            ("::ffff:192.0.2.0/119", &["192.0.2.0/24"], false),
            ("::ffff:192.0.2.0/64", &["192.0.2.0/24"], false),
            ("192.0.2.7", &["::ffff:192.0.2.0/120"], true),
            ("nonsense", &["0.0.0.0/0"], false),
            ("nonsense", &[], false),
            ("192.0.2.7", &[], true),
        ] {
            assert_eq!(within(inner, &texts(outer)), inside, "{inner} {outer:?}");
        }
    }
}
