//! Logging in with a Kerberos ticket: what a proven principal may use, and that a ticket's proof works once in the whole installation.
//!
//! Nothing of the credentials changes by such a login: it makes a token for what stands under the principal's name. That a proof was used
//! is a record that is written with the token or not at all, so whichever node sees the same proof again refuses it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gridkeep_identity::kerberos::{AcceptError, AcceptTickets, Principal, Proven};
use gridkeep_store::{Guard, Name};
use tokio::sync::Semaphore;

use crate::credentials::CredentialName;
use crate::database::{Change, NotCommitted};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::measure::{self, KERBEROS};
use crate::policy::{TOKENOPS, kerberos_accessor, kerberos_policy};
use crate::records::{Identity, PROOF, ProofRecord};
use crate::setup::{IssuerSetup, KerberosSetup, RoleSetup, Setup};
use crate::terms::LoginTerms;
use crate::tokens::{Issued, LoginToken, sanitised};

/// Tickets judged side by side. Each takes a thread and a millisecond at most, but for a keytab on a disk that hangs.
const ABREAST: usize = 32;
/// A ticket is judged within this time, queueing included, or the client is told to come back.
const PATIENCE: Duration = Duration::from_secs(8);
/// A used proof is remembered for this long, in seconds: twice the five minutes that clocks may disagree by, with room for sites that
/// allow more.
const PROOF_KEPT: i64 = 3600;
/// What clients hear when the host cannot judge tickets.
const UNUSABLE: &str = "Kerberos logins do not work on this server at present; tell its operators";

/// Bounds the judging of tickets.
pub(crate) struct Tickets(Arc<Semaphore>);

impl Default for Tickets {
    fn default() -> Self {
        Tickets(Arc::new(Semaphore::new(ABREAST)))
    }
}

/// What became of a login with a ticket.
#[derive(Debug)]
pub enum TicketLogin {
    /// Logged in.
    LoggedIn(Box<Issued>),
    /// Not logged in; another way may do. A sentence that says why.
    NotAccepted(String),
}

/// What is configured of a mount where people log in with tickets.
#[derive(Debug, Clone)]
pub struct KerberosMount {
    /// What its logins get.
    pub terms: LoginTerms,
    /// The policies of their tokens.
    pub policies: Vec<String>,
    /// The principal that clients ask a ticket for, without its realm.
    pub service_account: String,
}

/// The last part of the path of the mount for a role, as htgettoken derives it.
fn mount_name(issuer: &str, role: &str) -> String {
    format!("kerberos-{issuer}_{role}")
}

/// The path of the mount for a role.
pub(crate) fn mount_path(issuer: &str, role: &str) -> String {
    format!("auth/{}/", mount_name(issuer, role))
}

impl Setup {
    /// Every role with a Kerberos login, with its issuer and the service that judges its tickets.
    pub(crate) fn kerberos_roles(
        &self,
    ) -> impl Iterator<Item = (&IssuerSetup, &RoleSetup, &KerberosSetup)> {
        self.issuers.iter().flat_map(|issuer| {
            let service = self.kerberos.get(&issuer.name);
            issuer
                .roles
                .iter()
                .filter_map(move |role| Some((issuer, role, service?)))
        })
    }
}

impl Keeper {
    /// Whether somebody can log in with a ticket at `mount`, such as `kerberos-dune_default`.
    pub fn has_ticket_login(&self, mount: &str) -> bool {
        self.setup()
            .kerberos_roles()
            .any(|(issuer, role, _)| mount_name(&issuer.name, &role.name) == mount)
    }

    /// What is configured of `mount`, if it is one.
    pub fn kerberos_mount(&self, mount: &str) -> Option<KerberosMount> {
        self.setup()
            .kerberos_roles()
            .find(|(issuer, role, _)| mount_name(&issuer.name, &role.name) == mount)
            .map(|(issuer, role, service)| KerberosMount {
                terms: role.terms.clone(),
                policies: token_policies(issuer, role),
                service_account: service.service_account.clone(),
            })
    }

