//! Listings of the queue, and operators' orders.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::shapes::{Envelope, Listing, OrderAnswer, OrderRequest, OrderResult, Select};
use super::{Api, Refused, parse_id};
use crate::mail::QueueId;
use crate::queue::{Filter, LISTING_MAX, Order, Ordered};
use crate::spool::ReadError;

/// Envelopes of a page, unless the request says otherwise.
const PAGE_ROWS: usize = 100;
/// Orders carried out at once: their records share a sync.
const ORDERS_MAX: usize = 64;

/// `GET /v1/queue`: a page of the queue.
pub(super) async fn list(
    State(api): State<Api>,
    select: Result<Query<Select>, QueryRejection>,
) -> Result<Json<Listing>, Refused> {
    let Query(select) = select.map_err(|error| refused(error.body_text()))?;
    let (filter, after, limit) = understood(&api, &select).await?;
    let page = api.queue.list(filter, after, limit).await;
    Ok(Json(Listing {
        total: api.queue.len(),
        envelopes: page.rows.iter().map(Envelope::of).collect(),
        next: page.next.map(|id| id.to_string()),
    }))
}

/// `GET /v1/queue/{id}`: one envelope.
pub(super) async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    let id = parse_id(&id)?;
    let listed = api.queue.show(id).await.ok_or_else(|| Refused::unknown(id))?;
    Ok(Json(json!(Envelope::of(&listed))))
}

/// `GET /v1/queue/{id}/message`: header and body, as they would be sent. For operators, as all of this socket.
pub(super) async fn message(State(api): State<Api>, Path(id): Path<String>) -> Result<Vec<u8>, Refused> {
    let id = parse_id(&id)?;
    let unreadable = |error: ReadError| Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("{id}: {error}"));
    api.queue.message(id).await.map_err(unreadable)?.ok_or_else(|| Refused::unknown(id))
}

/// `POST /v1/queue/orders/{order}`: carries out an order on the named envelopes, or on a page of the selected ones.
pub(super) async fn order(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Result<Json<OrderRequest>, JsonRejection>,
) -> Result<Json<OrderAnswer>, Refused> {
    let Json(request) = request.map_err(|error| Refused(error.status(), error.body_text()))?;
    let errand = Errand::of(&api, &name, request.pool.as_deref()).await?;
    let (ids, next) = match (&request.ids[..], &request.select) {
        ([], Some(select)) => {
            let (filter, after, limit) = understood(&api, select).await?;
            let page = api.queue.ids(filter, after, limit).await;
            (page.rows, page.next)
        }
        ([], None) => return Err(refused("neither `ids` nor `select` says which envelopes".to_owned())),
        (_, Some(_)) => return Err(refused("either `ids` or `select`, not both".to_owned())),
        (ids, None) if ids.len() > LISTING_MAX => {
            return Err(refused(format!("{} ids; at most {LISTING_MAX} are taken at once", ids.len())));
        }
        (ids, None) => (ids.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?, None),
    };
    tracing::info!(order = name, pool = request.pool, envelopes = ids.len(), "an operator's order");
    // First: what is due while its sending domain is still stopped, or its site paused, is put off again at once.
    if matches!(errand, Errand::Order(Order::Retry)) {
        (api.probe)().await;
    }
    let results = carry_out(&api, &errand, &ids).await;
    Ok(Json(OrderAnswer { results, next: next.map(|id| id.to_string()) }))
}

/// What is to be done to each envelope.
#[derive(Clone)]
enum Errand {
    Order(Order),
    Reroute(Arc<str>),
}

impl Errand {
    async fn of(api: &Api, name: &str, pool: Option<&str>) -> Result<Errand, Refused> {
        if name == "reroute" {
            let pool = pool.ok_or_else(|| refused("`pool` is needed: which one is to carry them?".to_owned()))?;
            let known = (api.pools)().await;
            return match known.iter().any(|known| known == pool) {
                true => Ok(Errand::Reroute(pool.into())),
                false => Err(refused(format!("there is no pool {pool:?}; there are: {}", known.join(", ")))),
            };
        }
        if pool.is_some() {
            return Err(refused("`pool` is for `reroute` alone".to_owned()));
        }
        let order = Order::ALL.into_iter().find(|order| order.name() == name);
        let unknown = || Refused(StatusCode::NOT_FOUND, format!("there is no order {name:?}"));
        order.map(Errand::Order).ok_or_else(unknown)
    }
}

/// Carries out an order on each, some at once; the results are in the order of the ids.
async fn carry_out(api: &Api, errand: &Errand, ids: &[QueueId]) -> Vec<OrderResult> {
    let mut results = Vec::with_capacity(ids.len());
    let mut running = JoinSet::new();
    let mut waiting = ids.iter().copied().enumerate();
    loop {
        while running.len() < ORDERS_MAX {
            let Some((place, id)) = waiting.next() else { break };
            let (api, errand) = (api.clone(), errand.clone());
            running.spawn(async move { (place, id, carry_out_one(&api, errand, id).await) });
        }
        match running.join_next().await {
            Some(Ok((place, id, ordered))) => results.push((place, OrderResult::of(id.to_string(), &ordered))),
            Some(Err(error)) => tracing::error!(%error, "an operator's order was cut short"),
            None => break,
        }
    }
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

async fn carry_out_one(api: &Api, errand: Errand, id: QueueId) -> Ordered {
    match errand {
        Errand::Reroute(pool) => api.queue.reroute(id, &pool).await,
        Errand::Order(order @ (Order::Hold | Order::Release | Order::Retry | Order::Delete)) => {
            api.queue.order(id, order).await
        }
        Errand::Order(Order::Bounce) => match api.queue.lease_for_order(id, Order::Bounce).await {
            Ok(lease) => {
                (api.bounce)(lease).await.written().await;
                Ordered::Done
            }
            Err(ordered) => ordered,
        },
    }
}

async fn understood(api: &Api, select: &Select) -> Result<(Filter, QueueId, usize), Refused> {
    let mut filter = select.filter().map_err(refused)?;
    if let Some(site) = &select.site {
        let domains = (api.site_domains)(site.clone()).await;
        let unknown =
            || refused(format!("no mail waits for a site {site:?}; a site is known once its MX was looked up"));
        filter.domains = Some(domains.ok_or_else(unknown)?);
    }
    let after = select.after.as_deref().map_or(Ok(QueueId::MIN), parse_id)?;
    let limit = select.limit.unwrap_or(PAGE_ROWS);
    if !(1..=LISTING_MAX).contains(&limit) {
        return Err(refused(format!("limit {limit}: 1 to {LISTING_MAX} is expected")));
    }
    Ok((filter, after, limit))
}

fn refused(text: String) -> Refused {
    Refused(StatusCode::BAD_REQUEST, text)
}
