//! The ten steps, in order.

use std::sync::Arc;

use url::Url;

use super::claims::{self, Claims};
use super::{Code, Keys, Profile, Refusal, Step, TrustedIssuer, Verified};
use crate::jws::{Algorithm, Jws, JwsError};
use crate::time::UnixSeconds;

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
enum Trust {
    Listed(Vec<Arc<TrustedIssuer>>),
    /// Any https issuer, with these rules; for tools that are no relying party.
    AnyHttps(Arc<TrustedIssuer>),
}

/// What to fetch before a token can be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// A trusted issuer.
    pub issuer: String,
    /// The key that signed, if the token names it.
    pub kid: Option<String>,
}

/// A relying party: whom it trusts and by which names it is known.
#[derive(Clone, Debug)]
pub struct Verifier {
    trust: Trust,
    /// `None`: the audience is not judged.
    audiences: Option<Vec<String>>,
    read_rights: bool,
    algorithms: Vec<Algorithm>,
}

impl Verifier {
    /// A relying party known by `audiences`, trusting nobody yet, accepting RS256 and ES256.
    #[must_use]
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(audiences: I) -> Self {
        Self {
            trust: Trust::Listed(Vec::new()),
            audiences: Some(audiences.into_iter().map(Into::into).collect()),
            read_rights: true,
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256],
        }
    }

    /// For a decoding tool, which is no relying party: any https issuer and any profile, no audience, no rights; signature,
    /// version, claims and times are checked.
    #[must_use]
    pub fn for_decoding() -> Self {
        let any = TrustedIssuer::wlcg("").with_profiles(super::Profiles::ALL);
        Self {
            trust: Trust::AnyHttps(Arc::new(any)),
            audiences: None,
            read_rights: false,
            algorithms: Algorithm::ALL.to_vec(),
        }
    }

    /// Also trust this issuer; listing an issuer again replaces what was said before.
    #[must_use]
    pub fn trust(mut self, issuer: TrustedIssuer) -> Self {
        match &mut self.trust {
            Trust::Listed(list) => {
                list.retain(|known| known.issuer != issuer.issuer);
                list.push(Arc::new(issuer));
            }
            Trust::AnyHttps(_) => self.trust = Trust::Listed(vec![Arc::new(issuer)]),
        }
        self
    }

    /// Do not judge the audience; for tools that explain a token without being its relying party.
    #[must_use]
    pub fn any_audience(mut self) -> Self {
        self.audiences = None;
        self
    }

    /// Accept these signature algorithms instead.
    #[must_use]
    pub fn with_algorithms(mut self, algorithms: &[Algorithm]) -> Self {
        self.algorithms = algorithms.to_vec();
        self
    }

    /// Steps 1 to 3: which keys verification will ask for. With it an asynchronous caller can fetch first and verify then.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn wanted_keys(&self, token: &str) -> Result<KeyRequest, Refusal> {
        let jws = self.parse(token)?;
        let (issuer, _) = self.issuer(&jws)?;
        Ok(KeyRequest {
            issuer,
            kid: jws.header().kid.clone(),
        })
    }

    /// Steps 1 to 9.
    ///
    /// # Errors
    /// [`Refusal`] at the first step that fails.
    pub fn verify(
        &self,
        token: &str,
        keys: &dyn Keys,
        now: UnixSeconds,
    ) -> Result<Verified, Refusal> {
        self.verify_noting(token, keys, now, &mut |_, _| {})
    }

    /// As [`Verifier::verify`]; `passed` hears of every step that succeeded, with a sentence on what was found.
    ///
    /// # Errors
    /// [`Refusal`] at the first step that fails.
    pub fn verify_noting(
        &self,
        token: &str,
        keys: &dyn Keys,
        now: UnixSeconds,
        passed: &mut dyn FnMut(Step, String),
    ) -> Result<Verified, Refusal> {
        let jws = self.parse(token)?;
        let header = jws.header();
        let kid = header.kid.as_deref();
        passed(
            Step::Form,
            format!("{} bytes, three parts, two JSON objects", token.len()),
        );
        passed(
            Step::Header,
            format!(
                "signed with {}, key {}",
                header.alg,
                kid.unwrap_or("not named")
            ),
        );
        let (iss, rules) = self.issuer(&jws)?;
        passed(Step::Issuer, format!("{iss} is trusted"));
        let set = keys
            .keys(&iss, kid, now)
            .map_err(|error| Refusal::keys_unavailable(error.to_string(), error.retry_after))?;
        let verified = if rules.profiles.scitokens {
            jws.verify(&set)
        } else {
            jws.verify_named(&set)
        };
        let claims = Claims::new(verified.map_err(|error| Refusal::from_jws(&error))?);
        passed(Step::Signature, "the signature is good".to_owned());
        let profile = claims.profile(header.typ.as_deref(), rules.profiles)?;
        if profile == Profile::Wlcg && kid.is_none() {
            return Err(Refusal::from_jws(&JwsError::NoKid));
        }
        passed(Step::Version, format!("written to the profile {profile}"));
        let essentials = claims.essentials(profile)?;
        passed(Step::Claims, "all required claims are there".to_owned());
        essentials.check_time(now, rules.max_lifetime)?;
        passed(
            Step::Time,
            format!("valid until {}", claims::moment(essentials.exp)),
        );
        if let Some(own) = &self.audiences {
            essentials.check_audience(profile, own, rules.refuse_any_audience)?;
            passed(Step::Audience, "meant for this service".to_owned());
        }
        let mut rights = Default::default();
        if self.read_rights {
            rights = claims.rights(profile)?;
            let (scopes, groups) = &rights;
            passed(
                Step::Rights,
                format!(
                    "{} scopes, {} groups",
                    scopes.list().len(),
                    groups.list.len()
                ),
            );
        }
        let (scopes, groups) = rights;
        Ok(Verified::new(
            iss,
            profile,
            essentials,
            scopes,
            groups,
            claims.into_map(),
            rules,
        ))
    }

    fn parse<'t>(&self, token: &'t str) -> Result<Jws<'t>, Refusal> {
        let jws = Jws::parse(token).map_err(|error| Refusal::from_jws(&error))?;
        let header = jws.header();
        if !self.algorithms.contains(&header.alg) {
            return Err(Refusal::from_jws(&JwsError::BadAlg(header.alg.to_string())));
        }
        let lenient = match &self.trust {
            Trust::Listed(list) => list.iter().any(|issuer| issuer.profiles.scitokens),
            Trust::AnyHttps(_) => true,
        };
        // Only SciTokens may leave the key's name out, and only from issuers configured for them.
        if header.kid.is_none() && !lenient {
            return Err(Refusal::from_jws(&JwsError::NoKid));
        }
        Ok(jws)
    }

    fn issuer(&self, jws: &Jws<'_>) -> Result<(String, Arc<TrustedIssuer>), Refusal> {
        let refuse =
            |sentence: String| Refusal::new(Step::Issuer, Code::UntrustedIssuer, "iss", sentence);
        let Some(iss) = jws
            .unverified_claims()
            .get("iss")
            .and_then(|value| value.as_str())
        else {
            return Err(refuse(
                "the token has no text claim iss, so nobody vouches for it".to_owned(),
            ));
        };
        if !is_https(iss) {
            return Err(refuse(format!(
                "the issuer {iss:?} is no https address; issuers must have one"
            )));
        }
        let rules = match &self.trust {
            Trust::AnyHttps(rules) => Arc::clone(rules),
            Trust::Listed(list) => {
                let exact = list.iter().find(|known| known.issuer == iss);
                Arc::clone(exact.ok_or_else(|| refuse(untrusted(iss, list)))?)
            }
        };
        Ok((iss.to_owned(), rules))
    }
}

/// Names the near miss that people look for in vain: a slash more or less.
fn untrusted(iss: &str, list: &[Arc<TrustedIssuer>]) -> String {
    let bare = |text: &str| text.trim_end_matches('/').to_ascii_lowercase();
    match list.iter().find(|known| bare(&known.issuer) == bare(iss)) {
        Some(near) => format!(
            "the issuer {iss:?} is not trusted, {:?} is; they must agree to the character, so correct the configuration or the issuer",
            near.issuer
        ),
        None => format!(
            "the issuer {iss:?} is not trusted here; use a token of a trusted issuer or add this one"
        ),
    }
}

fn is_https(iss: &str) -> bool {
    // The URL parser forgives white space and control characters; an identifier that is compared to the character has none.
    if !iss.starts_with("https://") || !iss.bytes().all(|byte| byte.is_ascii_graphic()) {
        return false;
    }
    let Ok(url) = Url::parse(iss) else {
        return false;
    };
    url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}
