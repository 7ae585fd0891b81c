//! What a config says once its defaults are filled in and its names expanded, for all of Postfix or one service.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::syntax::{Main, Service, Setting, items};
use super::{Flaw, Input, expand};

/// The defaults of Postfix 3.7, as `postconf -d` says them, but for what depends on the machine.
const DEFAULTS: &str = include_str!("defaults.cf");
/// Most items of a list, those of included files counted.
const ITEMS_MAX: usize = 100_000;

static KNOWN: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    let lines = DEFAULTS.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.trim(), value.trim())).collect()
});

/// The default of a parameter, not expanded; `None`: Postfix 3.7 has none of this name.
pub fn default_of(name: &str) -> Option<&'static str> {
    KNOWN.get(name).copied()
}

/// A whole config.
pub struct Facts<'a> {
    /// What main.cf sets.
    pub settings: Vec<Setting>,
    /// master.cf, with the overrides of main.cf in `postconf -P`'s form.
    pub services: Vec<Service>,
    values: HashMap<String, String>,
    input: &'a Input<'a>,
}

/// What one service sees.
#[derive(Clone, Copy)]
pub struct View<'a> {
    facts: &'a Facts<'a>,
    service: Option<&'a Service>,
}

impl<'a> Facts<'a> {
    /// # Errors
    /// A value that cannot be expanded.
    pub fn new(main: Main, mut services: Vec<Service>, input: &'a Input<'a>) -> Result<Facts<'a>, Flaw> {
        for (of, setting) in main.overrides {
            let service = services.iter_mut().find(|service| format!("{}/{}", service.name, service.kind) == of);
            match service {
                Some(service) => service.overrides.push(setting),
                None => return Err(Flaw::new(setting.line, format!("there is no service \"{of}\" in master.cf"))),
            }
        }
        let values = main.settings.iter().map(|setting| (setting.name.clone(), setting.value.clone())).collect();
        let facts = Facts { settings: main.settings, services, values, input };
        for setting in &facts.settings {
            let outcome = expand::expand(&setting.value, &|name| facts.global().raw(name));
            outcome.map_err(|what| Flaw::new(setting.line, format!("{}: {what}", setting.name)))?;
        }
        for service in &facts.services {
            for setting in &service.overrides {
                let outcome = expand::expand(&setting.value, &|name| facts.of(service).raw(name));
                outcome.map_err(|what| Flaw::new(setting.line, format!("master.cf: {}: {what}", setting.name)))?;
            }
        }
        Ok(facts)
    }

    /// What a service without overrides sees.
    pub fn global(&self) -> View<'_> {
        View { facts: self, service: None }
    }

    /// What a service sees.
    pub fn of<'s>(&'s self, service: &'s Service) -> View<'s> {
        View { facts: self, service: Some(service) }
    }

    /// Whether main.cf sets it.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// What main.cf says, nothing of it replaced.
    pub fn written(&self, name: &str) -> Option<&str> {
        self.settings.iter().rev().find(|setting| setting.name == name).map(|setting| setting.value.as_str())
    }

    /// The line of main.cf that sets it.
    pub fn line(&self, name: &str) -> Option<usize> {
        self.settings.iter().find(|setting| setting.name == name).map(|setting| setting.line)
    }

    /// The transport of a name.
    pub fn transport(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name && service.kind == "unix")
    }
}

