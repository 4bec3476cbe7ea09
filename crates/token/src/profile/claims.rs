//! Steps 5 to 9: reading the claims of a token whose signature is good.

use serde_json::{Map, Value};

use super::{Code, Profile, Profiles, Refusal, SCITOKENS_ANY_AUDIENCE, Step, WLCG_ANY_AUDIENCE};
use crate::group::Groups;
use crate::scope::{Language, Scopes};
use crate::time::{Seconds, UnixSeconds};

/// How far an issuer's clock may be ahead of ours, in seconds. There is no such grace after `exp`.
const SKEW: f64 = 60.0;

/// What a SciTokens 1.0 reader must understand; any other claim makes it refuse the token.
const SCITOKENS1_CLAIMS: [&str; 9] = [
    "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "ver",
];

/// The claims with their signature checked.
pub(super) struct Claims(Map<String, Value>);

/// The claims that every profile needs, typed.
pub(super) struct Essentials {
    pub(super) subject: Option<String>,
    pub(super) exp: f64,
    pub(super) nbf: Option<f64>,
    pub(super) iat: f64,
    /// `None`: the claim is absent, where the profile allows it.
    pub(super) audiences: Option<Vec<String>>,
}

impl Claims {
    pub(super) fn new(map: Map<String, Value>) -> Self {
        Self(map)
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// Step 5: `ver` means SciTokens, `wlcg.ver` WLCG, both nothing; neither, by `typ`, an RFC 9068 token or SciTokens 1.0.
    pub(super) fn profile(
        &self,
        typ: Option<&str>,
        accepted: Profiles,
    ) -> Result<Profile, Refusal> {
        let bad = |claim: &'static str, sentence: String| {
            Refusal::new(Step::Version, Code::BadVersion, claim, sentence)
        };
        let profile = match (self.0.get("ver"), self.0.get("wlcg.ver")) {
            (Some(_), Some(_)) => {
                return Err(bad("ver", "the token has both ver and wlcg.ver, so its profile is unclear; the issuer must send one".to_owned()));
            }
            (Some(version), None) => match version.as_str() {
                Some("scitoken:2.0" | "scitokens:2.0") => Profile::SciTokens2,
                Some("scitoken:1.0" | "scitokens:1.0") => Profile::SciTokens1,
                _ => {
                    return Err(bad(
                        "ver",
                        format!(
                            "the claim ver is {version}; known are scitoken:2.0 and scitokens:1.0"
                        ),
                    ));
                }
            },
            (None, Some(version)) => {
                if !version.as_str().is_some_and(wlcg_version) {
                    return Err(bad(
                        "wlcg.ver",
                        format!(
                            "the claim wlcg.ver is {version}; known are the texts \"1.0\" to \"1.99\" and so on"
                        ),
                    ));
                }
                Profile::Wlcg
            }
            (None, None) => {
                let rfc9068 = typ.is_some_and(|typ| {
                    typ.eq_ignore_ascii_case("at+jwt")
                        || typ.eq_ignore_ascii_case("application/at+jwt")
                });
                let profile = if rfc9068 && accepted.access_token {
                    Profile::AccessToken
                } else {
                    Profile::SciTokens1
                };
                if !accepted.accept(profile) {
                    let sentence = "the token has no claim wlcg.ver; the issuer must be asked for a WLCG token, for example with the scope wlcg";
                    return Err(Refusal::new(
                        Step::Version,
                        Code::NoVersion,
                        "wlcg.ver",
                        sentence,
                    ));
                }
                profile
            }
        };
        if accepted.accept(profile) {
            return Ok(profile);
        }
        let claim = if profile == Profile::Wlcg {
            "wlcg.ver"
        } else {
            "ver"
        };
        Err(bad(
            claim,
            format!("the token is written to {profile}, which is not switched on for this issuer"),
        ))
    }

