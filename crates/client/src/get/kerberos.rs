//! Logging in with a Kerberos ticket, and learning the credkey by it.
//!
//! Owns what the attempts mean for the ways that come after. Refuses to know how a ticket is got (`gridkeep_identity`).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use gridkeep_identity::kerberos::{Initiate, Initiated};
use gridkeep_token::file::Lock;
use secrecy::SecretString;

use super::flow::{Run, Stop, Tried};
use crate::vault::{Auth, Negotiated};

/// How long key distribution centres are waited for in all. The whole run has less than a minute.
const PATIENCE: Duration = Duration::from_secs(15);

impl Run<'_, '_> {
    /// A bearer token by a Kerberos ticket. Whatever goes wrong leaves the ways that come after open.
    pub(super) async fn with_kerberos(&mut self, lock: &mut Option<Lock>) -> Result<Tried, Stop> {
        if self.options.nokerberos {
            return Ok(Tried::TryOther);
        }
        let Some(ticket) = self.ticket().await else {
            return Ok(Tried::TryOther);
        };
        if lock.is_none() {
            *lock = self.lock();
            if let Tried::Bearer(bearer) = self.after_waiting().await? {
                return Ok(Tried::Bearer(bearer));
            }
        }
        let path = self
            .options
            .kerbpath
            .replace("%issuer", &self.options.issuer)
            .replace("%role", &self.options.role);
        self.report.step(format_args!(
            "Attempting kerberos auth with {}",
            self.settings.server
        ));
        self.report.detail(format_args!(
            "as {}@{} for {}, at path {path}",
            ticket.name, ticket.realm, ticket.service
        ));
        let encoded = base64::engine::general_purpose::STANDARD.encode(ticket.token.as_slice());
        let negotiated = self
            .vault
            .negotiate(&path, &SecretString::from(encoded), &mut self.report)
            .await;
        let auth = match negotiated {
            Ok(Negotiated::LoggedIn(auth)) => auth,
            Ok(Negotiated::Declined(why)) => {
                self.report.outcome("failed");
                self.failed(format!("Kerberos login declined: {why}"));
                return Ok(Tried::TryOther);
            }
            Err(error) => {
                self.report.outcome("failed");
                self.failed(error.to_string());
                return Ok(Tried::TryOther);
            }
        };
        self.report.outcome("succeeded");
        self.after_ticket(&auth, &ticket).await
    }

    /// A token for the service `host` of the server's alias.
    async fn ticket(&mut self) -> Option<Initiated> {
        let wanted = Initiate {
            host: self.settings.alias.host().to_owned(),
            principal: self
                .options
                .kerbprincipal
                .clone()
                .filter(|name| !name.is_empty()),
            keytab: self
                .options
                .kerbkeytab
                .as_deref()
                .filter(|path| !path.is_empty())
                .map(|path| {
                    self.environment
                        .absolute(&self.environment.expand_tilde(path))
                }),
        };
        self.report
            .detail(format_args!("Kerberos service host/{}", wanted.host));
        let initiate = Arc::clone(&self.environment.kerberos);
        let making = tokio::task::spawn_blocking(move || initiate(&wanted));
        let reason = match tokio::time::timeout(PATIENCE, making).await {
            Ok(Ok(Ok(ticket))) => return Some(ticket),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => format!("the Kerberos library failed: {error}"),
            Err(_) => format!(
                "no Kerberos key distribution centre answered within {} s",
                PATIENCE.as_secs()
            ),
        };
        self.failed(reason);
        None
    }

    /// Turns a login by ticket into a bearer token. The vault token is kept only once it was good for one.
    async fn after_ticket(&mut self, auth: &Auth, ticket: &Initiated) -> Result<Tried, Stop> {
        let token = self.vault_token_to_keep(auth).await?;
        let known = self.credkey.clone();
        let names = self.credkeys(auth, ticket);
        if self.options.nobearertoken {
            self.credkey = known.or_else(|| names.into_iter().next());
            self.write_vault_token(&token)?;
            self.queue_url_if_wanted();
            return Err(Stop::Done);
        }
        let mut only_login = false;
        for credkey in names {
            self.credkey = Some(credkey.clone());
            match self.read_bearer(&token).await? {
                Tried::Bearer(bearer) => {
                    if known.as_ref() != Some(&credkey) {
                        self.remember_credkey(&credkey);
                    }
                    self.write_vault_token(&token)?;
                    return Ok(Tried::Bearer(bearer));
                }
                Tried::OnlyLogin => only_login = true,
                Tried::TryOther => {}
            }
        }
        self.credkey = known;
        self.bearer_url_line = None;
        self.queue_url_if_wanted();
        Ok(if only_login {
            Tried::OnlyLogin
        } else {
            Tried::TryOther
        })
    }

    /// Under which names something may be kept for the principal, the likeliest first: what is known, what the server says, and for
    /// servers that do not say it, how sites build names.
    fn credkeys(&self, auth: &Auth, ticket: &Initiated) -> Vec<String> {
        let mut names: Vec<String> = self.credkey.iter().cloned().collect();
        if self.credkey_is_given() {
            return names;
        }
        match &auth.credkey {
            Some(told) => names.push(told.clone()),
            None if names.is_empty() => {
                names.push(ticket.name.clone());
                names.push(format!("{}@{}", ticket.name, ticket.realm.to_lowercase()));
            }
            None => {}
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}
