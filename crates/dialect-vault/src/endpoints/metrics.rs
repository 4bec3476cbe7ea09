//! The numbers of this node, for whoever monitors it. A token is needed, as the listener for anonymous scraping is another.

use gridkeep_keeper::Operation;
use http::StatusCode;
use serde_json::Value;

use super::missing;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::service::{Call, Inner};

/// `format=prometheus` is the text that Prometheus scrapes; without it JSON comes, as from the original.
pub(super) fn answer(inner: &Inner, call: &mut Call<'_>) -> Result<Answer, Trouble> {
    let Some(source) = &inner.options.metrics else {
        return Err(missing(call.path));
    };
    if call.operation != Operation::Read {
        return Err(Trouble::unsupported());
    }
    match call.fields.text("format")?.as_deref() {
        Some("prometheus") => Ok(Answer::metrics(source.prometheus())),
        None | Some("") => match source.json() {
            Value::Object(object) => Ok(Answer::bare(StatusCode::OK, object)),
            _ => Err(missing(call.path)),
        },
        Some(other) => Err(Trouble::bad(format!(
            "metrics have no format \"{other}\"; use prometheus, or leave format out for JSON"
        ))),
    }
}
