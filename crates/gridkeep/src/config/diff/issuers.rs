//! Changes of issuers and their roles, the ones that can cost people a login.

use super::{Differ, Impact, UNTIL_CORRECTED};
use crate::config::finding::Setting;
use crate::config::model::{Config, IssuerConfig, KerberosConfig, RoleConfig};
use secrecy::ExposeSecret;
use std::collections::BTreeSet;

impl Differ<'_> {
    pub(super) fn issuers(&mut self) {
        let (old, new) = (self.old, self.new);
        for was in &old.issuers {
            let key = format!("issuers[{}]", was.name.value);
            if let Some(now) = new.issuer(&was.name.value) {
                self.issuer(&key, was, now);
                continue;
            }
            if new.left_out.may_have_issuer(&was.name.value) {
                self.has_an_error(&key, &was.name.origin);
                continue;
            }
            let renamed = new.issuers.iter().find(|issuer| {
                old.issuer(&issuer.name.value).is_none()
                    && issuer.url.value == was.url.value
                    && issuer.clientid.value == was.clientid.value
            });
            let what = match renamed {
                Some(to) => format!(
                    "The issuer is gone; `{}` at the same URL looks like its new name, which counts as another issuer.",
                    to.name.value
                ),
                None => "The issuer is removed.".to_owned(),
            };
            let affected = format!(
                "Everybody with a login there ({}) loses access at once, HTCondor's credentials included. The credentials are kept for {}, so that putting the issuer back costs nobody a login.",
                roles_of(was),
                kept(new)
            );
            self.push(Impact::AccessEnds, &key, what, &affected, &was.name.origin);
        }
        for now in new
            .issuers
            .iter()
            .filter(|issuer| old.issuer(&issuer.name.value).is_none())
        {
            let what = format!(
                "The issuer {} is added with {}.",
                now.url.value,
                roles_of(now)
            );
            let mut affected = "People may log in there.".to_owned();
            if now.uses_callback() {
                affected.push_str(&format!(" Register {} with it.", new.callback_url(now)));
            }
            self.push(
                Impact::FromNowOn,
                &format!("issuers[{}]", now.name.value),
                what,
                &affected,
                &now.name.origin,
            );
        }
    }

    fn issuer(&mut self, key: &str, was: &IssuerConfig, now: &IssuerConfig) {
        for (name, was, now) in [
            ("url", &was.url, &now.url),
            ("clientid", &was.clientid, &now.clientid),
        ] {
            if was.value != now.value {
                let what = format!("It changes from `{}` to `{}`.", was.value, now.value);
                let affected = "Everybody with a credential of this issuer has to log in again: credentials are never sent to another address or used by another client than they were made for.";
                self.push(
                    Impact::LoginAgain,
                    &format!("{key}.{name}"),
                    what,
                    affected,
                    &now.origin,
                );
            }
        }
        self.authentication(key, was, now);
        if was.callback_mode.value != now.callback_mode.value {
            let what = format!(
                "It changes from `{}` to `{}`.",
                was.callback_mode.value.as_str(),
                now.callback_mode.value.as_str()
            );
            let affected = if now.uses_callback() && !was.uses_callback() {
                format!(
                    "People who log in from now on use the other flow; {} has to be registered with the issuer first.",
                    self.new.callback_url(now)
                )
            } else {
                "People who log in from now on use the other flow; nobody has to log in again."
                    .to_owned()
            };
            self.push(
                Impact::NextLogin,
                &format!("{key}.callbackmode"),
                what,
                &affected,
                &now.callback_mode.origin,
            );
        }
        let (old_service, new_service) = (
            self.old.kerberos_service(was),
            self.new.kerberos_service(now),
        );
        let named = |service: Option<&KerberosConfig>| {
            service.map_or("none".to_owned(), |s| format!("`{}`", s.name.value))
        };
        let (old_service, new_service) = (named(old_service), named(new_service));
        if old_service != new_service {
            let what = format!("Its Kerberos service changes from {old_service} to {new_service}.");
            let origin = now
                .kerbservice
                .as_ref()
                .map_or(&now.name.origin, |service| &service.origin);
            let impact = if new_service == "none" {
                Impact::AccessEnds
            } else {
                Impact::FromNowOn
            };
            let affected = if new_service == "none" && self.new.left_out.kerberos {
                UNTIL_CORRECTED
            } else {
                "Whoever logs in by Kerberos to this issuer now needs a ticket that the new service accepts."
            };
            self.push(
                impact,
                &format!("{key}.kerbservice"),
                what,
                affected,
                origin,
            );
        }
        if was.ca_file.as_ref().map(|f| &f.value) != now.ca_file.as_ref().map(|f| &f.value) {
            let origin = now
                .ca_file
                .as_ref()
                .or(was.ca_file.as_ref())
                .map(|file| file.origin.clone())
                .unwrap_or_default();
            let what = "The authorities that may certify the issuer change.".to_owned();
            self.push(
                Impact::Unnoticed,
                &format!("{key}.ca_file"),
                what,
                "Nobody notices, if the issuer's certificate is one of theirs.",
                &origin,
            );
        }
        let plain = |params: &[(String, Setting<String>)]| -> Vec<(String, String)> {
            params
                .iter()
                .map(|(key, value)| (key.clone(), value.value.clone()))
                .collect()
        };
        if plain(&was.authorization_params) != plain(&now.authorization_params) {
            let what = "The extra parameters of login requests change.".to_owned();
            let affected = "People who log in from now on meet them at the issuer.";
            self.push(
                Impact::NextLogin,
                &format!("{key}.authorization_params"),
                what,
                affected,
                &now.name.origin,
            );
        }
        if was.reauth_on_scope_change.value != now.reauth_on_scope_change.value {
            let on = now.reauth_on_scope_change.value;
            let what = format!("It is switched {}.", if on { "on" } else { "off" });
            let (impact, affected) = if on {
                (
                    Impact::LoginAgain,
                    "Whoever has a credential made with other scopes than the role has now has to log in again.",
                )
            } else {
                (
                    Impact::FromNowOn,
                    "Credentials made with other scopes are served again.",
                )
            };
            self.push(
                impact,
                &format!("{key}.reauth_on_scope_change"),
                what,
                affected,
                &now.reauth_on_scope_change.origin,
            );
        }
        self.requests(key, was, now);
        self.roles(key, was, now);
    }

    /// How often and how patiently the issuer is asked.
    fn requests(&mut self, key: &str, was: &IssuerConfig, now: &IssuerConfig) {
        let values = |issuer: &IssuerConfig| {
            (
                issuer.connect_timeout.as_ref().map(|wait| wait.value),
                issuer.request_timeout.as_ref().map(|wait| wait.value),
                issuer.requests_per_second.as_ref().map(|rate| rate.value),
            )
        };
        if values(was) != values(now) {
            self.push(
                Impact::Unnoticed,
                &format!("{key}.request_timeout"),
                "How often and how patiently the issuer is asked changes.".to_owned(),
                "Nobody notices, as long as the issuer keeps to it.",
                &now.name.origin,
            );
        }
        let life =
            |issuer: &IssuerConfig| issuer.refresh_token_life.as_ref().map(|life| life.value);
        if life(was) != life(now) {
            self.push(
                Impact::Unnoticed,
                &format!("{key}.refresh_token_life"),
                "How long the issuer is believed to keep an unused refresh token changes."
                    .to_owned(),
                "Nobody notices: unused logins are refreshed in time for it, and metrics and alerts go by it.",
                now.refresh_token_life
                    .as_ref()
                    .map_or(&now.name.origin, |life| &life.origin),
            );
        }
    }

    fn authentication(&mut self, key: &str, was: &IssuerConfig, now: &IssuerConfig) {
        let exposed = |issuer: &IssuerConfig| {
            issuer
                .secret
                .as_ref()
                .map(|secret| secret.value.expose_secret().to_owned())
                .map(zeroize::Zeroizing::new)
        };
        if exposed(was) != exposed(now) {
            let what = match (&was.secret, &now.secret) {
                (Some(_), Some(_)) => "The client secret changes.",
                (None, _) => "A client secret is added.",
                (_, None) => "The client secret is removed.",
            };
            let origin = now
                .secret
                .as_ref()
                .or(was.secret.as_ref())
                .map(|secret| secret.origin.clone())
                .unwrap_or_default();
            let affected = "Nobody notices, if the issuer knows the new one: credentials go on, the next request uses it.";
            self.push(
                Impact::Unnoticed,
                &format!("{key}.secret"),
                what.to_owned(),
                affected,
                &origin,
            );
        }
        let method = |issuer: &IssuerConfig| match (&issuer.client_auth, issuer.public_client.value)
        {
            (_, true) => "none, a public client".to_owned(),
            (Some(auth), _) => auth.value.as_str().to_owned(),
            (None, _) => "what the issuer offers".to_owned(),
        };
        let (old_method, new_method) = (method(was), method(now));
        if old_method != new_method {
            let what =
                format!("The client's authentication changes from {old_method} to {new_method}.");
            let origin = now
                .client_auth
                .as_ref()
                .map_or(&now.public_client.origin, |auth| &auth.origin);
            let affected = "Nobody notices, if the issuer accepts it: credentials go on.";
            self.push(
                Impact::Unnoticed,
                &format!("{key}.client_auth"),
                what,
                affected,
                origin,
            );
        }
        if was.private_key.as_ref().map(|k| &k.value) != now.private_key.as_ref().map(|k| &k.value)
        {
            let origin = now
                .private_key
                .as_ref()
                .or(was.private_key.as_ref())
                .map(|file| file.origin.clone())
                .unwrap_or_default();
            let affected = "Nobody notices, if the issuer knows the new key.";
            self.push(
                Impact::Unnoticed,
                &format!("{key}.private_key"),
                "The private key file changes.".to_owned(),
                affected,
                &origin,
            );
        }
    }

    fn roles(&mut self, key: &str, was: &IssuerConfig, now: &IssuerConfig) {
        for old_role in &was.roles {
            let key = format!("{key}.roles[{}]", old_role.name.value);
            match now.role(&old_role.name.value) {
                Some(new_role) => self.role(&key, was, old_role, now, new_role),
                None if self
                    .new
                    .left_out
                    .may_have_role(&was.name.value, &old_role.name.value) =>
                {
                    self.has_an_error(&key, &old_role.name.origin);
                }
                None => {
                    let affected = format!(
                        "Everybody with a credential of this role loses access to it at once. The credentials are kept for {}, so that putting the role back costs nobody a login.",
                        kept(self.new)
                    );
                    self.push(
                        Impact::AccessEnds,
                        &key,
                        "The role is removed.".to_owned(),
                        &affected,
                        &old_role.name.origin,
                    );
                }
            }
        }
        for role in now
            .roles
            .iter()
            .filter(|role| was.role(&role.name.value).is_none())
        {
            let key = format!("{key}.roles[{}]", role.name.value);
            let what = format!(
                "The role is added; it asks for `{}`.",
                role.requested_scopes().join(" ")
            );
            self.push(
                Impact::FromNowOn,
                &key,
                what,
                "Everybody who can log in at the issuer may ask for it.",
                &role.name.origin,
            );
        }
    }

    fn role(
        &mut self,
        key: &str,
        was: &IssuerConfig,
        old_role: &RoleConfig,
        now: &IssuerConfig,
        new_role: &RoleConfig,
    ) {
        let (old_scopes, new_scopes): (BTreeSet<&str>, BTreeSet<&str>) = (
            old_role.requested_scopes().into_iter().collect(),
            new_role.requested_scopes().into_iter().collect(),
        );
        let list = |scopes: Vec<&&str>| {
            scopes
                .into_iter()
                .map(|scope| format!("`{scope}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let added = list(new_scopes.difference(&old_scopes).collect());
        let gone = list(old_scopes.difference(&new_scopes).collect());
        if !added.is_empty() || !gone.is_empty() {
            let mut parts = Vec::new();
            if !added.is_empty() {
                parts.push(format!("added: {added}"));
            }
            if !gone.is_empty() {
                parts.push(format!("no longer asked for: {gone}"));
            }
            let (impact, affected) = if now.reauth_on_scope_change.value {
                (
                    Impact::LoginAgain,
                    "Everybody with a credential of this role has to log in again.",
                )
            } else {
                (
                    Impact::NextLogin,
                    "Everybody with a credential of this role keeps the old scopes, with a warning, until the next login at the issuer.",
                )
            };
            let origin = new_role
                .scopes
                .last()
                .map_or(&new_role.name.origin, |scope| &scope.origin);
            self.push(
                impact,
                &format!("{key}.scopes"),
                format!("Scopes {}.", parts.join("; ")),
                affected,
                origin,
            );
        }
        self.terms(key, (was, old_role), (now, new_role));
        let (old_claim, new_claim) = (was.credclaim_of(old_role), now.credclaim_of(new_role));
        if (old_claim, was.credclaim_json_pointer.value)
            != (new_claim, now.credclaim_json_pointer.value)
        {
            let what = format!(
                "The claim that names the credential changes from `{old_claim}` to `{new_claim}`."
            );
            let affected = "Everybody whose value of the new claim differs from that of the old one has to log in again; the old credentials stay under the old names until they expire.";
            let origin = new_role
                .credclaim
                .as_ref()
                .map_or(&now.credclaim.origin, |claim| &claim.origin);
            self.push(
                Impact::LoginAgain,
                &format!("{key}.credclaim"),
                what,
                affected,
                origin,
            );
        }
    }
}

/// How long what is removed is kept, for people.
pub(super) fn kept(config: &Config) -> String {
    match &config.gridkeep.keep_removed {
        None => "7 days".to_owned(),
        Some(kept) => format!("{} hours", kept.value.as_secs().div_ceil(3600)),
    }
}

fn roles_of(issuer: &IssuerConfig) -> String {
    let names: Vec<String> = issuer
        .roles
        .iter()
        .map(|role| format!("`{}`", role.name.value))
        .collect();
    if names.len() == 1 {
        format!("role {}", names[0])
    } else {
        format!("roles {}", names.join(", "))
    }
}
