//! Every metric, described once. A new one is one entry here; the compiler then asks nothing more of it than a value.
//!
//! `counts` becomes the `# HELP` line, and both texts a row of `docs/METRICS.md`: whole sentences, no bars.

use super::{Description, Kind};

/// The head of `docs/METRICS.md`.
pub(super) const PREFACE: &str = "\
# Metrics

Made from `src/metrics/table.rs`; a test holds this page equal to it (`POSTRIDER_BLESS=1 cargo test --lib metrics` writes it anew).

Prometheus' text format, at `/metrics` of the control socket, and with `[metrics] bind` on a TCP address. `docs/OPERATIONS.md`
(\"Metrics and alarms\") has a scrape configuration, and `conf/prometheus-rules.yml` has alert rules. Counters begin at 0 at each start. Labels have few values:
`stream` and `source` are names of the config; `kind` is `transactional` or `marketing`; `site` is a `[[site]]`'s name or up to
three MX hosts, for the 64 sites with the most mail, and `other` for all the rest. No label ever has an address, a recipient's
domain or a queue id. Where a metric has no value it is left out.
";

/// Makes the metrics, their descriptions and their sections out of one list.
macro_rules! table {
    ($($title:literal: $($metric:ident = $kind:ident $name:literal, $unit:literal, [$($label:literal),*],
        $counts:literal, $high:literal;)+)+) => {
        /// A metric. Its description has all the words.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum Metric { $($($metric),+),+ }

        impl Metric {
            /// Every metric, in the order of the page.
            pub const ALL: &'static [Metric] = &[$($(Metric::$metric),+),+];
        }

        /// By the metric's number.
        pub(super) const DESCRIPTIONS: &[Description] = &[$($(Description {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            counts: $counts,
            high: $high,
        }),+),+];

        /// The sections of the document.
        pub(super) const SECTIONS: &[(&str, &[Metric])] = &[$(($title, &[$(Metric::$metric),+])),+];
    };
}

table! {
"Mail taken in":
    MessagesAccepted = Counter "postrider_messages_accepted_total", "messages", ["stream", "kind"],
        "Messages that were made durable and answered 250, our own bounces not counted.",
        "More than the application should send: a loop in it, or a stolen credential; `postrider queue list --credential NAME`.";
    ListenerMessages = Counter "postrider_listener_messages_total", "messages", ["mode", "result"],
        "Messages that clients handed over to their last byte, by the listener's mode: `accepted`, `deferred` (4xx) or `refused` (5xx).",
        "deferred: clients come again; look at the disk and at `postrider_messages_refused_total`. refused: a misconfigured application.";
    RecipientsAccepted = Counter "postrider_recipients_accepted_total", "recipients", ["stream", "kind"],
        "Their recipients.",
        "As above.";
    MessagesRefused = Counter "postrider_messages_refused_total", "messages", ["at", "status"],
        "Refusals at the door, of an envelope `sender` or a whole `message`, by enhanced status (RFC 3463).",
        "4.3.1: the disk is full. 5.7.1: a sender that its credential may not use. 4.7.1: a quota or a recipient cap. 4.3.0: the daemon \
         stops.";
    RecipientsRefused = Counter "postrider_recipients_refused_total", "recipients", ["mode", "status"],
        "RCPT commands of clients that were refused, by the listener's mode and enhanced status (RFC 3463).",
        "5.1.3, 5.5.4: an application hands over what is no address. 5.7.1: a client that may not relay. 4.5.3: lists longer than `limits.recipients`, sent in parts.";
    QuotaRecipients = Counter "postrider_quota_recipients_total", "recipients", ["action"],
        "Recipients over a quota: `queued` until it has room, or `refused`.",
        "An application sends more than it should; or the quota is too small for it.";
    CapRecipients = Counter "postrider_capped_recipients_total", "recipients", ["stream"],
        "Recipients that got as much on this stream as `recipient_cap` allows, so that their mail waits or was refused.",
        "Code bombing through a sign-up form, or an application that repeats itself.";
    Suppressed = Counter "postrider_suppressed_recipients_total", "recipients", ["how", "cause"],
        "Recipients that the suppression list names: `refused` at RCPT, `accepted` and reported as suppressed, suppressed while their message was `waiting`, or `bypassed`.",
        "An application mails an old list: let it read what is suppressed (`postrider suppression export`).";
    CameBack = Counter "postrider_reports_total", "reports", ["kind", "effect"],
        "Mail that came back to return paths, unsubscribe addresses and the postmaster, by what it is and what it did: an address was `suppressed` or \
         is `pending`, it was `known`, it had `nothing` to say, it was `forged`, `expired` or no token at all (`no_token`), or its message is `unknown`.",
        "bounce, nothing: blocks and full mailboxes, `postrider trace`. forged: somebody tries, or keys were lost. complaint: a list that people did not ask for.";
    Learned = Counter "postrider_evidence_total", "findings", ["cause", "state"],
        "What was learned of recipients from replies and reports, by the cause in the suppression list: `believed`, or `pending` until more is known.",
        "hard_bounce: a bad list. complaint: mail that nobody asked for. Much pending: a provider's bad day, alarm `invalid_recipient_storm`.";
    Paused = Counter "postrider_pauses_total", "pauses", ["why"],
        "Senders that were paused for `complaints` or `bounces`, and credentials that were suspended (`login_storm`).",
        "Look at `postrider rates`.";
    PausedNow = Gauge "postrider_paused", "senders", ["what"],
        "How many a `sender` is (a credential on a stream) whose marketing mail is paused now, and `credential` that is suspended.",
        "Anything but 0: mail waits, for a person or until fewer recipients do not exist. Alarms `sender_paused`, `credential_suspended`.";
    Storms = Gauge "postrider_invalid_recipient_storms", "sites", [],
        "Sites that say of far more recipients than usual that they do not exist.",
        "A provider's bad day or a bad list; alarm `invalid_recipient_storm`.";
    RateShare = Gauge "postrider_rate", "share", ["scope", "name", "what"],
        "Of the last day (bounces) and week (complaints): the share, 0 to 1, of recipients that do not exist (`bounced`) and of deliveries that were complained about (`complained`), by stream and source.",
        "complained over 0.001: near what providers bear. bounced over 0.05: clean the list.";
    SuppressionRecords = Gauge "postrider_suppression_records", "records", ["where"],
        "Entries of the suppression list, and notes that one was removed: in its `files`, and in `memory` until the next file is written.",
        "memory over 20000 for long: files cannot be written; look at the log and the disk.";
    SuppressionDamaged = Gauge "postrider_suppression_damaged_blocks", "blocks", [],
        "Damaged blocks of the suppression list that were come across, and files that could not be read at all.",
        "Anything but 0: the disk lost something. `docs/SPOOL.md`, \"The suppression list\".";
"Mail sent":
    Outcomes = Counter "postrider_outcomes_total", "recipients", ["stream", "kind", "fate"],
        "What attempts and decisions meant for recipients: delivered, deferred, uncertain, failed, expired, suppressed or deleted.",
        "deferred: `postrider why` of one of them. failed: a bad list. uncertain: connections break after the final dot, each may be a \
         duplicate. expired: mail waited for longer than its stream's `max_age`.";
    Deferrals = Counter "postrider_deferrals_total", "recipients", ["stage"],
        "Deferred recipients by the stage of the dialogue at which they were.",
        "connect, greeting: the peer or the network refuses us. rcpt: greylisting or limits. final_dot: content or rate.";
    Replies = Counter "postrider_replies_total", "replies", ["class"],
        "Refusals by peers, by what they mean.",
        "reputation or policy: see `postrider why` for the words. rate or connection limits: lower the site's limits.";
    EnvelopesRemoved = Counter "postrider_envelopes_removed_total", "envelopes", [],
        "Envelopes of which every recipient got its final state.",
        "Well: the queue moves.";
    DeliveryTime = Histogram "postrider_delivery_time_seconds", "seconds", ["kind"],
        "Time from accepting a message to the peer's 250, for each recipient delivered.",
        "Mail waits: compare `postrider_queue_oldest_due_age_seconds`; `postrider why`.";
    MailTime = Histogram "postrider_first_mail_seconds", "seconds", ["kind"],
        "Time from a message's last byte (or from when it was to be sent) to MAIL of its first attempt, for each envelope.",
        "Transactional over 0.25 at the 99th percentile: limits, too few connections, or peers that are slow to connect.";
    SiteAttempts = Counter "postrider_site_attempts_total", "transactions", ["site", "source"],
        "Transactions that were begun with a site.",
        "Nothing by itself; to compare with.";
    SiteRecipients = Counter "postrider_site_recipients_total", "recipients", ["site", "source", "verdict"],
        "What peers answered for recipients: delivered, deferred, failed, or uncertain (the answer was lost).",
        "A rising share of deferred at one site and source: it limits or distrusts the source; `postrider why` has its words.";
    SiteRefusals = Counter "postrider_site_connection_refusals_total", "connections", ["site", "source"],
        "Connections to a site that could not be made, or were turned away before MAIL.",
        "The site is down, or blocks the source, or has a lower connection limit than ours.";
    AttemptTime = Histogram "postrider_attempt_duration_seconds", "seconds", [],
        "Time of a transaction from MAIL to the last reply.",
        "Peers are slow (tarpits, scanning) or far away. Each transaction holds a connection for so long.";
"Queue":
    QueueEnvelopes = Gauge "postrider_queue_envelopes", "envelopes", ["stream", "kind", "state"],
        "Envelopes without a final state: `waiting` (due, wants a turn), `deferred` (waits for its next try), `scheduled` (its sender asked for later, or a quota put it off), `held` or `leased` (being attempted).",
        "waiting: more is accepted than limits and peers let out. deferred: peers defer. held: an operator or damage stopped it.";
    QueueRecipients = Gauge "postrider_queue_recipients", "recipients", ["stream", "kind", "state"],
        "Their recipients that are still pending.",
        "As above.";
    QueueOldestDue = Gauge "postrider_queue_oldest_due_age_seconds", "seconds", ["kind"],
        "For how long the longest due envelope has been waiting for its turn.",
        "Minutes of transactional mail: something holds it; `postrider why` of the oldest one says what.";
    QueuePastAge = Gauge "postrider_queue_past_age_envelopes", "envelopes", [],
        "Envelopes over a minute past their longest age and the quarter of an hour that mail gets which could not be tried, neither held \
         nor being attempted.",
        "Anything but 0 is a bug: please report it with the output of `postrider why`.";
    QueueNoNextEvent = Gauge "postrider_queue_no_next_event_envelopes", "envelopes", [],
        "Envelopes, not held, for which nothing will ever happen: no timer, no connection, no look-up. Counted once a minute.",
        "Anything but 0 is a bug: order them (`postrider queue retry --all`), and please report it with the output of `postrider why`.";
    IndexHealthy = Gauge "postrider_index_healthy", "1 or 0", [],
        "Whether the queue's index on disk is in use. Mail flows without it.",
        "1 is well. 0: the log says what failed; the next start reads the whole spool, which takes longer.";
    IndexFailures = Counter "postrider_index_failures_total", "failures", [],
        "How often the queue's index was given up.",
        "The disk fails or is full.";
"Spool":
    SpoolMailBytes = Gauge "postrider_spool_mail_bytes", "bytes", [],
        "Size of the mail log.",
        "At most about twice the live bytes and 256 MiB; more: cleaning does not keep up with a slow disk.";
    SpoolLiveBytes = Gauge "postrider_spool_live_bytes", "bytes", [],
        "Bytes of records that hold an envelope without a final state.",
        "The queue grows.";
    SpoolFreeBytes = Gauge "postrider_spool_free_bytes", "bytes", [],
        "Free bytes of the file system under the spool.",
        "A low value is the trouble: below the reserve clients get 452. Make room, but delete nothing in the spool.";
    SpoolTotalBytes = Gauge "postrider_spool_filesystem_bytes", "bytes", [],
        "Size of the file system under the spool.",
        "Nothing; to compare free bytes with.";
    SpoolSegments = Gauge "postrider_spool_segments", "segments", ["log"],
        "Segments of the `mail` and the `state` log.",
        "As for the bytes.";
    SpoolSpares = Gauge "postrider_spool_spare_segments", "segments", [],
        "Preallocated segments at hand, for settles when the disk is full.",
        "A low value, below 2, is the trouble: the disk is full.";
    SpoolFull = Gauge "postrider_spool_full", "1 or 0", [],
        "Whether messages are answered 452 for want of space.",
        "1: make room now.";
    SpoolRecords = Counter "postrider_spool_records_total", "records", [],
        "Records written.",
        "Nothing by itself.";
    SpoolSyncs = Counter "postrider_spool_syncs_total", "syncs", [],
        "Calls of fdatasync on a log.",
        "Nothing by itself; many clients share one.";
    SpoolSyncTime = Counter "postrider_spool_sync_seconds_total", "seconds", [],
        "Time spent in them. Divided by their number: how fast the disk is.",
        "Over 50 ms a sync: the disk limits what can be accepted.";
    SpoolSlowSyncs = Counter "postrider_spool_slow_syncs_total", "syncs", [],
        "Syncs that took over a second.",
        "The disk hangs now and then: look at it, and at what else writes to it.";
    SpoolMoved = Counter "postrider_spool_moved_envelopes_total", "envelopes", [],
        "Envelopes copied forward, so that an old segment could be freed.",
        "Old mail stays while much new mail passes; it costs writes, no more.";
    SpoolQuarantined = Counter "postrider_spool_quarantined_records_total", "records", [],
        "Unreadable records that were set aside.",
        "Anything but 0: the disk lost something. `postrider spool check`; `docs/SPOOL.md`, \"Damage\".";
    SpoolRefused = Counter "postrider_spool_refused_full_total", "messages", [],
        "Messages answered 452 for want of space.",
        "Anything but 0: make room.";
    SpoolSilence = Gauge "postrider_spool_writer_silence_seconds", "seconds", [],
        "For how long the spool's writer has shown no life. It does so once a second.",
        "Over 5: the disk hangs, or nobody reads standard error. At 30 the watchdog is no longer fed, and systemd restarts the daemon.";
"Clients":
    ClientsOpen = Gauge "postrider_client_connections", "connections", [],
        "Connections from clients at present.",
        "Near `limits.connections`: clients that do not hang up, or an attack.";
    ClientsTotal = Counter "postrider_client_connections_total", "connections", ["mode"],
        "Connections from clients that were let in, by the listener's mode.",
        "Nothing by itself.";
    ClientsRefused = Counter "postrider_client_connections_refused_total", "connections", ["reason"],
        "Connections turned away with 421: at `limits.connections` (`all`) or `limits.connections_per_client` (`client`).",
        "all: raise the limit or find who holds them. client: one client is too eager.";
    Logins = Counter "postrider_logins_total", "logins", ["result"],
        "Attempts to log in: `accepted`, `rejected`, `suspended` (the right secret, of a credential that is), or `busy` (no time to verify it).",
        "rejected: somebody guesses, or an application has an old password. suspended: `postrider rates` says whose. busy: an attack with passwords.";
    BodyMemory = Gauge "postrider_body_memory_bytes", "bytes", [],
        "Memory reserved for messages that are being received.",
        "Near its limit: clients wait, then get 452 4.3.1.";
    BodyMemoryLimit = Gauge "postrider_body_memory_limit_bytes", "bytes", [],
        "Its limit: `limits.body_memory`.",
        "Nothing; to compare with.";
    BodyMemoryRefused = Counter "postrider_body_memory_refused_total", "messages", [],
        "Messages answered 452 since no memory came free in time.",
        "Raise `limits.body_memory`, or find the client that sends large messages slowly.";
"Peers":
    PeersOpen = Gauge "postrider_peer_connections", "connections", ["source"],
        "Connections to peers at present, those being made included.",
        "Near `delivery.connections`: raise it if the machine has room.";
    PeersTotal = Counter "postrider_peer_connections_total", "connections", ["source", "security"],
        "Connections to peers on which mail can be sent, `tls` or `clear`.",
        "clear: peers without TLS. A rise is suspicious: somebody may strip STARTTLS on the way.";
    PeersFailed = Counter "postrider_peer_connection_failures_total", "connections", ["source", "stage"],
        "Connections that could not be made, by the stage at which the last host refused.",
        "connect: port 25 is blocked, or the route is down. greeting, hello: the source is blocked there; `postrider why`.";
    EngineEntries = Gauge "postrider_engine_entries", "entries", ["what"],
        "What the traffic engine keeps in memory: envelopes, domains, hosts (sets of them), sites and connections.",
        "envelopes differs from the queue's for long: a bug. domains: mail for many distinct domains waits; each costs memory.";
    EngineStep = Histogram "postrider_engine_step_seconds", "seconds", [],
        "Time of one step of the traffic engine, by the clock: what else the machine does in it counts.",
        "Over 1 ms: the machine is short of CPU.";
"Alarms":
    AlarmActive = Gauge "postrider_alarm_active", "1", ["cause"],
        "1 for each cause of alarm that holds, or came within the last hour.",
        "The log line and the mail say what to do; `docs/OPERATIONS.md`, \"Metrics and alarms\", lists the causes.";
    AlarmsTotal = Counter "postrider_alarms_total", "alarms", ["cause"],
        "How often each cause was noticed.",
        "As above.";
    AlarmMails = Counter "postrider_alarm_mails_total", "mails", ["result"],
        "Mails to the postmaster about alarms: `accepted` into the queue, or `failed`.",
        "failed: the disk is full, or alarms come faster than they can be told.";
    CertificateExpiry = Gauge "postrider_certificate_expiry_timestamp_seconds", "seconds since 1970", [],
        "When the certificate that clients see expires.",
        "Less than `time()` and two weeks: renew it, then `systemctl reload postrider`.";
"Process":
    ProcessMemory = Gauge "process_resident_memory_bytes", "bytes", [],
        "Memory of the process.",
        "It grows with the queue, some 400 bytes an envelope, and with open connections.";
    ProcessFiles = Gauge "process_open_fds", "file descriptors", [],
        "Open files and sockets.",
        "Near `process_max_fds` no connection can be made or taken: raise LimitNOFILE= in the unit.";
    ProcessFilesMax = Gauge "process_max_fds", "file descriptors", [],
        "How many may be open.",
        "Nothing; to compare with.";
    ProcessStart = Gauge "process_start_time_seconds", "seconds since 1970", [],
        "When the daemon started.",
        "It changes often: the daemon is restarted; `journalctl -u postrider`.";
    BuildInfo = Gauge "postrider_build_info", "1", ["version"],
        "1; the version is in the label.",
        "Nothing.";
}
