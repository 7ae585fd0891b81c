//! The names under which budgets are kept over restarts, and what earlier runs wrote down.

use std::collections::HashMap;

use bytes::Bytes;

use super::clerk::Clerk;
use super::resolve::SiteKey;
use super::world::World;
use crate::traffic::{Account, DomainHandle, Fact, Holder, Kept, ProviderHandle, SiteHandle, SourceHandle, Unit};

/// What is written down, by name.
#[derive(Default)]
pub(super) struct Accounts {
    kept: HashMap<Bytes, Bytes>,
}

/// Separates the parts of a name: it stands in no name of a source, a rule or a host.
const SEPARATOR: char = '\n';

impl Accounts {
    pub fn new(kept: Vec<(Bytes, Bytes)>) -> Accounts {
        Accounts { kept: kept.into_iter().collect() }
    }

    pub fn set(&mut self, name: Bytes, record: Bytes) {
        self.kept.insert(name, record);
    }

    fn find(&self, name: &Bytes) -> Option<&Bytes> {
        self.kept.get(name)
    }

    fn remove(&mut self, name: &Bytes) -> bool {
        self.kept.remove(name).is_some()
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Messages => "messages",
        Unit::Recipients => "recipients",
        Unit::Connections => "connections",
        Unit::Lesson => "lesson",
        Unit::Warmup => "warmup",
    }
}

const UNITS: [Unit; 4] = [Unit::Messages, Unit::Recipients, Unit::Connections, Unit::Lesson];

impl<W: World> Clerk<W> {
    /// The name of an account: `unit, source, holder`, a line each.
    pub(super) fn account_name(&self, account: Account) -> Option<Bytes> {
        let holder = match account.holder {
            Holder::Site(site) => format!("site {}", self.sites.key(site.0).map(SiteKey::kept_name)?),
            Holder::Domain(domain) => {
                format!("domain {}", self.domains.key(domain.0).filter(|key| key.route.is_none())?.domain)
            }
            Holder::Provider(provider) => format!("provider {}", self.providers.name(provider.0)),
            Holder::All => "all".to_owned(),
            Holder::Place(_) => return None,
        };
        let source = account.source.map(|source| self.sources.name(source.0)).unwrap_or_default();
        let unit = unit_name(account.unit);
        Some(Bytes::from(format!("{unit}{SEPARATOR}{source}{SEPARATOR}{holder}")))
    }

    /// The accounts that a site and a domain may have.
    fn accounts_of(&self, holder: Holder) -> Vec<Account> {
        let sources = (0..self.sources.len() as u16).map(|source| Some(SourceHandle(source)));
        let each = sources.chain([None]);
        each.flat_map(|source| UNITS.map(|unit| Account { holder, source, unit })).collect()
    }

    /// What earlier runs wrote down of a site and a domain.
    pub(super) fn kept_of(&self, site: u32, domain: u32, provider: ProviderHandle) -> Box<[Kept]> {
        let holders = [Holder::Site(SiteHandle(site)), Holder::Domain(DomainHandle(domain))];
        let accounts = holders.into_iter().flat_map(|holder| self.accounts_of(holder));
        let warming = self.settings().warmups.iter().filter_map(|rule| self.sources.find(&rule.source));
        let of_source = |source| {
            let holders = [Holder::Provider(provider), Holder::All];
            holders.map(|holder| Account { holder, source: Some(SourceHandle(source)), unit: Unit::Warmup })
        };
        let accounts = accounts.chain(warming.flat_map(of_source));
        let kept = |account| {
            let bytes = self.accounts.find(&self.account_name(account)?)?;
            Some(Kept { account, bytes: bytes.as_ref().into() })
        };
        if self.accounts.kept.is_empty() { Box::default() } else { accounts.filter_map(kept).collect() }
    }

    /// Makes a reservation durable.
    pub(super) fn reserve(&mut self, account: Account) {
        let (Some(name), Some(record)) = (self.account_name(account), self.engine.record(account)) else {
            return self.tell(Fact::Reserved(account, false));
        };
        let record = Bytes::from(record);
        self.accounts.set(name.clone(), record.clone());
        self.keep(name, Some(record), Some(account));
    }

    /// A site or domain is forgotten: its windows are empty, and what was reserved for it was not spent.
    pub(super) fn close_accounts(&mut self, holder: Holder) {
        if self.accounts.kept.is_empty() {
            return;
        }
        for account in self.accounts_of(holder) {
            if let Some(name) = self.account_name(account).filter(|name| self.accounts.remove(name)) {
                self.keep(name, None, None);
            }
        }
    }

    /// As listings name a domain or site.
    pub(super) fn holder_name(&self, holder: Holder) -> String {
        match holder {
            Holder::Site(site) => self.sites.key(site.0).map(SiteKey::name).unwrap_or_default(),
            Holder::Domain(domain) => self.domains.key(domain.0).map(ToString::to_string).unwrap_or_default(),
            Holder::Provider(provider) => self.providers.name(provider.0).to_owned(),
            Holder::All => "all sites".to_owned(),
            Holder::Place(place) => {
                self.places.key(place.0).map(|address| format!("{address}, with other sites,")).unwrap_or_default()
            }
        }
    }
}