    /// Logs in with the GSS token that a client sent to `mount`.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store does not answer or tickets are judged too slowly. A ticket that is no good is no failure: see
    /// [`TicketLogin::NotAccepted`].
    pub async fn ticket_login(
        &self,
        mount: &str,
        token: Vec<u8>,
        from: Option<IpAddr>,
    ) -> Result<TicketLogin, Failure> {
        let setup = self.setup();
        let found = setup
            .kerberos_roles()
            .find(|(issuer, role, _)| mount_name(&issuer.name, &role.name) == mount);
        let Some((issuer, role, service)) = found else {
            return Ok(TicketLogin::NotAccepted(format!(
                "there is no Kerberos login at {mount} on this server: the issuer or role is unknown, or has none"
            )));
        };
        if !role.terms.admit(from) {
            let refused = BadInput::AddressNotAllowed {
                role: role.name.clone(),
                from,
            };
            return Ok(TicketLogin::NotAccepted(refused.to_string()));
        }
        measure::login(&issuer.name, KERBEROS, "started");
        let judged = self.judge(service.acceptor.clone(), token).await;
        let outcome = match judged {
            Ok(Ok(proven)) => {
                self.log_in_with_ticket(mount, (issuer, role, service), proven, from)
                    .await
            }
            Ok(Err(error @ AcceptError::Rejected(_))) => {
                tracing::info!(mount, ?from, "{error}");
                Ok(TicketLogin::NotAccepted(error.to_string()))
            }
            Ok(Err(error @ AcceptError::Unusable(_))) => {
                measure::login(&issuer.name, KERBEROS, "failed");
                tracing::warn!(mount, "{error}");
                // Anybody may ask: where keys lie and what the system says of them is for operators.
                return Ok(TicketLogin::NotAccepted(UNUSABLE.to_owned()));
            }
            Err(failure) => Err(failure),
        };
        let step = match &outcome {
            Ok(TicketLogin::LoggedIn(_)) => "completed",
            Ok(TicketLogin::NotAccepted(_)) => "denied",
            Err(_) => "failed",
        };
        measure::login(&issuer.name, KERBEROS, step);
        outcome
    }

    /// Makes the token for who is proven by a ticket, unless the proof was used before.
    async fn log_in_with_ticket(
        &self,
        mount: &str,
        (issuer, role, service): (&IssuerSetup, &RoleSetup, &KerberosSetup),
        proven: Proven,
        from: Option<IpAddr>,
    ) -> Result<TicketLogin, Failure> {
        let credential = self
            .credential_of(issuer, role, service, &proven.principal)
            .await?;
        let (proof, mut tries) = (Name::new(PROOF, &[proven.authenticator.as_slice()]), 0);
        loop {
            let now = self.now();
            let mut change = Change::new();
            change.guard(Guard::Absent(proof.clone())).put(
                proof.clone(),
                &ProofRecord { at: now },
                Some(now.0.saturating_add(PROOF_KEPT)),
            )?;
            let issued = self.login_token(
                &mut change,
                self.token_of_ticket(issuer, role, &proven, &credential),
            )?;
            events::record(
                &mut change,
                &Event {
                    at: now,
                    what: "login".into(),
                    subject: credential.to_string(),
                    by: issued.token.display_name.clone(),
                    from,
                    detail: format!("Kerberos principal {}", proven.principal),
                },
            )?;
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(TicketLogin::LoggedIn(Box::new(issued))),
                // The other guards are on random names: the second time at the latest, it is the proof.
                Err(NotCommitted::Conflict)
                    if tries > 0 || self.inner.db.get::<ProofRecord>(&proof).await?.is_some() =>
                {
                    tracing::warn!(mount, ?from, principal = %proven.principal, "a Kerberos proof was used a second time and is refused");
                    return Ok(TicketLogin::NotAccepted(
                        "the Kerberos ticket is not accepted: this proof was used before; make a new one".to_owned(),
                    ));
                }
                Err(NotCommitted::Conflict) => tries += 1,
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Has a token judged on a thread for blocking work.
    async fn judge(
        &self,
        acceptor: Arc<dyn AcceptTickets>,
        token: Vec<u8>,
    ) -> Result<Result<Proven, AcceptError>, Failure> {
        let limit = self.inner.tickets.0.clone();
        let judging = async move {
            let permit = limit.acquire_owned().await.ok();
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                acceptor.accept(&token)
            })
            .await
        };
        match tokio::time::timeout(PATIENCE, judging).await {
            Ok(Ok(judged)) => Ok(judged),
            Ok(Err(error)) => {
                tracing::error!(%error, "the judging of a Kerberos ticket ended in a panic");
                Err(busy(
                    "the ticket could not be judged because of an internal error",
                ))
            }
            Err(_) => Err(busy(
                "too many Kerberos logins wait, or the server's keytab cannot be read in time",
            )),
        }
    }

