//! The ways to a bearer token, in the order of the original: the vault token at hand, Kerberos, ssh-agent, a login in a browser.
//!
//! Owns what a failure of one way means for the next. Refuses to know wire formats (`vault`) and defaults (`settings`).

use std::time::Instant;

use gridkeep_token::file::{self, Lock};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::places::Candidate;
use super::report::Report;
use super::settings::{Settings, VaultTokenIn, audience, scopes};
use crate::environment::Environment;
use crate::files::Keep;
use crate::options::Options;
use crate::vault::{Auth, BearerQuery, Vault, VaultError};

/// How a run ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// Well; what is for standard output can be written.
    Done,
    /// Badly, for this reason.
    Fatal(String),
    /// Nobody reads what is written; no text helps.
    NobodyReads,
}

/// What a vault token was good for.
pub(super) enum Tried {
    /// A bearer token.
    Bearer(SecretString),
    /// Nothing; another vault token may do.
    TryOther,
    /// Nothing, and only a new login of the person helps: the server has no refresh token that works.
    OnlyLogin,
}

/// One run.
pub(super) struct Run<'a, 's> {
    pub(super) options: &'a Options,
    pub(super) environment: &'a Environment,
    pub(super) settings: Settings,
    pub(super) vault: Vault,
    pub(super) report: Report<'a, 's>,
    pub(super) keep: Keep,
    pub(super) credkey: Option<String>,
    /// Why each way so far did not lead to a token.
    pub(super) reasons: Vec<String>,
    /// Vault tokens that were of no use.
    pub(super) tried: Vec<SecretString>,
    pub(super) vault_token_line: Option<Zeroizing<String>>,
    pub(super) bearer_url_line: Option<Zeroizing<String>>,
    pub(super) bearer_token_line: Option<Zeroizing<String>>,
}

impl<'a, 's> Run<'a, 's> {
    pub(super) fn new(
        options: &'a Options,
        environment: &'a Environment,
        settings: Settings,
        vault: Vault,
        report: Report<'a, 's>,
    ) -> Self {
        let keep = Keep::new(
            settings.config_dir.clone(),
            &settings.server.to_string(),
            &options.issuer,
            &options.role,
            environment,
        );
        Self {
            options,
            environment,
            settings,
            vault,
            report,
            keep,
            credkey: None,
            reasons: Vec::new(),
            tried: Vec::new(),
            vault_token_line: None,
            bearer_url_line: None,
            bearer_token_line: None,
        }
    }

    pub(super) async fn go(&mut self, begun: Instant) -> Stop {
        let spent = begun.elapsed();
        self.vault.client().limit(Some(
            self.environment.timing.unattended.saturating_sub(spent),
        ));
        self.find_credkey();
        let ended = self.obtain().await;
        let bearer = match ended {
            Ok(bearer) => bearer,
            Err(stop) => return stop,
        };
        match self.write_bearer(&bearer) {
            Ok(()) => Stop::Done,
            Err(stop) => stop,
        }
    }

    fn find_credkey(&mut self) {
        if let Some(credkey) = self
            .options
            .credkey
            .clone()
            .filter(|credkey| !credkey.is_empty())
        {
            self.credkey = Some(credkey);
            return;
        }
        let wanted =
            !self.options.nobearertoken || self.options.showbearerurl || !self.options.nossh;
        if wanted && let Some((credkey, path)) = self.keep.credkey() {
            self.report
                .detail(format_args!("credkey {credkey} from {}", path.display()));
            self.credkey = Some(credkey);
        }
    }

    /// Whether `--credkey` was given: then nothing is remembered.
    pub(super) fn credkey_is_given(&self) -> bool {
        self.options
            .credkey
            .as_deref()
            .is_some_and(|credkey| !credkey.is_empty())
    }

