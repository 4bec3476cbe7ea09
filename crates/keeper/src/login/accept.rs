//! What an issuer gave at the end of a login, and whose login it proves to be.

use gridkeep_issuer::{IssuerError, TokenResponse};
use gridkeep_token::time::UnixSeconds;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::ReadyLogin;
use crate::refresh::{cached, issuer_failure};
use crate::removed::known_role;
use crate::setup::{IssuerSetup, OperatorRule, RobotRule};
use crate::terms::ClaimName;

impl Keeper {
    /// Checks what the issuer gave at the end of a login, when asked for it at `asked`, and takes the identity out of it.
    pub(super) async fn accept(
        &self,
        issuer: &IssuerSetup,
        role: &str,
        response: &TokenResponse,
        nonce: Option<&str>,
        asked: UnixSeconds,
    ) -> Result<ReadyLogin, Failure> {
        let id_token = response.id_token.as_ref().ok_or(BadInput::NoIdToken)?;
        let now = self.now();
        let mut claims = issuer
            .client
            .verify_id_token(
                id_token.expose_secret(),
                nonce,
                Some(&response.access_token),
                now.0,
            )
            .await
            .map_err(|error| match error {
                IssuerError::InvalidToken { what } => BadInput::TokenVerification { what }.into(),
                other => issuer_failure("login", &other),
            })?;
        let rules: Vec<OperatorRule> = self
            .setup()
            .operators
            .iter()
            .filter(|rule| rule.issuer == issuer.name)
            .cloned()
            .collect();
        let robots: Vec<RobotRule> = self
            .setup()
            .robots
            .iter()
            .filter(|rule| rule.issuer == issuer.name)
            .cloned()
            .collect();
        // Without its role's terms nobody is let in.
        let role_setup = known_role(&self.setup(), issuer, role, now)?;
        let credclaim = role_setup.credclaim.as_ref().unwrap_or(&issuer.credclaim);
        let credclaim = if issuer.credclaim_pointer {
            ClaimName::Pointer(credclaim.clone())
        } else {
            ClaimName::Top(credclaim.clone())
        };
        let terms = &role_setup.terms;
        let missing = credclaim.find(&claims).is_none()
            || rules.iter().any(|rule| !claims.contains_key(&rule.claim))
            || robots.iter().any(|rule| !claims.contains_key(&rule.claim))
            || terms.unmet(&claims).is_some();
        let untold = if missing {
            self.add_userinfo(issuer, response, &mut claims).await
        } else {
            None
        };
        // What userinfo would have said is not known, so nothing is missing for certain.
        if let Some(failure) = untold
            && (credclaim.find(&claims).is_none() || terms.unmet(&claims).is_some())
        {
            return Err(failure);
        }
        let owner = owner_of(&claims, &credclaim)?;
        if let Some(unmet) = terms.unmet(&claims) {
            return Err(BadInput::ClaimNotBound {
                claim: unmet.claim.as_str().to_owned(),
                role: role.to_owned(),
            }
            .into());
        }
        let refresh_token = response
            .refresh_token
            .as_ref()
            .map(|token| token.expose_secret().to_owned())
            .filter(|token| !token.is_empty());
        if refresh_token.is_none() {
            tracing::warn!(
                issuer = issuer.name,
                role,
                "the issuer gave no refresh token: the login ends with its first access token; the role's scopes may lack offline_access"
            );
        }
        Ok(ReadyLogin {
            owner,
            subject: claims.get("sub").and_then(Value::as_str).map(str::to_owned),
            operator_rule: rules
                .iter()
                .find(|rule| claim_holds(claims.get(&rule.claim), &rule.value))
                .map(OperatorRule::text),
            robot_rules: robots
                .iter()
                .filter(|rule| claim_holds(claims.get(&rule.claim), &rule.value))
                .map(RobotRule::text)
                .collect(),
            refresh_token,
            access: cached(response, asked),
        })
    }

    /// Adds what userinfo says. Answers with what is in the way, if that may pass.
    async fn add_userinfo(
        &self,
        issuer: &IssuerSetup,
        response: &TokenResponse,
        claims: &mut Map<String, Value>,
    ) -> Option<Failure> {
        match issuer.client.userinfo(&response.access_token).await {
            Ok(more) if more.get("sub") == claims.get("sub") => {
                for (claim, value) in more {
                    claims.entry(claim).or_insert(value);
                }
            }
            Ok(_) => tracing::warn!(
                issuer = issuer.name,
                "userinfo speaks of another subject than the id_token and is ignored"
            ),
            Err(error) => {
                tracing::info!(issuer = issuer.name, %error, "userinfo could not be read; going on with the id_token");
                let passes = matches!(
                    error,
                    IssuerError::Temporary { .. } | IssuerError::Throttled { .. }
                );
                return passes.then(|| issuer_failure("login", &error));
            }
        }
        None
    }
}

fn owner_of(claims: &Map<String, Value>, name: &ClaimName) -> Result<String, BadInput> {
    let claim = name.as_str();
    let value = name.find(claims).ok_or_else(|| BadInput::MissingClaim {
        claim: claim.to_owned(),
    })?;
    let owner = value.as_str().ok_or_else(|| BadInput::ClaimNotString {
        claim: claim.to_owned(),
    })?;
    let unusable = |why| BadInput::ClaimUnusable {
        claim: claim.to_owned(),
        why,
    };
    if owner.is_empty() || owner.len() > 255 {
        return Err(unusable("it is empty or longer than 255 bytes"));
    }
    if owner.contains(['/', ':', '*', '+', '"', '\\', '{', '}', '%', '?', '#'])
        || owner.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err(unusable("it holds a character that has a meaning in paths"));
    }
    if matches!(owner, "." | "..") {
        return Err(unusable("it is a relative path"));
    }
    Ok(owner.to_owned())
}

fn claim_holds(claim: Option<&Value>, wanted: &str) -> bool {
    match claim {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(wanted)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(claims: &Map<String, Value>, claim: &str) -> Result<String, BadInput> {
        super::owner_of(claims, &ClaimName::parse(claim))
    }

    #[test]
    fn a_claim_that_could_change_a_path_is_not_an_owner() {
        for bad in ["", "a/b", "a:b", "*", "..", "a b", "a\u{7}", "a%2fb"] {
            let claims = Map::from_iter([("sub".to_owned(), Value::from(bad))]);
            assert!(owner_of(&claims, "sub").is_err(), "{bad:?}");
        }
        let claims = Map::from_iter([
            ("sub".to_owned(), Value::from("alice@lab.example")),
            ("n".to_owned(), Value::from(3)),
            ("in".to_owned(), serde_json::json!({"side": "bob"})),
        ]);
        assert_eq!(owner_of(&claims, "/in/side").as_deref(), Ok("bob"));
        assert_eq!(owner_of(&claims, "sub").as_deref(), Ok("alice@lab.example"));
        assert_eq!(
            owner_of(&claims, "n"),
            Err(BadInput::ClaimNotString { claim: "n".into() })
        );
        assert_eq!(
            owner_of(&claims, "x"),
            Err(BadInput::MissingClaim { claim: "x".into() })
        );
    }
}
