use super::*;

#[test]
fn a_flag_wins_over_a_variable_over_a_later_file_over_an_earlier_one() {
    let mut layers = Layers::default();
    let first = "data_dir = '/1'\nchecks_dir = '/1'\nagent_listen = '127.0.0.1:1'\n\
                 api_listen = '127.0.0.1:1'\n";
    layers.parse(Path::new("hub.toml"), first).unwrap();
    let second = "data_dir = '/2'\nagent_listen = '127.0.0.1:2'\napi_listen = '127.0.0.1:2'\n";
    layers.parse(Path::new("hub.d/10.toml"), second).unwrap();
    layers
        .variables(|name| {
            let value = match name {
                "ZERO_X_AGENT_LISTEN" => "127.0.0.1:3",
                "ZERO_X_API_LISTEN" => "127.0.0.1:3",
                _ => return None,
            };
            Some(value.into())
        })
        .unwrap();
    layers.flags(&Flags {
        api_listen: Some("127.0.0.1:4".to_owned()),
        ..Flags::default()
    });
    let config = layers.finish().unwrap();
    assert_eq!(config.checks_dir, Path::new("/1"));
    assert_eq!(config.data_dir, Path::new("/2"));
    assert_eq!(config.agent_listen.port(), 3);
    assert_eq!(config.api_listen.port(), 4);
    let origins: Vec<&str> = [
        "checks_dir",
        "data_dir",
        "agent_listen",
        "api_listen",
        "log.level",
    ]
    .iter()
    .map(|key| {
        let shown = config.shown().iter().find(|shown| shown.key == *key);
        shown.unwrap().origin.as_str()
    })
    .collect();
    assert_eq!(
        origins,
        [
            "hub.toml:2",
            "hub.d/10.toml:1",
            "variable ZERO_X_AGENT_LISTEN",
            "flag --api-listen",
            "default",
        ]
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
    let error = read("# a comment\ndata_dri = 'x'\n").unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("hub.toml:2: unknown field `data_dri`"),
        "{text}"
    );
    assert!(text.ends_with("did you mean data_dir?"), "{text}");
    assert_eq!(error.exit().code(), 78);

    let text = read("[log]\nlevl = 'x'\n").unwrap_err().to_string();
    assert!(
        text.starts_with("hub.toml:2: unknown field `levl`"),
        "{text}"
    );
    assert!(text.ends_with("did you mean level?"), "{text}");
}

#[test]
fn a_bad_value_is_named_with_file_line_key_and_what_is_allowed() {
    let cases = [
        (
            "\nagent_listen = 'foo'",
            "hub.toml:2: agent_listen = \"foo\": not an address with a port",
        ),
        (
            "[log]\nformat = 'xml'",
            "hub.toml:2: log.format = \"xml\": one of text, json",
        ),
        (
            "[tls]\ncert = '/a'",
            "hub.toml:2: tls.cert = \"/a\": tls.key must be set with it",
        ),
        (
            "public_hosts = ['hub.example.com', 'https://a']",
            "hub.toml:1: public_hosts = \"hub.example.com,https://a\": \"https://a\" is \
             neither a DNS name nor an IP address (no port, no scheme)",
        ),
        (
            "public_hosts = ['10.0.0.300']",
            "hub.toml:1: public_hosts = \"10.0.0.300\": \"10.0.0.300\" is neither a DNS name \
             nor an IP address (no port, no scheme)",
        ),
        (
            "metrics_listen = '0.0.0.0:9464'",
            "hub.toml:1: metrics_listen = \"0.0.0.0:9464\": not an address of this machine alone \
             (127.0.0.1 or [::1])",
        ),
        ("data_dir = ''", "hub.toml:1: data_dir = \"\": it is empty"),
        (
            "[quota]\nburst_seconds = 0",
            "hub.toml:2: quota.burst_seconds = \"0\": 1 to 3600",
        ),
        (
            "[quota]\norg_bytes_per_second = -1",
            "hub.toml:2: invalid value: integer `-1`, expected u64",
        ),
        (
            "\n\ndata_dir = 3",
            "hub.toml:3: invalid type: integer `3`, expected a string",
        ),
    ];
    for (text, want) in cases {
        let error = read(text).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert_eq!(error.exit().code(), 78);
    }
}

#[test]
fn a_missing_setting_says_every_way_to_give_it() {
    let config = read("").unwrap();
    let error = config.master_key_file().unwrap_err();
    assert_eq!(error.to_string(), "no master_key_file is set");
    assert_eq!(
        error.fix().unwrap(),
        "give --master-key-file, set ZERO_X_MASTER_KEY_FILE or write master_key_file in \
         /etc/zero-x-hub/hub.toml"
    );
}

#[test]
fn every_key_of_the_table_can_be_set_in_a_file() {
    for (key, _, _) in KEYS {
        let value = match key {
            "agent_listen" | "api_listen" | "metrics_listen" => "'127.0.0.1:9'",
            "public_hosts" => "['127.0.0.1']",
            "ca.agent_leaf" => "'12h'",
            "recovery_recipient" => {
                "'x25519:0900000000000000000000000000000000000000000000000000000000000000'"
            }
            "log.format" => "'json'",
            key if key.starts_with("quota.") => "7",
            "log.level" => "'zero_x_hub=debug'",
            _ => "'/somewhere'",
        };
        let other = match key {
            "tls.cert" => "tls.key = '/k'",
            "tls.key" => "tls.cert = '/c'",
            _ => "",
        };
        let config = read(&format!("{key} = {value}\n{other}\n")).unwrap();
        let shown = config.shown().iter().find(|shown| shown.key == key);
        assert_eq!(shown.unwrap().origin, "hub.toml:1", "{key}");
    }
}

#[test]
fn metrics_are_nowhere_unless_an_address_of_this_machine_is_given() {
    assert_eq!(read("").unwrap().metrics_listen, None);
    for given in ["127.0.0.1:9464", "[::1]:9464", "127.8.9.1:1"] {
        let config = read(&format!("metrics_listen = '{given}'")).unwrap();
        assert_eq!(config.metrics_listen, Some(given.parse().unwrap()));
    }
    for given in [
        "0.0.0.0:9464",
        "[::]:9464",
        "10.0.0.1:9464",
        "127.0.0.1",
        "localhost:1",
        "",
    ] {
        let error = read(&format!("metrics_listen = '{given}'")).unwrap_err();
        assert_eq!(error.exit().code(), 78, "{given}");
        assert!(error.fix().unwrap().contains("127.0.0.1:9464"), "{given}");
    }
}

#[test]
fn a_quota_of_nothing_is_no_limit_and_the_rest_keep_their_defaults() {
    let config = read("[quota]\nagent_events_per_second = 0\nburst_seconds = 60\n").unwrap();
    let rate = |rate: Option<NonZeroU64>| rate.map(NonZeroU64::get);
    assert_eq!(rate(config.quotas.agent.events), None);
    assert_eq!(rate(config.quotas.agent.bytes), Some(32 << 20));
    assert_eq!(rate(config.quotas.org.bytes), Some(128 << 20));
    assert_eq!(rate(config.quotas.org.events), Some(400_000));
    assert_eq!(config.quotas.burst, Duration::from_secs(60));
}

fn read(text: &str) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    layers.parse(Path::new("hub.toml"), text)?;
    layers.finish()
}
