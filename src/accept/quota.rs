//! Quotas of credentials and streams, and caps of recipients: when may a message that is being accepted go?
//!
//! Called by the door alone, between `prepare` and `put`. It puts mail off (`over = "queue"`: its release is set to the time
//! at which there is room, in the order in which it came) or refuses it for now (`over = "refuse"`); it never loses any.
//!
//! Quotas count recipients, at the time that the quota gives them: what its sender scheduled, or a cap puts off further,
//! counts when it was handed in. Each quota gives its time by itself: mail that one credential must wait with does not
//! stand in the way of another's on the same stream. Who is suppressed gets nothing, so neither quotas nor caps count him.

mod caps;
mod meter;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::Refusal;
use super::settings::{Over, Rights, Settings, Stream};
use crate::mail::{Address, Envelope, QueueId, Recipient, Text};
use crate::time::Timestamp;
use crate::traffic::{Rate, Rates};

use caps::{CapRoom, Caps};
use meter::{Meter, Room};

/// Longest that mail is put off; what would wait for longer is refused for now. Bounds what a client can pile up. A month,
/// as clients may schedule mail by default.
const WAIT_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Who has a quota.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Holder {
    Credential(Text),
    Stream(Text),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Credential(name) => write!(f, "credential {name}"),
            Holder::Stream(name) => write!(f, "stream {name}"),
        }
    }
}

impl Holder {
    /// The name of its record.
    fn read(name: &str) -> Option<Holder> {
        let (kind, name) = name.split_once(' ')?;
        match kind {
            "credential" => Some(Holder::Credential(name.into())),
            "stream" => Some(Holder::Stream(name.into())),
            _ => None,
        }
    }
}

/// What holds for one message.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    quotas: Vec<(Holder, Rates, Over)>,
    stream: Text,
    cap: Rates,
    over: Over,
}

impl Rules {
    /// Those of its credential, if it has one, and of its stream.
    pub(super) fn of(credential: Option<(&str, &Rights)>, stream: (&str, &Stream)) -> Rules {
        let (name, stream) = stream;
        let of_credential =
            credential.map(|(name, rights)| (Holder::Credential(name.into()), rights.quota, rights.over));
        let of_stream = (Holder::Stream(name.into()), stream.quota, stream.over);
        let quotas = of_credential.into_iter().chain([of_stream]).filter(|(_, rates, _)| !rates.is_empty()).collect();
        Rules { quotas, stream: name.into(), cap: stream.recipient_cap, over: stream.over }
    }

    /// The most recipients that an envelope may have, so that each fits into every window at which it may have to wait.
    pub(super) fn envelope_recipients_max(&self) -> usize {
        let queueing = self.quotas.iter().filter(|(_, _, over)| *over == Over::Queue);
        let smallest = queueing.flat_map(|(_, rates, _)| rates.iter()).map(|rate| rate.count).min();
        smallest.map_or(usize::MAX, |count| count as usize)
    }

    pub(super) fn are_none(&self) -> bool {
        self.quotas.is_empty() && self.cap.is_empty()
    }

    fn with(&self, wanted: Over) -> impl Iterator<Item = &(Holder, Rates, Over)> {
        self.quotas.iter().filter(move |(_, _, over)| *over == wanted)
    }
}

/// What a message took: to be given back if it is not kept after all, and for the counters.
#[derive(Debug, Default)]
pub(super) struct Taken {
    quotas: Vec<(Holder, Timestamp, u32)>,
    stream: Text,
    caps: Vec<u64>,
    /// Recipients that a quota put off.
    pub(super) queued: usize,
    /// Recipients that their cap put off.
    pub(super) capped: usize,
}

/// Recipients that nothing counts, since they get nothing.
pub(super) type Exempt = HashSet<Address>;

fn counted(envelope: &Envelope, exempt: &Exempt) -> usize {
    let all = envelope.recipients.iter();
    all.filter(|recipient| !exempt.contains(&recipient.address)).count()
}

