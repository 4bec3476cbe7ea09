//! A verified token, and step 10: what it allows here.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::claims::{Essentials, moment};
use super::{Code, Profile, Refusal, Step, TrustedIssuer};
use crate::group::Groups;
use crate::scope::{
    AreaPath, Decision, Language, Object, Operation, Scopes, covered_directory, decide,
};
use crate::time::UnixSeconds;

/// A token that passed steps 1 to 9.
#[derive(Clone, Debug)]
pub struct Verified {
    issuer: String,
    subject: Option<String>,
    profile: Profile,
    expires: UnixSeconds,
    scopes: Scopes,
    groups: Groups,
    claims: Map<String, Value>,
    rules: Arc<TrustedIssuer>,
}

impl Verified {
    pub(super) fn new(
        issuer: String,
        profile: Profile,
        essentials: Essentials,
        scopes: Scopes,
        groups: Groups,
        claims: Map<String, Value>,
        rules: Arc<TrustedIssuer>,
    ) -> Self {
        let expires = moment(essentials.exp);
        Self {
            issuer,
            subject: essentials.subject,
            profile,
            expires,
            scopes,
            groups,
            claims,
            rules,
        }
    }

    /// `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `sub`; SciTokens may lack it.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The profile it was verified by.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// `exp`, rounded down.
    #[must_use]
    pub fn expires(&self) -> UnixSeconds {
        self.expires
    }

    /// The parsed `scope` claim.
    #[must_use]
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// The parsed `wlcg.groups` claim.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// All claims.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Whether `operation` is allowed on `path`, a path of the service's name space with base path; job operations ignore
    /// it. Any capability in the token switches groups and subjects off (WLCG profile 1.3, section on interpreting both).
    #[must_use]
    pub fn authorize(&self, operation: &Operation, path: &str) -> Decision {
        if operation.on_jobs() {
            return self.decide_all(operation, &AreaPath::root(), None);
        }
        let in_areas = |text: &str| match AreaPath::parse(text) {
            Ok(path) => Ok(self.in_areas(&path)),
            Err(problem) => Err(Decision::deny(format!(
                "the path {text:?} is not acceptable: {problem}"
            ))),
        };
        let sources = match in_areas(path) {
            Ok(sources) => sources,
            Err(denied) => return denied,
        };
        let targets = match operation.rename_target().map(in_areas).transpose() {
            Ok(targets) => targets,
            Err(denied) => return denied,
        };
        let outside = |path: &str| {
            Decision::deny(format!(
                "{path:?} lies outside the area of {}, whatever the token says",
                self.issuer
            ))
        };
        // An area that lies in another gives a path two readings; each is what the issuer may speak of.
        let mut answer = outside(path);
        for (area, source) in &sources {
            let target = match &targets {
                None => None,
                Some(targets) => match targets.iter().find(|(other, _)| other == area) {
                    Some((_, target)) => Some(target),
                    None => {
                        answer = outside(operation.rename_target().unwrap_or_default());
                        continue;
                    }
                },
            };
            answer = self.decide_all(operation, source, target);
            if answer.allowed {
                break;
            }
        }
        answer
    }

    /// As [`Verified::authorize`], with the denial as a refusal at step 10.
    ///
    /// # Errors
    /// [`Refusal`] with the code `denied`.
    pub fn require(&self, operation: &Operation, path: &str) -> Result<Decision, Refusal> {
        let decision = self.authorize(operation, path);
        if decision.allowed {
            return Ok(decision);
        }
        Err(Refusal::new(
            Step::Authorization,
            Code::Denied,
            "scope",
            decision.reason,
        ))
    }

    /// The path as seen from each area that holds it, with the area's number.
    fn in_areas(&self, path: &AreaPath) -> Vec<(usize, AreaPath)> {
        if self.rules.base_paths.is_empty() {
            return vec![(0, path.clone())];
        }
        let areas = self.rules.base_paths.iter().enumerate();
        areas
            .filter_map(|(at, base)| Some((at, base.strip_from(path)?)))
            .collect()
    }

    fn decide_all(
        &self,
        operation: &Operation,
        path: &AreaPath,
        target: Option<&AreaPath>,
    ) -> Decision {
        let by = |scopes: &Scopes| self.decide_by(scopes, operation, path, target);
        let only_scopes = self.rules.groups.is_empty() && self.rules.subjects.is_empty();
        let scitoken = self.scopes.language() == Language::SciTokens;
        if self.scopes.names_capability() || only_scopes || scitoken {
            return by(&self.scopes);
        }
        let none =
            "the token has no capability, and nothing here gives rights to its groups or subject";
        let mut answer = Decision::deny(none);
        for rule in self
            .rules
            .groups
            .iter()
            .filter(|rule| self.groups.contains(&rule.group))
        {
            answer = by(&rule.rights);
            answer.reason = format!("for the group {}: {}", rule.group, answer.reason);
            if answer.allowed {
                return answer;
            }
        }
        if self.scopes.host_auth() {
            for rule in self
                .rules
                .subjects
                .iter()
                .filter(|rule| Some(&rule.subject) == self.subject.as_ref())
            {
                answer = by(&rule.rights);
                answer.reason = format!("for the subject {:?}: {}", rule.subject, answer.reason);
                if answer.allowed {
                    return answer;
                }
            }
        }
        answer
    }

    fn decide_by(
        &self,
        scopes: &Scopes,
        operation: &Operation,
        path: &AreaPath,
        target: Option<&AreaPath>,
    ) -> Decision {
        if *operation == Operation::List
            && let Some(scope) = covered_directory(scopes, &self.rules.listing, path)
        {
            return Decision::allow(format!("this service lets {scope} list {path}"));
        }
        // The object of a path with a trailing slash can only be a directory.
        if path.directory_only() && *operation == Operation::Stat(Object::File) {
            return decide(scopes, &Operation::Stat(Object::Directory), path, target);
        }
        decide(scopes, operation, path, target)
    }
}
