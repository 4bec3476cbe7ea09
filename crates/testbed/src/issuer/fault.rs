//! Misbehaviour on order: which requests are hit, how often, and with what.
//! It owns the list of faults and picks from it; `serve` carries them out. A new kind is one variant of [`FaultKind`] and one
//! arm there.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A part of the issuer that faults can hit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Discovery document.
    Discovery,
    /// Key set.
    Jwks,
    /// Authorization endpoint.
    Authorize,
    /// Device authorization endpoint.
    DeviceAuthorization,
    /// Token endpoint.
    Token,
    /// Userinfo endpoint.
    Userinfo,
    /// Revocation endpoint.
    Revocation,
    /// Introspection endpoint.
    Introspection,
    /// Pages for people.
    Pages,
}

/// What happens to a request that is hit.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// Nothing but the delays.
    Delay,
    /// Not acted on; this status and body instead.
    Status {
        /// HTTP status.
        status: u16,
        /// Body.
        #[serde(default)]
        body: String,
        /// `Content-Type`; `text/html` when absent.
        #[serde(default)]
        content_type: Option<String>,
        /// `Retry-After`, seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Not acted on; 200 with bytes that are not JSON.
    Garbage,
    /// Not acted on; no answer, the connection stays open.
    Hang,
    /// Not acted on; the connection is closed without an answer.
    Drop,
    /// Acted on; the connection is closed without an answer.
    ActThenDrop,
    /// Acted on; no answer, the connection stays open.
    ActThenHang,
    /// Acted on; half of the answer, then the connection is closed.
    ActThenCut,
    /// Not acted on; an OAuth error.
    Refuse {
        /// Error code.
        error: String,
        /// `error_description`.
        #[serde(default)]
        description: String,
        /// HTTP status; 400 when absent.
        #[serde(default)]
        status: Option<u16>,
    },
}

/// One ordered misbehaviour.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Fault {
    /// Where.
    pub endpoint: Endpoint,
    /// Only requests with this `grant_type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_type: Option<String>,
    /// Let this many fitting requests pass first.
    #[serde(default)]
    pub after: u32,
    /// How many requests are hit; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Wait before anything else, milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
    /// Wait between acting and answering, milliseconds.
    #[serde(default)]
    pub delay_answer_ms: u64,
    /// What happens.
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// Every member a fault may have in JSON. serde itself lets a slip pass beside a kind without members of its own.
const MEMBERS: [&str; 13] = [
    "endpoint",
    "grant_type",
    "after",
    "times",
    "delay_ms",
    "delay_answer_ms",
    "kind",
    "status",
    "body",
    "content_type",
    "retry_after",
    "error",
    "description",
];

impl Fault {
    /// Reads a fault from JSON.
    ///
    /// # Errors
    /// A sentence that names what does not fit.
    pub fn read(value: &Value) -> Result<Self, String> {
        let members = value.as_object().ok_or("a fault is a JSON object")?;
        if let Some(slip) = members
            .keys()
            .find(|name| !MEMBERS.contains(&name.as_str()))
        {
            return Err(format!(
                "a fault has no member {slip}; it may have {}",
                MEMBERS.join(", ")
            ));
        }
        Self::deserialize(value).map_err(|error| error.to_string())
    }

    /// A fault that hits every request of `endpoint`.
    pub fn new(endpoint: Endpoint, kind: FaultKind) -> Self {
        Self {
            endpoint,
            grant_type: None,
            after: 0,
            times: None,
            delay_ms: 0,
            delay_answer_ms: 0,
            kind,
        }
    }

    /// The same for the next `times` requests only.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// The same for requests with this `grant_type` only.
    #[must_use]
    pub fn grant_type(self, name: &str) -> Self {
        Self {
            grant_type: Some(name.to_owned()),
            ..self
        }
    }

    /// The same with a wait before acting, milliseconds.
    #[must_use]
    pub fn delay_ms(self, delay_ms: u64) -> Self {
        Self { delay_ms, ..self }
    }
}

/// The faults in force, oldest first; the first that fits a request hits it.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    list: Vec<Fault>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn list(&self) -> &[Fault] {
        &self.list
    }

    /// The fault that hits this request, if any; its count goes down.
    pub(crate) fn take(&mut self, endpoint: Endpoint, grant_type: Option<&str>) -> Option<Fault> {
        let fits = |fault: &Fault| {
            fault.endpoint == endpoint
                && fault
                    .grant_type
                    .as_deref()
                    .is_none_or(|wanted| Some(wanted) == grant_type)
        };
        let index = self.list.iter().position(fits)?;
        let fault = self.list.get_mut(index)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        let hit = fault.clone();
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.list.remove(index);
            }
        }
        Some(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_what_it_names_as_often_as_it_says() {
        let mut faults = Faults::default();
        let mut fault = Fault::new(Endpoint::Token, FaultKind::Drop)
            .times(2)
            .grant_type("refresh_token");
        fault.after = 1;
        faults.add(fault);
        assert!(faults.take(Endpoint::Jwks, None).is_none());
        assert!(
            faults
                .take(Endpoint::Token, Some("authorization_code"))
                .is_none()
        );
        assert!(
            faults
                .take(Endpoint::Token, Some("refresh_token"))
                .is_none()
        );
        assert!(
            faults
                .take(Endpoint::Token, Some("refresh_token"))
                .is_some()
        );
        assert!(
            faults
                .take(Endpoint::Token, Some("refresh_token"))
                .is_some()
        );
        assert!(
            faults
                .take(Endpoint::Token, Some("refresh_token"))
                .is_none()
        );
        assert!(faults.list().is_empty());
    }

    #[test]
    fn faults_are_read_from_flat_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"endpoint":"token","kind":"refuse","error":"invalid_grant","times":1}"#,
        )
        .unwrap();
        assert_eq!(
            fault.kind,
            FaultKind::Refuse {
                error: "invalid_grant".to_owned(),
                description: String::new(),
                status: None
            }
        );
        assert_eq!(fault.times, Some(1));
        assert!(serde_json::from_str::<Fault>(r#"{"endpoint":"token","kind":"explode"}"#).is_err());
    }

    #[test]
    fn every_kind_has_its_json_and_slips_are_refused() {
        let read = |text: &str| Fault::read(&serde_json::from_str(text).unwrap());
        let fault = read(r#"{"endpoint":"token","kind":"status","status":503,"retry_after":7,"times":1,"delay_ms":5}"#).unwrap();
        assert!(matches!(
            fault.kind,
            FaultKind::Status {
                status: 503,
                retry_after: Some(7),
                ..
            }
        ));
        assert_eq!((fault.times, fault.delay_ms), (Some(1), 5));
        for kind in [
            "delay",
            "garbage",
            "hang",
            "drop",
            "act_then_drop",
            "act_then_hang",
            "act_then_cut",
        ] {
            let fault = read(&format!(r#"{{"endpoint":"jwks","kind":"{kind}"}}"#)).unwrap();
            let again = serde_json::to_string(&fault).unwrap();
            assert_eq!(read(&again).unwrap(), fault);
            assert!(
                read(&format!(
                    r#"{{"endpoint":"jwks","kind":"{kind}","tims":1}}"#
                ))
                .is_err(),
                "{kind}"
            );
        }
        assert!(read(r#"{"endpoint":"token","kind":"refuse","error":"x","tims":1}"#).is_err());
    }
}
