//! Sites and sources: listings, and operators' orders to stop and to go on.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::shapes::{
    ExplainSelect, HoldCredential, RatesSelect, ResumeRequest, ResumeSender, SitesSelect, SuspendRequest, WarmupRequest,
};
use super::{Api, Ask, Refused};

async fn ask(api: &Api, ask: Ask) -> Result<Json<Value>, Refused> {
    (api.traffic)(ask).await.map(Json).map_err(|text| Refused(StatusCode::BAD_REQUEST, text))
}

fn understood<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refused> {
    query.map(|Query(query)| query).map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))
}

/// `GET /v1/sites`: those with something to do, or all.
pub(super) async fn sites(
    State(api): State<Api>,
    select: Result<Query<SitesSelect>, QueryRejection>,
) -> Result<Json<Value>, Refused> {
    ask(&api, Ask::Sites(understood(select)?)).await
}

/// `GET /v1/sites/explain?site=`: every value of one, with its place.
pub(super) async fn explain(
    State(api): State<Api>,
    select: Result<Query<ExplainSelect>, QueryRejection>,
) -> Result<Json<Value>, Refused> {
    ask(&api, Ask::Explain(understood(select)?.site)).await
}

/// `GET /v1/sources`: all of them.
pub(super) async fn sources(State(api): State<Api>) -> Result<Json<Value>, Refused> {
    ask(&api, Ask::Sources).await
}

/// `POST /v1/traffic/suspend`: answers once it holds over a restart.
pub(super) async fn suspend(
    State(api): State<Api>,
    request: Result<Json<SuspendRequest>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(request) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    let said = ask(&api, Ask::Suspend(request)).await?;
    Ok(Json(json!({ "said": said.0 })))
}

/// `POST /v1/traffic/resume`.
pub(super) async fn resume(
    State(api): State<Api>,
    request: Result<Json<ResumeRequest>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(request) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    let said = ask(&api, Ask::Resume(request)).await?;
    Ok(Json(json!({ "said": said.0 })))
}

/// `GET /v1/warmups`: the ladders of warming sources.
pub(super) async fn warmups(State(api): State<Api>) -> Result<Json<Value>, Refused> {
    ask(&api, Ask::Warmups).await
}

/// `POST /v1/traffic/warmup`.
pub(super) async fn warmup(
    State(api): State<Api>,
    request: Result<Json<WarmupRequest>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(request) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    let said = ask(&api, Ask::Warmup(request)).await?;
    Ok(Json(json!({ "said": said.0 })))
}

/// `GET /v1/rates?span=`: what was counted of senders.
pub(super) async fn rates(
    State(api): State<Api>,
    select: Result<Query<RatesSelect>, QueryRejection>,
) -> Result<Json<Value>, Refused> {
    ask(&api, Ask::Rates(understood(select)?.span)).await
}

/// `POST /v1/rates/resume`: answers once it holds over a restart.
pub(super) async fn resume_sender(
    State(api): State<Api>,
    request: Result<Json<ResumeSender>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(request) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    let said = ask(&api, Ask::ResumeSender(request)).await?;
    Ok(Json(json!({ "said": said.0 })))
}

/// `POST /v1/credentials/hold`: holds a credential's mail, or lets it go. Answers once that holds over a restart.
pub(super) async fn hold_credential(
    State(api): State<Api>,
    request: Result<Json<HoldCredential>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(request) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    let said = ask(&api, Ask::HoldCredential(request)).await?;
    Ok(Json(json!({ "said": said.0 })))
}
