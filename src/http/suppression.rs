//! The suppression list: listings, orders of the operator, and imports as they stream in.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use serde::Deserialize;

use super::shapes::{
    Suppression, SuppressionAdd, SuppressionAdded, SuppressionCount, SuppressionImport, SuppressionImported,
    SuppressionPage, SuppressionRemove, SuppressionRemoved, SuppressionSelect, SuppressionStats,
};
use super::{Api, Refused};
use crate::clock::system_time;
use crate::mail::Address;
use crate::suppression::foreign::{self, Row, Terms};
use crate::suppression::{self as list, Cause, Counts, Edit, Entry, Failure, Import, Run, Scope, Suppressions};
use crate::time::Timestamp;

/// Most entries of a page.
const PAGE_MAX: usize = 10_000;
/// Longest line of an import.
const LINE_LENGTH_MAX: usize = 64 * 1024;

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        let status = match &failure {
            Failure::Full => StatusCode::INSUFFICIENT_STORAGE,
            Failure::Closed | Failure::Overfull { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Busy => StatusCode::CONFLICT,
            Failure::TooMany { .. } | Failure::Crowded { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Failure::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refused(status, failure.to_string())
    }
}

fn list_of(api: &Api) -> Result<Suppressions, Refused> {
    let missing = || Refused(StatusCode::NOT_FOUND, "this daemon keeps no suppression list".to_owned());
    api.suppressions.clone().ok_or_else(missing)
}

fn bad(text: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, text.into())
}

fn body<T>(request: Result<Json<T>, JsonRejection>) -> Result<T, Refused> {
    request.map(|Json(request)| request).map_err(|error| Refused(error.status(), error.body_text()))
}

fn query<T>(request: Result<Query<T>, QueryRejection>) -> Result<T, Refused> {
    request.map(|Query(request)| request).map_err(|error| bad(error.body_text()))
}

fn address(text: &str) -> Result<Address, Refused> {
    text.parse().map_err(|error| bad(format!("{text:?}: {error}")))
}

fn time(text: &str) -> Result<Timestamp, Refused> {
    Timestamp::read(text).map_err(|error| bad(format!("{text:?}: {error}")))
}

fn cause(text: &str) -> Result<Cause, Refused> {
    text.parse().map_err(|error| bad(format!("{text:?}: {error}")))
}

fn scope(text: &str) -> Result<Scope, Refused> {
    Scope::parse(text).ok_or_else(|| bad(format!("{text:?}: a scope is all, marketing, transactional or stream:NAME")))
}

