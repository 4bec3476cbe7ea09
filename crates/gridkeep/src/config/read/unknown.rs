//! What is said of keys that nobody reads.

use super::Item;
use crate::config::finding::{Finding, Severity, nearest, quoted};
use crate::config::yaml::Value;

/// Keys of all sections without which more is open than with them: what they name would be ignored if they were misspelt.
const CLOSING: [&str; 13] = [
    "kerbservice",
    "realms",
    "token_ttl",
    "token_max_ttl",
    "token_period",
    "token_bound_cidrs",
    "bound_claims",
    "listen",
    "tokens",
    "default_ttl",
    "max_ttl",
    "audit",
    "on_failure",
];

impl Item<'_, '_, '_> {
    /// Warns of keys that nobody reads. One that looks like a slip of the pen for a key that closes something refuses the item: ignored
    /// it would leave open what it was to close.
    pub fn unknown(&mut self, known: &[&str]) {
        let closing: Vec<&str> = known
            .iter()
            .copied()
            .filter(|key| CLOSING.contains(key))
            // Files of an original may have a `realm` that never counted.
            .filter(|key| *key != "realms" || !self.reader.ran_on_original)
            .collect();
        for entry in &self.map.entries {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            // Once the item is refused another reason changes nothing, and a flood of keys need not be compared.
            let open = self.sound || !self.reader.findings.is_full();
            if open
                && entry.value.value != Value::Null
                && let Some(meant) = nearest(&entry.key, &closing)
                && nearest(&entry.key, known) == Some(meant)
            {
                let what = format!(
                    "The key {} is not known here; ignored, it would leave open what `{meant}` closes.",
                    quoted(&entry.key)
                );
                self.sound = false;
                let key = self.key(&entry.key);
                let mut finding = Finding::new(
                    self.severity,
                    &entry.key_origin,
                    key,
                    what,
                    self.means.as_str(),
                );
                finding.nearest = Some(meant.to_owned());
                self.reader.findings.push(finding);
                continue;
            }
            let advice = if self.reader.findings.is_full() {
                &[]
            } else {
                known
            };
            let key = self.key(&entry.key);
            let what = format!("The key {} is not known here.", quoted(&entry.key));
            self.reader.findings.push(
                Finding::new(
                    Severity::Warning,
                    &entry.key_origin,
                    key,
                    what,
                    "It is ignored.",
                )
                .nearest_of(&entry.key, advice)
                .allowed(known.join(", ")),
            );
        }
    }
}
