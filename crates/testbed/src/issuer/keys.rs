//! The issuer's signing keys and its key set, with planned and emergency rotation.
//! It signs what it is given and knows no claims.

use gridkeep_token::jws::{Algorithm, JwkSet, KeyError, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::options::Character;
use super::state::random_text;

/// How keys are exchanged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyRotation {
    /// A new key is published, but signs nothing before the next `Overlap` rotation.
    Announce,
    /// The announced (or a new) key signs from now on; the old ones stay published.
    #[default]
    Overlap,
    /// A new key signs from now on; the old ones are gone from the key set at once.
    Emergency,
}

/// Keys, oldest first.
pub(crate) struct KeyRing {
    algorithm: Algorithm,
    character: Character,
    keys: Vec<SigningKey>,
    signing: usize,
    count: u32,
}

impl KeyRing {
    pub(crate) fn generate(algorithm: Algorithm, character: Character) -> Result<Self, KeyError> {
        let mut ring = Self {
            algorithm,
            character,
            keys: Vec::new(),
            signing: 0,
            count: 0,
        };
        ring.add()?;
        Ok(ring)
    }

    fn add(&mut self) -> Result<(), KeyError> {
        self.count += 1;
        let kid = match self.character {
            Character::Wlcg => format!("key-{}", self.count),
            Character::Iam => format!("rsa{}", self.count),
            Character::Cilogon | Character::Keycloak => random_text(20),
        };
        self.keys.push(SigningKey::generate(self.algorithm, &kid)?);
        Ok(())
    }

    /// Exchanges keys; returns the `kid` that signs from now on.
    pub(crate) fn rotate(&mut self, how: KeyRotation) -> Result<String, KeyError> {
        match how {
            KeyRotation::Announce => self.add()?,
            KeyRotation::Overlap => {
                if self.signing + 1 == self.keys.len() {
                    self.add()?;
                }
                self.signing = self.keys.len() - 1;
            }
            KeyRotation::Emergency => {
                self.add()?;
                self.keys.drain(..self.keys.len() - 1);
                self.signing = 0;
            }
        }
        Ok(self.signing_key().kid().to_owned())
    }

    fn signing_key(&self) -> &SigningKey {
        &self.keys[self.signing]
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn public(&self) -> JwkSet {
        JwkSet::new(self.keys.iter().map(SigningKey::public_jwk).collect())
    }

    /// Signs claims with the current key; header `typ` to the character's habit.
    pub(crate) fn sign(&self, access_token: bool, claims: &Value) -> Result<String, KeyError> {
        let typ = match self.character {
            Character::Wlcg if access_token => Some("at+jwt"),
            Character::Iam => None,
            _ => Some("JWT"),
        };
        self.signing_key().sign(typ, claims)
    }
}

#[cfg(test)]
mod tests {
    use gridkeep_token::jws::Jws;
    use serde_json::json;

    use super::*;

    #[test]
    fn old_tokens_verify_after_a_planned_rotation_and_not_after_an_emergency() {
        let mut ring = KeyRing::generate(Algorithm::Es256, Character::Wlcg).unwrap();
        let first = ring.sign(true, &json!({"a": 1})).unwrap();
        ring.rotate(KeyRotation::Announce).unwrap();
        assert_eq!(ring.public().keys().len(), 2);
        assert_eq!(
            Jws::parse(&ring.sign(true, &json!({})).unwrap())
                .unwrap()
                .header()
                .kid
                .as_deref(),
            Some("key-1")
        );
        assert_eq!(ring.rotate(KeyRotation::Overlap).unwrap(), "key-2");
        assert_eq!(ring.public().keys().len(), 2);
        assert!(Jws::parse(&first).unwrap().verify(&ring.public()).is_ok());
        ring.rotate(KeyRotation::Emergency).unwrap();
        assert!(Jws::parse(&first).unwrap().verify(&ring.public()).is_err());
    }
}
