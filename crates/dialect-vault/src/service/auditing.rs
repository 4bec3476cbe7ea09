//! The two audit lines of a request: the one before anything is done, and the one with its outcome.

use gridkeep_keeper::Operation;
use http::StatusCode;
use tokio::time::Instant;

use super::Inner;
use super::received::{Arrival, MountTable, Received};
use crate::answer::{Answer, Body as AnswerBody};
use crate::audit::{AuditError, AuditFailure, Common, Exchange, ResponsePart};
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::measure;
use crate::params::Params;
use crate::quota::Exceeded;
use crate::route::{Route, Verb};

impl Inner {
    /// The first audit line, with `error` if nothing will be done. Without it nothing may be done, unless the request `passes`
    /// while the log cannot be written; then the line is left to the log for later.
    pub(super) async fn announce(
        &self,
        common: &Common<'_>,
        error: Option<&str>,
        passes: bool,
    ) -> Result<(), AuditError> {
        let line = || common.request_line(&self.hasher, self.wall(), error);
        let written = self.options.audit.write(line()).await;
        match written.inspect_err(|_| measure::unaudited("request")) {
            Err(AuditError::Write { .. } | AuditError::Overloaded) if passes => {
                // A log that has no room for it says so by itself.
                let _ = self.options.audit.queue(line());
                Ok(())
            }
            done => done,
        }
    }

    /// Both audit lines of a request that is not acted upon.
    pub(super) async fn refuse(
        &self,
        exchange: &Exchange<'_, '_>,
        trouble: Trouble,
        until: Instant,
    ) -> Answer {
        let mut answer = Answer::from(trouble);
        let error = answer.error_text().unwrap_or("not found");
        let common = Common::new(&self.hasher, exchange);
        let passes = self.options.on_audit_failure == AuditFailure::Serve;
        let announcing = self.announce(&common, Some(error), passes);
        match self.by(Some(until), announcing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return unaudited(&error),
            // The first line is with the log, which may take its time.
            Err(late) => answer = late,
        }
        let error = answer.error_text().unwrap_or("not found");
        let part = ResponsePart::default();
        let line = common.response_line(&self.hasher, self.wall(), &part, Some(error));
        self.conclude(line, answer, passes)
    }

    /// Hands over the second audit line; without it nothing is told of what was done.
    pub(super) fn conclude(&self, line: Vec<u8>, answer: Answer, passes: bool) -> Answer {
        let queued = self.options.audit.queue(line);
        match queued.inspect_err(|_| measure::unaudited("response")) {
            Err(error) if !passes || error == AuditError::Closed => unaudited(&error),
            _ => answer,
        }
    }

    /// Refuses a request that was one too many before anything but its path was looked at.
    pub(super) async fn too_many(
        &self,
        exceeded: Exceeded,
        path: &str,
        parts: &http::request::Parts,
        arrival: Arrival<'_>,
    ) -> Answer {
        let mut query = Params::new();
        let operation = match Verb::of(&parts.method, &parts.headers, &mut query) {
            Some(Verb::Does(operation)) => operation,
            Some(Verb::Header) | None => Operation::Read,
        };
        let request = Received {
            id: arrival.id,
            operation,
            path,
            route: Route::of(path),
            writes: false,
            headers: &parts.headers,
            peer: arrival.peer,
            help: false,
            until: arrival.until,
        };
        self.over_limit(exceeded, &request, &self.mounts(), &query)
            .await
    }

    /// The answer to a request that was one too many. As in the original it is audited only where operators want that: a flood must
    /// not fill the disk.
    pub(super) async fn over_limit(
        &self,
        exceeded: Exceeded,
        request: &Received<'_>,
        mounts: &MountTable,
        params: &Params,
    ) -> Answer {
        if !exceeded.audit {
            return exceeded.into();
        }
        let exchange = request.exchange(mounts, None, params, None);
        let trouble = Trouble::Answer(Box::new(exceeded.into()));
        self.refuse(&exchange, trouble, request.until).await
    }

    /// The second audit line, and the warnings about parameters nobody knew.
    pub(super) fn finish(
        &self,
        common: &Common<'_>,
        fields: Fields,
        mut answer: Answer,
        passes: bool,
    ) -> Answer {
        if matches!(answer.body, AnswerBody::Envelope { .. }) {
            fields.finish(&mut answer.warnings);
        }
        let part = match &answer.body {
            AnswerBody::Envelope { data, auth, .. } => ResponsePart {
                data: Some(data),
                auth: auth.as_deref(),
                warnings: &answer.warnings,
            },
            _ => ResponsePart::default(),
        };
        let line = common.response_line(&self.hasher, self.wall(), &part, answer.error_text());
        self.conclude(line, answer, passes)
    }

    /// How a text looks in the audit log.
    pub(crate) fn hash_for_audit(&self, text: &str) -> String {
        let quoted = self.hasher.quoted(text);
        String::from_utf8_lossy(&quoted[1..quoted.len() - 1]).into_owned()
    }
}

/// The audit log cannot take the request: nothing was done, or nothing of it may be told.
pub(super) fn unaudited(error: &AuditError) -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).retry_after(Some(5))
}
