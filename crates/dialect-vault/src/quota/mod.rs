//! Rate limits at work: which limit a request falls under, whose requests it counts with, and what a refused one is told.
//!
//! Owns the choice of the limit (the most specific path alone decides) and the answer. What the limits are the keeper knows; the counting
//! is in [`window`]. Counts are of this node and of this run; they go on over a change of the configuration as long as their limit stays
//! the same.

mod window;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use gridkeep_keeper::{Bearer, CountedBy, Keeper, RateLimit, RateLimitTable, network};
use http::StatusCode;

use crate::answer::{Answer, LimitHeaders};
use crate::time;
use window::{Counts, Key, Verdict};

/// Never limited, so that the state of a server can always be asked for.
const EXEMPT: [&str; 5] = [
    "sys/health",
    "sys/seal-status",
    "sys/unseal",
    "sys/generate-root/attempt",
    "sys/generate-root/update",
];

/// The limits in force with their counts.
#[derive(Default)]
pub(crate) struct Quotas {
    active: RwLock<Arc<Active>>,
}

#[derive(Default)]
struct Active {
    table: Arc<RateLimitTable>,
    rules: Vec<Rule>,
}

struct Rule {
    limit: RateLimit,
    /// The path is that of a mount, so that all below it is meant.
    mount: bool,
    counts: Arc<Counts>,
}

/// How well a limit's path fits a request; the greatest decides.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Everything,
    Mount,
    Beginning(usize),
    Exact,
}

/// A request that its limits have yet to let through, or have.
pub(crate) struct Pass<'p> {
    path: &'p str,
    now: Duration,
    wall: Duration,
    address: IpAddr,
    /// Limits per user that count nobody's request yet.
    per_user: Vec<Arc<Counts>>,
    headers: Option<LimitHeaders>,
    wants_headers: bool,
    /// Whether a refusal is audited.
    pub audit: bool,
}

/// A request was one too many.
pub(crate) struct Exceeded {
    path: String,
    wait: Duration,
    headers: Option<LimitHeaders>,
    /// Whether this is audited.
    pub audit: bool,
}

impl Quotas {
    /// A request for `path`, decoded and without slashes at its ends, arrives from `address`: it is counted by its address. Those
    /// who go by their users follow with [`Pass::by_user`] or [`Pass::by_address`].
    pub(crate) fn arrive<'p>(
        &self,
        keeper: &Keeper,
        path: &'p str,
        address: IpAddr,
    ) -> Result<Pass<'p>, Exceeded> {
        let active = self.active(keeper);
        let options = &active.table.options;
        let mut pass = Pass {
            path,
            now: keeper.clock().boot(),
            wall: keeper.clock().wall(),
            address,
            per_user: Vec::new(),
            headers: None,
            wants_headers: options.headers,
            audit: options.audit,
        };
        if active.rules.is_empty() || active.exempts(path) {
            return Ok(pass);
        }
        let key = Key::Address(network(address));
        for rule in active.rules_for(path) {
            match rule.limit.per {
                CountedBy::Address => pass.take(&rule.counts, &key)?,
                CountedBy::User => pass.per_user.push(Arc::clone(&rule.counts)),
            }
        }
        Ok(pass)
    }

    fn active(&self, keeper: &Keeper) -> Arc<Active> {
        let table = keeper.rate_limits();
        let active = Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner));
        if Arc::ptr_eq(&active.table, &table) {
            return active;
        }
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&active.table, &table) {
            *active = Arc::new(Active::new(keeper, table, &active));
        }
        Arc::clone(&active)
    }
}

impl Active {
    fn new(keeper: &Keeper, table: Arc<RateLimitTable>, before: &Active) -> Self {
        let mounts = keeper.mounts();
        let rules = table
            .iter()
            .map(|limit| Rule {
                mount: mounts
                    .iter()
                    .any(|mount| mount.path.trim_end_matches('/') == limit.path),
                counts: before
                    .rules
                    .iter()
                    .find(|rule| rule.limit == *limit)
                    .map_or_else(|| Arc::new(Counts::of(limit)), |rule| rule.counts.clone()),
                limit: limit.clone(),
            })
            .collect();
        Active { table, rules }
    }

    fn exempts(&self, path: &str) -> bool {
        let more = self.table.options.exempt_paths.iter();
        EXEMPT.contains(&path)
            || more
                .into_iter()
                .any(|exempt| match exempt.strip_suffix('*') {
                    Some(beginning) => path.starts_with(beginning),
                    None => path == exempt.trim_matches('/'),
                })
    }

    /// The limits with the most specific path: one, unless the files give several for the same path.
    fn rules_for(&self, path: &str) -> impl Iterator<Item = &Rule> {
        let best = self.rules.iter().filter_map(|rule| rule.fit(path)).max();
        self.rules
            .iter()
            .filter(move |rule| best.is_some() && rule.fit(path) == best)
    }
}

