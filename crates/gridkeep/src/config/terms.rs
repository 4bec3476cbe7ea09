//! Reads the terms of a login, keys of our own in issuers and roles: how long its tokens live, from where and for whom.
//!
//! A role's own value takes the place of its issuer's; claims of both have to hold. A wrong value leaves out the item, since a term that
//! is not kept would open what it was to close.

use super::finding::{Origin, Setting, Severity, quoted};
use super::model::{IssuerConfig, TermsConfig};
use super::read::{Item, Reader};
use gridkeep_keeper::{BoundClaim, ClaimName, Lifetimes, LoginTerms, Network, Seconds};
use std::time::Duration;

/// Reads the terms that stand in an issuer or a role.
pub fn read(item: &mut Item<'_, '_, '_>) -> TermsConfig {
    let terms = TermsConfig {
        token_ttl: positive(item, "token_ttl"),
        token_max_ttl: positive(item, "token_max_ttl"),
        token_period: positive(item, "token_period"),
        token_bound_cidrs: networks(item, "token_bound_cidrs"),
        bound_claims: bound_claims(item),
    };
    let lengths = [
        ("token_ttl", &terms.token_ttl),
        ("token_period", &terms.token_period),
    ];
    for (key, length) in lengths {
        if let (Some(length), Some(most)) = (length, &terms.token_max_ttl)
            && length.value > most.value
        {
            let what = "It is longer than `token_max_ttl`.";
            item.warn(&length.origin, key, what, "Tokens end at the latter.");
        }
    }
    terms
}

/// The longest life of a token, given `tokens.max_ttl`.
pub fn most(max_ttl: Option<&Setting<Duration>>) -> Duration {
    max_ttl.map_or(
        Duration::from_secs(Lifetimes::default().max_ttl.0),
        |most| most.value,
    )
}

/// Warns of lives that are cut to what holds for the whole issuer or installation. `max_ttl`: `tokens.max_ttl`.
pub fn check(
    reader: &mut Reader<'_>,
    issuers: &[IssuerConfig],
    max_ttl: Option<&Setting<Duration>>,
) {
    let most = most(max_ttl);
    for issuer in issuers {
        let path = format!("issuers[{}]", issuer.name.value);
        let general = issuer.terms.token_max_ttl.as_ref();
        cut(reader, &path, &issuer.terms, most, None);
        for role in &issuer.roles {
            let path = format!("{path}.roles[{}]", role.name.value);
            let general = general.filter(|_| role.terms.token_max_ttl.is_none());
            cut(reader, &path, &role.terms, most, general);
        }
    }
}

fn cut(
    reader: &mut Reader<'_>,
    path: &str,
    terms: &TermsConfig,
    most: Duration,
    of_issuer: Option<&Setting<Duration>>,
) {
    for (key, length) in [
        ("token_ttl", &terms.token_ttl),
        ("token_max_ttl", &terms.token_max_ttl),
        ("token_period", &terms.token_period),
    ] {
        let Some(length) = length else { continue };
        let limit = if length.value > most {
            "`gridkeep.tokens.max_ttl`, which is 672h if it is not given"
        } else if of_issuer.is_some_and(|limit| length.value > limit.value) {
            "`token_max_ttl` of the issuer"
        } else {
            continue;
        };
        reader.find(
            Severity::Warning,
            &length.origin,
            &format!("{path}.{key}"),
            format!("It is longer than {limit}."),
            "Tokens end at the latter.",
        );
    }
}

/// A duration of whole seconds above zero.
pub fn positive(item: &mut Item<'_, '_, '_>, key: &str) -> Option<Setting<Duration>> {
    let length = item.duration(key)?;
    if length.value.as_secs() == 0 {
        let what = "The duration is less than a second.";
        item.refuse(&length.origin, key, what, Some("a duration such as 12h"));
        return None;
    }
    Some(length)
}

/// A list of networks, or one.
pub fn networks(item: &mut Item<'_, '_, '_>, key: &str) -> Vec<Setting<Network>> {
    const ALLOWED: &str =
        "a list of addresses and networks such as [192.0.2.0/24, \"2001:db8::/32\"]";
    let mut networks = Vec::new();
    for text in item.texts(key, ALLOWED) {
        match text.value.parse() {
            Ok(network) => networks.push(Setting::new(network, text.origin)),
            Err(error) => {
                let what = format!("{} is {error}.", quoted(&text.value));
                item.refuse(&text.origin, key, what, Some(ALLOWED));
            }
        }
    }
    networks
}

fn bound_claims(item: &mut Item<'_, '_, '_>) -> Vec<(Setting<String>, Vec<Setting<String>>)> {
    const KEY: &str = "bound_claims";
    const ALLOWED: &str = "claims, each with a value or a list of values";
    let Some(node) = item.mapping(KEY) else {
        return Vec::new();
    };
    let Some(map) = node.as_map() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let path = item.key(KEY);
    let mut sound = true;
    for entry in &map.entries {
        let mut inner = item.inner(map, &path, &node.origin);
        let values = inner.texts(&entry.key, ALLOWED);
        if values.is_empty() && inner.sound {
            let what = "No value is given, so that nobody could log in.";
            inner.refuse(&entry.key_origin, &entry.key, what, Some(ALLOWED));
        }
        sound &= inner.sound;
        let name = Setting::new(entry.key.clone(), entry.key_origin.clone());
        found.push((name, values));
    }
    item.sound &= sound;
    found
}

/// The terms of a role as the keeper takes them.
pub fn of_role(issuer: &TermsConfig, role: &TermsConfig) -> LoginTerms {
    let seconds = |own: &Option<Setting<Duration>>, general: &Option<Setting<Duration>>| {
        own.as_ref()
            .or(general.as_ref())
            .map(|length| Seconds(length.value.as_secs()))
    };
    let cidrs = if role.token_bound_cidrs.is_empty() {
        &issuer.token_bound_cidrs
    } else {
        &role.token_bound_cidrs
    };
    LoginTerms {
        ttl: seconds(&role.token_ttl, &issuer.token_ttl),
        max_ttl: seconds(&role.token_max_ttl, &issuer.token_max_ttl),
        period: seconds(&role.token_period, &issuer.token_period),
        bound_cidrs: cidrs.iter().map(|network| network.value).collect(),
        bound_claims: issuer
            .bound_claims
            .iter()
            .chain(&role.bound_claims)
            .map(|(claim, values)| BoundClaim {
                claim: ClaimName::parse(&claim.value),
                values: values.iter().map(|value| value.value.clone()).collect(),
            })
            .collect(),
    }
}

/// Where a term stands, for messages about a change.
pub fn origin(terms: &TermsConfig) -> Option<&Origin> {
    let lengths = [&terms.token_ttl, &terms.token_max_ttl, &terms.token_period];
    lengths
        .into_iter()
        .find_map(|length| length.as_ref().map(|length| &length.origin))
        .or_else(|| terms.token_bound_cidrs.first().map(|net| &net.origin))
        .or_else(|| terms.bound_claims.first().map(|(claim, _)| &claim.origin))
}
