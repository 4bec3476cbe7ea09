//! What the issuer received, issued and delivered: numbers per endpoint, per grant type and per grant.
//! It counts; it never decides. Refresh tokens appear by id, never by value.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::delivery::{Delivery, Ending, Ticket};

/// Numbers of one grant type, or of one grant's refreshes.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Tally {
    /// Requests that reached the issuer, faulty ones included.
    pub received: u64,
    /// Answers with an access token that were made.
    pub issued: u64,
    /// Requests refused with an OAuth error.
    pub refused: u64,
    /// Made answers whose last byte left for a client that did not throw it away.
    pub delivered: u64,
    /// Of those, the ones after which the client went on with the connection or closed it in order.
    pub confirmed: u64,
    /// Made answers that cannot have reached the client.
    pub undelivered: u64,
    /// Ids of the refresh tokens in undelivered answers.
    pub undelivered_refresh_tokens: Vec<String>,
}

/// One answer that carried tokens.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Grant type of the request.
    pub grant_type: String,
    /// Grant.
    pub grant: Option<u64>,
    /// Id of the refresh token inside, if a new one was inside.
    pub refresh_token: Option<String>,
    /// What became of it.
    pub delivery: Delivery,
    /// How its connection ended.
    pub ending: Ending,
    /// When its last byte left, milliseconds since 1970 by the issuer's clock.
    pub written_at_ms: Option<i64>,
    /// When its connection ended, likewise. An abrupt end shortly after writing may mean that the client was killed before it
    /// could act on the answer.
    pub ended_at_ms: Option<i64>,
}

/// One refresh token as the issuer sees it.
#[derive(Clone, Debug, Serialize)]
pub struct RefreshView {
    /// Id.
    pub id: String,
    /// How often it was presented. More than zero proves that some client had it.
    pub presented: u64,
    /// Still accepted.
    pub usable: bool,
}

/// One grant as the issuer sees it.
#[derive(Clone, Debug, Serialize)]
pub struct GrantView {
    /// Number of the grant.
    pub id: u64,
    /// User name; absent for a client's own grant.
    pub user: Option<String>,
    /// Client id.
    pub client: String,
    /// Whether refreshes can still succeed.
    pub alive: bool,
    /// Its refresh requests.
    pub refreshes: Tally,
    /// Its refresh tokens, oldest first.
    pub refresh_tokens: Vec<RefreshView>,
}

/// Everything counted so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Requests per endpoint.
    pub endpoints: BTreeMap<String, u64>,
    /// Token endpoint, per `grant_type`.
    pub grant_types: BTreeMap<String, Tally>,
    /// Every grant.
    pub grants: Vec<GrantView>,
    /// Every answer with tokens, in order.
    pub answers: Vec<Answer>,
    /// Faults carried out.
    pub faults: u64,
}

impl Counters {
    /// Numbers of one grant type.
    pub fn grant_type(&self, name: &str) -> Tally {
        self.grant_types.get(name).cloned().unwrap_or_default()
    }

    /// Refresh numbers of all grants together.
    pub fn refreshes(&self) -> Tally {
        self.grant_type("refresh_token")
    }
}

/// The running account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    endpoints: BTreeMap<String, u64>,
    received: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
    grant_received: BTreeMap<u64, u64>,
    grant_refused: BTreeMap<u64, u64>,
    tickets: Vec<Arc<Ticket>>,
    faults: u64,
}

impl Ledger {
    pub(crate) fn request(&mut self, endpoint: &str) {
        *self.endpoints.entry(endpoint.to_owned()).or_default() += 1;
    }

    pub(crate) fn token_request(&mut self, grant_type: &str, refresh_of: Option<u64>) {
        *self.received.entry(grant_type.to_owned()).or_default() += 1;
        if let Some(grant) = refresh_of {
            *self.grant_received.entry(grant).or_default() += 1;
        }
    }

    pub(crate) fn refused(&mut self, grant_type: &str, refresh_of: Option<u64>) {
        *self.refused.entry(grant_type.to_owned()).or_default() += 1;
        if let Some(grant) = refresh_of {
            *self.grant_refused.entry(grant).or_default() += 1;
        }
    }

    pub(crate) fn issued(&mut self, ticket: Arc<Ticket>) {
        self.tickets.push(ticket);
    }

    pub(crate) fn fault(&mut self) {
        self.faults += 1;
    }

    /// Refresh numbers of every grant that has any.
    pub(crate) fn refreshes_by_grant(&self) -> BTreeMap<u64, Tally> {
        let mut tallies: BTreeMap<u64, Tally> = BTreeMap::new();
        for (grant, count) in &self.grant_received {
            tallies.entry(*grant).or_default().received = *count;
        }
        for (grant, count) in &self.grant_refused {
            tallies.entry(*grant).or_default().refused = *count;
        }
        for ticket in self
            .tickets
            .iter()
            .filter(|t| t.grant_type == "refresh_token")
        {
            if let Some(grant) = ticket.grant {
                add(tallies.entry(grant).or_default(), ticket);
            }
        }
        tallies
    }

    pub(crate) fn counters(&self, grants: Vec<GrantView>) -> Counters {
        let mut grant_types: BTreeMap<String, Tally> = BTreeMap::new();
        for (name, count) in &self.received {
            grant_types.entry(name.clone()).or_default().received = *count;
        }
        for (name, count) in &self.refused {
            grant_types.entry(name.clone()).or_default().refused = *count;
        }
        for ticket in &self.tickets {
            add(
                grant_types.entry(ticket.grant_type.clone()).or_default(),
                ticket,
            );
        }
        let answers = self
            .tickets
            .iter()
            .map(|ticket| Answer {
                grant_type: ticket.grant_type.clone(),
                grant: ticket.grant,
                refresh_token: ticket.refresh_id.clone(),
                delivery: ticket.delivery(),
                ending: ticket.ending(),
                written_at_ms: ticket.written_at_ms(),
                ended_at_ms: ticket.ended_at_ms(),
            })
            .collect();
        Counters {
            endpoints: self.endpoints.clone(),
            grant_types,
            grants,
            answers,
            faults: self.faults,
        }
    }
}

fn add(tally: &mut Tally, ticket: &Ticket) {
    tally.issued += 1;
    match ticket.delivery() {
        Delivery::Pending => {}
        Delivery::Written => tally.delivered += 1,
        Delivery::Confirmed => {
            tally.delivered += 1;
            tally.confirmed += 1;
        }
        Delivery::Lost => {
            tally.undelivered += 1;
            tally
                .undelivered_refresh_tokens
                .extend(ticket.refresh_id.clone());
        }
    }
}