    /// The bearer token, by the first way that works. `Err(Stop::Done)` when none was asked for.
    async fn obtain(&mut self) -> Result<SecretString, Stop> {
        let known = self.credkey.is_some();
        if !known && self.options.nobearertoken && self.options.showbearerurl {
            return Err(Stop::Fatal(format!(
                "no credkey is known for issuer {} and role {}, so the bearer URL is not either; give --credkey, or log in once without --nobearertoken",
                self.options.issuer, self.options.role
            )));
        }
        if self.url_is_enough() {
            self.queue_url();
            return Err(Stop::Done);
        }
        let mut only_login = false;
        let registering = self.options.registerssh;
        if registering {
            self.check_keys_to_register().await?;
        } else if known || self.options.nobearertoken {
            match self.with_existing_token().await? {
                Tried::Bearer(bearer) => return Ok(bearer),
                Tried::OnlyLogin => only_login = true,
                Tried::TryOther => {}
            }
        } else {
            self.reasons.push(format!(
                "no credkey is known for issuer {} and role {} (--credkey), so an existing vault token cannot be used",
                self.options.issuer, self.options.role
            ));
        }
        // Held from the first login that is attempted to the end of the last.
        let mut lock = None;
        if !only_login && !registering {
            match self.with_kerberos(&mut lock).await? {
                Tried::Bearer(bearer) => return Ok(bearer),
                Tried::OnlyLogin => only_login = true,
                Tried::TryOther => {}
            }
        }
        if !only_login
            && !registering
            && let Tried::Bearer(bearer) = self.log_in_with_ssh_agent().await?
        {
            return Ok(bearer);
        }
        if let Some(reason) = self.no_browser_because() {
            self.reasons.push(reason);
            return Err(self.give_up());
        }
        if lock.is_none() {
            lock = self.lock();
            if let Tried::Bearer(bearer) = self.after_waiting().await? {
                return Ok(bearer);
            }
        }
        let logged_in = self.log_in_with_browser().await?;
        drop(lock);
        logged_in.ok_or_else(|| self.give_up())
    }

    /// What the vault tokens are good for that another run may have stored while this one waited for the lock.
    pub(super) async fn after_waiting(&mut self) -> Result<Tried, Stop> {
        if self.credkey.is_none() || self.options.nobearertoken || self.options.registerssh {
            return Ok(Tried::TryOther);
        }
        let again = self.candidates();
        self.try_all(again).await
    }

    /// `--nobearertoken --showbearerurl` needs no request when there is a vault token already, or none may be obtained.
    fn url_is_enough(&mut self) -> bool {
        if !(self.options.nobearertoken && self.options.showbearerurl) {
            return false;
        }
        let no_way = self.options.nokerberos && self.options.nossh && self.options.nooidc;
        match self.settings.vault_in {
            VaultTokenIn::Device(_) => false,
            _ => no_way || !self.candidates().is_empty(),
        }
    }

    fn give_up(&mut self) -> Stop {
        Stop::Fatal(format!(
            "Failure getting token from {}: {}",
            self.settings.server,
            self.reasons.join("; ")
        ))
    }

    /// Remembers why a way failed.
    pub(super) fn failed(&mut self, reason: String) {
        self.report.detail(&reason);
        self.reasons.push(reason);
    }

    async fn with_existing_token(&mut self) -> Result<Tried, Stop> {
        if let VaultTokenIn::Device(name) = self.settings.vault_in.clone() {
            return self.exchange(&name).await;
        }
        if self.options.nobearertoken && !self.options.showbearerurl {
            return Ok(Tried::TryOther);
        }
        let candidates = self.candidates();
        if candidates.is_empty() {
            self.failed("there is no vault token that could be used".to_owned());
        }
        self.try_all(candidates).await
    }

    async fn try_all(&mut self, candidates: Vec<Candidate>) -> Result<Tried, Stop> {
        for candidate in candidates {
            match self.try_candidate(candidate).await? {
                Tried::TryOther => {}
                other => return Ok(other),
            }
        }
        Ok(Tried::TryOther)
    }

    async fn try_candidate(&mut self, candidate: Candidate) -> Result<Tried, Stop> {
        let Candidate { token, from } = candidate;
        self.report.detail(format_args!("vault token from {from}"));
        if self.settings.min_ttl > 0 {
            match self.vault.lookup_self(&token, &mut self.report).await {
                Ok(ttl) if ttl >= self.settings.min_ttl => {}
                Ok(ttl) => {
                    self.failed(format!(
                        "the vault token from {from} lives {ttl} s, less than the {} s of --vaulttokenminttl",
                        self.settings.min_ttl
                    ));
                    self.tried.push(token);
                    return Ok(Tried::TryOther);
                }
                Err(error) if error.error.is_temporary() => return Err(self.temporary(&error)),
                Err(error) => {
                    self.failed(error.to_string());
                    self.tried.push(token);
                    return Ok(Tried::TryOther);
                }
            }
        }
        let tried = self.read_bearer(&token).await?;
        if !matches!(tried, Tried::Bearer(_)) {
            self.tried.push(token);
        }
        Ok(tried)
    }

