//! The issuer of the vectors: keys, key set, minting as the rows say, and a key source that caches by the crate's policy.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gridkeep_token::jws::{Algorithm, JwkSet, SigningKey};
use gridkeep_token::profile::key_cache::{IssuerKeys, Plan, Policy};
use gridkeep_token::profile::{Keys, KeysUnavailable};
use gridkeep_token::time::{Seconds, UnixSeconds};
use serde_json::{Map, Value, json};

pub const NOW: UnixSeconds = UnixSeconds(1_900_000_000);

pub struct Issuer {
    keys: BTreeMap<&'static str, SigningKey>,
    published: JwkSet,
    state: RefCell<IssuerKeys>,
    policy: Policy,
    down: Cell<bool>,
    fetches: Cell<u32>,
}

impl Issuer {
    pub fn new() -> Self {
        let make = |alg, kid| (kid, SigningKey::generate(alg, kid).unwrap());
        let keys = BTreeMap::from([
            make(Algorithm::Es256, "k1"),
            make(Algorithm::Rs256, "k2"),
            make(Algorithm::Es256, "k3"),
            make(Algorithm::Es256, "attacker"),
        ]);
        let published = JwkSet::new(vec![
            keys["k1"].public_jwk(),
            keys["k2"].public_jwk().with_members(Some("k2"), None, None),
            keys["k3"]
                .public_jwk()
                .with_members(Some("k3"), Some("enc"), None),
        ]);
        let issuer = Self {
            keys,
            published,
            state: RefCell::default(),
            policy: Policy::default(),
            down: Cell::new(false),
            fetches: Cell::new(0),
        };
        issuer.prepare(&json!({}));
        issuer
    }

    /// Puts cache and network into the state that the row wants.
    pub fn prepare(&self, row: &Value) {
        let age = row["keys_age_hours"]
            .as_u64()
            .map_or(Seconds(100), Seconds::hours);
        let then = NOW.minus(age);
        let mut state = IssuerKeys::default();
        state.started(then);
        state.fetched(&self.policy, self.published.clone(), None, then);
        self.state.replace(state);
        self.down.set(row["issuer_down"].as_bool().unwrap_or(false));
        self.fetches.set(0);
    }

    pub fn fetches(&self) -> u32 {
        self.fetches.get()
    }

