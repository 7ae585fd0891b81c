//! The config of the commands that local users run: `sendmail`, `mailq`, `postqueue`.

use serde::Deserialize;

use super::units;
use crate::message::Family;

/// What local users may do without a password, and what becomes of their mail.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sendmail {
    /// The stream of what they send. Absent: "transactional".
    pub stream: Option<String>,
    /// Whose control headers count in it.
    #[serde(deserialize_with = "units::parsed_list")]
    pub control_headers: Vec<Family>,
    /// Who may send. Default: everybody.
    pub submit_users: Vec<String>,
    /// Who may list the queue. Default: everybody.
    pub list_users: Vec<String>,
    /// Who may order that waiting mail be tried now. Default: everybody.
    pub flush_users: Vec<String>,
}

impl Default for Sendmail {
    fn default() -> Self {
        let everybody = || vec!["*".to_owned()];
        Sendmail {
            stream: None,
            control_headers: Vec::new(),
            submit_users: everybody(),
            list_users: everybody(),
            flush_users: everybody(),
        }
    }
}
