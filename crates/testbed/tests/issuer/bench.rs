//! What the tests have in common: an issuer, a client for it, and short ways to say requests.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridkeep_testbed::issuer::{Consent, Options, Page, TestIssuer};
use gridkeep_token::jws::{JwkSet, Jws};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Map, Value};
use url::Url;

pub(crate) const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(crate) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub(crate) const VERIFIER: &str = "a-code-verifier-that-is-long-enough-for-the-rfc-0123456789";
/// Nobody listens here: the browser's last redirect is not followed in these tests.
pub(crate) const CALLBACK: &str = "https://callback.example.org/cb";

pub(crate) struct Bench {
    pub(crate) issuer: TestIssuer,
    pub(crate) http: Client,
    pub(crate) discovery: Value,
}

impl Bench {
    pub(crate) async fn new(options: Options) -> Self {
        let issuer = TestIssuer::start(options).await.unwrap();
        let http = issuer.http_client().unwrap();
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.url().trim_end_matches('/')
        );
        let discovery: Value = http.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(discovery["issuer"], issuer.url());
        Self {
            issuer,
            http,
            discovery,
        }
    }

    pub(crate) fn endpoint(&self, name: &str) -> &str {
        self.discovery[format!("{name}_endpoint")].as_str().unwrap()
    }

    /// A token request of the confidential client.
    pub(crate) fn request(&self, fields: &[(&str, &str)]) -> RequestBuilder {
        self.http
            .post(self.endpoint("token"))
            .basic_auth("gridkeep", Some("gridkeep-secret"))
            .form(fields)
    }

    pub(crate) async fn token(&self, fields: &[(&str, &str)]) -> (u16, Value) {
        shaped(self.request(fields).send().await.unwrap()).await
    }

    pub(crate) async fn refresh(&self, token: &str) -> (u16, Value) {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)])
            .await
    }

    pub(crate) async fn exchange(&self, subject: &str, more: &[(&str, &str)]) -> (u16, Value) {
        let mut fields = vec![
            ("grant_type", EXCHANGE),
            ("subject_token", subject),
            ("subject_token_type", ACCESS_TOKEN),
        ];
        fields.extend_from_slice(more);
        self.token(&fields).await
    }

    /// Starts a device request.
    pub(crate) async fn device(&self, scope: &str) -> Value {
        let fields = [
            ("client_id", "gridkeep"),
            ("client_secret", "gridkeep-secret"),
            ("scope", scope),
        ];
        let answer = self
            .http
            .post(self.endpoint("device_authorization"))
            .form(&fields)
            .send()
            .await
            .unwrap();
        let (status, body) = shaped(answer).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) async fn poll(&self, device: &Value) -> (u16, Value) {
        self.token(&[
            ("grant_type", DEVICE),
            ("device_code", device["device_code"].as_str().unwrap()),
        ])
        .await
    }

    /// Tokens of alice by device flow.
    pub(crate) async fn log_in(&self, scope: &str) -> Value {
        let device = self.device(scope).await;
        assert!(
            self.issuer
                .approve_device(device["user_code"].as_str().unwrap(), "alice")
        );
        let (status, body) = self.poll(&device).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) fn authorization_url(&self, scope: &str) -> Url {
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
        let query = [
            ("response_type", "code"),
            ("client_id", "gridkeep"),
            ("redirect_uri", CALLBACK),
            ("scope", scope),
            ("state", "the-state"),
            ("nonce", "the-nonce"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        Url::parse_with_params(self.endpoint("authorization"), query).unwrap()
    }

    /// Lets alice decide in a browser; returns the query of the address she is sent back to.
    pub(crate) async fn browse(&self, url: &Url, consent: Consent) -> Map<String, Value> {
        let landing = self
            .issuer
            .log_in(url.as_str(), "alice", consent, &[])
            .await;
        let address = match landing {
            Ok(Page { url, body, .. }) => panic!("stayed at {url}: {body}"),
            // The last hop leads to a host that does not exist.
            Err(_) => self.last_redirect(url, consent).await,
        };
        address
            .query_pairs()
            .map(|(n, v)| (n.into_owned(), Value::from(v.into_owned())))
            .collect()
    }

    /// The same with single requests, as curl would make them, up to the redirect that leaves the issuer.
    async fn last_redirect(&self, url: &Url, consent: Consent) -> Url {
        let base = Url::parse(self.issuer.base_url()).unwrap();
        let to = |answer: &Response| {
            base.join(answer.headers()["location"].to_str().unwrap())
                .unwrap()
        };
        let answer = self.http.get(url.clone()).send().await.unwrap();
        let login = to(&answer);
        if login.origin() != base.origin() {
            return login;
        }
        assert_eq!(login.path(), "/login");
        let request = login
            .query_pairs()
            .find(|(n, _)| n == "request")
            .unwrap()
            .1
            .into_owned();
        let fields = [
            ("request", request.as_str()),
            ("username", "alice"),
            ("password", "alice"),
        ];
        let answer = self.http.post(login).form(&fields).send().await.unwrap();
        let cookie = answer.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        let decision = if consent == Consent::Approve {
            "approve"
        } else {
            "deny"
        };
        let fields = [("request", request.as_str()), ("decision", decision)];
        let url = base.join("/consent").unwrap();
        let answer = self
            .http
            .post(url)
            .header("cookie", cookie)
            .form(&fields)
            .send()
            .await
            .unwrap();
        to(&answer)
    }

    /// The published keys.
    pub(crate) async fn keys(&self) -> JwkSet {
        let keys = self
            .http
            .get(self.discovery["jwks_uri"].as_str().unwrap())
            .send()
            .await
            .unwrap();
        JwkSet::from_json(&keys.bytes().await.unwrap()).unwrap()
    }

    /// Claims of a token after verification with the published keys.
    pub(crate) async fn claims(&self, token: &Value) -> Map<String, Value> {
        Jws::parse(token.as_str().unwrap())
            .unwrap()
            .verify_named(&self.keys().await)
            .unwrap()
    }
}

pub(crate) async fn shaped(answer: Response) -> (u16, Value) {
    (answer.status().as_u16(), answer.json().await.unwrap())
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}
