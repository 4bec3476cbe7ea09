//! `claims.json` and `scitokens.json`: steps 1 to 9.

use gridkeep_token::profile::{Refusal, Step, TrustedIssuer, Verified, Verifier};
use gridkeep_token::scope::AreaPath;
use gridkeep_token::time::{Seconds, UnixSeconds};
use serde_json::Value;

use crate::issuer::{Issuer, NOW};
use crate::{each, load, same};

pub fn verifier() -> Verifier {
    let base = AreaPath::parse("/vo").unwrap();
    Verifier::new(["https://se.example.org", "https://se1.example.org"])
        .trust(TrustedIssuer::wlcg("https://vo.example.org").with_base_path(base))
        .trust(TrustedIssuer::wlcg("https://multi.example.org/t1/"))
}

/// Compares a verification with the row's verdict; `Some` when both accept.
pub fn judge(
    row: &Value,
    token: &str,
    result: Result<Verified, Refusal>,
) -> Result<Option<Verified>, String> {
    let verdict = row["verdict"].as_str().expect("verdict");
    match result {
        Ok(verified) if verdict == "accept" => Ok(Some(verified)),
        Ok(_) => Err(format!("accepted, expected {verdict}")),
        Err(refusal) => {
            same("the verdict", refusal.code(), verdict)?;
            let expected = row["step"]
                .as_u64()
                .unwrap_or_else(|| step(verdict).number().into());
            same("the step", refusal.step().number().into(), expected)?;
            if let Some(claim) = row["claim"].as_str() {
                same("the claim", refusal.claim(), Some(claim))?;
            }
            let text = refusal.to_string();
            let signature = token.rsplit('.').next().unwrap_or_default();
            if refusal.sentence().len() < 20
                || text.contains(token)
                || (signature.len() > 8 && text.contains(signature))
            {
                return Err(format!("a bad sentence: {text}"));
            }
            let expected = if verdict == "keys_unavailable" {
                (503, None)
            } else {
                (401, Some("invalid_token"))
            };
            same(
                "the answer over HTTP",
                (refusal.http_status(), refusal.bearer_error()),
                expected,
            )?;
            Ok(None)
        }
    }
}

fn step(code: &str) -> Step {
    match code.split(':').next().unwrap() {
        "malformed" => Step::Form,
        "bad_alg" | "no_kid" => Step::Header,
        "untrusted_issuer" => Step::Issuer,
        "unknown_kid" | "bad_key" | "bad_signature" | "keys_unavailable" => Step::Signature,
        "no_version" | "bad_version" => Step::Version,
        "missing_claim" | "bad_claim" => Step::Claims,
        "expired" | "not_yet_valid" => Step::Time,
        "bad_audience" => Step::Audience,
        "bad_scope" | "bad_groups" => Step::Rights,
        other => panic!("unknown code {other}"),
    }
}

#[test]
fn claims_and_headers() {
    let file = load("claims.json");
    let (issuer, verifier) = (Issuer::new(), verifier());
    assert_eq!(file["now"], NOW.0);
    each(&file, |row| {
        issuer.prepare(row);
        let token = issuer.mint(&file["header"], &file["baseline"], row);
        let verified = judge(row, &token, verifier.verify(&token, &issuer, NOW))?;
        if let (Some(count), Some(verified)) = (row["scopes"].as_u64(), &verified) {
            same(
                "the number of scopes",
                verified.scopes().list().len() as u64,
                count,
            )?;
            let decision = verified.authorize(&"read".parse().unwrap(), "/vo/x");
            same("reading", decision.allowed, false)?;
        }
        if let Some(count) = row["fetches"].as_u64() {
            same("key refreshes", u64::from(issuer.fetches()), count)?;
            let later = NOW.plus(Seconds(row["again_after"].as_u64().unwrap()));
            let token = issuer.mint(&file["header"], &file["baseline"], row);
            judge(row, &token, verifier.verify(&token, &issuer, later))?;
            same(
                "more refreshes",
                u64::from(issuer.fetches()) - count,
                row["again_fetches"].as_u64().unwrap(),
            )?;
        }
        Ok(())
    });
}

#[test]
fn scitokens() {
    let file = load("scitokens.json");
    let wlcg = load("claims.json");
    let issuer = Issuer::new();
    let name = file["issuer"].as_str().unwrap();
    let verifier = Verifier::new(["https://se.example.org"]).trust(TrustedIssuer::scitokens(name));
    each(&file, |row| {
        let mut claims = file["baseline"].clone();
        if row["wlcg_baseline"] == true {
            claims = wlcg["baseline"].clone();
            claims["iss"] = name.into();
        }
        let token = issuer.mint(&wlcg["header"], &claims, row);
        let Some(verified) = judge(row, &token, verifier.verify(&token, &issuer, NOW))? else {
            return Ok(());
        };
        if let Some(profile) = row["profile"].as_str() {
            same(
                "the profile",
                verified.profile().to_string().as_str(),
                profile,
            )?;
        }
        if let Some(operation) = row["operation"].as_str() {
            // The reason speaks the token's language.
            let denied = verified.authorize(&"submit-jobs".parse().unwrap(), "");
            same(
                "the scope to ask for",
                denied.reason.contains("condor:/WRITE"),
                true,
            )?;
            let decision =
                verified.authorize(&operation.parse().unwrap(), row["path"].as_str().unwrap());
            same(
                &decision.reason,
                decision.allowed,
                row["allowed"].as_bool().unwrap(),
            )?;
        }
        Ok(())
    });
}

