//! What the demo reads out of the program's answers: the claims of a token, and the issuers of a configuration.

use serde::Deserialize;
use serde_json::Value;

use gridkeep_token::time::UnixSeconds;

use super::failure::Failure;

/// Claims as `gridkeep decode` shows them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) exp: UnixSeconds,
    #[serde(default)]
    pub(super) iat: Option<UnixSeconds>,
    #[serde(default)]
    pub(super) jti: Option<String>,
}

impl Facts {
    /// Reads the JSON among the lines of `gridkeep decode`.
    pub(super) fn read(text: &str) -> Result<Self, Failure> {
        let json = text
            .find('{')
            .zip(text.rfind('}'))
            .and_then(|(from, to)| text.get(from..=to))
            .unwrap_or_default();
        serde_json::from_str(json).map_err(|error| Failure::Words {
            command: "gridkeep decode".to_owned(),
            reason: error.to_string(),
        })
    }
}

/// An issuer of a configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct ConfiguredIssuer {
    pub(super) name: String,
    pub(super) url: String,
    #[serde(default)]
    pub(super) ca_file: Option<String>,
    pub(super) callbackmode: String,
    pub(super) roles: Vec<ConfiguredRole>,
}

/// A role of an issuer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct ConfiguredRole {
    pub(super) name: String,
}

impl ConfiguredIssuer {
    pub(super) fn by_device_code(&self) -> bool {
        self.callbackmode == "device"
    }
}

/// The issuers in what `gridkeep config show --effective` prints.
pub(super) fn issuers(text: &str) -> Result<Vec<ConfiguredIssuer>, Failure> {
    let read = crate::issuer::yaml::to_json(text).and_then(|mut all| {
        let issuers = all.get_mut("issuers").map(Value::take).unwrap_or_default();
        serde_json::from_value(issuers).map_err(|error| error.to_string())
    });
    read.map_err(|reason| Failure::Words {
        command: "gridkeep config show --effective".to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_among_other_lines() {
        let text = "note\n{\n \"iss\": \"https://i\", \"sub\": \"s\", \"exp\": 10, \"x\": {}\n}\n";
        let facts = Facts::read(text).unwrap();
        assert_eq!(
            (facts.iss.as_str(), facts.exp, facts.iat),
            ("https://i", UnixSeconds(10), None)
        );
        assert!(Facts::read("no token").is_err());
        assert!(Facts::read("} {").is_err());
    }

    #[test]
    fn issuers_of_a_configuration() {
        let text = "# Service name x\nissuers:\n  - name: demo  # f:1\n    url: https://i  # f:2\n    clientid: c\n    callbackmode: direct\n    \
                    roles:\n      - name: default\n        scopes:\n          - storage.read:/  # f:3\nkerberos: []\n";
        let issuers = issuers(text).unwrap();
        assert_eq!(issuers[0].roles[0].name, "default");
        assert!(!issuers[0].by_device_code());
        assert!(super::issuers("issuers: 5").is_err());
    }
}
