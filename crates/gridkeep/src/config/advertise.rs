//! Reads where the other nodes reach this one (`gridkeep.advertise`).

use super::finding::{Setting, quoted};
use super::read::Item;

/// Reads `advertise`.
pub fn read(item: &mut Item<'_, '_, '_>) -> Option<Setting<String>> {
    let address = item.text("advertise")?;
    let sound = address.value.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !sound {
        item.refuse(
            &address.origin,
            "advertise",
            format!("{} is not a host with port.", quoted(&address.value)),
            Some("text such as \"gk1.example.org:8200\""),
        );
    }
    Some(address)
}
