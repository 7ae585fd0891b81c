//! The daemon as its users meet it: a process, a config file, SMTP on both sides, signals. See `harness`.

mod a_flipped_byte_costs_one_message_at_most;
mod a_full_disk_refuses_and_delivers_on;
mod a_header_chooses_the_stream_and_never_leaves;
mod a_limit_by_time_holds_on_the_wire;
mod a_lost_index_costs_nothing;
mod a_message_goes_through;
mod a_quota_puts_mail_off_or_refuses_it;
mod a_restart_keeps_the_queue;
mod a_scheduled_message_waits_for_its_time;
mod bytes_arrive_as_sent;
mod five_hundred_domains_share_one_mx;
mod kill_nine_loses_nothing;
mod no_end_of_data_smuggles_a_second_message;
mod sighup_with_a_bad_file_keeps_the_old_one;
mod sigterm_drains_within_ten_seconds;
mod the_wrong_newsletter_is_stopped_by_its_tag;
mod three_domains_behind_a_provider_share_its_limits;
mod trace_and_audit_tell_what_the_peer_saw;
mod what_is_suspended_stays_so_over_a_restart;
