//! Asks the profile's verifier and notes what became of each step.

use crate::decode::claims;
use gridkeep_token::jws::Algorithm;
use gridkeep_token::profile::{
    Code, Keys, Profiles, Refusal, Step, TrustedIssuer, Verified, Verifier,
};
use gridkeep_token::scope::{AreaPath, Operation};
use gridkeep_token::time::UnixSeconds;

/// The relying party whose answer is wanted, and what somebody wants from it.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its names; none means that the audience is not judged.
    pub audiences: Vec<String>,
    /// Whom it trusts; none means whoever the token names.
    pub issuers: Vec<String>,
    /// The issuers' areas in its name space; none means all of it.
    pub base_paths: Vec<AreaPath>,
    /// What it accepts from them.
    pub profiles: Profiles,
    /// What is to be done, if that is asked.
    pub operation: Option<Operation>,
    /// Where.
    pub path: String,
    /// When.
    pub now: UnixSeconds,
}

/// What became of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Passed.
    Passed,
    /// The token fails here.
    Failed,
    /// It could not be tried.
    Unavailable,
    /// Nobody asked for it.
    Skipped,
    /// An earlier step failed.
    NotReached,
}

/// The end of it.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Good, and allowed if that was asked.
    Accepted,
    /// Not good, or not allowed.
    Refused(Refusal),
    /// The issuer's keys are not to be had.
    Unavailable(Refusal),
}

/// What became of a token.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// All ten steps, in order, with a sentence each.
    pub steps: Vec<(Step, Verdict, String)>,
    /// The end of it.
    pub outcome: Outcome,
    /// The token, where steps 1 to 9 passed.
    pub verified: Option<Verified>,
    /// `iss` as the token has it, true or not.
    pub issuer: Option<String>,
    /// `sub` as the token has it, true or not.
    pub subject: Option<String>,
}

const STEPS: [Step; 10] = [
    Step::Form,
    Step::Header,
    Step::Issuer,
    Step::Signature,
    Step::Version,
    Step::Claims,
    Step::Time,
    Step::Audience,
    Step::Rights,
    Step::Authorization,
];

/// A text claim of a token that nobody has verified.
pub fn unverified(token: &str, claim: &str) -> Option<String> {
    claims(token).ok()?.get(claim)?.as_str().map(str::to_owned)
}

impl Question {
    /// Judges `token` with the keys that `keys` gives.
    pub fn judge(&self, token: &str, keys: &dyn Keys) -> Judgement {
        let (issuer, subject) = (unverified(token, "iss"), unverified(token, "sub"));
        let mut passed: Vec<(Step, String)> = Vec::new();
        let verified = self.verifier(issuer.as_deref()).verify_noting(
            token,
            keys,
            self.now,
            &mut |step, found| passed.push((step, found)),
        );
        let decided = match (verified, &self.operation) {
            (Ok(verified), Some(operation)) => match verified.require(operation, &self.path) {
                Ok(decision) => {
                    passed.push((Step::Authorization, decision.reason));
                    (Some(verified), None)
                }
                Err(denied) => (Some(verified), Some(denied)),
            },
            (Ok(verified), None) => (Some(verified), None),
            (Err(refusal), _) => (None, Some(refusal)),
        };
        let (verified, refusal) = decided;
        let steps = STEPS
            .iter()
            .map(|step| self.step(*step, &passed, refusal.as_ref()))
            .collect();
        let outcome = match refusal {
            None => Outcome::Accepted,
            Some(refusal) if *refusal.kind() == Code::KeysUnavailable => {
                Outcome::Unavailable(refusal)
            }
            Some(refusal) => Outcome::Refused(refusal),
        };
        Judgement {
            steps,
            outcome,
            verified,
            issuer,
            subject,
        }
    }

    fn verifier(&self, named: Option<&str>) -> Verifier {
        let mut verifier =
            Verifier::new(self.audiences.iter().cloned()).with_algorithms(&Algorithm::ALL);
        if self.audiences.is_empty() {
            verifier = verifier.any_audience();
        }
        let named = named.filter(|_| self.issuers.is_empty());
        for issuer in self.issuers.iter().map(String::as_str).chain(named) {
            let mut trusted = TrustedIssuer::wlcg(issuer).with_profiles(self.profiles);
            for path in &self.base_paths {
                trusted = trusted.with_base_path(path.clone());
            }
            verifier = verifier.trust(trusted);
        }
        verifier
    }

    fn step(
        &self,
        step: Step,
        passed: &[(Step, String)],
        refusal: Option<&Refusal>,
    ) -> (Step, Verdict, String) {
        if let Some(refusal) = refusal.filter(|refusal| refusal.step() == step) {
            let verdict = if *refusal.kind() == Code::KeysUnavailable {
                Verdict::Unavailable
            } else {
                Verdict::Failed
            };
            return (step, verdict, refusal.sentence().to_owned());
        }
        if let Some((_, found)) = passed.iter().find(|(done, _)| *done == step) {
            let found = match step {
                Step::Header if !["RS256", "ES256"].iter().any(|alg| found.contains(alg)) => {
                    format!("{found}; many services accept RS256 and ES256 only")
                }
                Step::Issuer if self.issuers.is_empty() => format!(
                    "{found}, because the token names it; say whom the service trusts with --issuer"
                ),
                _ => found.clone(),
            };
            return (step, Verdict::Passed, found);
        }
        let skipped = match step {
            Step::Audience if self.audiences.is_empty() => {
                Some("not judged; name the service with --audience")
            }
            Step::Authorization if self.operation.is_none() => {
                Some("not asked; name what is to be done with --operation and --path")
            }
            _ => None,
        };
        match (skipped, refusal) {
            (Some(why), None) => (step, Verdict::Skipped, why.to_owned()),
            (Some(why), Some(refusal)) if step < refusal.step() => {
                (step, Verdict::Skipped, why.to_owned())
            }
            _ => (step, Verdict::NotReached, String::new()),
        }
    }
}