/// Why a message cannot be accepted now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Denied {
    /// So many recipients are over a quota.
    Quota(Refusal, usize),
    /// A recipient got as much as its cap allows.
    Cap(Refusal),
}

/// What was let in lately.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    meters: HashMap<Holder, Meter>,
    /// Taken since it was last written down.
    unwritten: Vec<Holder>,
    caps: HashMap<Text, Caps>,
    /// Drawn anew at each start, so that nobody can choose addresses that collide.
    key: RandomState,
}

impl Quotas {
    /// Sets when the envelopes may go, and takes their share. An envelope whose recipients may go at different times is
    /// split.
    pub(super) fn admit(
        &self,
        rules: &Rules,
        envelopes: &mut Vec<Envelope>,
        exempt: &Exempt,
        now: Timestamp,
        next_id: &mut dyn FnMut() -> QueueId,
    ) -> Result<Taken, Denied> {
        if rules.are_none() {
            return Ok(Taken::default());
        }
        let mut state = self.lock();
        state.check(rules, envelopes, exempt, now)?;
        let mut taken = Taken { stream: rules.stream.clone(), ..Taken::default() };
        match state.put_off(rules, (envelopes, exempt), now, next_id, &mut taken) {
            Ok(()) => Ok(taken),
            Err(denied) => {
                state.give_back(&taken);
                Err(denied)
            }
        }
    }

    /// The message was not kept after all.
    pub(super) fn give_back(&self, taken: &Taken) {
        if !taken.quotas.is_empty() || !taken.caps.is_empty() {
            self.lock().give_back(taken);
        }
    }

    /// Forgets holders that the config no longer has.
    pub(super) fn keep_only(&self, settings: &Settings) {
        let mut state = self.lock();
        state.meters.retain(|holder, _| match holder {
            Holder::Credential(name) => settings.credentials.get(name).is_some_and(|rights| !rights.quota.is_empty()),
            Holder::Stream(name) => settings.streams.get(name).is_some_and(|stream| !stream.quota.is_empty()),
        });
        let caps = |name: &str| settings.streams.get(name).is_some_and(|stream| !stream.recipient_cap.is_empty());
        state.caps.retain(|name, _| caps(name));
    }

    /// What was taken since the last time, to be written down: the name of each record, and the record, if there is
    /// anything to remember.
    pub(super) fn records(&self, now: Timestamp) -> Vec<(Bytes, Option<Bytes>)> {
        let mut state = self.lock();
        let unwritten = std::mem::take(&mut state.unwritten);
        let records = unwritten.into_iter().map(|holder| {
            let record = state.meters.get_mut(&holder).and_then(|meter| meter.record(now));
            (holder.to_string().into(), record.map(Bytes::from))
        });
        records.collect()
    }