    /// A long-lived token from a pipe becomes a shorter one that may lie on disk.
    async fn exchange(&mut self, name: &str) -> Result<Tried, Stop> {
        let token = self.read_device(name).map_err(Stop::Fatal)?;
        self.report
            .detail(format_args!("exchanging the vault token from {name}"));
        let child = self
            .vault
            .create(&token, self.settings.ttl, None, &mut self.report)
            .await
            .map_err(|error| Stop::Fatal(error.to_string()))?
            .client_token;
        self.write_vault_token(&child)?;
        if self.options.nobearertoken {
            self.queue_url_if_wanted();
            return Err(Stop::Done);
        }
        self.read_bearer(&child).await
    }

    /// Reads the bearer token and says what a failure means for the other ways.
    pub(super) async fn read_bearer(&mut self, token: &SecretString) -> Result<Tried, Stop> {
        let Some(credkey) = self.credkey.clone() else {
            self.failed("no credkey is known (--credkey)".to_owned());
            return Ok(Tried::OnlyLogin);
        };
        self.queue_url_if_wanted();
        let path = Settings::bearer_path(self.options, &credkey);
        self.report.step(format_args!(
            "Attempting to get token from {}",
            self.settings.server
        ));
        self.report.detail(format_args!("at path {path}"));
        let query = BearerQuery {
            minimum_seconds: self.options.minimum_seconds(),
            scopes: scopes(self.options),
            audience: audience(self.options),
        };
        let read = self
            .vault
            .read_bearer(&path, &query, token, &mut self.report)
            .await;
        match read {
            Ok(bearer) => {
                self.report.outcome("succeeded");
                Ok(Tried::Bearer(bearer))
            }
            Err(error) => {
                self.report.outcome("failed");
                match error.error.status() {
                    Some(400 | 404) => {
                        self.failed(explain(&error));
                        Ok(Tried::OnlyLogin)
                    }
                    _ if matches!(error.error, crate::http::HttpError::Malformed(_)) => {
                        self.failed(error.to_string());
                        Ok(Tried::TryOther)
                    }
                    _ if error.error.is_temporary() => Err(self.temporary(&error)),
                    _ => {
                        self.failed(explain(&error));
                        Ok(Tried::TryOther)
                    }
                }
            }
        }
    }

    /// No other way of logging in is the remedy, so the run ends here.
    pub(super) fn temporary(&mut self, error: &VaultError) -> Stop {
        self.reasons.push(error.to_string());
        self.give_up()
    }

    fn no_browser_because(&mut self) -> Option<String> {
        if self.options.novaulttoken {
            Some("no new login, because of --novaulttoken".to_owned())
        } else if self.options.nooidc {
            Some("no login in a browser, because of --nooidc".to_owned())
        } else if self.environment.terminals.any() {
            None
        } else {
            let reason = "no login in a browser, because there is no terminal";
            self.report.detail(reason);
            Some(reason.to_owned())
        }
    }

    /// Waits for other runs that are logging in. Without a lock the run goes on: two logins are better than none.
    pub(super) fn lock(&mut self) -> Option<Lock> {
        let path = self.keep.lock()?;
        match file::lock(&path, self.environment.timing.lock) {
            Ok(lock) => Some(lock),
            Err(error) => {
                self.report.detail(error);
                None
            }
        }
    }

    /// Turns what a login without a browser gave into a bearer token. Its vault token is written only when it was good for one.
    pub(super) async fn use_unattended_login(&mut self, auth: &Auth) -> Result<Tried, Stop> {
        let token = self.vault_token_to_keep(auth).await?;
        if self.options.nobearertoken {
            self.queue_url_if_wanted();
            self.write_vault_token(&token)?;
            return Err(Stop::Done);
        }
        let tried = self.read_bearer(&token).await?;
        if matches!(tried, Tried::Bearer(_)) {
            self.write_vault_token(&token)?;
        }
        Ok(tried)
    }

