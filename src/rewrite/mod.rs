//! What is done to addresses and header fields, as Postfix's tables say it: canonical(5), virtual(5), generic(5),
//! aliases(5), access(5), header_checks(5). docs/REWRITING.md says it for readers.
//!
//! Called by the door for what comes in, by `delivery` for what goes out, and by `config`, which reads the files. It is
//! pure: bytes and tables in, bytes out, every recursion and every growth bounded.

mod address;
mod alias;
mod check;
mod header;
mod pattern;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use address::{Access, Home, Masquerade};
pub use alias::{Aliases, Include, LocalNames, Unexpanded};
pub use check::{Checked, Checks, Moment, Note, Rejection};
pub use table::{Flaw, Kind, Table, Tables, Trouble};

use crate::mail::{Address, Domain, ReversePath};
use header::Side;

/// All that is done to what comes in.
#[derive(Clone, Debug)]
pub struct Rewriting {
    /// Which names are ours.
    pub home: Home,
    /// Senders and recipients, in envelope and header.
    pub canonical: Tables,
    /// Senders, before it.
    pub sender_canonical: Tables,
    /// Recipients, before it.
    pub recipient_canonical: Tables,
    /// Domains that stand for those below them.
    pub masquerade: Masquerade,
    /// Recipients of the envelope.
    pub virtual_aliases: Tables,
    /// What is done for local names; `None`: nothing is local.
    pub local: Option<LocalNames>,
    /// A copy of all mail.
    pub always_bcc: Option<Address>,
    /// Copies by sender.
    pub sender_bcc: Tables,
    /// Copies by recipient.
    pub recipient_bcc: Tables,
    /// Header fields.
    pub header_checks: Checks,
    /// Who may be an envelope sender.
    pub sender_access: Tables,
    /// Bare addresses in the header get the origin.
    pub qualifies: bool,
}

/// The recipients of a message, once all is done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recipients {
    /// Each with the place of the recipient that it came from; none stands here twice.
    pub all: Vec<(Address, usize)>,
    /// Who gets a copy beside them.
    pub copies: Vec<Address>,
}

impl Rewriting {
    /// Nothing is done on a host of this name.
    pub fn none(hostname: &Domain) -> Rewriting {
        Rewriting {
            home: Home { origin: hostname.clone(), domains: Vec::new(), delimiters: "".into() },
            canonical: Tables::default(),
            sender_canonical: Tables::default(),
            recipient_canonical: Tables::default(),
            masquerade: Masquerade::default(),
            virtual_aliases: Tables::default(),
            local: None,
            always_bcc: None,
            sender_bcc: Tables::default(),
            recipient_bcc: Tables::default(),
            header_checks: Checks::default(),
            sender_access: Tables::default(),
            qualifies: false,
        }
    }

    /// Whether anything is done at all.
    pub fn is_some(&self) -> bool {
        self.changes_header()
            || !self.virtual_aliases.is_empty()
            || self.local.is_some()
            || self.always_bcc.is_some()
            || !self.sender_bcc.is_empty()
            || !self.recipient_bcc.is_empty()
            || !self.header_checks.is_empty()
            || !self.sender_access.is_empty()
    }

    fn changes_header(&self) -> bool {
        self.qualifies
            || !self.masquerade.domains.is_empty()
            || ![&self.canonical, &self.sender_canonical, &self.recipient_canonical].iter().all(|all| all.is_empty())
    }

    /// An address without its extension; `None`: it has none.
    pub fn without_extension(&self, address: &Address) -> Option<Address> {
        let (base, _) = self.home.split(address.local())?;
        Address::new(base, address.domain().clone()).ok()
    }

    /// What the tables say of an envelope sender, as it was given.
    ///
    /// # Errors
    /// The tables cannot say now.
    pub fn access(&self, sender: &ReversePath) -> Result<Access, Trouble> {
        address::access(&self.sender_access, &self.home, sender)
    }

    /// The envelope sender: canonical, then as the masquerade has it.
    ///
    /// # Errors
    /// The tables cannot say now.
    pub fn sender(&self, sender: &ReversePath) -> Result<ReversePath, Trouble> {
        match sender {
            ReversePath::Null => Ok(ReversePath::Null),
            ReversePath::Address(address) => {
                self.mapped(Side::Sender, address.clone()).map(|own| ReversePath::Address(self.masquerade.apply(own)))
            }
        }
    }

    fn mapped(&self, side: Side, address: Address) -> Result<Address, Trouble> {
        let own = match side {
            Side::Sender => &self.sender_canonical,
            Side::Recipient => &self.recipient_canonical,
        };
        address::map(&self.canonical, &self.home, address::map(own, &self.home, address)?)
    }

    /// Whom one recipient of the envelope stands for. RFC 5321 §3.9: its local part means something here alone.
    ///
    /// # Errors
    /// It stands for nobody, or the tables cannot say now.
    pub fn expand(&self, recipient: &Address) -> Result<Vec<Address>, Unexpanded> {
        let canonical = self.mapped(Side::Recipient, recipient.clone())?;
        self.expand_canonical(&canonical)
    }

