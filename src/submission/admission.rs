//! How many connections there are, of whom, and how to tell them all to stop.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The book of live connections.
#[derive(Default)]
pub(super) struct Admission(Mutex<Book>);

#[derive(Default)]
struct Book {
    next: u64,
    draining: bool,
    /// At most `connections_max`.
    live: HashMap<u64, oneshot::Sender<()>>,
    per_client: HashMap<IpAddr, usize>,
}

/// One connection's place. Dropping it gives the place back.
pub(super) struct Ticket {
    admission: Arc<Admission>,
    /// `None`: exempt from counting.
    client: Option<IpAddr>,
    number: u64,
}

/// There is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// In all.
    All,
    /// For this client.
    Client,
}

/// Whom connections are counted for: an IPv6 client has a whole /64 to call from.
pub(super) fn client_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

impl Admission {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; without `per_client_max` the client is not counted. What comes with it resolves when the connection
    /// should end.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        per_client_max: Option<usize>,
        all_max: usize,
    ) -> Result<(Ticket, oneshot::Receiver<()>), Full> {
        let client = per_client_max.map(|_| client_key(address));
        let mut book = self.book();
        if book.draining || book.live.len() >= all_max {
            return Err(Full::All);
        }
        if let (Some(client), Some(max)) = (client, per_client_max) {
            let count = book.per_client.entry(client).or_default();
            if *count >= max {
                return Err(Full::Client);
            }
            *count += 1;
        }
        let number = book.next;
        book.next += 1;
        let (sender, receiver) = oneshot::channel();
        book.live.insert(number, sender);
        Ok((Ticket { admission: self.clone(), client, number }, receiver))
    }

    /// Lets nobody in any more, and tells all who are in.
    pub(super) fn drain(&self) {
        let mut book = self.book();
        book.draining = true;
        for (_, sender) in book.live.drain() {
            // Who is gone needs no telling.
            let _ = sender.send(());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut book = self.admission.book();
        book.live.remove(&self.number);
        let Some(client) = self.client else { return };
        let left = book.per_client.get_mut(&client).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            book.per_client.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_client_and_in_all_and_given_back() {
        let admission = Arc::new(Admission::default());
        let enter = |text: &str| admission.enter(text.parse().unwrap(), Some(2), 4);
        let a = enter("192.0.2.1").unwrap();
        let b = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").err(), Some(Full::Client));
        let c = enter("2001:db8::1").unwrap();
        let d = enter("2001:db8::2").unwrap();
        assert_eq!(enter("192.0.2.9").err(), Some(Full::All));
        drop(a);
        assert_eq!(enter("2001:db8::3").err(), Some(Full::Client));
        let e = enter("192.0.2.1").unwrap();
        drop((b, c, d, e));
        assert!(admission.book().per_client.is_empty() && admission.book().live.is_empty());
    }

    #[test]
    fn draining_tells_everybody_once() {
        let admission = Arc::new(Admission::default());
        let (_ticket, mut told) = admission.enter("192.0.2.1".parse().unwrap(), None, 9).unwrap();
        assert!(told.try_recv().is_err());
        admission.drain();
        assert_eq!(told.try_recv(), Ok(()));
        assert_eq!(admission.enter("192.0.2.2".parse().unwrap(), None, 9).err(), Some(Full::All));
    }
}
