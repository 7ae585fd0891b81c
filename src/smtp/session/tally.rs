//! How many commands of each kind a session saw, and how many of them went well: what its last log line tells.

/// A command by its verb, in the order in which logs tell of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// HELO.
    Helo,
    /// EHLO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// AUTH, with its whole exchange.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// BDAT, with its chunk.
    Bdat,
    /// DATA, with the message behind it.
    Data,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY.
    Vrfy,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
    /// No command of ours.
    Unknown,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Verb; 14] = [
        Verb::Helo,
        Verb::Ehlo,
        Verb::StartTls,
        Verb::Auth,
        Verb::Mail,
        Verb::Rcpt,
        Verb::Bdat,
        Verb::Data,
        Verb::Rset,
        Verb::Noop,
        Verb::Vrfy,
        Verb::Help,
        Verb::Quit,
        Verb::Unknown,
    ];

    /// The verb of a command line, whatever the rest of it is like.
    pub fn of(line: &[u8]) -> Verb {
        let end = line.iter().position(|octet| *octet == b' ').unwrap_or(line.len());
        let verb = line.get(..end).unwrap_or_default();
        let named = Verb::ALL.into_iter().filter(|known| *known != Verb::Unknown);
        named.into_iter().find(|known| known.name().as_bytes().eq_ignore_ascii_case(verb)).unwrap_or(Verb::Unknown)
    }

    /// As a client writes it, in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Helo => "HELO",
            Verb::Ehlo => "EHLO",
            Verb::StartTls => "STARTTLS",
            Verb::Auth => "AUTH",
            Verb::Mail => "MAIL",
            Verb::Rcpt => "RCPT",
            Verb::Bdat => "BDAT",
            Verb::Data => "DATA",
            Verb::Rset => "RSET",
            Verb::Noop => "NOOP",
            Verb::Vrfy => "VRFY",
            Verb::Help => "HELP",
            Verb::Quit => "QUIT",
            Verb::Unknown => "UNKNOWN",
        }
    }

    /// As logs write it.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Helo => "helo",
            Verb::Ehlo => "ehlo",
            Verb::StartTls => "starttls",
            Verb::Auth => "auth",
            Verb::Mail => "mail",
            Verb::Rcpt => "rcpt",
            Verb::Bdat => "bdat",
            Verb::Data => "data",
            Verb::Rset => "rset",
            Verb::Noop => "noop",
            Verb::Vrfy => "vrfy",
            Verb::Help => "help",
            Verb::Quit => "quit",
            Verb::Unknown => "unknown",
        }
    }
}

/// Counts by verb.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: [(u32, u32); Verb::ALL.len()],
    last: Option<(Verb, bool)>,
}

impl Tally {
    /// A command came.
    pub(super) fn begin(&mut self, verb: Verb) {
        self.last = Some((verb, false));
        if let Some((_, all)) = self.counts.get_mut(verb as usize) {
            *all = all.saturating_add(1);
        }
    }

    /// It went wrong.
    pub(super) fn fail(&mut self) {
        let Some((verb, failed @ false)) = &mut self.last else { return };
        *failed = true;
        if let Some((failures, _)) = self.counts.get_mut(*verb as usize) {
            *failures = failures.saturating_add(1);
        }
    }

    /// The last command.
    pub fn last(&self) -> Option<Verb> {
        self.last.map(|(verb, _)| verb)
    }

    /// Verb, how many went well, how many there were.
    pub fn counts(&self) -> impl Iterator<Item = (Verb, u32, u32)> + '_ {
        let both = Verb::ALL.iter().zip(&self.counts);
        both.map(|(verb, (failures, all))| (*verb, all.saturating_sub(*failures), *all))
    }
}

/// Something that the client was refused: for logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What it had asked for.
    pub verb: Verb,
    /// What it was told.
    pub answer: super::super::answer::Answer,
    /// MAIL FROM, as far as it is known.
    pub from: Option<Box<str>>,
    /// RCPT TO.
    pub to: Option<Box<str>>,
}
