//! What the network checks ask the world, as a trait, so that they run on tables in tests.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A question that got no answer: time out, SERVFAIL, no resolver. Not the same as the answer "there is none".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble(pub String);

/// DNS, and the door out. An answer that says "there is none" is an empty list.
pub trait Lookups {
    /// TXT, the strings of each record joined.
    fn texts(&self, name: &str) -> impl Future<Output = Result<Vec<String>, Trouble>>;
    /// A and AAAA.
    fn addresses(&self, name: &str) -> impl Future<Output = Result<Vec<IpAddr>, Trouble>>;
    /// PTR.
    fn pointers(&self, address: IpAddr) -> impl Future<Output = Result<Vec<String>, Trouble>>;
    /// MX, best first.
    fn exchanges(&self, name: &str) -> impl Future<Output = Result<Vec<String>, Trouble>>;
    /// The first line that an SMTP server says to a connection from `source`.
    fn greeting(&self, source: IpAddr, peer: SocketAddr, by: Duration)
    -> impl Future<Output = Result<String, Trouble>>;
}

/// The world as a table.
#[cfg(test)]
pub mod table {
    use std::collections::BTreeMap;

    use super::*;

    /// Each list is an answer; a name that is not there has no records.
    #[derive(Clone, Default)]
    pub struct Table {
        /// TXT.
        pub texts: BTreeMap<String, Vec<String>>,
        /// A and AAAA.
        pub addresses: BTreeMap<String, Vec<IpAddr>>,
        /// PTR.
        pub pointers: BTreeMap<IpAddr, Vec<String>>,
        /// MX.
        pub exchanges: BTreeMap<String, Vec<String>>,
        /// Who greets.
        pub greetings: BTreeMap<SocketAddr, String>,
        /// The resolver does not answer.
        pub broken: bool,
    }

    impl Table {
        fn answer<K: Ord, V: Clone + Default>(&self, table: &BTreeMap<K, V>, key: &K) -> Result<V, Trouble> {
            match self.broken {
                true => Err(Trouble("no answer within 5s".to_owned())),
                false => Ok(table.get(key).cloned().unwrap_or_default()),
            }
        }
    }

    impl Lookups for Table {
        async fn texts(&self, name: &str) -> Result<Vec<String>, Trouble> {
            self.answer(&self.texts, &name.to_owned())
        }

        async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Trouble> {
            self.answer(&self.addresses, &name.to_owned())
        }

        async fn pointers(&self, address: IpAddr) -> Result<Vec<String>, Trouble> {
            self.answer(&self.pointers, &address)
        }

        async fn exchanges(&self, name: &str) -> Result<Vec<String>, Trouble> {
            self.answer(&self.exchanges, &name.to_owned())
        }

        async fn greeting(&self, _: IpAddr, peer: SocketAddr, _: Duration) -> Result<String, Trouble> {
            self.greetings.get(&peer).cloned().ok_or_else(|| Trouble("no connection within 5s".to_owned()))
        }
    }

    /// A row of a table.
    pub fn row<V: std::str::FromStr>(values: &[&str]) -> Vec<V>
    where
        V::Err: std::fmt::Debug,
    {
        values.iter().map(|value| value.parse().unwrap()).collect()
    }
}
