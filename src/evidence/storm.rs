//! A site's share of "no such mailbox", against its usual one: a storm of them says something of the site or of a list of
//! addresses, and nothing of each address.
//!
//! Gmail answered 550 5.1.1 for valid accounts for hours on 14 and 15 December 2020; a directory that cannot be reached
//! does the same at small sites every day.
//!
//! Two pairs of counts for each site. *Recent* is the last 400 answers or so, with a half-life of an hour. What leaves it
//! goes over to *usual*, with a half-life of 14 days, but not during a storm: so the usual share never learns from what it
//! is to judge. A site without a past is taken to have one: 200 answers, 5 % of them invalid.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::time::Timestamp;

/// So many answers are recent.
const RECENT_MAX: f64 = 400.0;
const RECENT_HALF_LIFE: Duration = Duration::from_secs(3600);
const USUAL_HALF_LIFE: Duration = Duration::from_secs(14 * 86_400);
/// What is assumed of a site before it is known: a list that was kept well is below 2 %, one that is mailed for the first
/// time has more.
const ASSUMED_ANSWERS: f64 = 200.0;
const ASSUMED_SHARE: f64 = 0.05;
/// No share is taken for less usual than this: at a site that never refuses, a handful would else be a storm.
const USUAL_MIN: f64 = 0.01;
/// A storm is over three times the usual share …
const STORM_TIMES: f64 = 3.0;
/// … of this many recent ones at least, …
const STORM_INVALID_MIN: f64 = 20.0;
/// … and ends below one and a half times of it, …
const CALM_TIMES: f64 = 1.5;
/// … or when so few are left of the recent ones that nothing can be said,
const CALM_INVALID: f64 = 2.0;
/// or after so long: then it is no incident, but how the site is.
const STORM_MAX: Duration = Duration::from_secs(3 * 86_400);
/// What was believed right before a storm is doubted with it: so far back, and so many. A storm is seen after 20 to 30.
const DOUBT_BACK: Duration = Duration::from_secs(2 * 3600);
const DOUBT_MAX: usize = 64;
/// Most sites that are remembered; who was not heard of for longest makes room.
const SITES_MAX: usize = 10_000;

/// An answer about one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Mail was taken.
    Valid,
    /// There is no such mailbox.
    Invalid,
}

#[derive(Clone, Copy, PartialEq, Default, Debug)]
struct Counts {
    valid: f64,
    invalid: f64,
}

impl Counts {
    fn sum(self) -> f64 {
        self.valid + self.invalid
    }

    fn times(self, factor: f64) -> Counts {
        Counts { valid: self.valid * factor, invalid: self.invalid * factor }
    }

    fn add(&mut self, other: Counts) {
        self.valid += other.valid;
        self.invalid += other.invalid;
    }
}

/// What a site's shares are, for people.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share {
    /// Of the recent answers, 0 to 1.
    pub recent: f64,
    /// How many those are.
    pub answers: f64,
    /// What it usually is.
    pub usual: f64,
}

/// What an answer changed.
#[derive(Clone, PartialEq, Debug)]
pub enum Turn {
    /// Nothing.
    None,
    /// A storm began. What was believed right before is doubted: the names that [`Sites::believed`] was given.
    Begins(Share, Vec<Box<str>>),
    /// It is over.
    Ends(Share),
}

#[derive(Clone, PartialEq, Default, Debug)]
struct Site {
    recent: Counts,
    usual: Counts,
    /// When it was last brought up to date.
    at: Timestamp,
    storm_since: Option<Timestamp>,
    believed: VecDeque<(Timestamp, Box<str>)>,
}

impl Site {
    fn share(&self) -> Share {
        let answers = self.recent.sum();
        let recent = if answers > 0.0 { self.recent.invalid / answers } else { 0.0 };
        let invalid = self.usual.invalid + ASSUMED_ANSWERS * ASSUMED_SHARE;
        let usual = (invalid / (self.usual.sum() + ASSUMED_ANSWERS)).max(USUAL_MIN);
        Share { recent, answers, usual }
    }

    /// Lets time pass.
    fn follow(&mut self, now: Timestamp) {
        let passed = now.since(self.at).as_secs_f64();
        // A clock that was set back stands still for us.
        self.at = self.at.max(now);
        if passed > 0.0 {
            self.usual = self.usual.times((-passed / USUAL_HALF_LIFE.as_secs_f64()).exp2());
            self.keep((-passed / RECENT_HALF_LIFE.as_secs_f64()).exp2());
        }
    }

    /// Keeps this part of what is recent; the rest was usual, unless there is a storm.
    fn keep(&mut self, part: f64) {
        if self.storm_since.is_none() {
            self.usual.add(self.recent.times(1.0 - part));
        }
        self.recent = self.recent.times(part);
    }

    fn hear(&mut self, answer: Answer, now: Timestamp) {
        match answer {
            Answer::Valid => self.recent.valid += 1.0,
            Answer::Invalid => self.recent.invalid += 1.0,
        }
        if self.recent.sum() > RECENT_MAX {
            self.keep(RECENT_MAX / self.recent.sum());
        }
        while self.believed.front().is_some_and(|(at, _)| now.since(*at) > DOUBT_BACK) {
            self.believed.pop_front();
        }
    }

