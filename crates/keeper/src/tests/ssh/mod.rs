//! Logging in with ssh keys: whose key opens what, for how long, and what cannot be brought in through the back.

mod keys;
mod login;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, json};

use super::issuer::{FakeIssuer, Rotation};
use super::support::*;
use crate::*;

/// The key of somebody's agent.
pub(super) struct AgentKey(Ed25519KeyPair);

impl AgentKey {
    pub(super) fn new() -> AgentKey {
        AgentKey(Ed25519KeyPair::generate().unwrap())
    }

    pub(super) fn line(&self) -> String {
        let mut blob = Vec::new();
        for part in [b"ssh-ed25519".as_slice(), self.0.public_key().as_ref()] {
            blob.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(part);
        }
        format!("ssh-ed25519 {} key1", STANDARD.encode(blob))
    }

    fn sign(&self, nonce: &str) -> Vec<u8> {
        self.0.sign(nonce.as_bytes()).as_ref().to_vec()
    }
}

pub(super) fn setup(house: &House) -> Setup {
    let mut setup = house.setup();
    setup.self_registration = true;
    setup.ssh = Some(SshSetup {
        cross_issuer: false,
        authorized_keys: None,
        rsa_sha1: true,
        domains: BTreeMap::new(),
    });
    setup
}

/// The same with a second issuer, `cms`.
pub(super) fn setup_of_two(house: &House) -> (Setup, Arc<FakeIssuer>) {
    let mut setup = setup(house);
    let cms = FakeIssuer::new(Rotation::Never);
    setup.issuers.push(house.issuer_setup("cms", &cms));
    (setup, cms)
}

/// Registers `keys` under `name` with everything that the policies of `by` allow.
pub(super) async fn register(
    keeper: &Keeper,
    by: &Bearer,
    name: &str,
    keys: &[&AgentKey],
    issuers: &[&str],
) -> Result<Vec<String>, Failure> {
    let lines: Vec<String> = keys.iter().map(|key| key.line()).collect();
    let mut parameters = Map::from_iter([("public_keys".to_owned(), json!(lines))]);
    if !issuers.is_empty() {
        parameters.insert("issuers".to_owned(), json!(issuers));
    }
    let path = format!("auth/ssh/role/{name}");
    let granted = keeper.authorize(by, Operation::Update, &path, &parameters)?;
    let request = RegisterSshKeys {
        name: name.to_owned(),
        keys: lines,
        issuers: issuers.iter().map(|issuer| (*issuer).to_owned()).collect(),
    };
    keeper.register_ssh_keys(by, &granted, request).await
}

async fn nonce(keeper: &Keeper) -> String {
    keeper.ssh_challenge(None).await.unwrap().nonce
}

async fn log_in_with(
    keeper: &Keeper,
    key: &AgentKey,
    role: &str,
    issuer: &str,
    nonce: &str,
    signature: &[u8],
) -> Result<Issued, Failure> {
    keeper
        .ssh_login(SshLogin {
            role: role.to_owned(),
            public_key: key.line(),
            signature,
            form: SshSignatureForm::Bare,
            nonce: nonce.to_owned(),
            metadata: BTreeMap::from([
                ("issuer".to_owned(), issuer.to_owned()),
                ("group".to_owned(), "default".to_owned()),
            ]),
            from: None,
        })
        .await
}

pub(super) async fn log_in(
    keeper: &Keeper,
    key: &AgentKey,
    role: &str,
    issuer: &str,
) -> Result<Issued, Failure> {
    let nonce = nonce(keeper).await;
    let signature = key.sign(&nonce);
    log_in_with(keeper, key, role, issuer, &nonce, &signature).await
}

async fn may(keeper: &Keeper, by: &Issued, operation: Operation, path: &str) -> bool {
    let by = bearer(keeper, &by.secret).await;
    match keeper.authorize(&by, operation, path, &Map::new()) {
        Ok(_) => true,
        Err(Failure::Refused(Refused::Policy { .. })) => false,
        Err(other) => panic!("{path}: {other}"),
    }
}

async fn reads(keeper: &Keeper, by: &Issued, name: &str) -> bool {
    may(
        keeper,
        by,
        Operation::Read,
        &format!("secret/oauth/creds/{name}"),
    )
    .await
}

/// A house with two issuers, where alice has logged in at dune and registered a key.
pub(super) async fn alice_registered(house: &House) -> (Keeper, AgentKey) {
    let (setup, cms) = setup_of_two(house);
    cms.books().person = crate::tests::issuer::claims("alice");
    let keeper = house.open_with(setup).await;
    let login = login(house, &keeper, "alice").await;
    let alice = bearer(&keeper, &login.issued.secret).await;
    let key = AgentKey::new();
    register(&keeper, &alice, "alice", &[&key], &[])
        .await
        .unwrap();
    (keeper, key)
}

/// A login from an address.
async fn log_in_from(keeper: &Keeper, key: &AgentKey, from: &str) -> Result<Issued, Failure> {
    let nonce = nonce(keeper).await;
    keeper
        .ssh_login(SshLogin {
            role: "alice".to_owned(),
            public_key: key.line(),
            signature: &key.sign(&nonce),
            form: SshSignatureForm::Bare,
            nonce,
            metadata: BTreeMap::from([
                ("issuer".to_owned(), "dune".to_owned()),
                ("group".to_owned(), "default".to_owned()),
            ]),
            from: Some(from.parse().unwrap()),
        })
        .await
}
