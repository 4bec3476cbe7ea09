//! Addresses a token may be used from.

use std::net::IpAddr;

/// Whether `from` lies in one of `cidrs`; an empty list allows all.
pub(crate) fn allowed_address(cidrs: &[String], from: Option<IpAddr>) -> bool {
    if cidrs.is_empty() {
        return true;
    }
    let Some(from) = from.map(|address| address.to_canonical()) else {
        return false;
    };
    cidrs.iter().any(|cidr| contains(cidr, from))
}

/// Whether `cidr` is an address, or an address and a length that fits it.
pub(crate) fn is_range(cidr: &str) -> bool {
    range(cidr).is_some()
}

/// Whether every address of `inner` lies in one of `outer`; an empty `outer` allows all.
pub(crate) fn within(inner: &str, outer: &[String]) -> bool {
    let Some((address, bits)) = range(inner) else {
        return false;
    };
    outer.is_empty()
        || outer.iter().any(|cidr| {
            range(cidr).is_some_and(|(_, wider)| wider <= bits) && contains(cidr, address)
        })
}

fn range(cidr: &str) -> Option<(IpAddr, u32)> {
    let (net, bits) = match cidr.split_once('/') {
        Some((net, bits)) => (net, Some(bits.parse::<u32>().ok()?)),
        None => (cidr, None),
    };
    let address: IpAddr = net.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(longest);
    (bits <= longest).then_some((address, bits))
}

fn contains(cidr: &str, address: IpAddr) -> bool {
    let (net, bits) = match cidr.split_once('/') {
        // A length that is no number matches nothing: it must not become that of a single address.
        Some((net, bits)) => match bits.parse::<u32>() {
            Ok(bits) => (net, Some(bits)),
            Err(_) => return false,
        },
        None => (cidr, None),
    };
    match (net.parse::<IpAddr>(), address) {
        (Ok(IpAddr::V4(net)), IpAddr::V4(address)) => {
            let bits = bits.unwrap_or(32).min(32);
            let mask = if bits == 0 {
                0
            } else {
                u32::MAX << (32 - bits)
            };
            u32::from(net) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(net)), IpAddr::V6(address)) => {
            let bits = bits.unwrap_or(128).min(128);
            let mask = if bits == 0 {
                0
            } else {
                u128::MAX << (128 - bits)
            };
            u128::from(net) & mask == u128::from(address) & mask
        }
        _ => false,
    }
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
