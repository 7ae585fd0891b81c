//! Who may relay, by the restriction lists: each list is walked for a client that is or is not in mynetworks, and is or is not
//! logged in, on its way to somebody else's domain.
//!
//! Called by [`super::inbound`]. What refuses mail for other reasons (unknown names, block lists) is neutral here.

use super::facts::View;
use super::syntax::{items, unbraced};

/// Deepest nesting of restriction classes.
const DEPTH_MAX: usize = 20;

/// A client, as far as relaying goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    /// In mynetworks.
    pub is_trusted: bool,
    /// Logged in.
    pub is_known: bool,
    /// Whether its envelope sender stands in a table with OK.
    pub is_listed: bool,
}

/// How a list ends for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// At `permit…`, or at the end.
    Permit,
    /// At `reject…` or `defer…`.
    Reject,
}

/// A word of a list, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// `permit`.
    Permit,
    /// `reject`, `defer`.
    Reject,
    /// `permit_mynetworks`.
    Trusted,
    /// `permit_sasl_authenticated`.
    Known,
    /// `reject_unauth_destination`: of mail that is not for here, all.
    Elsewhere,
    /// `check_sender_access`, with its table.
    SenderAccess(String),
    /// A sender that somebody owns is for its owners alone: who is logged in, who is not, or both are held to it.
    Owned { by_logins: bool, by_others: bool },
    /// It decides nothing about relaying.
    Neutral(String),
    /// It cannot be left out, and cannot be done.
    Refused(String),
}

/// Takes an argument, which is a table or a domain.
const WITH_ARGUMENT: &[&str] = &[
    "check_client_access",
    "check_helo_access",
    "check_recipient_access",
    "check_etrn_access",
    "check_reverse_client_hostname_access",
    "check_ccert_access",
    "check_sasl_access",
    "check_policy_service",
    "check_client_a_access",
    "check_client_mx_access",
    "check_client_ns_access",
    "check_helo_a_access",
    "check_helo_mx_access",
    "check_helo_ns_access",
    "check_sender_a_access",
    "check_sender_mx_access",
    "check_sender_ns_access",
    "check_recipient_a_access",
    "check_recipient_mx_access",
    "check_recipient_ns_access",
    "check_reverse_client_hostname_a_access",
    "check_reverse_client_hostname_mx_access",
    "check_reverse_client_hostname_ns_access",
];
/// Block lists: they take an argument, and are about strangers.
const BLOCK_LISTS: &[&str] = &[
    "reject_rbl_client",
    "permit_dnswl_client",
    "reject_rhsbl_client",
    "permit_rhswl_client",
    "reject_rhsbl_reverse_client",
    "reject_rhsbl_helo",
    "reject_rhsbl_sender",
    "reject_rhsbl_recipient",
    "reject_maps_rbl",
];
/// They refuse what is badly formed, unknown to DNS, or known to be nobody.
const NEUTRAL: &[&str] = &[
    "reject_non_fqdn_sender",
    "reject_non_fqdn_recipient",
    "reject_non_fqdn_helo_hostname",
    "reject_non_fqdn_hostname",
    "reject_unknown_sender_domain",
    "reject_unknown_recipient_domain",
    "reject_unknown_client_hostname",
    "reject_unknown_client",
    "reject_unknown_reverse_client_hostname",
    "reject_unknown_forward_client_hostname",
    "reject_unknown_helo_hostname",
    "reject_unknown_hostname",
    "reject_unknown_address",
    "reject_invalid_helo_hostname",
    "reject_invalid_hostname",
    "reject_unlisted_sender",
    "reject_unlisted_recipient",
    "reject_unverified_sender",
    "reject_unverified_recipient",
    "reject_unauth_pipelining",
    "reject_multi_recipient_bounce",
    "permit_auth_destination",
    "permit_inet_interfaces",
    "defer_if_permit",
    "defer_if_reject",
    "permit_naked_ip_address",
];

/// Understands a list; classes are replaced by what they stand for.
///
/// # Errors
/// A file of the list cannot be read, or it names itself.
pub fn steps(view: View<'_>, text: &str) -> Result<Vec<Step>, String> {
    let classes = items(&view.value("smtpd_restriction_classes"));
    let mut steps = Vec::new();
    walk(view, text, &classes, 0, &mut steps)?;
    Ok(steps)
}

