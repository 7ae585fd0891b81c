//! Listings of the queue as Postfix prints them, to the byte: scripts cut them up. Pure.

use crate::showq::wire::{Message, NOBODY};

/// Width up to which a reason is moved to the right. Unit: columns.
const REASON_COLUMNS: usize = 76;

/// `mailq`'s text, message by message. Long queue ids, as Postfix has them with `enable_long_queue_ids`.
#[derive(Debug, Default)]
pub(super) struct Text {
    messages: u64,
    bytes: u64,
}

impl Text {
    /// One message, and what stands before it.
    pub fn message(&mut self, message: &Message) -> String {
        let mut out = match self.messages {
            0 => format!(
                "{:<17} {:>8} {:<19} {}\n",
                "----Queue ID-----", "--Size--", "---Arrival Time----", "--Sender/Recipient------"
            ),
            _ => "\n".to_owned(),
        };
        self.messages += 1;
        self.bytes += message.size;
        let mark = match message.queue.as_str() {
            "active" => "*",
            "hold" => "!",
            _ => "",
        };
        let id = format!("{}{mark}", message.id);
        let sender = if message.sender.is_empty() { NOBODY } else { &message.sender };
        out.push_str(&format!("{id:<17} {:>8} {:<19} {sender}\n", message.size, date(message.time)));
        let mut last: Option<&str> = None;
        for (recipient, reason) in &message.recipients {
            // A reason stands once above all recipients that have it.
            if last != Some(reason.as_str()) && (last.is_some_and(|last| !last.is_empty()) || !reason.is_empty()) {
                let reason = if reason.is_empty() { "reason unavailable" } else { reason };
                let columns = REASON_COLUMNS.saturating_sub(reason.len());
                out.push_str(&format!("{:columns$}({reason})\n", ""));
            }
            last = Some(reason.as_str());
            out.push_str(&format!("{:<17} {:>8} {:<19} {recipient}\n", "", "", ""));
        }
        out
    }

    /// What stands below all.
    pub fn end(&self) -> String {
        match self.messages {
            0 => "Mail queue is empty\n".to_owned(),
            count => {
                let plural = if count == 1 { "" } else { "s" };
                format!("\n-- {} Kbytes in {count} Request{plural}.\n", self.bytes / 1024)
            }
        }
    }
}

/// asctime(3) without its year: `Sat Nov 21 10:00:00`.
fn date(seconds: u64) -> String {
    full_date(seconds).chars().take(19).collect()
}

/// asctime(3), in the machine's time zone.
pub(super) fn full_date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    at.unwrap_or_default().to_zoned(jiff::tz::TimeZone::system()).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// One line of `postqueue -j`.
pub(super) fn json(message: &Message) -> String {
    let sender = if message.sender.is_empty() { NOBODY } else { &message.sender };
    let recipients: Vec<String> = message
        .recipients
        .iter()
        .map(|(address, reason)| match reason.as_str() {
            "" => format!("{{\"address\": {}}}", quoted(address)),
            reason => format!("{{\"address\": {}, \"delay_reason\": {}}}", quoted(address), quoted(reason)),
        })
        .collect();
    format!(
        "{{\"queue_name\": {}, \"queue_id\": {}, \"arrival_time\": {}, \"message_size\": {}, \"forced_expire\": false, \
         \"sender\": {}, \"recipients\": [{}]}}\n",
        quoted(&message.queue),
        quoted(&message.id),
        message.time,
        message.size,
        quoted(sender),
        recipients.join(", ")
    )
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(queue: &str, id: &str, recipients: &[(&str, &str)]) -> Message {
        Message {
            queue: queue.to_owned(),
            id: id.to_owned(),
            time: 1_795_255_200,
            size: 512,
            sender: "app@example.com".to_owned(),
            recipients: recipients.iter().map(|(to, why)| ((*to).to_owned(), (*why).to_owned())).collect(),
        }
    }

    #[test]
    fn a_listing_is_postfix_to_the_byte() {
        let mut text = Text::default();
        assert_eq!(text.end(), "Mail queue is empty\n");
        let why = "connect to mx.b.example[192.0.2.1]:25: Connection refused";
        let day = date(1_795_255_200);
        assert_eq!(day.len(), 19);
        let first = text.message(&message("active", "4Bz2mN2VXxzn", &[("a@b.example", why), ("c@b.example", why)]));
        let want = format!(
            "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n\
             4Bz2mN2VXxzn*          512 {day} app@example.com\n\
             {:19}(connect to mx.b.example[192.0.2.1]:25: Connection refused)\n\
             {:46} a@b.example\n\
             {:46} c@b.example\n",
            "", "", ""
        );
        assert_eq!(first, want);
        assert_eq!(text.end(), "\n-- 0 Kbytes in 1 Request.\n");
        let mut second = message("hold", "4Bz2mN2VXxzp", &[("a@b.example", why), ("c@b.example", "")]);
        second.sender = String::new();
        second.size = 2048;
        let want = format!(
            "\n4Bz2mN2VXxzp!         2048 {day} MAILER-DAEMON\n\
             {:19}(connect to mx.b.example[192.0.2.1]:25: Connection refused)\n\
             {:46} a@b.example\n\
             {:58}(reason unavailable)\n\
             {:46} c@b.example\n",
            "", "", "", ""
        );
        assert_eq!(text.message(&second), want);
        assert_eq!(text.end(), "\n-- 2 Kbytes in 2 Requests.\n");
        let long = "x".repeat(90);
        assert!(text.message(&message("deferred", "4B", &[("a@b.example", &long)])).contains("\n(xxx"));
    }

    #[test]
    fn a_json_line_is_postfix_to_the_byte() {
        let line = json(&message("deferred", "4F1A23C0B1", &[("a@b.example", "said: \"no\""), ("c@b.example", "")]));
        let want = "{\"queue_name\": \"deferred\", \"queue_id\": \"4F1A23C0B1\", \"arrival_time\": 1795255200, \
                    \"message_size\": 512, \"forced_expire\": false, \"sender\": \"app@example.com\", \"recipients\": \
                    [{\"address\": \"a@b.example\", \"delay_reason\": \"said: \\\"no\\\"\"}, {\"address\": \"c@b.example\"}]}\n";
        assert_eq!(line, want);
    }
}