    /// The token that a row describes, from the shared header and claims.
    pub fn mint(&self, header: &Value, claims: &Value, row: &Value) -> String {
        let mut header = header.as_object().unwrap().clone();
        for (name, value) in row["header"].as_object().unwrap_or(&Map::new()) {
            match value {
                Value::Null => drop(header.remove(name)),
                Value::String(text) if text == "public key of attacker" => {
                    header.insert(name.clone(), self.keys["attacker"].public_jwk().to_json());
                }
                other => drop(header.insert(name.clone(), other.clone())),
            }
        }
        let mut claims = claims.as_object().unwrap().clone();
        for (name, value) in row["set"].as_object().unwrap_or(&Map::new()) {
            claims.insert(name.clone(), value.clone());
        }
        for name in row["remove"].as_array().unwrap_or(&Vec::new()) {
            claims
                .remove(name.as_str().unwrap())
                .expect("a claim to remove");
        }
        let key = &self.keys[row["key"].as_str().unwrap_or("k1")];
        let mut payload = Value::Object(claims.clone()).to_string();
        if let Some(more) = row["append"].as_str() {
            payload.truncate(payload.len() - 1);
            payload.push_str(&format!(",{more}}}"));
        }
        let header = Value::Object(header).to_string();
        let token = key
            .sign_compact(header.as_bytes(), payload.as_bytes())
            .unwrap();
        let (input, signature) = token.rsplit_once('.').unwrap();
        let token = match row["signature"].as_str() {
            None => token,
            Some("") => format!("{input}."),
            Some("hmac with the PEM of k1") => {
                let mac = hmac::sign(
                    &hmac::Key::new(hmac::HMAC_SHA256, self.pem().as_bytes()),
                    input.as_bytes(),
                );
                format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac))
            }
            Some("of another payload") => {
                let changed = payload.replacen("2f6a", "2f6b", 1);
                assert_ne!(changed, payload);
                let (head, _) = input.split_once('.').unwrap();
                format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(changed))
            }
            Some(other) => panic!("unknown signature {other}"),
        };
        match row["form"].as_str() {
            None => token,
            Some("five parts") => format!("{token}.AAAA.AAAA"),
            Some("padded") => {
                let pad = |part: &str| format!("{part}{}", "=".repeat((4 - part.len() % 4) % 4));
                let padded = token.split('.').map(pad).collect::<Vec<_>>().join(".");
                assert_ne!(padded, token);
                padded
            }
            Some(size) => self.mint_sized(
                &header,
                &claims,
                size.strip_suffix(" bytes").unwrap().parse().unwrap(),
            ),
        }
    }

    /// A token of exactly `size` bytes, by padding header and payload.
    fn mint_sized(&self, header: &str, claims: &Map<String, Value>, size: usize) -> String {
        let mut header: Value = serde_json::from_str(header).unwrap();
        let mut claims = claims.clone();
        for head in ["", "a", "aa", "aaa"] {
            header["pad"] = json!(head);
            for pad in (size * 3 / 4 - 1200)..size {
                claims.insert("pad".to_owned(), json!("p".repeat(pad)));
                let payload = Value::Object(claims.clone()).to_string();
                let header = header.to_string();
                let encoded = |length: usize| (length * 4).div_ceil(3);
                let total = encoded(header.len()) + encoded(payload.len()) + 2 + 86;
                if total == size {
                    let token = self.keys["k1"]
                        .sign_compact(header.as_bytes(), payload.as_bytes())
                        .unwrap();
                    assert_eq!(token.len(), size);
                    return token;
                }
                if total > size {
                    break;
                }
            }
        }
        panic!("no padding gives {size} bytes")
    }

    /// The public key of k1 as PEM, as an attacker finds it.
    fn pem(&self) -> String {
        let jwk = self.keys["k1"].public_jwk().to_json();
        let mut der = vec![
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
        ];
        der.extend([
            0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
        ]);
        for name in ["x", "y"] {
            der.extend(URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap());
        }
        let body = STANDARD.encode(der);
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n{}\n-----END PUBLIC KEY-----\n",
            &body[..64],
            &body[64..]
        )
    }

    fn fetch(&self, now: UnixSeconds) -> bool {
        let mut state = self.state.borrow_mut();
        state.started(now);
        self.fetches.set(self.fetches.get() + 1);
        if self.down.get() {
            state.failed();
        } else {
            state.fetched(&self.policy, self.published.clone(), None, now);
        }
        !self.down.get()
    }
}

impl Keys for Issuer {
    fn keys(
        &self,
        issuer: &str,
        kid: Option<&str>,
        now: UnixSeconds,
    ) -> Result<Arc<JwkSet>, KeysUnavailable> {
        let unavailable = |retry_after| KeysUnavailable {
            issuer: issuer.to_owned(),
            reason: "it does not answer".to_owned(),
            retry_after: Some(retry_after),
        };
        let plan = self.state.borrow().plan(&self.policy, kid, now);
        match plan {
            Plan::Use(keys) => Ok(keys),
            Plan::UseAndRefresh(keys) => {
                self.fetch(now);
                Ok(keys)
            }
            Plan::FetchFirst { fallback } => {
                if self.fetch(now) {
                    return Ok(Arc::new(self.published.clone()));
                }
                fallback.ok_or_else(|| unavailable(self.policy.pause))
            }
            Plan::Wait { fallback } => fallback.ok_or_else(|| unavailable(Seconds(1))),
            Plan::Unavailable { retry_after } => Err(unavailable(retry_after)),
        }
    }
}
