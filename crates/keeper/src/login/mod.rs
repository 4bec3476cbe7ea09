//! Logging in at an issuer: starting in [`start`], the browser's return in [`callback`], polling in [`poll`], what an issuer's
//! answer proves in [`accept`], what a finished login leaves behind in [`complete`]. Logging in with a ticket is in [`kerberos`].
//!
//! A login is one record that every node can read. Whoever moves it on does so guarded by its version, so each step happens
//! once. The refresh token never leaves the server (decision 4): the client gets a handle.

mod accept;
mod callback;
mod complete;
mod kerberos;
mod pace;
mod poll;
mod start;

use std::net::IpAddr;

use gridkeep_store::Name;
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::SecretString;

use crate::background::SWEEP_GRACE;
use crate::database::{Change, NotCommitted, Stored};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::measure;
use crate::policy::known_issuer;
use crate::records::{LOGIN, LoginRecord, LoginStep};
use crate::secret::Purpose;
use crate::setup::{IssuerSetup, Setup};
use crate::tokens::{Issued, later};

use pace::LoginKind;

pub use kerberos::{KerberosMount, TicketLogin};
pub(crate) use kerberos::{Tickets, mount_path as kerberos_mount};
pub(crate) use pace::Logins;

/// A login may take this long.
const LOGIN_LIFE: Seconds = Seconds(600);
/// A handle can be redeemed for this long.
pub(crate) const HANDLE_LIFE: Seconds = Seconds(900);

/// A login to be started.
#[derive(Debug, Clone, Default)]
pub struct LoginStart {
    /// Name of the issuer.
    pub issuer: String,
    /// Role; `default` when it is not given.
    pub role: Option<String>,
    /// Where the issuer shall send the browser.
    pub redirect_uri: Option<String>,
    /// A secret of the client that has to be shown again when polling.
    pub client_nonce: Option<String>,
    /// Address of the client.
    pub from: Option<IpAddr>,
}

/// A login that was started.
#[derive(Debug, Clone)]
pub struct LoginStarted {
    /// Where the person has to go; empty when the redirect address is not allowed.
    pub auth_url: String,
    /// Names the login.
    pub state: String,
    /// Seconds between polls.
    pub poll_interval: u64,
    /// Code to type at `auth_url`, when it is not part of it.
    pub user_code: Option<String>,
    /// Why `auth_url` is empty.
    pub warnings: Vec<String>,
}

/// The browser's return from the issuer.
#[derive(Debug, Clone)]
pub struct Callback {
    /// Name of the issuer, from the path.
    pub issuer: String,
    /// The state the issuer returned.
    pub state: String,
    /// The authorization code.
    pub code: Option<SecretString>,
    /// The issuer's error.
    pub error: Option<String>,
    /// Its description, for the server's log only.
    pub error_description: Option<String>,
    /// Whether the person confirmed that the login is theirs.
    pub confirmed: bool,
    /// Address of the browser.
    pub from: Option<IpAddr>,
}

/// What the browser is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// Ask the person whether this is their login.
    Confirm {
        /// Address that asked for the login.
        requester: Option<IpAddr>,
        /// Name of the issuer.
        issuer: String,
        /// Name of the role.
        role: String,
    },
    /// Logged in.
    Done {
        /// Name of the issuer.
        issuer: String,
        /// Name of the role.
        role: String,
        /// The owner key of the person.
        owner: String,
    },
    /// Not logged in.
    Denied {
        /// The error code, one of RFC 6749's.
        error: String,
    },
}

/// A client asking for the outcome.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Name of the issuer, from the path.
    pub issuer: String,
    /// The login.
    pub state: String,
    /// The client's secret.
    pub client_nonce: String,
    /// Address of the client.
    pub from: Option<IpAddr>,
}

/// What it hears.
#[derive(Debug)]
pub enum PollOutcome {
    /// Not yet.
    Pending,
    /// Logged in.
    LoggedIn(Box<Login>),
}

/// A finished login.
#[derive(Debug)]
pub struct Login {
    /// The login token.
    pub issued: Issued,
    /// The owner key.
    pub owner: String,
    /// The role's name.
    pub role: String,
    /// What old clients are given in the place of the refresh token.
    pub handle: SecretString,
}