    fn expand_canonical(&self, recipient: &Address) -> Result<Vec<Address>, Unexpanded> {
        alias::expand(&self.virtual_aliases, &self.home, self.local.as_ref(), recipient)
    }

    /// All recipients of a message from this sender (as it is after [`Rewriting::sender`]), and the copies.
    ///
    /// # Errors
    /// One of them stands for nobody (its place is told), or the tables cannot say now.
    pub fn recipients(&self, sender: &ReversePath, recipients: &[Address]) -> Result<Recipients, (usize, Unexpanded)> {
        let mut found = Recipients::default();
        let mut seen: HashSet<Address> = HashSet::with_capacity(recipients.len());
        let mut copies: Vec<Address> = self.always_bcc.iter().cloned().collect();
        if let Some(sender) = sender.address() {
            copies.extend(self.copy(&self.sender_bcc, sender).map_err(|trouble| (0, trouble.into()))?);
        }
        for (place, recipient) in recipients.iter().enumerate() {
            let failed = |trouble: Trouble| (place, Unexpanded::Trouble(trouble));
            let canonical = self.mapped(Side::Recipient, recipient.clone()).map_err(failed)?;
            copies.extend(self.copy(&self.recipient_bcc, &canonical).map_err(failed)?);
            for address in self.expand_canonical(&canonical).map_err(|error| (place, error))? {
                if seen.insert(address.clone()) {
                    found.all.push((address, place));
                }
            }
        }
        for copy in copies {
            // A copy that has no address any more must not keep the message itself from going.
            for address in self.expand(&copy).unwrap_or_default() {
                if seen.insert(address.clone()) {
                    found.copies.push(address);
                }
            }
        }
        Ok(found)
    }

    fn copy(&self, tables: &Tables, address: &Address) -> Result<Vec<Address>, Trouble> {
        Ok(address::ask(tables, &self.home, address, address::Unmatched::Dropped)?.unwrap_or_default())
    }

    /// A header block with its addresses canonical, as the masquerade has them, and none without a domain. `None`: it stays
    /// as it is.
    ///
    /// # Errors
    /// The tables cannot say now.
    pub fn header(&self, block: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        if !self.changes_header() {
            return Ok(None);
        }
        let mut trouble = None;
        let new = header::rewrite(block, &mut |side, text| {
            let address = self.home.qualify(text)?;
            match self.mapped(side, address.clone()) {
                Ok(mapped) => {
                    let shown = self.masquerade.apply(mapped);
                    (shown != address || !text.contains('@')).then(|| shown.to_string())
                }
                Err(error) => {
                    trouble = Some(error);
                    None
                }
            }
        });
        trouble.map_or(Ok(new), Err)
    }
}

/// What is wrong with the answers of a table that is asked about senders, access(5).
pub fn access_flaws(table: &Table) -> Vec<Flaw> {
    let judge = |(line, answer): (usize, &str)| address::action(answer).err().map(|right| Flaw::new(line, right));
    table.answers().into_iter().filter_map(judge).collect()
}

/// All that is done to what goes out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Which names are ours.
    pub home: Home,
    /// Addresses in envelope and header.
    pub generic: Tables,
    /// Header fields, after that.
    pub header_checks: Checks,
}

impl Outgoing {
    /// Nothing is done on a host of this name.
    pub fn none(hostname: &Domain) -> Outgoing {
        let home = Home { origin: hostname.clone(), domains: Vec::new(), delimiters: "".into() };
        Outgoing { home, generic: Tables::default(), header_checks: Checks::default() }
    }

    /// Whether nothing is done.
    pub fn is_none(&self) -> bool {
        self.generic.is_empty() && self.header_checks.is_empty()
    }

    /// An address of the envelope.
    ///
    /// # Errors
    /// The tables cannot say now.
    pub fn address(&self, address: &Address) -> Result<Address, Trouble> {
        let found = address::ask(&self.generic, &self.home, address, address::Unmatched::Dropped)?;
        Ok(found.and_then(|all| all.into_iter().next()).unwrap_or_else(|| address.clone()))
    }

    /// A header block, addresses first; `None`: it stays as it is. With it, what is to be logged.
    ///
    /// # Errors
    /// The tables cannot say now.
    pub fn header(&self, block: &[u8]) -> Result<(Option<Vec<u8>>, Vec<Note>), Trouble> {
        let mut trouble = None;
        let mut new = match self.generic.is_empty() {
            true => None,
            false => header::rewrite(block, &mut |_, text| {
                let address = text.parse::<Address>().ok()?;
                match self.address(&address) {
                    Ok(own) => (own != address).then(|| own.to_string()),
                    Err(error) => {
                        trouble = Some(error);
                        None
                    }
                }
            }),
        };
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        let mut checked = self.header_checks.check_header(new.as_deref().unwrap_or(block))?;
        if let Some(message) = checked.message.take() {
            new = Some(message);
        }
        Ok((new, checked.notes))
    }
}
