//! How many of something come from one place, against floods: from one address, and from the wider networks that one customer of a
//! provider may have.
//!
//! An IPv4 address counts for itself. Of IPv6 a customer has at least a network of 64 bits, but many get one of 56 or 48, and with
//! it hundreds or thousands of those.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// What counts as one address: an IPv4 address, or an IPv6 network of 64 bits.
pub fn network(address: IpAddr) -> IpAddr {
    leading(address, 64)
}

/// The wider networks of IPv6 that may be one customer's.
const WIDER: [u8; 2] = [56, 48];

/// Its leading bits, if it is one of IPv6.
fn leading(address: IpAddr, bits: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !rest))
        }
        v4 => v4,
    }
}

/// The networks wider than 64 bits that `address` lies in; none for IPv4.
fn wider(address: IpAddr) -> impl Iterator<Item = (u8, IpAddr)> {
    let is_v6 = address.to_canonical().is_ipv6();
    let bits = WIDER.into_iter().filter(move |_| is_v6);
    bits.map(move |bits| (bits, leading(address, bits)))
}

/// How many may come from one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrowdLimits {
    /// From one IPv4 address or IPv6 network of 64 bits.
    pub address: usize,
    /// From one IPv6 network of 56 bits, and from one of 48.
    pub wider: usize,
}

/// What is there, by where it came from.
#[derive(Debug, Default)]
pub struct Crowd(HashMap<(u8, IpAddr), usize>);

impl Crowd {
    fn count(&self, place: (u8, IpAddr)) -> usize {
        self.0.get(&place).copied().unwrap_or(0)
    }

    /// Whether one more may come from `address`.
    pub fn has_room(&self, address: IpAddr, limits: CrowdLimits) -> bool {
        self.count((64, network(address))) < limits.address
            && wider(address).all(|place| self.count(place) < limits.wider)
    }

    /// One more is there.
    pub fn enter(&mut self, address: IpAddr) {
        for place in std::iter::once((64, network(address))).chain(wider(address)) {
            *self.0.entry(place).or_default() += 1;
        }
    }

    /// One that entered is gone.
    pub fn leave(&mut self, address: IpAddr) {
        for place in std::iter::once((64, network(address))).chain(wider(address)) {
            if let Some(count) = self.0.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let of = |text: &str| network(at(text));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6").to_string(), "2001:db8:1:2::");
    }

    /// How many of `addresses` find room, each entering.
    fn entered(crowd: &mut Crowd, limits: CrowdLimits, addresses: &[String]) -> usize {
        let mut in_all = 0;
        for address in addresses {
            if crowd.has_room(at(address), limits) {
                crowd.enter(at(address));
                in_all += 1;
            }
        }
        in_all
    }

    #[test]
    fn wider_networks_are_bounded_and_give_their_places_back() {
        let limits = CrowdLimits {
            address: 2,
            wider: 5,
        };
        let mut crowd = Crowd::default();
        let one_56: Vec<String> = (0..20).map(|i| format!("2001:db8:1:{i:x}::1")).collect();
        assert_eq!(entered(&mut crowd, limits, &one_56), 5);
        // Its neighbour of 56 bits has the same 48.
        assert!(!crowd.has_room(at("2001:db8:1:100::1"), limits));
        assert!(crowd.has_room(at("2001:db8:2::1"), limits));
        for address in &one_56[..5] {
            crowd.leave(at(address));
        }
        assert!(crowd.0.is_empty());
        let one_48: Vec<String> = (0..20).map(|i| format!("2001:db8:1:{i:x}00::1")).collect();
        assert_eq!(entered(&mut crowd, limits, &one_48), 5);
        // One address is one place still, and those of IPv4 are in no wider one.
        let mut crowd = Crowd::default();
        let one: Vec<String> = (0..5).map(|_| "2001:db8::1".to_owned()).collect();
        assert_eq!(entered(&mut crowd, limits, &one), 2);
        let v4: Vec<String> = (0..20).map(|i| format!("192.0.2.{i}")).collect();
        assert_eq!(entered(&mut crowd, limits, &v4), 20);
    }
}
