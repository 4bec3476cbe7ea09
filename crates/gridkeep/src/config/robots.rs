//! Reads `gridkeep.robots`: who cares for robots, and for those of which account.

use super::finding::{Finding, Setting, Severity, quoted};
use super::model::IssuerConfig;
use super::own::KEY;
use super::read::{Item, Reader};
use super::yaml::Value;

const NOBODY: &str = "Nobody cares for robots by this entry.";
const KEYS: [&str; 4] = ["issuer", "claim", "value", "account"];

/// Everybody whose login at `issuer` carries `claim` with `value` may store credentials of an account and below it, and make tokens
/// for them that have no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RobotConfig {
    /// Name of a configured issuer.
    pub issuer: Setting<String>,
    /// Claim name.
    pub claim: Setting<String>,
    /// The value the claim has or, being a list, contains.
    pub value: Setting<String>,
    /// The group account; absent: each person's own name.
    pub account: Option<Setting<String>>,
}

impl RobotConfig {
    /// The rule in words.
    pub fn words(&self) -> String {
        let whose = match &self.account {
            Some(account) => format!("the robots of `{}`", account.value),
            None => "robots of their own".to_owned(),
        };
        format!(
            "Logins at `{}` with {} = {} care for {whose}.",
            self.issuer.value, self.claim.value, self.value.value
        )
    }
}

/// Reads the rules; an entry that is wrong is left out.
pub fn read(item: &mut Item<'_, '_, '_>) -> Vec<RobotConfig> {
    let Some(node) = item.node("robots") else {
        return Vec::new();
    };
    let Value::List(entries) = &node.value else {
        let what = format!("Here is {}, but a list is wanted.", node.kind());
        item.refuse(
            &node.origin,
            "robots",
            what,
            Some("a list of items with issuer, claim, value and, for a group account, account"),
        );
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let path = format!("{KEY}.robots[{at}]");
        let Some(map) = entry.as_map() else {
            let what = format!("Here is {}, but a mapping is wanted.", entry.kind());
            let finding = Finding::new(Severity::Error, &entry.origin, path, what, NOBODY);
            item.reader.findings.push(finding.allowed(KEYS.join(", ")));
            continue;
        };
        let mut rule = Item::new(item.reader, map, &path, &entry.origin, NOBODY).own_item();
        rule.unknown(&KEYS);
        let (issuer, claim, value) = (
            rule.required("issuer"),
            rule.required("claim"),
            rule.required("value"),
        );
        let account = rule.text("account");
        if let Some(account) = account
            .as_ref()
            .filter(|account| !is_account(&account.value))
        {
            rule.refuse(
                &account.origin,
                "account",
                format!(
                    "{} cannot be the name of an account.",
                    quoted(&account.value)
                ),
                Some("letters, digits, '.', '_', '@' and '-'"),
            );
        }
        if let (true, Some(issuer), Some(claim), Some(value)) = (rule.sound, issuer, claim, value) {
            rules.push(RobotConfig {
                issuer,
                claim,
                value,
                account,
            });
        }
    }
    rules
}

/// Whether a text may stand in the path of a policy as it is.
fn is_account(text: &str) -> bool {
    !text.is_empty()
        && !matches!(text, "." | "..")
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-'))
}

/// Leaves out rules of issuers that do not exist.
pub fn check(reader: &mut Reader<'_>, rules: &mut Vec<RobotConfig>, issuers: &[IssuerConfig]) {
    let names: Vec<&str> = issuers
        .iter()
        .map(|issuer| issuer.name.value.as_str())
        .collect();
    rules.retain(|rule| {
        let known = names.contains(&rule.issuer.value.as_str());
        if !known {
            let what = format!("There is no usable issuer {}.", quoted(&rule.issuer.value));
            let path = format!("{KEY}.robots");
            let finding = Finding::new(Severity::Error, &rule.issuer.origin, path, what, NOBODY);
            reader.findings.push(
                finding
                    .nearest_of(&rule.issuer.value, &names)
                    .allowed(names.join(", ")),
            );
        }
        known
    });
}