/// An ended login is kept for this long, in seconds, so that each node has counted how it ended.
const ENDED_KEPT: i64 = 300;

/// The end that the record of a login has in the store, where it says only when to sweep it. Others are kept for a time in case
/// that the clock was wrong; of an ended login nothing can be had again, and strangers make as many as the limits let them.
fn swept_from(deadline: UnixSeconds) -> i64 {
    deadline.0 + ENDED_KEPT - SWEEP_GRACE
}

fn login_name(id: &[u8]) -> Name {
    Name::new(LOGIN, &[id])
}

impl Keeper {
    async fn login_record(
        &self,
        issuer: &str,
        state: &str,
    ) -> Result<(Vec<u8>, Stored<LoginRecord>), Failure> {
        let proven = self
            .inner
            .mint
            .prove(Purpose::Login, state)
            .ok_or(BadInput::LoginExpired)?;
        if self.now() >= later(proven.issued_at, LOGIN_LIFE) {
            return Err(self.too_late(BadInput::LoginExpired));
        }
        let id = proven.id();
        let stored = self
            .inner
            .db
            .get::<LoginRecord>(&login_name(&id))
            .await?
            .ok_or(BadInput::LoginExpired)?;
        if stored.value.issuer != issuer {
            return Err(BadInput::LoginExpired.into());
        }
        if self.now() >= stored.value.deadline {
            return Err(self.too_late(BadInput::LoginExpired));
        }
        Ok((id, stored))
    }

    /// The issuer a login was started at. One that got another address or client id meanwhile never sees what belongs to the old.
    fn issuer_of_login<'a>(
        &self,
        setup: &'a Setup,
        login: &LoginRecord,
    ) -> Result<&'a IssuerSetup, Failure> {
        let issuer = known_issuer(setup, &login.issuer, self.now())?;
        if issuer.url != login.issuer_url || issuer.client_id != login.client_id {
            return Err(BadInput::LoginExpired.into());
        }
        Ok(issuer)
    }

    /// What a login is counted by.
    fn kind_of_login(&self, login: &LoginRecord) -> LoginKind {
        LoginKind {
            issuer: login.issuer.clone(),
            method: self
                .setup()
                .issuer(&login.issuer)
                .map_or("code", measure::method),
        }
    }

    /// Counts the logins whose time was over before they ended. What another node ended is not counted again.
    pub(crate) async fn count_expired_logins(&self) -> Result<(), Failure> {
        for over in self.inner.logins.take_over(self.now()) {
            let stored = self
                .inner
                .db
                .get::<LoginRecord>(&login_name(&over.id))
                .await?;
            if stored.is_some_and(|stored| !matches!(stored.value.step, LoginStep::Failed { .. })) {
                over.kind.came_to("expired");
            }
        }
        Ok(())
    }

    /// Moves a login on, if nobody else has.
    async fn advance(
        &self,
        id: &[u8],
        stored: &Stored<LoginRecord>,
        step: LoginStep,
    ) -> Result<Stored<LoginRecord>, Failure> {
        let mut record = stored.value.clone();
        record.step = step;
        let mut change = Change::new();
        change.guard(stored.unchanged()).put(
            login_name(id),
            &record,
            Some(swept_from(record.deadline)),
        )?;
        // Critical, because what the issuer gave for a code cannot be had again.
        match self.inner.db.commit_critical_at(change).await {
            Ok(version) => Ok(Stored {
                version,
                name: login_name(id),
                value: record,
            }),
            Err(NotCommitted::Conflict) => Err(BadInput::LoginExpired.into()),
            Err(other) => Err(other.into()),
        }
    }

    /// Ends a login.
    async fn end(&self, id: &[u8], stored: &Stored<LoginRecord>) -> Result<(), Failure> {
        self.inner.logins.remove(id);
        let mut change = Change::new();
        change.guard(stored.unchanged()).delete(login_name(id));
        match self.inner.db.commit(change).await {
            Ok(()) | Err(NotCommitted::Conflict) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}