    /// The credential that a principal's login is for: under its name with the policy domain, or without. Both may be used; what stands
    /// there decides which of them the client is told of, so that it need not know how names are built here.
    async fn credential_of(
        &self,
        issuer: &IssuerSetup,
        role: &RoleSetup,
        service: &KerberosSetup,
        principal: &Principal,
    ) -> Result<CredentialName, Failure> {
        let named = |owner: String| CredentialName {
            issuer: issuer.name.clone(),
            owner,
            role: role.name.clone(),
        };
        let bare = named(principal.name.clone());
        let Some(domain) = &service.policy_domain else {
            return Ok(bare);
        };
        let long = named(format!("{}{domain}", principal.name));
        let (long_stands, long_works) = self.healthy(&long, issuer).await?;
        if long_works {
            return Ok(long);
        }
        let (bare_stands, bare_works) = self.healthy(&bare, issuer).await?;
        // Robots' names, which have several parts, are below the name of whoever stores for them and have no domain.
        let prefers_bare = bare_works
            || long_stands.is_none() && (bare_stands.is_some() || principal.name.contains('/'));
        Ok(if prefers_bare { bare } else { long })
    }

    fn token_of_ticket(
        &self,
        issuer: &IssuerSetup,
        role: &RoleSetup,
        proven: &Proven,
        credential: &CredentialName,
    ) -> LoginToken {
        let mint = &self.inner.mint;
        let Principal { name, realm } = &proven.principal;
        let facts = BTreeMap::from([
            ("user".to_owned(), name.clone()),
            ("domain".to_owned(), realm.clone()),
        ]);
        let mut meta = facts.clone();
        meta.insert("credkey".to_owned(), credential.owner.clone());
        let mount_accessor = kerberos_accessor(mint, &issuer.name, &role.name);
        LoginToken {
            terms: role.terms.clone(),
            policies: token_policies(issuer, role),
            meta,
            display_name: format!(
                "{}-{}",
                mount_name(&issuer.name, &role.name),
                sanitised(name)
            ),
            path: format!("{}login", mount_path(&issuer.name, &role.name)),
            entity: mint.stable_uuid(
                "entity",
                &format!("{mount_accessor} {}", name.to_lowercase()),
            ),
            identity: Identity {
                mount_accessor,
                alias: name.clone(),
                metadata: facts,
            },
            renewable: false,
        }
    }
}

fn token_policies(issuer: &IssuerSetup, role: &RoleSetup) -> Vec<String> {
    vec![
        kerberos_policy(&issuer.name, &role.name),
        TOKENOPS.to_owned(),
    ]
}

fn busy(what: &str) -> Failure {
    Later::new(LaterKind::TooManyLogins, format!("{what}; try again"))
        .after(Duration::from_secs(5))
        .into()
}