    /// Step 6.
    pub(super) fn essentials(&self, profile: Profile) -> Result<Essentials, Refusal> {
        if profile == Profile::SciTokens1
            && let Some(unknown) = self
                .0
                .keys()
                .find(|name| !SCITOKENS1_CLAIMS.contains(&name.as_str()))
        {
            return Err(bad_claim(
                unknown,
                "it is not known, and SciTokens 1.0 wants every claim understood",
            ));
        }
        let scitokens = matches!(profile, Profile::SciTokens1 | Profile::SciTokens2);
        let subject = self.subject(!scitokens)?;
        let exp = self.number("exp")?.ok_or_else(|| missing("exp"))?;
        let iat = self.number("iat")?.ok_or_else(|| missing("iat"))?;
        let nbf = self.number("nbf")?;
        if scitokens && nbf.is_none() {
            return Err(missing("nbf"));
        }
        match self.0.get("jti") {
            Some(Value::String(id)) if !id.is_empty() => {}
            None if scitokens => {}
            None => return Err(missing("jti")),
            Some(_) => return Err(bad_claim("jti", "it must be a text that is not empty")),
        }
        if profile == Profile::AccessToken && !self.0.contains_key("client_id") {
            return Err(missing("client_id"));
        }
        if scitokens && !self.0.contains_key("scope") {
            return Err(missing("scope"));
        }
        let audiences = self.audiences()?;
        if audiences.is_none() && profile != Profile::SciTokens1 {
            return Err(missing("aud"));
        }
        Ok(Essentials {
            subject,
            exp,
            nbf,
            iat,
            audiences,
        })
    }

    fn subject(&self, required: bool) -> Result<Option<String>, Refusal> {
        match self.0.get("sub") {
            None if required => Err(missing("sub")),
            None => Ok(None),
            Some(Value::String(sub)) if sub.is_ascii() && (1..=255).contains(&sub.len()) => {
                Ok(Some(sub.clone()))
            }
            Some(_) => Err(bad_claim(
                "sub",
                "it must be a text of 1 to 255 ASCII characters",
            )),
        }
    }

    fn number(&self, name: &'static str) -> Result<Option<f64>, Refusal> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                match number.as_f64().filter(|seconds| seconds.is_finite()) {
                    Some(seconds) => Ok(Some(seconds)),
                    None => Err(bad_claim(name, "it is too large a number")),
                }
            }
            Some(_) => Err(bad_claim(name, "it must be a number of seconds")),
        }
    }

    fn audiences(&self) -> Result<Option<Vec<String>>, Refusal> {
        let bad = || bad_claim("aud", "it must be a text or a list of texts");
        match self.0.get("aud") {
            None => Ok(None),
            Some(Value::String(one)) => Ok(Some(vec![one.clone()])),
            Some(Value::Array(several)) => {
                let texts = several
                    .iter()
                    .map(|value| value.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<_>>>().map(Some).ok_or_else(bad)
            }
            Some(_) => Err(bad()),
        }
    }

    /// Step 9.
    pub(super) fn rights(&self, profile: Profile) -> Result<(Scopes, Groups), Refusal> {
        let refuse =
            |sentence: String| Refusal::new(Step::Rights, Code::BadScope, "scope", sentence);
        let language = match profile {
            Profile::Wlcg | Profile::AccessToken => Language::Wlcg,
            Profile::SciTokens1 | Profile::SciTokens2 => Language::SciTokens,
        };
        let scopes = match self.0.get("scope") {
            None => Scopes::default(),
            Some(Value::String(text)) => Scopes::parse(text, language).map_err(|error| {
                refuse(format!(
                    "{error}; one bad scope spoils the whole token, so ask for other scopes"
                ))
            })?,
            Some(_) => {
                return Err(refuse(
                    "the claim scope is not a text; the issuer must send one text with spaces"
                        .to_owned(),
                ));
            }
        };
        let groups = match (profile, self.0.get("wlcg.groups")) {
            (Profile::Wlcg, Some(claim)) => Groups::from_claim(claim).map_err(|why| {
                Refusal::new(
                    Step::Rights,
                    Code::BadGroups,
                    "wlcg.groups",
                    format!("{why}; the issuer must send a list of texts"),
                )
            })?,
            _ => Groups::default(),
        };
        Ok((scopes, groups))
    }
}

