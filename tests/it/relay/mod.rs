//! The daemon as its users meet it: a process, a config file, SMTP on both sides, signals. See `harness`.

mod a_flipped_byte_costs_one_message_at_most;
mod a_full_disk_refuses_and_delivers_on;
mod a_limit_by_time_holds_on_the_wire;
mod a_lost_index_costs_nothing;
mod a_message_goes_through;
mod a_restart_keeps_the_queue;
mod bytes_arrive_as_sent;
mod kill_nine_loses_nothing;
mod no_end_of_data_smuggles_a_second_message;
mod sighup_with_a_bad_file_keeps_the_old_one;
mod sigterm_drains_within_ten_seconds;
mod trace_and_audit_tell_what_the_peer_saw;
