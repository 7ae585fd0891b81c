//! Scenarios of delivery.

mod a_connection_carries_out_its_orders;
mod a_domains_hosts_are_found_or_the_reason_told;