    fn turn(&mut self, now: Timestamp) -> Turn {
        let share = self.share();
        match self.storm_since {
            None if self.recent.invalid >= STORM_INVALID_MIN && share.recent > STORM_TIMES * share.usual => {
                self.storm_since = Some(now);
                Turn::Begins(share, std::mem::take(&mut self.believed).into_iter().map(|(_, name)| name).collect())
            }
            Some(since) if now.since(since) > STORM_MAX => {
                // What was usual is so no longer.
                self.usual = self.recent.times(ASSUMED_ANSWERS / share.answers.max(1.0));
                self.storm_since = None;
                Turn::Ends(share)
            }
            Some(_) if share.recent < CALM_TIMES * share.usual || self.recent.invalid < CALM_INVALID => {
                self.storm_since = None;
                Turn::Ends(share)
            }
            None | Some(_) => Turn::None,
        }
    }
}

/// All sites.
#[derive(Default, Debug)]
pub struct Sites {
    sites: HashMap<Box<str>, Site>,
}

impl Sites {
    /// Takes in an answer.
    pub fn hear(&mut self, site: &str, answer: Answer, now: Timestamp) -> Turn {
        if !self.sites.contains_key(site) {
            self.make_room();
            self.sites.insert(site.into(), Site { at: now, ..Site::default() });
        }
        let Some(site) = self.sites.get_mut(site) else { return Turn::None };
        site.follow(now);
        site.hear(answer, now);
        site.turn(now)
    }

    /// Whether the site has a storm.
    pub fn storms(&self, site: &str) -> bool {
        self.sites.get(site).is_some_and(|site| site.storm_since.is_some())
    }

    /// An address was suppressed for what the site said, the first time: should that turn out to be the first of a storm,
    /// it is doubted with the rest. False: the storm began while it was judged, so that it must be doubted at once.
    #[must_use]
    pub fn believed(&mut self, site: &str, name: &str, now: Timestamp) -> bool {
        let Some(site) = self.sites.get_mut(site) else { return true };
        if site.storm_since.is_some() {
            return false;
        }
        if site.believed.len() >= DOUBT_MAX {
            site.believed.pop_front();
        }
        site.believed.push_back((now, name.into()));
        true
    }

    /// Storms of which nothing was heard for long end by themselves. To be called every minute or so.
    pub fn tick(&mut self, now: Timestamp) -> Vec<(Box<str>, Share)> {
        let mut ended = Vec::new();
        for (name, site) in self.sites.iter_mut().filter(|(_, site)| site.storm_since.is_some()) {
            site.follow(now);
            if let Turn::Ends(share) = site.turn(now) {
                ended.push((name.clone(), share));
            }
        }
        ended
    }

    /// The storms of now: since when, and the shares.
    pub fn storms_now(&self) -> Vec<(Box<str>, Timestamp, Share)> {
        #[allow(clippy::borrowed_box, reason = "what a map's iterator gives")]
        let storm = |(name, site): (&Box<str>, &Site)| Some((name.clone(), site.storm_since?, site.share()));
        self.sites.iter().filter_map(storm).collect()
    }

    /// What is written down: a line for each site. Beliefs to be doubted are not: a restart forgets them.
    ///
    /// `1 AT STORM_SINCE VALID INVALID USUAL_VALID USUAL_INVALID`; times in milliseconds, 0 for no storm.
    pub fn records(&self) -> Vec<(Box<str>, String)> {
        let record = |site: &Site| {
            let (recent, usual) = (site.recent, site.usual);
            format!(
                "1 {} {} {:.3} {:.3} {:.3} {:.3}",
                site.at.as_millis(),
                site.storm_since.map_or(0, Timestamp::as_millis),
                recent.valid,
                recent.invalid,
                usual.valid,
                usual.invalid
            )
        };
        self.sites.iter().map(|(name, site)| (name.clone(), record(site))).collect()
    }

    /// Takes up what was written down; what does not read begins anew.
    pub fn restore(&mut self, name: &str, record: &str) {
        let read = || {
            let mut words = record.split(' ');
            if words.next()? != "1" {
                return None;
            }
            let mut time = || words.next()?.parse().ok().map(Timestamp::from_millis);
            let (at, since) = (time()?, time()?);
            let mut count = || words.next()?.parse::<f64>().ok().filter(|count| count.is_finite() && *count >= 0.0);
            let recent = Counts { valid: count()?, invalid: count()? };
            let usual = Counts { valid: count()?, invalid: count()? };
            let storm_since = (since != Timestamp::ZERO).then_some(since);
            Some(Site { recent, usual, at, storm_since, believed: VecDeque::new() })
        };
        if let Some(site) = read().filter(|_| self.sites.len() < SITES_MAX) {
            self.sites.insert(name.into(), site);
        }
    }

    fn make_room(&mut self) {
        if self.sites.len() < SITES_MAX {
            return;
        }
        // A storm must not be forgotten for want of room: a thousand others go first.
        let mut ages: Vec<(bool, Timestamp, Box<str>)> =
            self.sites.iter().map(|(name, site)| (site.storm_since.is_some(), site.at, name.clone())).collect();
        ages.sort_unstable();
        for (.., name) in ages.into_iter().take(SITES_MAX / 10) {
            self.sites.remove(&name);
        }
    }
}
