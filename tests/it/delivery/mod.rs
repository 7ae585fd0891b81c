//! Scenarios of delivery.

mod a_domains_hosts_are_found_or_the_reason_told;