fn wanted(select: &SuppressionSelect) -> Result<list::Query, Refused> {
    let state = |text: &String| {
        list::State::parse(text).ok_or_else(|| bad(format!("{text:?}: a state is in_force, pending or expired")))
    };
    Ok(list::Query {
        cause: select.cause.as_deref().map(cause).transpose()?,
        scope: select.scope.as_deref().map(scope).transpose()?,
        site: select.site.as_deref().map(Into::into),
        domain: match &select.domain {
            Some(domain) => Some(domain.parse().map_err(|error| bad(format!("{domain:?}: {error}")))?),
            None => None,
        },
        since: select.since.as_deref().map(time).transpose()?,
        until: select.until.as_deref().map(time).transpose()?,
        state: select.state.as_ref().map(state).transpose()?,
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    let cut_short = |_| Refused(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(cut_short)
}

/// `GET /v1/suppression`: a page of entries.
pub(super) async fn page(
    State(api): State<Api>,
    select: Result<Query<SuppressionSelect>, QueryRejection>,
) -> Result<Json<SuppressionPage>, Refused> {
    let (list, select, now) = (list_of(&api)?, query(select)?, system_time());
    let wanted = wanted(&select)?;
    let limit = select.limit.unwrap_or(1000).clamp(1, PAGE_MAX);
    let found = blocking(move || list.page(&wanted, select.after.as_deref(), limit, now)).await?;
    let page = found.ok_or_else(|| bad("after: what the page before named as `next` is expected"))?;
    let entries = page.entries.iter().map(|(address, entry)| Suppression::of(address, entry, now)).collect();
    Ok(Json(SuppressionPage { entries, next: page.next, damaged: page.damaged }))
}

/// `GET /v1/suppression/addresses/ADDRESS`: all entries of one.
pub(super) async fn show(
    State(api): State<Api>,
    UrlPath(text): UrlPath<String>,
) -> Result<Json<SuppressionPage>, Refused> {
    let (list, address, now) = (list_of(&api)?, address(&text)?, system_time());
    let entries = list.entries(&address);
    let entries = entries.iter().map(|entry| Suppression::of(&address, entry, now)).collect();
    Ok(Json(SuppressionPage { entries, next: None, damaged: 0 }))
}

/// `POST /v1/suppression/add`: answers once it is durable.
pub(super) async fn add(
    State(api): State<Api>,
    request: Result<Json<SuppressionAdd>, JsonRejection>,
) -> Result<Json<SuppressionAdded>, Refused> {
    let (list, request, now) = (list_of(&api)?, body(request)?, system_time());
    let address = address(&request.address)?;
    let cause = request.cause.as_deref().map_or(Ok(Cause::Manual), cause)?;
    let scope = request.scope.as_deref().map_or(Ok(Scope::All), scope)?;
    let mut entry = Entry::new(scope, cause, now);
    entry.expires_at = request.expires_at.as_deref().map(time).transpose()?;
    entry.evidence = request.evidence.unwrap_or_default().into();
    let put = list.change(&address, move |there| {
        let same = |there: &&Entry| there.cause == entry.cause && there.scope == entry.scope;
        let before = there.iter().find(same).filter(|before| before.is_readable());
        if let Some(before) = before {
            (entry.added_at, entry.hits) = (before.added_at, before.hits.saturating_add(1));
        }
        (vec![Edit::Put(entry.clone())], (entry, before.is_some()))
    });
    let (entry, was_there) = put.await?;
    tracing::info!(recipient = %address, cause = cause.name(), "put into the suppression list by an operator");
    Ok(Json(SuppressionAdded { entry: Suppression::of(&address, &entry, now), was_there }))
}

/// `POST /v1/suppression/remove`: entries of an address, or all that fit.
pub(super) async fn remove(
    State(api): State<Api>,
    request: Result<Json<SuppressionRemove>, JsonRejection>,
) -> Result<Json<SuppressionRemoved>, Refused> {
    let (list, request, now) = (list_of(&api)?, body(request)?, system_time());
    let wanted = wanted(&request.select)?;
    let run = if request.dry_run { Run::Dry } else { Run::Real };
    let removed = match &request.address {
        None if wanted.is_all() && !request.all => {
            return Err(bad(
                "which entries are meant? An address, or one of site, domain, cause, scope, since, until, state",
            ));
        }
        None => list.remove_where(&wanted, run, now).await?,
        Some(text) => {
            let by_more = list::Query { cause: None, scope: None, ..wanted.clone() };
            if !by_more.is_all() {
                return Err(bad("beside an address, only scope and cause choose entries"));
            }
            let address = address(text)?;
            match run {
                Run::Real => list.remove(&address, wanted.scope.as_ref(), wanted.cause).await? as u64,
                Run::Dry => {
                    let is_meant = |entry: &&Entry| {
                        wanted.cause.is_none_or(|cause| cause == entry.cause)
                            && wanted.scope.as_ref().is_none_or(|scope| *scope == entry.scope)
                    };
                    list.entries(&address).iter().filter(is_meant).count() as u64
                }
            }
        }
    };
    if run == Run::Real {
        tracing::info!(entries = removed, "removed from the suppression list by an operator");
    }
    Ok(Json(SuppressionRemoved { removed, dry_run: request.dry_run }))
}

/// `GET /v1/suppression/stats`: counts everything.
pub(super) async fn stats(
    State(api): State<Api>,
    select: Result<Query<SuppressionSelect>, QueryRejection>,
) -> Result<Json<SuppressionStats>, Refused> {
    let (list, wanted, now) = (list_of(&api)?, wanted(&query(select)?)?, system_time());
    let Counts { entries, addresses, causes, scopes, damaged, figures } =
        blocking(move || list.count(&wanted, now)).await?;
    let count = |((cause, state), entries): ((Cause, &str), u64)| SuppressionCount {
        cause: cause.name().to_owned(),
        state: state.to_owned(),
        entries,
    };
    Ok(Json(SuppressionStats {
        entries,
        addresses,
        causes: causes.into_iter().map(count).collect(),
        scopes,
        files: figures.files,
        in_files: figures.in_files,
        in_memory: figures.in_memory,
        disk_bytes: figures.disk_bytes,
        memory_bytes: figures.memory_bytes,
        damaged: figures.damaged.max(damaged),
        failed: figures.failed,
    }))
}

/// `GET /v1/suppression/import`: how far the import is that goes on.
pub(super) async fn import_progress(State(api): State<Api>) -> Result<Json<SuppressionImport>, Refused> {
    let (taken, merged) = list_of(&api)?.import_progress().unwrap_or_default();
    Ok(Json(SuppressionImport { taken, merged }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportTerms {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/suppression/import`: JSON Lines as they come, all or nothing. Answers once they are durable.
pub(super) async fn import(
    State(api): State<Api>,
    terms: Result<Query<ImportTerms>, QueryRejection>,
    mut body: Body,
) -> Result<Json<SuppressionImported>, Refused> {
    let (list, terms) = (list_of(&api)?, query(terms)?);
    let imported = match list.import() {
        Ok(import) => take(import, &mut body, if terms.dry_run { Run::Dry } else { Run::Real }).await,
        Err(busy) => Err(busy.into()),
    };
    if imported.is_err() {
        // Who still sends would not hear the answer: it is read to its end.
        while let Some(Ok(_)) = body.frame().await {}
    }
    imported.map(Json)
}

async fn take(mut import: Import, body: &mut Body, run: Run) -> Result<SuppressionImported, Refused> {
    let terms = Terms { about: None, cause: None, scope: None, expires_at: None, now: system_time() };
    let (mut rest, mut line) = (Vec::new(), 0u64);
    while let Some(frame) = body.frame().await {
        // A client that goes away in the middle takes its import with it.
        let frame = frame.map_err(|error| bad(format!("the import broke off after line {line}: {error}")))?;
        let Ok(octets) = frame.into_data() else { continue };
        let mut octets = &octets[..];
        while let Some((head, tail)) = memchr::memchr(b'\n', octets).and_then(|end| octets.split_at_checked(end)) {
            rest.extend_from_slice(head);
            line += 1;
            put(&mut import, &rest, line, &terms).await?;
            rest.clear();
            octets = tail.get(1..).unwrap_or_default();
        }
        rest.extend_from_slice(octets);
        if rest.len() > LINE_LENGTH_MAX {
            return Err(bad(format!("line {} is longer than {LINE_LENGTH_MAX} octets", line + 1)));
        }
    }
    if !rest.is_empty() {
        put(&mut import, &rest, line + 1, &terms).await?;
    }
    let done = import.finish(run, |_| {}).await?;
    Ok(SuppressionImported {
        taken: done.taken,
        distinct: done.distinct,
        added: done.added,
        changed: done.changed,
        known: done.known,
    })
}

async fn put(import: &mut Import, octets: &[u8], line: u64, terms: &Terms) -> Result<(), Refused> {
    if octets.trim_ascii().is_empty() {
        return Ok(());
    }
    match foreign::read_line(octets, terms) {
        Row::Entry(address, entry) => Ok(import.push(&address, entry).await?),
        Row::LeftOut(why) => Err(bad(format!("line {line}: {why}; nothing was imported"))),
        Row::Bad(why) => Err(bad(format!("line {line}: {why}; nothing was imported"))),
    }
}
