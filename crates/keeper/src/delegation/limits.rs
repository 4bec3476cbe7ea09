//! UseLimits: which scopes and audiences a delegated credential may be used for.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::credentials::Want;
use crate::failure::BadInput;

/// How far a credential may be used. What is empty is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseLimits {
    /// Scopes, as the issuer knows them. One with a path stands for the paths below it too.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Audiences.
    #[serde(default)]
    pub audiences: Vec<String>,
}

impl UseLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.audiences.is_empty()
    }

    /// `want` within these limits: what is left open is filled with all that is allowed.
    ///
    /// # Errors
    /// [`BadInput::BeyondDelegation`] when something is wanted that is not allowed.
    pub fn narrow(&self, want: &Want) -> Result<Want, BadInput> {
        let mut narrowed = want.clone();
        if !self.scopes.is_empty() {
            let beyond = want.scopes.iter().find(|wanted| {
                !self
                    .scopes
                    .iter()
                    .any(|allowed| scope_within(allowed, wanted))
            });
            if let Some(scope) = beyond {
                return Err(self.beyond("scope", scope));
            }
            if narrowed.scopes.is_empty() {
                narrowed.scopes.clone_from(&self.scopes);
            }
        }
        if !self.audiences.is_empty() {
            let named = want.audiences.iter().chain(&want.resources);
            if let Some(audience) = named
                .into_iter()
                .find(|wanted| !self.audiences.contains(wanted))
            {
                return Err(self.beyond("audience", audience));
            }
            if narrowed.audiences.is_empty() && narrowed.resources.is_empty() {
                narrowed.audiences.clone_from(&self.audiences);
            }
        }
        Ok(narrowed)
    }

    fn beyond(&self, what: &'static str, wanted: &str) -> BadInput {
        let allowed = if what == "scope" {
            &self.scopes
        } else {
            &self.audiences
        };
        BadInput::BeyondDelegation {
            what,
            wanted: wanted.to_owned(),
            allowed: allowed.join(" "),
        }
    }

    /// An issuer that takes no notice of the wanted audience gives a token for others: that must not be handed out, nor one that
    /// does not show for whom it is.
    ///
    /// # Errors
    /// [`BadInput::TooWide`] unless the token's own claim names allowed audiences and no other.
    pub(crate) fn check_audience(&self, token: &str) -> Result<(), BadInput> {
        if self.audiences.is_empty() {
            return Ok(());
        }
        let Ok(jws) = gridkeep_token::jws::Jws::parse(token) else {
            return Err(BadInput::TooWide {
                extra: "a token that does not show its audiences".to_owned(),
            });
        };
        let audiences: Vec<&str> = match jws.unverified_claims().get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => {
                return Err(BadInput::TooWide {
                    extra: "a token for any audience".to_owned(),
                });
            }
        };
        match audiences
            .iter()
            .find(|audience| !self.audiences.iter().any(|allowed| allowed == *audience))
        {
            Some(other) => Err(BadInput::TooWide {
                extra: format!("audience {other}"),
            }),
            None => Ok(()),
        }
    }
}

/// Whether `wanted` is `allowed`, or the same capability on a path below it. A path that is not in its plain form could lead
/// anywhere, so it is below nothing.
fn scope_within(allowed: &str, wanted: &str) -> bool {
    if allowed == wanted {
        return true;
    }
    let (Some((right, above)), Some((wanted_right, below))) =
        (allowed.split_once(':'), wanted.split_once(':'))
    else {
        return false;
    };
    let plain = below.starts_with('/')
        && !below.contains(['%', '\\'])
        && !below.contains(|c: char| c.is_control() || c.is_whitespace())
        && below[1..]
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."));
    right == wanted_right
        && above.starts_with('/')
        && plain
        && below
            .strip_prefix(above.trim_end_matches('/'))
            .is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_limits_cannot_be_got_around_by_paths() {
        for (allowed, wanted, within) in [
            ("storage.read:/a", "storage.read:/a", true),
            ("storage.read:/a", "storage.read:/a/b", true),
            ("storage.read:/", "storage.read:/a/b", true),
            ("storage.read:/a/", "storage.read:/a/b", true),
            ("compute.read", "compute.read", true),
            ("storage.read:/a", "storage.read:/ab", false),
            ("storage.read:/a", "storage.read:/", false),
            ("storage.read:/a", "storage.modify:/a", false),
            ("storage.read:/a", "storage.read:/a/../b", false),
            ("storage.read:/a", "storage.read:/a/%2e%2e/b", false),
            ("storage.read:/a", "storage.read:/a//b", false),
            ("storage.read:/a", "storage.read:/a/./b", false),
            (
                "storage.read:/a",
                "storage.read:/a/b\0storage.modify:/",
                false,
            ),
            (
                "storage.read:/a",
                "storage.read:/a/b storage.modify:/",
                false,
            ),
            ("storage.read:/a", "storage.read", false),
            ("compute.read", "compute.read:/x", false),
            ("storage.read:/a", "wlcg.groups:/dune/production", false),
            ("storage.read:/a", "wlcg.capabilityset:/all", false),
            ("storage.read:/a", "offline_access", false),
            ("STORAGE.READ:/a", "storage.read:/a/b", false),
        ] {
            assert_eq!(scope_within(allowed, wanted), within, "{allowed} {wanted}");
        }
    }

    #[test]
    fn what_is_left_open_is_filled_and_what_is_beyond_is_refused() {
        let limits = UseLimits {
            scopes: vec!["storage.read:/a".into(), "compute.read".into()],
            audiences: vec!["https://se.example".into()],
        };
        let narrowed = limits.narrow(&Want::default()).expect("within");
        assert_eq!(narrowed.scopes, limits.scopes);
        assert_eq!(narrowed.audiences, limits.audiences);
        let own = Want {
            scopes: vec!["storage.read:/a/b".into()],
            ..Want::default()
        };
        assert_eq!(limits.narrow(&own).expect("within").scopes, own.scopes);
        for beyond in [
            Want {
                scopes: vec!["compute.read".into(), "compute.modify".into()],
                ..Want::default()
            },
            Want {
                audiences: vec!["https://other.example".into()],
                ..Want::default()
            },
            Want {
                resources: vec!["https://other.example".into()],
                ..Want::default()
            },
        ] {
            assert!(matches!(
                limits.narrow(&beyond),
                Err(BadInput::BeyondDelegation { .. })
            ));
        }
        assert_eq!(
            UseLimits::default().narrow(&own).expect("no limit"),
            own,
            "without limits nothing changes"
        );
        assert!(matches!(
            limits.check_audience("opaque"),
            Err(BadInput::TooWide { .. })
        ));
        assert!(UseLimits::default().check_audience("opaque").is_ok());
    }
}