impl Rule {
    fn fit(&self, path: &str) -> Option<Fit> {
        let own = self.limit.path.as_str();
        if own.is_empty() {
            return Some(Fit::Everything);
        }
        if let Some(beginning) = own.strip_suffix('*') {
            return path
                .starts_with(beginning)
                .then_some(Fit::Beginning(beginning.len()));
        }
        let rest = path.strip_prefix(own)?;
        if self.mount {
            return (rest.is_empty() || rest.starts_with('/')).then_some(Fit::Mount);
        }
        rest.is_empty().then_some(Fit::Exact)
    }
}

impl Pass<'_> {
    /// The request carries a live token: it counts with all requests of its user.
    pub(crate) fn by_user(&mut self, bearer: &Bearer) -> Result<(), Exceeded> {
        if self.per_user.is_empty() {
            return Ok(());
        }
        // A token without identity is an operator's or a root token, which stands for itself.
        let user = bearer
            .token
            .entity
            .as_deref()
            .unwrap_or(&bearer.token.accessor);
        self.take_all(&Key::User(user.into()))
    }

    /// The request carries no live token: it counts with all such requests of its address.
    pub(crate) fn by_address(&mut self) -> Result<(), Exceeded> {
        self.take_all(&Key::Address(network(self.address)))
    }

    /// What the answer tells of the limit, where that is switched on.
    pub(crate) fn take_headers(&mut self) -> Option<LimitHeaders> {
        self.headers.take()
    }

    fn take_all(&mut self, key: &Key) -> Result<(), Exceeded> {
        for counts in std::mem::take(&mut self.per_user) {
            self.take(&counts, key)?;
        }
        Ok(())
    }

    fn take(&mut self, counts: &Counts, key: &Key) -> Result<(), Exceeded> {
        let verdict = counts.take(key, self.now);
        if self.wants_headers {
            let headers = LimitHeaders {
                limit: counts.rate(),
                remaining: verdict.remaining(),
                reset: time::http_date(self.wall + verdict.resets_in()),
            };
            // Of several limits the one with the least left is told.
            if self
                .headers
                .as_ref()
                .is_none_or(|other| headers.remaining < other.remaining)
            {
                self.headers = Some(headers);
            }
        }
        match verdict {
            Verdict::Within { .. } => Ok(()),
            Verdict::Over { wait } => Err(Exceeded {
                path: self.path.to_owned(),
                wait,
                headers: self.headers.take(),
                audit: self.audit,
            }),
        }
    }
}

impl From<Exceeded> for Answer {
    fn from(exceeded: Exceeded) -> Self {
        let text = format!(
            "request path {:?}: rate limit quota exceeded",
            exceeded.path
        );
        let mut answer = Answer::error(StatusCode::TOO_MANY_REQUESTS, text)
            .retry_after(Some(whole_seconds(exceeded.wait)));
        answer.limit = exceeded.headers;
        answer
    }
}

/// Rounded up, and at least one: nobody is told to come back at once.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, mount: bool) -> Rule {
        let limit = RateLimit {
            name: path.to_owned(),
            path: path.to_owned(),
            rate: 1,
            interval: Duration::from_secs(1),
            block_interval: Duration::ZERO,
            per: CountedBy::Address,
        };
        Rule {
            counts: Arc::new(Counts::of(&limit)),
            limit,
            mount,
        }
    }

    #[test]
    fn the_most_specific_path_decides() {
        let active = Active {
            table: Arc::default(),
            rules: vec![
                rule("", false),
                rule("auth/oidc-dune", true),
                rule("auth/oidc-dune/oidc/*", false),
                rule("auth/oidc-dune/oidc/auth_*", false),
                rule("auth/oidc-dune/oidc/auth_url", false),
                rule("secret/oauth/creds/*", false),
                rule("sys/policies", false),
            ],
        };
        for (path, wins) in [
            ("auth/token/lookup-self", ""),
            ("auth/oidc-dune", "auth/oidc-dune"),
            ("auth/oidc-dune/login", "auth/oidc-dune"),
            ("auth/oidc-dunes/login", ""),
            ("auth/oidc-dune/oidc/poll", "auth/oidc-dune/oidc/*"),
            ("auth/oidc-dune/oidc/auth_x", "auth/oidc-dune/oidc/auth_*"),
            (
                "auth/oidc-dune/oidc/auth_url",
                "auth/oidc-dune/oidc/auth_url",
            ),
            ("secret/oauth/creds/dune/a:b", "secret/oauth/creds/*"),
            ("secret/oauth/creds", ""),
            ("sys/policies", "sys/policies"),
            ("sys/policies/acl", ""),
        ] {
            let chosen: Vec<&str> = active
                .rules_for(path)
                .map(|rule| rule.limit.path.as_str())
                .collect();
            assert_eq!(chosen, [wins], "{path}");
        }
    }

    #[test]
    fn two_limits_for_one_path_both_hold() {
        let active = Active {
            table: Arc::default(),
            rules: vec![rule("", false), rule("sys", true), rule("sys", true)],
        };
        assert_eq!(active.rules_for("sys/policies").count(), 2);
        assert_eq!(
            Active::default().rules_for("sys/policies").count(),
            0,
            "no limit fits"
        );
    }
}
