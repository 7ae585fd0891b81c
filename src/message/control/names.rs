//! The fields by which clients steer a sending service, as data: whose they are, and what they mean.
//!
//! Read by `control` alone. Sources: each provider's own documentation; what it says of a field that has no meaning
//! here is told in the row.

use super::Family;

/// What a field means to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// The value names a stream.
    Stream,
    /// The value is a tag.
    Tag,
    /// Tags with commas between.
    Tags,
    /// `key=value` with commas between: tags, and metadata.
    Pairs,
    /// The rest of the name is a key, the value its value.
    Metadata,
    /// The value belongs to this key.
    MetadataAs(&'static str),
    /// A JSON object of keys and values.
    MetadataObject,
    /// SendGrid's JSON.
    Sendgrid,
    /// SparkPost's JSON.
    Sparkpost,
    /// Not before this time.
    At,
    /// As `At`; without a zone it is UTC.
    AtUtc,
    /// `yes`: the recipient opened or clicked lately.
    Engaged,
    /// `true`: transactional, `false`: marketing.
    Transactional,
    /// It has no meaning here, and mail without it is no other mail.
    Nothing,
    /// Without it the wrong mail, or mail to the wrong people, would leave. Refused unless it says "no".
    Unsupported(&'static str),
}

/// A field's name, or the beginning of names (`*`), in lower case.
pub(super) struct Name {
    pub(super) family: Family,
    pub(super) pattern: &'static str,
    pub(super) meaning: Meaning,
}

const fn name(family: Family, pattern: &'static str, meaning: Meaning) -> Name {
    Name { family, pattern, meaning }
}

const CONTENT: &str = "content is not changed here; send the finished message";
const MORE_RECIPIENTS: &str = "recipients are those of the envelope; add this one there";

/// The first that fits counts.
#[rustfmt::skip]
pub(super) static NAMES: &[Name] = &[
    name(Family::Postrider, "x-stream", Meaning::Stream),
    name(Family::Postrider, "x-tag", Meaning::Tag),
    name(Family::Postrider, "x-metadata-*", Meaning::Metadata),
    name(Family::Postrider, "x-deliver-at", Meaning::At),
    name(Family::Postrider, "x-engaged", Meaning::Engaged),

    name(Family::Postmark, "x-pm-message-stream", Meaning::Stream),
    name(Family::Postmark, "x-pm-tag", Meaning::Tag),
    name(Family::Postmark, "x-pm-metadata-*", Meaning::Metadata),
    // TrackOpens, TrackLinks: nothing is tracked yet.
    name(Family::Postmark, "x-pm-*", Meaning::Nothing),

    name(Family::Mailgun, "x-mailgun-tag", Meaning::Tag),
    name(Family::Mailgun, "x-mailgun-campaign-id", Meaning::Tag),
    name(Family::Mailgun, "x-mailgun-variables", Meaning::MetadataObject),
    name(Family::Mailgun, "x-mailgun-deliver-by", Meaning::At),
    name(Family::Mailgun, "x-mailgun-sending-ip-pool", Meaning::Stream),
    name(Family::Mailgun, "x-mailgun-drop-message",
        Meaning::Unsupported("it asks for a message that is not sent; use `postrider sandbox` for tests")),
    name(Family::Mailgun, "x-mailgun-recipient-variables", Meaning::Unsupported(CONTENT)),
    name(Family::Mailgun, "x-mailgun-template-*", Meaning::Unsupported(CONTENT)),
    name(Family::Mailgun, "x-mailgun-require-tls",
        Meaning::Unsupported("TLS is asked for in the config, by [delivery], [[site]] or [[route]]")),
    // Tracking, DKIM and delivery-time switches.
    name(Family::Mailgun, "x-mailgun-*", Meaning::Nothing),

    name(Family::Ses, "x-ses-configuration-set", Meaning::Stream),
    name(Family::Ses, "x-ses-message-tags", Meaning::Pairs),
    name(Family::Ses, "x-ses-list-management-options",
        Meaning::Unsupported("SES leaves out who unsubscribed from the list; leave them out before you send")),
    // Who may send as whom is the credential's from_domains; tenants are streams.
    name(Family::Ses, "x-ses-*", Meaning::Nothing),

    name(Family::Sendgrid, "x-smtpapi", Meaning::Sendgrid),

    name(Family::Sparkpost, "x-msys-api", Meaning::Sparkpost),
    name(Family::Sparkpost, "x-msys-*", Meaning::Nothing),

    name(Family::Mandrill, "x-mc-tags", Meaning::Tags),
    name(Family::Mandrill, "x-mc-metadata", Meaning::MetadataObject),
    name(Family::Mandrill, "x-mc-ippool", Meaning::Stream),
    name(Family::Mandrill, "x-mc-sendat", Meaning::AtUtc),
    name(Family::Mandrill, "x-mc-bccaddress", Meaning::Unsupported(MORE_RECIPIENTS)),
    name(Family::Mandrill, "x-mc-template", Meaning::Unsupported(CONTENT)),
    name(Family::Mandrill, "x-mc-mergevars", Meaning::Unsupported(CONTENT)),
    name(Family::Mandrill, "x-mc-inlinecss", Meaning::Unsupported(CONTENT)),
    // Tracking and the like; a missing text part is not made up.
    name(Family::Mandrill, "x-mc-*", Meaning::Nothing),

    name(Family::Mailjet, "x-mailjet-campaign", Meaning::Tag),
    name(Family::Mailjet, "x-mj-customid", Meaning::MetadataAs("custom_id")),
    name(Family::Mailjet, "x-mj-eventpayload", Meaning::MetadataAs("event_payload")),
    name(Family::Mailjet, "x-mj-templateid", Meaning::Unsupported(CONTENT)),
    name(Family::Mailjet, "x-mj-templatelanguage", Meaning::Unsupported(CONTENT)),
    name(Family::Mailjet, "x-mj-vars", Meaning::Unsupported(CONTENT)),
    name(Family::Mailjet, "x-mj-*", Meaning::Nothing),
    name(Family::Mailjet, "x-mailjet-*", Meaning::Nothing),

    name(Family::Elastic, "istransactional", Meaning::Transactional),
    name(Family::Elastic, "poolname", Meaning::Stream),
    name(Family::Elastic, "postback", Meaning::MetadataAs("postback")),

    name(Family::Postal, "x-postal-tag", Meaning::Tag),
    name(Family::Sendcloud, "sc-custom-*", Meaning::Metadata),
    name(Family::Powermta, "x-virtual-mta", Meaning::Stream),
    name(Family::Powermta, "x-job", Meaning::Tag),
    name(Family::Zonemta, "x-sending-zone", Meaning::Stream),
];

/// The row of a field's name, in any case, and what stands in place of its `*`.
pub(super) fn find(field: &[u8]) -> Option<(&'static Name, &[u8])> {
    if !matches!(field.first(), Some(b'x' | b'X' | b'i' | b'I' | b'p' | b'P' | b's' | b'S')) {
        return None;
    }
    NAMES.iter().find_map(|name| match name.pattern.strip_suffix('*') {
        Some(start) => {
            let (head, tail) = field.split_at_checked(start.len())?;
            head.eq_ignore_ascii_case(start.as_bytes()).then_some((name, tail))
        }
        None => field.eq_ignore_ascii_case(name.pattern.as_bytes()).then_some((name, &field[..0])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_found_and_hides_no_later_one() {
        for (place, row) in NAMES.iter().enumerate() {
            let field = row.pattern.replace('*', "any");
            let (found, _) = find(field.as_bytes()).unwrap_or_else(|| panic!("{field} is not found"));
            assert!(std::ptr::eq(found, row), "{} is hidden: row {place}", row.pattern);
            assert_eq!(row.pattern, row.pattern.to_ascii_lowercase());
        }
        assert_eq!(find(b"X-PM-Metadata-Color").map(|(_, rest)| rest), Some(&b"Color"[..]));
        for other in ["X-Streams", "X-Mailer", "X-Spam-Flag", "Subject", "Sender", "To", "", "X-PM"] {
            assert!(find(other.as_bytes()).is_none(), "{other}");
        }
    }
}