impl Essentials {
    /// Step 7.
    pub(super) fn check_time(
        &self,
        now: UnixSeconds,
        max_lifetime: Option<Seconds>,
    ) -> Result<(), Refusal> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds since 1970 stay far below 2^53"
        )]
        let clock = now.0 as f64;
        if clock >= self.exp {
            let sentence = format!(
                "the token ended at {}, now is {now}; get a new one",
                moment(self.exp)
            );
            return Err(Refusal::new(Step::Time, Code::Expired, "exp", sentence));
        }
        let early = |claim: &'static str, from: f64| {
            let sentence = format!(
                "the claim {claim} is {}, now is {now}; the issuer's clock and this one differ by more than 60 s, so correct the wrong one or wait",
                moment(from)
            );
            Err(Refusal::new(Step::Time, Code::NotYetValid, claim, sentence))
        };
        if let Some(nbf) = self.nbf.filter(|nbf| *nbf > clock + SKEW) {
            return early("nbf", nbf);
        }
        if self.iat > clock + SKEW {
            return early("iat", self.iat);
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "no sensible limit reaches 2^53 seconds"
        )]
        if max_lifetime.is_some_and(|limit| self.exp - self.iat > limit.0 as f64) {
            let sentence = "the token lives longer than this service accepts from its issuer; ask for a shorter one";
            return Err(Refusal::new(
                Step::Time,
                Code::BadClaim("exp".to_owned()),
                None,
                sentence,
            ));
        }
        Ok(())
    }

    /// Step 8: byte for byte, no normalisation.
    pub(super) fn check_audience(
        &self,
        profile: Profile,
        own: &[String],
        refuse_any: bool,
    ) -> Result<(), Refusal> {
        let Some(audiences) = &self.audiences else {
            return Ok(());
        };
        if audiences
            .iter()
            .any(|audience| own.contains(audience) && audience != SCITOKENS_ANY_AUDIENCE)
        {
            return Ok(());
        }
        let any = match profile {
            Profile::Wlcg => Some(WLCG_ANY_AUDIENCE),
            Profile::SciTokens2 => Some(SCITOKENS_ANY_AUDIENCE),
            Profile::SciTokens1 | Profile::AccessToken => None,
        };
        let is_any = any.is_some_and(|any| audiences.iter().any(|audience| audience == any));
        if is_any && !refuse_any {
            return Ok(());
        }
        let sentence = if is_any {
            "the token is for any service, which this one does not accept from its issuer; ask for a token for this service".to_owned()
        } else {
            format!(
                "the token is for {audiences:?}, this service is {own:?}; ask the issuer for a token with that audience, to the character"
            )
        };
        Err(Refusal::new(
            Step::Audience,
            Code::BadAudience,
            "aud",
            sentence,
        ))
    }
}

/// `[0-9]+\.[0-9]+` with a supported major version.
fn wlcg_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(major, minor)| major == "1" && digits(minor))
}

fn missing(claim: &str) -> Refusal {
    let sentence = format!(
        "the token has no claim {claim}, which its profile requires; the issuer must send it"
    );
    Refusal::new(
        Step::Claims,
        Code::MissingClaim(claim.to_owned()),
        None,
        sentence,
    )
}

fn bad_claim(claim: &str, why: &str) -> Refusal {
    let sentence =
        format!("the claim {claim:?} is not acceptable: {why}; the issuer must correct it");
    Refusal::new(
        Step::Claims,
        Code::BadClaim(claim.to_owned()),
        None,
        sentence,
    )
}

/// A claim's time for people.
pub(super) fn moment(seconds: f64) -> UnixSeconds {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a saturating conversion of a finite number, for display"
    )]
    UnixSeconds(seconds.floor() as i64)
}
