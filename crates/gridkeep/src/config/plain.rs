//! Reads `gridkeep.plain_listen`: addresses without TLS for operators' tools on the host itself, port 8202 of the original.

use std::net::SocketAddr;

use super::finding::{Setting, quoted};
use super::read::Item;

const ALLOWED: &str =
    "a list of loopback addresses with port in quotes, such as [\"127.0.0.1:8202\"]";

/// The addresses. Only loopback: tokens would go over the network in clear.
pub fn read(item: &mut Item<'_, '_, '_>) -> Vec<Setting<SocketAddr>> {
    if item.node("plain_listen").is_none() {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for text in item.texts("plain_listen", ALLOWED) {
        let problem = match text.value.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical().is_loopback() => {
                addresses.push(Setting::new(address, text.origin));
                continue;
            }
            Ok(_) => format!(
                "{} is not a loopback address, and without TLS everybody on the way would read the tokens.",
                quoted(&text.value)
            ),
            Err(_) => format!("{} is not an address with port.", quoted(&text.value)),
        };
        item.refuse(&text.origin, "plain_listen", problem, Some(ALLOWED));
    }
    addresses
}
