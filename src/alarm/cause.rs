//! What can be wrong, and all that is said of it: one place for each word that an operator reads.

/// What can be wrong. The names are stable: alert rules and filters of mail know them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// Messages are answered 452 for want of space.
    DiskFull,
    /// It will be, soon.
    DiskNearlyFull,
    /// The spool's writer shows no life.
    SpoolSilent,
    /// A sync took over a second.
    SlowSync,
    /// A record could not be read and was set aside.
    Quarantined,
    /// A message in the spool is damaged, and held.
    MessageDamaged,
    /// The queue's index was given up.
    IndexBad,
    /// A source's address cannot be used on this machine.
    SourceUnusable,
    /// A peer refused our authentication: SPF, DKIM or DMARC, or a smarthost's AUTH.
    AuthenticationRefused,
    /// A source is blocked or listed at a provider.
    SourceBlocked,
    /// A sending domain was stopped at a site.
    SendingDomainStopped,
    /// A source's warm-up was frozen at a provider.
    WarmupFrozen,
    /// A peer saw one Message-ID twice.
    DuplicateMessageId,
    /// Messages are past their longest age and still here.
    MessagesPastAge,
    /// Messages wait for nothing: nobody would ever send them.
    NoNextEvent,
    /// The certificate that clients see expires soon, or has.
    CertificateExpiring,
    /// The suppression list is damaged, or its files cannot be written.
    SuppressionList,
    /// A site says of far more recipients than usual that they do not exist.
    InvalidRecipientStorm,
    /// Complaints come near the limit.
    ComplaintsHigh,
    /// A sender's marketing mail is paused.
    SenderPaused,
    /// A credential was suspended.
    CredentialSuspended,
    /// A message of the maildrop cannot be sent, or the maildrop not be read.
    Maildrop,
}

