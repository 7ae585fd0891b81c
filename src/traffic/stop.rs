//! What an operator stopped: sources everywhere, sites, and single sources at sites. Kept by the engine; it outlives the
//! site's other state, and the caller says it anew before a site that it lets go of comes back.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::domain::Hosts;
use super::lane::FlowKey;
use super::words::{SiteHandle, SourceHandle};

/// No new connections and no further messages.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    sources: BTreeSet<SourceHandle>,
    /// By site: these sources; `None` is all.
    sites: BTreeMap<SiteHandle, Box<[Option<SourceHandle>]>>,
}

impl Stopped {
    pub fn stop(&mut self, source: SourceHandle) {
        self.sources.insert(source);
    }

    pub fn resume(&mut self, source: SourceHandle) {
        self.sources.remove(&source);
    }

    /// Replaces what was said of a site.
    pub fn set(&mut self, site: SiteHandle, sources: Box<[Option<SourceHandle>]>) {
        match sources.is_empty() {
            true => drop(self.sites.remove(&site)),
            false => drop(self.sites.insert(site, sources)),
        }
    }

    /// Whether a source is stopped everywhere.
    pub fn everywhere(&self, source: SourceHandle) -> bool {
        self.sources.contains(&source)
    }

    /// Whether a source is stopped at this site, or the site for all.
    pub fn at(&self, source: SourceHandle, site: u32) -> bool {
        let sources = self.sites.get(&SiteHandle(site));
        sources.is_some_and(|sources| sources.iter().any(|stopped| stopped.is_none_or(|stopped| stopped == source)))
    }
}

impl Engine {
    /// Whether nothing may go from a source to a site, since an operator says so.
    pub(super) fn is_stopped(&self, source: SourceHandle, site: u32) -> bool {
        self.stopped.everywhere(source) || self.stopped.at(source, site)
    }

    /// Whether a source is stopped for the mail of a flow: everywhere, or at the site of its domain.
    pub(super) fn is_stopped_for(&self, source: SourceHandle, key: &FlowKey) -> bool {
        let site = match self.domains.get(key.domain.0).map(|domain| domain.hosts) {
            Some(Hosts::Known(target)) => self.targets.get(target).map(|target| target.site),
            Some(Hosts::Unknown | Hosts::Failing(_) | Hosts::Never) | None => None,
        };
        self.stopped.everywhere(source) || site.is_some_and(|site| self.stopped.at(source, site))
    }
}
