package config

// refused are keys of Synapse's file that restrict what a server does. A server
// that silently ignored one would be open where its owner believes it closed.
// isOff values (false, empty) are let through.
var refused = map[string]string{
	"signing_key":                                     "the server would sign with another key than before; write it into the file of signing_key_path",
	"modules":                                         "a module may be what keeps spam out",
	"password_providers":                              "accounts would be checked differently",
	"spam_checker":                                    "nothing would check for spam",
	"third_party_event_rules":                         "events would not be checked",
	"registrations_require_3pid":                      "people could register without the address that is asked for",
	"allowed_local_3pids":                             "any address could be used to register",
	"enable_registration_captcha":                     "people could register without the captcha",
	"block_non_admin_invites":                         "everybody could invite",
	"require_auth_for_profile_requests":               "profiles would be readable without logging in",
	"limit_profile_requests_to_users_who_share_rooms": "profiles would be readable by everybody",
	"limit_usage_by_mau":                              "the number of users would not be limited",
	"user_consent":                                    "users would not be asked for consent",
	"retention":                                       "messages would be kept longer than promised",
}

// ignored are keys of Synapse's file that mean nothing here, or nothing that
// anybody would miss.
var ignored = map[string]bool{
	"account_validity": true, "background_updates": true, "caches": true, "cleanup_extremities_with_dummy_events": true,
	"config_files": true, "daemonize": true, "enable_metrics": true, "event_cache_size": true, "experimental_features": true,
	"expiry": true, "federation_metrics_domains": true, "filter_timeline_limit": true, "forget_rooms_on_leave": true,
	"form_secret": true, "form_secret_path": true, "gc_min_interval": true, "gc_thresholds": true, "hs_disabled": true,
	"instance_map": true, "key_refresh_interval": true, "log_config": true, "macaroon_secret_key": true,
	"macaroon_secret_key_path": true, "manhole_settings": true, "metrics_flags": true, "opentracing": true, "pid_file": true,
	"push": true, "rc_key_requests": true, "rc_presence": true, "redis": true, "report_stats": true,
	"report_stats_endpoint": true, "request_token_inhibit_3pid_errors": true, "run_background_tasks_on": true, "sentry": true,
	"soft_file_limit": true, "stats": true, "stream_writers": true, "suppress_key_server_warning": true, "templates": true,
	"track_appservice_user_ips": true, "track_puppeted_user_ips": true, "use_appservice_legacy_authorization": true,
	"user_agent_suffix": true, "vapid_private_key": true, "web_client_location": true, "worker_app": true,
	"worker_listeners": true, "worker_log_config": true, "worker_name": true,
	"rc_federation.window_size": true, "rc_federation.sleep_limit": true, "rc_federation.sleep_delay": true,
	"dynamic_thumbnails": true, "thumbnail_sizes": true,
}
