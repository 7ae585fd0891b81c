//! What is known about domains: bounded, each asked for once at a time, failures kept too.
//!
//! The resolver below keeps records; this keeps conclusions, among them failures, which it would ask for anew each time.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::mail::Domain;
use crate::time::Timestamp;

use super::{Failure, Host};

/// A conclusion about a domain.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub hosts: Result<Arc<[Host]>, Failure>,
    pub until: Timestamp,
    /// Since when the domain, by all answers, does not exist.
    pub absent_since: Option<Timestamp>,
}

/// One look at a domain, done or under way.
struct Look {
    /// What the look before found.
    absent_since: Option<Timestamp>,
    known: OnceCell<Known>,
}

pub(super) struct Cache {
    looks: Mutex<HashMap<Domain, Arc<Look>>>,
    domains_max: usize,
}

impl Cache {
    pub fn new(domains_max: usize) -> Cache {
        Cache { looks: Mutex::default(), domains_max: domains_max.max(1) }
    }

    /// What is known, or what `look` finds; many who ask at once share one look. `look` gets since when the domain was
    /// absent at the look before.
    pub async fn get<F: Future<Output = Known>>(
        &self,
        domain: &Domain,
        now: Timestamp,
        look: impl FnOnce(Option<Timestamp>) -> F,
    ) -> Result<Arc<[Host]>, Failure> {
        let current = self.look(domain, now);
        current.known.get_or_init(|| look(current.absent_since)).await.hosts.clone()
    }

    fn look(&self, domain: &Domain, now: Timestamp) -> Arc<Look> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let absent_since = match looks.get(domain) {
            Some(look) => match look.known.get() {
                Some(known) if known.until <= now => known.absent_since,
                Some(_) | None => return look.clone(),
            },
            None => None,
        };
        if looks.len() >= self.domains_max && !looks.contains_key(domain) {
            make_room(&mut looks, self.domains_max, now);
        }
        let fresh = Arc::new(Look { absent_since, known: OnceCell::new() });
        looks.insert(domain.clone(), fresh.clone());
        fresh
    }
}

/// Forgets what has passed; if that is little, also some of the rest, by the map's own order, which nobody can steer.
fn make_room(looks: &mut HashMap<Domain, Arc<Look>>, domains_max: usize, now: Timestamp) {
    looks.retain(|_, look| look.known.get().is_none_or(|known| now < known.until));
    let kept_max = domains_max - domains_max.div_ceil(16);
    let mut surplus = looks.len().saturating_sub(kept_max);
    looks.retain(|_, _| {
        let keep = surplus == 0;
        surplus = surplus.saturating_sub(1);
        keep
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn known(until: u64) -> Known {
        Known { hosts: Ok(Arc::from([])), until: Timestamp::from_secs(until), absent_since: None }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_look() {
        let (cache, looks) = (Arc::new(Cache::new(10)), Arc::new(AtomicUsize::new(0)));
        let domain: Domain = "example.net".parse().unwrap();
        let ask = |now: u64| {
            let (cache, looks, domain) = (cache.clone(), looks.clone(), domain.clone());
            async move {
                let look = |_| async {
                    looks.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    known(now + 60)
                };
                cache.get(&domain, Timestamp::from_secs(now), look).await.unwrap();
            }
        };
        tokio::join!(ask(0), ask(0), ask(1), ask(59));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        ask(60).await;
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_look_that_was_given_up_is_taken_over() {
        let cache = Cache::new(10);
        let domain: Domain = "example.net".parse().unwrap();
        let endless = cache.get(&domain, Timestamp::ZERO, |_| std::future::pending::<Known>());
        tokio::select! { biased; _ = endless => unreachable!(), () = std::future::ready(()) => {} }
        assert!(cache.get(&domain, Timestamp::ZERO, |_| async { known(1) }).await.is_ok());
    }

    #[tokio::test]
    async fn the_memory_is_bounded_and_the_next_look_learns_of_the_last() {
        let cache = Cache::new(32);
        for n in 0..200 {
            let domain: Domain = format!("d{n}.example").parse().unwrap();
            cache.get(&domain, Timestamp::ZERO, |_| async { known(100) }).await.unwrap();
            assert!(cache.looks.lock().unwrap().len() <= 32);
        }
        let domain: Domain = "absent.example".parse().unwrap();
        let at = Timestamp::from_secs;
        let absent = |since| Known { absent_since: Some(since), ..known(5) };
        cache.get(&domain, at(1), |before| async move { absent(before.unwrap_or(at(1))) }).await.unwrap();
        let check = |before: Option<Timestamp>| async move {
            assert_eq!(before, Some(at(1)));
            known(100)
        };
        cache.get(&domain, at(5), check).await.unwrap();
    }
}
