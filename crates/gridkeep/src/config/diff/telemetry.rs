//! Changes of `gridkeep.telemetry`. They take effect with a restart: a collector that is exchanged while lines wait for it would lose them.

use super::{Differ, Impact};
use crate::config::effective;

impl Differ<'_> {
    pub(super) fn telemetry(&mut self) {
        let (old, new) = (
            effective::telemetry_lines(self.old),
            effective::telemetry_lines(self.new),
        );
        for (key, value, origin) in &new {
            let was = old.iter().find(|(known, ..)| known == key);
            if was.is_none_or(|(_, was, _)| was != value) {
                let what = match was {
                    Some((_, was, _)) => format!("It changes from {was} to {value}."),
                    None => format!("It is {value} from now on."),
                };
                self.push(Impact::Restart, key, what, UNNOTICED, origin);
            }
        }
        for (key, was, origin) in &old {
            if !new.iter().any(|(known, ..)| known == key) {
                let what = format!("It was {was} and is no longer set.");
                self.push(Impact::Restart, key, what, UNNOTICED, origin);
            }
        }
    }
}

const UNNOTICED: &str = "No user notices; whoever watches the server has to know.";
