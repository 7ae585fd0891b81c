//! The spool's numbers and its backup, and all numbers for Prometheus.

use std::fmt::Write;
use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
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

/// `GET /metrics`: the counters in Prometheus' text format.
pub(super) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let counted = api.events.snapshot();
    let spool = api.queue.spool().stats();
    let history = api.events.history().snapshot();
    let mut text = String::with_capacity(4096);
    let counters = [
        ("messages_accepted_total", "Messages made durable.", counted.messages_accepted),
        ("recipients_accepted_total", "Their recipients.", counted.recipients_accepted),
        ("removed_total", "Envelopes that reached their final state.", counted.removed),
        ("history_rows_total", "Rows of the history that were written.", history.history_rows),
        (
            "history_lost_total",
            "Rows of the history that were dropped. Any: the disk is full or slow.",
            history.history_lost,
        ),
        ("history_damaged_total", "Damaged stretches of the history found at the start.", history.history_damaged),
        ("spool_records_total", "Records written.", spool.records),
        ("spool_syncs_total", "Calls of fdatasync.", spool.syncs),
        ("spool_moved_total", "Envelopes copied forward by the cleaner.", spool.moved),
        ("spool_quarantined_total", "Unreadable records set aside. Any: look at the disk.", spool.quarantined),
        ("spool_refused_full_total", "Messages answered 452. Any: the disk is full.", spool.refused_full),
    ];
    for (name, help, value) in counters {
        let _ =
            write!(text, "# HELP postrider_{name} {help}\n# TYPE postrider_{name} counter\npostrider_{name} {value}\n");
    }
    let fates = [
        ("delivered", counted.delivered),
        ("deferred", counted.deferred),
        ("uncertain", counted.uncertain),
        ("failed", counted.failed),
        ("expired", counted.expired),
        ("suppressed", counted.suppressed),
        ("deleted", counted.deleted),
    ];
    text.push_str("# HELP postrider_outcomes_total What attempts and decisions meant for recipients.\n");
    text.push_str("# TYPE postrider_outcomes_total counter\n");
    for (fate, value) in fates {
        let _ = writeln!(text, "postrider_outcomes_total{{fate=\"{fate}\"}} {value}");
    }
    let gauges = [
        ("queue_envelopes", "Envelopes without a final state.", api.queue.len() as u64),
        ("spool_mail_bytes", "Bytes of the mail log.", spool.mail_bytes),
        ("spool_live_bytes", "Bytes of records that hold a waiting envelope.", spool.live_bytes),
        ("spool_free_bytes", "Free bytes under the spool.", spool.free_bytes),
    ];
    for (name, help, value) in gauges {
        let _ =
            write!(text, "# HELP postrider_{name} {help}\n# TYPE postrider_{name} gauge\npostrider_{name} {value}\n");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
