//! How long tokens live: limits, and renewing (section 5.5 of the Vault API specification).

use std::sync::Arc;

use gridkeep_token::time::Seconds;

use super::{Renewed, dead_to, held, kept_until, later};
use crate::database::{Change, NotCommitted, name};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::{ACCESSOR, AccessorRecord};
use crate::secret::TokenId;

impl Keeper {
    /// Gives a renewable token more life.
    ///
    /// # Errors
    /// [`BadInput::NotRenewable`], [`BadInput::PastMaxTtl`], [`BadInput::TokenNotFound`].
    pub async fn renew(
        &self,
        id: &TokenId,
        increment: Option<Seconds>,
    ) -> Result<Renewed, Failure> {
        loop {
            let stored = self
                .live(id)
                .await
                .map_err(|failure| dead_to(failure, &BadInput::TokenNotFound.into()))?;
            let mut token = stored.value.clone();
            let mut warnings = Vec::new();
            let now = self.inner.time.now();
            if !token.renewable || token.expires_at.is_none() {
                return Err(BadInput::NotRenewable.into());
            }
            let lifetimes = self.setup().lifetimes.clone();
            if let Some(role) = &token.role {
                let role = self.token_role(role).await.map_err(|failure| {
                    dead_to(
                        failure,
                        &BadInput::TokenRoleGone { role: role.clone() }.into(),
                    )
                })?;
                token.period = least(token.period, role.period);
            }
            let (wanted, end) = if token.period.0 > 0 {
                let hard = (token.explicit_max_ttl.0 > 0)
                    .then(|| later(token.created_at, token.explicit_max_ttl));
                (Seconds(token.period.0.min(lifetimes.max_ttl.0)), hard)
            } else {
                let wanted = increment
                    .filter(|wanted| wanted.0 > 0)
                    .unwrap_or(lifetimes.default_ttl);
                (
                    wanted,
                    Some(later(
                        token.created_at,
                        limit(&lifetimes, token.explicit_max_ttl),
                    )),
                )
            };
            let left = end.map(|end| end.0 - now.0);
            if left.is_some_and(|left| left <= 0) {
                return Err(BadInput::PastMaxTtl.into());
            }
            let ttl = match left {
                Some(left) => capped(
                    wanted,
                    Seconds(left.unsigned_abs()),
                    increment.is_some(),
                    &mut warnings,
                ),
                None => wanted,
            };
            token.expires_at = Some(later(now, ttl));
            token.last_renewal = Some(now);
            let mut change = Change::new();
            change.guard(stored.unchanged()).put(
                stored.name.clone(),
                &token,
                kept_until(&token),
            )?;
            change.put(
                name(ACCESSOR, &[&token.accessor]),
                &AccessorRecord { token: token.id },
                kept_until(&token),
            )?;
            held::enter(&mut change, &token)?;
            match self.inner.db.commit(change).await {
                Ok(()) => {
                    return Ok(Renewed {
                        token: Arc::new(token),
                        ttl,
                        warnings,
                    });
                }
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
}

/// The smaller of two lengths of time of which 0 says that there is none.
pub(super) fn least(a: Seconds, b: Seconds) -> Seconds {
    match (a.0, b.0) {
        (0, _) => b,
        (_, 0) => a,
        _ => a.min(b),
    }
}

pub(super) fn limit(lifetimes: &crate::setup::Lifetimes, explicit: Seconds) -> Seconds {
    if explicit.0 > 0 {
        Seconds(explicit.0.min(lifetimes.max_ttl.0))
    } else {
        lifetimes.max_ttl
    }
}

pub(super) fn capped(
    wanted: Seconds,
    limit: Seconds,
    warn: bool,
    warnings: &mut Vec<String>,
) -> Seconds {
    if wanted <= limit {
        return wanted;
    }
    if warn {
        warnings.push(format!(
            "TTL of \"{}\" exceeded the effective max_ttl of \"{}\"; TTL value is capped accordingly",
            go_duration(wanted),
            go_duration(limit)
        ));
    }
    limit
}

/// A duration as the original writes it: `672h0m0s`.
fn go_duration(seconds: Seconds) -> String {
    let (hours, minutes, rest) = (seconds.0 / 3600, seconds.0 / 60 % 60, seconds.0 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}