impl View<'_> {
    /// A value as it is written, or its default.
    fn raw(&self, name: &str) -> Option<String> {
        let of_service = self.service.and_then(|service| {
            let found = service.overrides.iter().rev().find(|setting| setting.name == name);
            found
                .map(|setting| setting.value.clone())
                .or_else(|| (name == "service_name").then(|| service.name.clone()))
        });
        let set = of_service.or_else(|| self.facts.values.get(name).cloned());
        set.or_else(|| self.machine(name)).or_else(|| default_of(name).map(str::to_owned)).or_else(|| {
            let (_, default) = PER_TRANSPORT.iter().find(|(suffix, _)| name.ends_with(suffix))?;
            Some(format!("${default}"))
        })
    }

    /// Defaults that depend on the machine or on other values.
    fn machine(&self, name: &str) -> Option<String> {
        let hostname = self.facts.input.hostname;
        match name {
            "myhostname" if hostname.contains('.') => Some(hostname.to_owned()),
            "myhostname" => {
                Some(format!("{hostname}.{}", self.facts.values.get("mydomain").map_or("localdomain", |d| d)))
            }
            "mydomain" => {
                let host = match self.facts.values.get("myhostname") {
                    Some(name) => name.clone(),
                    None => hostname.to_owned(),
                };
                Some(host.split_once('.').map_or_else(|| "localdomain".to_owned(), |(_, rest)| rest.to_owned()))
            }
            "config_directory" => Some(self.facts.input.directory.to_owned()),
            "mail_version" => Some("3.7".to_owned()),
            _ => None,
        }
    }

    /// A value, expanded. It was expanded once before, so it can be.
    pub fn value(&self, name: &str) -> String {
        let raw = self.raw(name).unwrap_or_default();
        expand::expand(&raw, &|name| self.raw(name)).unwrap_or_default().trim().to_owned()
    }

    /// A value that is yes or no.
    pub fn flag(&self, name: &str) -> bool {
        self.value(name).eq_ignore_ascii_case("yes")
    }

    /// A list, the files that it names included.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn list(&self, name: &str) -> Result<Vec<String>, String> {
        self.included(&self.value(name))
    }

    /// As [`View::list`], of a text.
    pub fn included(&self, text: &str) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for item in items(text) {
            let (mark, path) = item.strip_prefix('!').map_or(("", item.as_str()), |rest| ("!", rest));
            match path.starts_with('/') {
                true => {
                    let text = (self.facts.input.read)(path).map_err(|error| format!("{path}: {error}"))?;
                    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
                    all.extend(lines.flat_map(items).map(|item| format!("{mark}{item}")));
                }
                false => all.push(item),
            }
            if all.len() > ITEMS_MAX {
                return Err(format!("a list of more than {ITEMS_MAX} items"));
            }
        }
        Ok(all)
    }

    /// Whether the service sets it for itself.
    pub fn overrides(&self, name: &str) -> bool {
        self.service.is_some_and(|service| service.overrides.iter().any(|setting| setting.name == name))
    }
}

/// Parameters that every transport has under its own name, and where their default is. `turtle_destination_rate_delay` is
/// `default_destination_rate_delay` unless it is set.
pub const PER_TRANSPORT: &[(&str, &str)] = &[
    ("_destination_concurrency_limit", "default_destination_concurrency_limit"),
    ("_destination_recipient_limit", "default_destination_recipient_limit"),
    ("_destination_rate_delay", "default_destination_rate_delay"),
    ("_transport_rate_delay", "default_transport_rate_delay"),
    ("_initial_destination_concurrency", "initial_destination_concurrency"),
    ("_destination_concurrency_positive_feedback", "default_destination_concurrency_positive_feedback"),
    ("_destination_concurrency_negative_feedback", "default_destination_concurrency_negative_feedback"),
    ("_destination_concurrency_failed_cohort_limit", "default_destination_concurrency_failed_cohort_limit"),
    ("_delivery_slot_cost", "default_delivery_slot_cost"),
    ("_delivery_slot_loan", "default_delivery_slot_loan"),
    ("_delivery_slot_discount", "default_delivery_slot_discount"),
    ("_minimum_delivery_slots", "default_minimum_delivery_slots"),
    ("_recipient_limit", "default_recipient_limit"),
    ("_extra_recipient_limit", "default_extra_recipient_limit"),
    ("_recipient_refill_limit", "default_recipient_refill_limit"),
    ("_recipient_refill_delay", "default_recipient_refill_delay"),
    ("_delivery_status_filter", "default_delivery_status_filter"),
    ("_filter_nexthop", "default_filter_nexthop"),
    ("_time_limit", "command_time_limit"),
];

/// Every parameter that main.cf sets, expanded, as `postconf -x -n` shows it: for the tests that compare the two.
///
/// # Errors
/// The file cannot be understood.
pub fn expanded(input: &Input<'_>) -> Result<Vec<(String, String)>, Flaw> {
    let main = super::syntax::main_cf(input.main)?;
    let facts = Facts::new(main, Vec::new(), input)?;
    let names: Vec<String> = facts.settings.iter().map(|setting| setting.name.clone()).collect();
    Ok(names.into_iter().map(|name| (name.clone(), facts.global().value(&name))).collect())
}