/// How bad it is: the level of the log line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Severity {
    /// We break, or are about to break, a promise.
    Error,
    /// An operator should look today.
    Warning,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 22] = [
        Cause::DiskFull,
        Cause::DiskNearlyFull,
        Cause::SpoolSilent,
        Cause::SlowSync,
        Cause::Quarantined,
        Cause::MessageDamaged,
        Cause::IndexBad,
        Cause::SourceUnusable,
        Cause::AuthenticationRefused,
        Cause::SourceBlocked,
        Cause::SendingDomainStopped,
        Cause::WarmupFrozen,
        Cause::DuplicateMessageId,
        Cause::MessagesPastAge,
        Cause::NoNextEvent,
        Cause::CertificateExpiring,
        Cause::SuppressionList,
        Cause::InvalidRecipientStorm,
        Cause::ComplaintsHigh,
        Cause::SenderPaused,
        Cause::CredentialSuspended,
        Cause::Maildrop,
    ];

    /// The word in logs, metrics and mails.
    pub fn name(self) -> &'static str {
        match self {
            Cause::DiskFull => "disk_full",
            Cause::DiskNearlyFull => "disk_nearly_full",
            Cause::SpoolSilent => "spool_silent",
            Cause::SlowSync => "slow_sync",
            Cause::Quarantined => "quarantined",
            Cause::MessageDamaged => "message_damaged",
            Cause::IndexBad => "index_bad",
            Cause::SourceUnusable => "source_unusable",
            Cause::AuthenticationRefused => "authentication_refused",
            Cause::SourceBlocked => "source_blocked",
            Cause::SendingDomainStopped => "sending_domain_stopped",
            Cause::WarmupFrozen => "warmup_frozen",
            Cause::DuplicateMessageId => "duplicate_message_id",
            Cause::MessagesPastAge => "messages_past_age",
            Cause::NoNextEvent => "no_next_event",
            Cause::CertificateExpiring => "certificate_expiring",
            Cause::SuppressionList => "suppression_list",
            Cause::InvalidRecipientStorm => "invalid_recipient_storm",
            Cause::ComplaintsHigh => "complaints_high",
            Cause::SenderPaused => "sender_paused",
            Cause::CredentialSuspended => "credential_suspended",
            Cause::Maildrop => "maildrop",
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Cause::DiskFull
            | Cause::SpoolSilent
            | Cause::Quarantined
            | Cause::MessageDamaged
            | Cause::SourceUnusable
            | Cause::SuppressionList
            | Cause::Maildrop
            | Cause::MessagesPastAge
            | Cause::NoNextEvent => Severity::Error,
            Cause::DiskNearlyFull
            | Cause::InvalidRecipientStorm
            | Cause::ComplaintsHigh
            | Cause::SenderPaused
            | Cause::CredentialSuspended
            | Cause::SlowSync
            | Cause::IndexBad
            | Cause::AuthenticationRefused
            | Cause::SourceBlocked
            | Cause::SendingDomainStopped
            | Cause::WarmupFrozen
            | Cause::DuplicateMessageId
            | Cause::CertificateExpiring => Severity::Warning,
        }
    }

    /// What it means, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Cause::DiskFull => {
                "The disk under the spool is full: clients are answered 452. Mail that is here is sent on."
            }
            Cause::DiskNearlyFull => "The disk under the spool is nearly full. When it is, clients are answered 452.",
            Cause::SpoolSilent => {
                "The spool's writer shows no life: the disk hangs, or nobody reads the log. No message is accepted meanwhile."
            }
            Cause::SlowSync => "The disk took over a second to make a message durable.",
            Cause::Quarantined => "Records of the spool could not be read and were set aside: the disk lost something.",
            Cause::MessageDamaged => {
                "A message in the spool is damaged. It is held, and its sender is told that it failed."
            }
            Cause::SourceUnusable => "A source's address cannot be used on this machine: mail that goes over it waits.",
            Cause::IndexBad => "The queue's index on disk failed. Mail flows without it; the next start takes longer.",
            Cause::AuthenticationRefused => "A peer refuses our mail because it is not authenticated as it should be.",
            Cause::SourceBlocked => "A peer blocks one of our addresses, or found it on a blocklist.",
            Cause::SendingDomainStopped => "A site refuses mail of a sending domain, which is stopped there.",
            Cause::WarmupFrozen => "A provider refuses a source that is being warmed up. Its stage is frozen.",
            Cause::DuplicateMessageId => "A peer got one Message-ID twice: messages may arrive in duplicate.",
            Cause::MessagesPastAge => "Messages are past their longest age and were not given back: a bug.",
            Cause::NoNextEvent => "Messages wait for nothing, so nobody would ever send them: a bug.",
            Cause::CertificateExpiring => "The certificate that clients see expires soon, or has expired.",
            Cause::InvalidRecipientStorm => {
                "A site says of far more recipients than usual that they do not exist: its bad day, or a bad list of ours. \
                 New entries wait for proof meanwhile."
            }
            Cause::ComplaintsHigh => {
                "Recipients call mail spam, and their share comes near what providers bear (0.3 %)."
            }
            Cause::SenderPaused => "Marketing mail of a credential is paused: too many complain, or do not exist.",
            Cause::CredentialSuspended => "A credential is suspended: it may not send, and its mail is held.",
            Cause::Maildrop => "A message that a program gave to sendmail cannot be sent: its file cannot be read.",
            Cause::SuppressionList => {
                "The suppression list is damaged, or cannot be written: addresses get no mail that should, or are forgotten."
            }
        }
    }

    /// What to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Cause::DiskFull => "Make room on the file system; delete nothing in the spool itself.",
            Cause::DiskNearlyFull => "Make room on the file system; delete nothing in the spool itself.",
            Cause::SpoolSilent => {
                "Look at the disk, at the kernel's log, and at who reads the daemon's standard error (journald); systemd restarts the \
                 daemon after 30 seconds."
            }
            Cause::SlowSync => "Look at the disk, and at what else writes to it.",
            Cause::Quarantined => "Look at the disk's health, then read docs/SPOOL.md, \"Damage\".",
            Cause::MessageDamaged => {
                "Look at the disk's health. Delete it when nothing is to be saved of it: `postrider queue delete ID`."
            }
            Cause::SourceUnusable => "Give the machine the address, or correct or remove the [source] in the config.",
            Cause::IndexBad => "Look for the reason in the log: a full or failing disk. It is begun anew by itself.",
            Cause::AuthenticationRefused => {
                "Check the SPF, DKIM and DMARC records of the sending domain; for a smarthost, the route's user and password."
            }
            Cause::SourceBlocked => {
                "Stop what made it so (a bad list, a stolen credential), then ask the provider or list to lift it."
            }
            Cause::SendingDomainStopped => {
                "Read the site's words, and check the SPF, DKIM and DMARC records of the domain."
            }
            Cause::WarmupFrozen => {
                "Read the provider's words. Send less, and to recipients who want it, until it takes mail again."
            }
            Cause::DuplicateMessageId => {
                "Look whether an application reuses Message-IDs, or connections break after the final dot."
            }
            Cause::MessagesPastAge => "Look at one, restart the daemon, and please report it.",
            Cause::NoNextEvent => "Order them to be tried (`postrider queue retry --all`), and please report it.",
            Cause::CertificateExpiring => "Renew it, then `systemctl reload postrider`.",
            Cause::InvalidRecipientStorm => {
                "Look where the addresses came from; if they are old customers, it is the site, and passes. \
                 docs/SUPPRESSION.md, \"Storms\"."
            }
            Cause::ComplaintsHigh => "Send less, and to people who asked for it; make leaving easy.",
            Cause::SenderPaused => {
                "Find out which mailing did it, mend its list, then `postrider rates resume SENDER`."
            }
            Cause::CredentialSuspended => {
                "Change its password if the login may be stolen, look at what it sent, delete that, then \
                 `postrider credential enable NAME`."
            }
            Cause::Maildrop => {
                "Look at the file that the alarm names, and at the maildrop's rights: docs/SENDMAIL.md, \"The maildrop\"."
            }
            Cause::SuppressionList => {
                "Look at the disk's health and room, then read docs/SPOOL.md, \"The suppression list\"."
            }
        }
    }

    /// The command to look closer.
    pub fn command(self) -> &'static str {
        match self {
            Cause::DiskFull => "df -h /var/lib/postrider",
            Cause::DiskNearlyFull => "df -h /var/lib/postrider",
            Cause::SpoolSilent => "journalctl -k -n 50",
            Cause::SlowSync => "journalctl -u postrider -n 50",
            Cause::Quarantined => "postrider spool check",
            Cause::MessageDamaged => "postrider queue list --state held",
            Cause::SourceUnusable => "postrider check --network",
            Cause::IndexBad => "journalctl -u postrider -n 50",
            Cause::AuthenticationRefused => "postrider check --network",
            Cause::SourceBlocked => "postrider check --network",
            Cause::SendingDomainStopped => "postrider check --network",
            Cause::WarmupFrozen => "postrider check --network",
            Cause::DuplicateMessageId => "journalctl -u postrider --grep uncertain",
            Cause::MessagesPastAge => "postrider queue list",
            Cause::NoNextEvent => "postrider queue list",
            Cause::CertificateExpiring => "postrider check",
            Cause::InvalidRecipientStorm => "postrider rates",
            Cause::ComplaintsHigh => "postrider rates",
            Cause::SenderPaused => "postrider rates",
            Cause::CredentialSuspended => "postrider queue list --credential NAME",
            Cause::SuppressionList => "postrider suppression stats",
            Cause::Maildrop => "ls -la /var/lib/postrider/maildrop*",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_lists_every_cause_by_its_name() {
        let manual = include_str!("../../docs/OPERATIONS.md");
        for (place, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, place, "the counters' order");
            assert!(manual.contains(&format!("`{}`", cause.name())), "{cause:?}");
        }
    }
}
