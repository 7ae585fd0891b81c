//! What happened to mail: searches of the history.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Api, Refused};
use crate::history::{self, Answer, Question};
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
    let history = api.events.history().clone();
    let searched = tokio::task::spawn_blocking(move || {
        history.flush();
        history.directory().map_or_else(|| Ok(Answer::default()), |directory| history::trace(directory, &question))
    });
    match searched.await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(error)) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the history: {error}"))),
        Err(error) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