fn walk(view: View<'_>, text: &str, classes: &[String], depth: usize, steps: &mut Vec<Step>) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("restriction classes name each other without an end".to_owned());
    }
    let mut words = view.included(text)?.into_iter();
    while let Some(word) = words.next() {
        let braced = unbraced(&word);
        if braced != word {
            walk(view, braced, classes, depth + 1, steps)?;
            continue;
        }
        let mut argument = || words.next().ok_or_else(|| format!("{word}: an argument is expected"));
        let step = match word.as_str() {
            "permit" => Step::Permit,
            "reject" | "defer" => Step::Reject,
            "permit_mynetworks" => Step::Trusted,
            "permit_sasl_authenticated" => Step::Known,
            "reject_unauth_destination" | "defer_unauth_destination" | "check_relay_domains" => Step::Elsewhere,
            "check_sender_access" => Step::SenderAccess(argument()?),
            "reject_sender_login_mismatch" | "reject_known_sender_login_mismatch" => {
                Step::Owned { by_logins: true, by_others: true }
            }
            "reject_authenticated_sender_login_mismatch" => Step::Owned { by_logins: true, by_others: false },
            "reject_unauthenticated_sender_login_mismatch" => Step::Owned { by_logins: false, by_others: true },
            "warn_if_reject" => {
                // The next one only warns.
                if let Some(next) = words.next()
                    && (takes_argument(&next))
                {
                    words.next();
                }
                Step::Neutral(word)
            }
            "sleep" => {
                argument()?;
                Step::Neutral(word)
            }
            "reject_plaintext_session" => {
                Step::Refused("clients without TLS are served in trusted_networks".to_owned())
            }
            "permit_tls_clientcerts" | "permit_tls_all_clientcerts" => {
                Step::Refused("clients' certificates do not let relay here; give these clients a login".to_owned())
            }
            "permit_mx_backup" => Step::Refused("this host does not take mail for others as their MX".to_owned()),
            name if NEUTRAL.contains(&name) => Step::Neutral(word),
            name if BLOCK_LISTS.contains(&name) => {
                argument()?;
                Step::Neutral(word)
            }
            "check_policy_service" => Step::Refused(format!("{}: a policy service may refuse mail", argument()?)),
            name if WITH_ARGUMENT.contains(&name) => {
                Step::Refused(format!("{name} {}: it may let relay or refuse", argument()?))
            }
            name if classes.iter().any(|class| class == name) => {
                walk(view, &view.value(name), classes, depth + 1, steps)?;
                continue;
            }
            name if name.contains(':') || name.starts_with('/') => {
                Step::Refused(format!("{name}: a table without a word before it"))
            }
            name => Step::Refused(format!("{name} is not known")),
        };
        steps.push(step);
        if steps.len() > 10_000 {
            return Err("a list of more than 10000 restrictions".to_owned());
        }
    }
    Ok(())
}

fn takes_argument(word: &str) -> bool {
    word == "check_sender_access" || WITH_ARGUMENT.contains(&word) || BLOCK_LISTS.contains(&word)
}

impl Step {
    /// How the list ends here for a client's mail to another domain; `None`: it goes on.
    fn end(&self, client: Client) -> Option<Outcome> {
        match self {
            Step::Permit => Some(Outcome::Permit),
            Step::Reject | Step::Elsewhere => Some(Outcome::Reject),
            Step::Trusted => client.is_trusted.then_some(Outcome::Permit),
            Step::Known => client.is_known.then_some(Outcome::Permit),
            Step::SenderAccess(_) => client.is_listed.then_some(Outcome::Permit),
            Step::Owned { .. } | Step::Neutral(_) | Step::Refused(_) => None,
        }
    }
}

/// How a list ends for a client's mail to another domain.
pub fn outcome(steps: &[Step], client: Client) -> Outcome {
    steps.iter().find_map(|step| step.end(client)).unwrap_or(Outcome::Permit)
}

/// Whether a client's walk through a list comes to the step at a place.
pub fn reaches(steps: &[Step], place: usize, client: Client) -> bool {
    steps.iter().take(place).all(|step| step.end(client).is_none())
}