    /// What was written down before this start. A record that does not read is as if it were not there: a quota is no
    /// promise to a peer.
    pub(super) fn restore(&self, records: impl Iterator<Item = (Bytes, Bytes)>) {
        let mut state = self.lock();
        for (name, record) in records {
            let holder = std::str::from_utf8(&name).ok().and_then(Holder::read);
            let meter = std::str::from_utf8(&record).ok().and_then(Meter::from_record);
            if let (Some(holder), Some(meter)) = (holder, meter) {
                state.meters.insert(holder, meter);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What refuses, before anything is taken.
    fn check(&mut self, rules: &Rules, envelopes: &[Envelope], exempt: &Exempt, now: Timestamp) -> Result<(), Denied> {
        let count = envelopes.iter().map(|envelope| counted(envelope, exempt)).sum();
        if count == 0 {
            return Ok(());
        }
        for (holder, rates, _) in rules.with(Over::Refuse) {
            self.slot(holder, *rates, now, count, now)?;
        }
        if rules.over == Over::Queue || rules.cap.is_empty() {
            return Ok(());
        }
        for envelope in envelopes {
            let capped_ones = envelope.recipients.iter().filter(|recipient| !exempt.contains(&recipient.address));
            for Recipient { address, .. } in capped_ones {
                let (at, rate) = self.cap_slot(rules, address, now, envelope.release_at, envelope.release_at)?;
                if at > envelope.release_at {
                    return Err(Denied::Cap(capped(rules, address, rate, now, at)));
                }
            }
        }
        Ok(())
    }

    /// Sets the releases.
    fn put_off(
        &mut self,
        rules: &Rules,
        (envelopes, exempt): (&mut Vec<Envelope>, &Exempt),
        now: Timestamp,
        next_id: &mut dyn FnMut() -> QueueId,
        taken: &mut Taken,
    ) -> Result<(), Denied> {
        let mut split_off = Vec::new();
        for envelope in envelopes.iter_mut() {
            let count = counted(envelope, exempt);
            if count == 0 {
                continue;
            }
            let mut is_over = false;
            for (holder, rates, over) in &rules.quotas {
                let latest = match over {
                    Over::Queue => now.after(WAIT_MAX),
                    Over::Refuse => now,
                };
                let (at, rate) = self.slot(holder, *rates, now, count, latest)?;
                self.take(holder, at, count, taken);
                is_over |= at > now;
                release(envelope, at, || format!("the quota {} of the {holder}", shown(rate)));
            }
            taken.queued += if is_over { count } else { 0 };
            if !rules.cap.is_empty() {
                let parts = self.put_off_capped(rules, (envelope, exempt), now, taken)?;
                split_off.extend(parts.into_iter().map(|part| Envelope { id: next_id(), ..part }));
            }
        }
        envelopes.append(&mut split_off);
        Ok(())
    }

    /// Sets the release by the recipients' caps, and splits off those that may go at another time than the first.
    fn put_off_capped(
        &mut self,
        rules: &Rules,
        (envelope, exempt): (&mut Envelope, &Exempt),
        now: Timestamp,
        taken: &mut Taken,
    ) -> Result<Vec<Envelope>, Denied> {
        let from = envelope.release_at;
        let mut groups: Vec<(Timestamp, Rate, Vec<Recipient>)> = Vec::new();
        let all = std::mem::take(&mut envelope.recipients);
        let (suppressed, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|to| exempt.contains(&to.address));
        for recipient in others {
            let (at, rate) = self.cap_slot(rules, &recipient.address, now, from, now.after(WAIT_MAX).max(from))?;
            let hash = self.hash(&recipient.address);
            taken.caps.push(self.caps.entry(rules.stream.clone()).or_default().take(hash, at));
            taken.capped += usize::from(at > from);
            match groups.iter_mut().find(|(other, ..)| *other == at) {
                Some((_, _, group)) => group.push(recipient),
                None => groups.push((at, rate, vec![recipient])),
            }
        }
        // They end when the message is accepted, with whichever part they are in.
        if let Some((.., group)) = groups.first_mut() {
            group.extend(suppressed);
        }
        let mut parts = groups.into_iter().map(|(at, rate, recipients)| {
            let mut part = Envelope { recipients, ..envelope.clone() };
            release(&mut part, at, || format!("recipient_cap {} of the stream {}", shown(rate), rules.stream));
            part
        });
        let first = parts.next();
        let rest = parts.collect();
        // An envelope has a recipient at least.
        if let Some(first) = first {
            *envelope = first;
        }
        Ok(rest)
    }

    /// When a quota has room for so many; refused if that is after `latest`.
    fn slot(
        &mut self,
        holder: &Holder,
        rates: Rates,
        now: Timestamp,
        count: usize,
        latest: Timestamp,
    ) -> Result<(Timestamp, Rate), Denied> {
        let meter = self.meters.entry(holder.clone()).or_default();
        meter.fit(rates);
        match meter.room(now, u32::try_from(count).unwrap_or(u32::MAX)) {
            Room::At(at, rate) if at <= latest => Ok((at, rate)),
            Room::At(at, rate) => {
                let text = format!("the quota {} of the {holder} is used up; {}", shown(rate), again(now, at));
                Err(Denied::Quota(Refusal { code: 451, status: "4.7.1", text }, count))
            }
            Room::TooSmall(rate) => {
                let text = format!(
                    "the message has {count} recipients, and the quota {} of the {holder} never has room for more than {}: \
                     hand it in in parts",
                    shown(rate),
                    rate.count
                );
                Err(Denied::Quota(Refusal { code: 550, status: "5.5.3", text }, count))
            }
        }
    }

    /// When a recipient's cap has room, from `from` on; refused if that is after `latest` and mail waits for its cap.
    fn cap_slot(
        &mut self,
        rules: &Rules,
        address: &Address,
        now: Timestamp,
        from: Timestamp,
        latest: Timestamp,
    ) -> Result<(Timestamp, Rate), Denied> {
        let hash = self.hash(address);
        let caps = self.caps.entry(rules.stream.clone()).or_default();
        match caps.room(rules.cap, hash, now, from) {
            CapRoom::At(at, rate) if at <= latest => Ok((at, rate)),
            CapRoom::At(at, rate) => Err(Denied::Cap(capped(rules, address, rate, now, at))),
            CapRoom::Crowded(rate) => Err(Denied::Cap(capped(rules, address, rate, now, now.after(rate.per)))),
        }
    }

    fn take(&mut self, holder: &Holder, at: Timestamp, count: usize, taken: &mut Taken) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(meter) = self.meters.get_mut(holder) {
            meter.take(at, count);
            taken.quotas.push((holder.clone(), at, count));
            if !self.unwritten.contains(holder) {
                self.unwritten.push(holder.clone());
            }
        }
    }

    fn give_back(&mut self, taken: &Taken) {
        for (holder, at, count) in &taken.quotas {
            if let Some(meter) = self.meters.get_mut(holder) {
                meter.give_back(*at, *count);
            }
        }
        if let Some(caps) = self.caps.get_mut(&taken.stream) {
            taken.caps.iter().for_each(|number| caps.give_back(*number));
        }
    }

    /// Letters of either case are one mailbox wherever mail is read, and would else be a way around the cap.
    fn hash(&self, address: &Address) -> u64 {
        self.key.hash_one((address.local().to_lowercase(), address.domain().as_str()))
    }
}

/// Not before `at`; its longest age counts from then on, as that of scheduled mail.
fn release(envelope: &mut Envelope, at: Timestamp, because: impl FnOnce() -> String) {
    if at > envelope.release_at {
        envelope.expires_at = envelope.expires_at.after(at.since(envelope.release_at));
        envelope.release_at = at;
        envelope.put_off_by = because().into();
    }
}

fn capped(rules: &Rules, address: &Address, rate: Rate, now: Timestamp, at: Timestamp) -> Refusal {
    let (rate, stream) = (shown(rate), &rules.stream);
    let text =
        format!("{address} got as much as recipient_cap {rate} of the stream {stream} allows; {}", again(now, at));
    Refusal { code: 451, status: "4.7.1", text }
}

fn again(now: Timestamp, at: Timestamp) -> String {
    // Rounded up, so that who comes then finds room.
    let wait = at.since(now).as_millis().div_ceil(1000);
    let at = Timestamp::from_secs(at.as_millis().div_ceil(1000));
    format!("come again in {wait} seconds, at {}", at.rfc3339())
}

/// As the config has it.
fn shown(rate: Rate) -> String {
    let (count, secs) = (rate.count, rate.per.as_secs());
    match secs {
        secs if secs > 0 && secs.is_multiple_of(86_400) => format!("{count}/{}d", secs / 86_400),
        secs if secs > 0 && secs.is_multiple_of(3600) => format!("{count}/{}h", secs / 3600),
        secs if secs > 0 && secs.is_multiple_of(60) => format!("{count}/{}m", secs / 60),
        secs => format!("{count}/{secs}s"),
    }
}

#[cfg(test)]
mod tests;