    /// Turns what a login gave into a bearer token; `None` when it cannot be read.
    pub(super) async fn after_login(&mut self, auth: &Auth) -> Result<Option<SecretString>, Stop> {
        if self.options.registerssh {
            self.register_ssh_keys(auth).await?;
        }
        let token = self.vault_token_to_keep(auth).await?;
        if !self.credkey_is_given() {
            // A remembered one may be out of date: whoever logged in counts.
            self.credkey = auth.credkey.clone();
        }
        self.write_vault_token(&token)?;
        self.store_grant(auth, &token).await?;
        if self.options.nobearertoken {
            self.queue_url_if_wanted();
            return Err(Stop::Done);
        }
        match self.read_bearer(&token).await? {
            Tried::Bearer(bearer) => Ok(Some(bearer)),
            Tried::TryOther | Tried::OnlyLogin => Ok(None),
        }
    }

    /// The login's own token if it lives no longer than wanted and cannot register ssh keys, else a child without these powers.
    pub(super) async fn vault_token_to_keep(&mut self, auth: &Auth) -> Result<SecretString, Stop> {
        let registers = |policy: &String| policy.starts_with("sshregister");
        let may_register = auth.policies.iter().any(registers);
        let short = auth
            .lease_duration
            .is_some_and(|life| life <= self.settings.ttl);
        if short && !may_register {
            return Ok(auth.client_token.clone());
        }
        let policies: Option<Vec<String>> = may_register.then(|| {
            auth.policies
                .iter()
                .filter(|policy| !registers(policy))
                .cloned()
                .collect()
        });
        let child = self
            .vault
            .create(
                &auth.client_token,
                self.settings.ttl,
                policies.as_deref(),
                &mut self.report,
            )
            .await;
        child
            .map(|child| child.client_token)
            .map_err(|error| Stop::Fatal(error.to_string()))
    }

    /// Remembers a credkey for the runs to come.
    pub(super) fn remember_credkey(&mut self, credkey: &str) {
        match self.keep.remember_credkey(credkey) {
            Ok(Some(path)) => self
                .report
                .line(format_args!("Saving credkey to {}", path.display())),
            Ok(None) => {}
            Err(error) => self.report.line(format_args!(
                "Cannot remember the credkey {credkey}, so give --credkey next time: {error}"
            )),
        }
    }

    /// Remembers the credkey and gives the refresh token (or the handle that stands for it) to the server.
    async fn store_grant(&mut self, auth: &Auth, token: &SecretString) -> Result<(), Stop> {
        let missing = |what: &str| {
            Stop::Fatal(format!(
                "the server's answer to the login has no {what}; ask its operators to check the issuer's configuration"
            ))
        };
        // Without a bearer token to fetch, a login that stores nothing was still what was asked for.
        let optional = self.options.nobearertoken;
        if !auth.has_metadata && !optional {
            return Err(missing("metadata"));
        }
        let Some(credkey) = self.credkey.clone() else {
            return if optional {
                Ok(())
            } else {
                Err(missing("metadata.credkey"))
            };
        };
        if !self.credkey_is_given() {
            self.remember_credkey(&credkey);
        }
        let refresh_token = auth
            .refresh_token
            .clone()
            .filter(|token| !token.expose_secret().is_empty());
        let Some(refresh_token) = refresh_token else {
            return if optional {
                Ok(())
            } else {
                Err(missing("refresh token, so no bearer token can be made"))
            };
        };
        self.report.step("Saving refresh token");
        let path = Settings::credential_path(self.options, &credkey);
        let stored = self
            .vault
            .store_refresh(
                &path,
                &self.options.issuer,
                &refresh_token,
                token,
                &mut self.report,
            )
            .await;
        match stored {
            Ok(()) => {
                self.report.outcome("done");
                Ok(())
            }
            Err(error) => Err(Stop::Fatal(error.to_string())),
        }
    }
}

/// What the failed reading of a bearer token means.
fn explain(error: &VaultError) -> String {
    let meaning = match error.error.status() {
        Some(404) => " (the server stores no credential there)",
        Some(400) if error.error.is_about_the_server() => {
            " (the token issuer does not accept this server as its client: the server's operators have to mend that, a new login does not)"
        }
        Some(400) => " (a new login is needed)",
        _ => "",
    };
    format!("{error}{meaning}")
}
