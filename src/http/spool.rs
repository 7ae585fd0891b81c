//! The spool's numbers and its backup.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Api, Refused};

/// `GET /v1/spool`: sizes and counts.
pub(super) async fn stats(State(api): State<Api>) -> Json<Value> {
    let stats = api.queue.spool().stats();
    Json(json!({
        "live": stats.live,
        "live_bytes": stats.live_bytes,
        "mail_bytes": stats.mail_bytes,
        "mail_segments": stats.mail_segments,
        "state_segments": stats.state_segments,
        "spares": stats.spares,
        "free_bytes": stats.free_bytes,
        "total_bytes": stats.total_bytes,
        "since_start": {
            "records": stats.records,
            "syncs": stats.syncs,
            "moved": stats.moved,
            "quarantined": stats.quarantined,
            "refused_full": stats.refused_full,
        },
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupRequest {
    /// Absolute, not there yet.
    directory: PathBuf,
}

/// `POST /v1/spool/backup`: copies the running spool to a new directory. Answers when it is done.
pub(super) async fn backup(
    State(api): State<Api>,
    request: Result<Json<BackupRequest>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(BackupRequest { directory }) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    if !directory.is_absolute() {
        return Err(Refused(StatusCode::BAD_REQUEST, "the directory's path must be absolute".to_owned()));
    }
    let (spool, to) = (api.queue.spool().clone(), directory.clone());
    let copied = tokio::task::spawn_blocking(move || spool.backup(&to)).await;
    let failed = match copied {
        Ok(Ok(())) => {
            tracing::info!(directory = %directory.display(), "the spool was backed up");
            return Ok(Json(json!({ "directory": directory })));
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(directory = %directory.display(), error = failed, "the spool could not be backed up");
    Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("{}: {failed}", directory.display())))
}