#[test]
fn scitokens_may_leave_out_the_kid_of_an_only_key() {
    let key =
        gridkeep_token::jws::SigningKey::generate(gridkeep_token::jws::Algorithm::Es256, "only")
            .unwrap();
    let set = gridkeep_token::jws::JwkSet::new(vec![key.public_jwk()]);
    let name = "https://sci.example.org";
    let keys = gridkeep_token::profile::StaticKeys::one(name, set);
    let claims = load("scitokens.json")["baseline"].to_string();
    let token = key
        .sign_compact(br#"{"alg":"ES256"}"#, claims.as_bytes())
        .unwrap();
    let audience = ["https://se.example.org"];
    let verifier = Verifier::new(audience).trust(TrustedIssuer::scitokens(name));
    assert!(verifier.verify(&token, &keys, NOW).is_ok());
    let wlcg_only = Verifier::new(audience).trust(TrustedIssuer::wlcg(name));
    assert_eq!(
        wlcg_only.verify(&token, &keys, NOW).unwrap_err().code(),
        "no_kid"
    );
}

#[test]
fn a_decoding_tool_trusts_any_https_issuer_and_judges_no_audience() {
    let file = load("claims.json");
    let issuer = Issuer::new();
    let tool = Verifier::for_decoding();
    let judge = |row: Value, now: UnixSeconds| {
        let token = issuer.mint(&file["header"], &file["baseline"], &row);
        tool.verify(&token, &issuer, now)
            .map(|_| ())
            .map_err(|refusal| refusal.code().to_owned())
    };
    let set = |claim: &str, value: Value| serde_json::json!({"set": {claim: value}});
    assert_eq!(
        judge(set("iss", "https://elsewhere.example.org".into()), NOW),
        Ok(())
    );
    assert_eq!(
        judge(set("aud", "https://elsewhere.example.org".into()), NOW),
        Ok(())
    );
    assert_eq!(judge(set("scope", "storage.read".into()), NOW), Ok(()));
    assert_eq!(
        judge(set("iss", "http://vo.example.org".into()), NOW),
        Err("untrusted_issuer".to_owned())
    );
    assert_eq!(
        judge(set("iss", "https://a@b.example.org".into()), NOW),
        Err("untrusted_issuer".to_owned())
    );
    assert_eq!(
        judge(set("x", 1.into()), UnixSeconds(1_900_003_000)),
        Err("expired".to_owned())
    );
    assert_eq!(
        judge(set("wlcg.ver", "2.0".into()), NOW),
        Err("bad_version".to_owned())
    );
}

#[test]
fn every_passed_step_is_told_and_keys_can_be_fetched_beforehand() {
    let file = load("claims.json");
    let (issuer, verifier) = (Issuer::new(), verifier());
    let token = issuer.mint(&file["header"], &file["baseline"], &Value::Null);
    let mut steps = Vec::new();
    verifier
        .verify_noting(&token, &issuer, NOW, &mut |step, note| {
            assert!(!note.is_empty());
            steps.push(step.number());
        })
        .unwrap();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let wanted = verifier.wanted_keys(&token).unwrap();
    assert_eq!(
        (wanted.issuer.as_str(), wanted.kid.as_deref()),
        ("https://vo.example.org", Some("k1"))
    );
}

#[test]
fn optional_policies_refuse_long_lives_and_the_any_audience() {
    let file = load("claims.json");
    let issuer = Issuer::new();
    let strict = TrustedIssuer {
        max_lifetime: Some(Seconds(3600)),
        refuse_any_audience: true,
        ..TrustedIssuer::wlcg("https://vo.example.org")
    };
    let verifier = Verifier::new(["https://se.example.org"]).trust(strict);
    let code = |row: Value| {
        let token = issuer.mint(&file["header"], &file["baseline"], &row);
        verifier
            .verify(&token, &issuer, NOW)
            .map(|_| ())
            .map_err(|refusal| refusal.code().to_owned())
    };
    assert_eq!(code(Value::Null), Ok(()));
    assert_eq!(
        code(serde_json::json!({"set": {"exp": 1_900_003_001}})),
        Err("bad_claim:exp".to_owned())
    );
    let any = "https://wlcg.cern.ch/jwt/v1/any";
    assert_eq!(
        code(serde_json::json!({"set": {"aud": any}})),
        Err("bad_audience".to_owned())
    );
}
