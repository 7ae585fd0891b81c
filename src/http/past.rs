//! What happened to mail, and what came back of it: searches of the history.

use std::io;
use std::path::Path;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Api, Refused};
use crate::history::{self, Answer, History, Question, REPORTS_MAX, ReportQuestion, Reports};
use crate::mail::QueueId;
use crate::time::Timestamp;

/// What is searched for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    /// An address, a queue id or a Message-ID.
    what: String,
    /// Nothing older.
    #[serde(default)]
    since_ms: u64,
    /// Nothing newer.
    until_ms: Option<u64>,
}

/// `GET /v1/history`: all that is kept of an address, a queue id or a Message-ID.
pub(super) async fn trace(
    State(api): State<Api>,
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Json<Answer>, Refused> {
    let Query(search) = search.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let question = Question {
        what: search.what,
        since: Timestamp::from_millis(search.since_ms),
        until: search.until_ms.map_or(Timestamp::NEVER, Timestamp::from_millis),
    };
    searched(api.events.history(), move |directory| history::trace(directory, &question)).await
}

/// Which reports are listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    id: Option<String>,
    #[serde(default)]
    since_ms: u64,
    until_ms: Option<u64>,
    kind: Option<String>,
    effect: Option<String>,
    recipient: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/reports`: what came back, and what it did.
pub(super) async fn reports(
    State(api): State<Api>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Reports>, Refused> {
    let bad = |text: String| Refused(StatusCode::BAD_REQUEST, text);
    let Query(wanted) = wanted.map_err(|error| bad(error.body_text()))?;
    let id = wanted.id.as_deref().map(str::parse::<QueueId>).transpose();
    let question = ReportQuestion {
        id: id.map_err(|error| bad(format!("id: {error}")))?,
        since: Timestamp::from_millis(wanted.since_ms),
        until: wanted.until_ms.map_or(Timestamp::NEVER, Timestamp::from_millis),
        kind: wanted.kind,
        effect: wanted.effect,
        recipient: wanted.recipient,
        limit: wanted.limit.unwrap_or(REPORTS_MAX),
    };
    searched(api.events.history(), move |directory| history::reports(directory, &question)).await
}

/// Searches what was told up to now.
async fn searched<T: Default + Send + 'static>(
    history: &History,
    search: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<Json<T>, Refused> {
    let history = history.clone();
    let searched = tokio::task::spawn_blocking(move || {
        history.flush();
        history.directory().map_or_else(|| Ok(T::default()), search)
    });
    match searched.await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(error)) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the history: {error}"))),
        Err(error) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
