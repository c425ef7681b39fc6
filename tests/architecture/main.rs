//! The architecture's invariants, each as an absence that can be searched for.
//!
//! These searches read code, not comments and not test modules. They are crude on purpose: a reader can check in a
//! minute what they prove. What needs a running program is in `e2e`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use line::programs::checkout;

/// One line of code: where it stands and what it says.
struct Line {
    place: String,
    text: String,
}

/// The code of every Rust file below the folders, without comments and without what follows `#[cfg(test)]`.
#[track_caller]
fn code(folders: &[&str]) -> Vec<Line> {
    let mut lines = Vec::new();
    for folder in folders {
        let mut files = Vec::new();
        collect(&checkout().join(folder), "rs", &mut files);
        assert!(!files.is_empty(), "no code in {folder}: has it moved?");
        for file in files {
            let place = file.strip_prefix(checkout()).unwrap().display().to_string();
            let text = fs::read_to_string(&file).unwrap();
            lines.extend(stripped(&text).map(|(number, text)| Line {
                place: format!("{place}:{number}"),
                text: text.to_owned(),
            }));
        }
    }
    lines
}

fn stripped(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line.split(" // ").next().unwrap_or(line)))
}

fn collect(path: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
        return;
    }
    let mut entries: Vec<_> = fs::read_dir(path)
        .map(|entries| entries.flatten().collect())
        .unwrap_or_default();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        // Test code that lives in files of its own.
        if path.is_dir()
            && path
                .file_name()
                .is_some_and(|name| name != "tests" && name != "benches")
        {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension)
            && path.file_stem().is_some_and(|name| name != "tests")
        {
            files.push(path);
        }
    }
}

/// Fails with each line that says one of `words` outside the places where it may.
#[track_caller]
fn assert_absent(folders: &[&str], words: &[&str], allowed: &[&str], why: &str) {
    let found: Vec<_> = code(folders)
        .into_iter()
        .filter(|line| !allowed.iter().any(|place| line.place.starts_with(place)))
        .filter(|line| words.iter().any(|word| line.text.contains(word)))
        .map(|line| format!("{}: {}", line.place, line.text.trim()))
        .collect();
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

/// The names of the dependencies that a manifest declares for the program itself.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(checkout().join(manifest)).unwrap();
    text.lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

const AGENT: [&str; 5] = [
    "agent/src",
    "agent/collect/src",
    "agent/aws/src",
    "agent/gcp/src",
    "agent/azure/src",
];
const HUB: [&str; 3] = ["hub/src", "hub/store/src", "hub/rules/src"];
const CORES: [&str; 2] = ["protocol/src", "hub/rules/src"];

#[test]
fn the_agent_listens_on_nothing_but_its_status_socket() {
    assert_absent(
        &AGENT,
        &[
            "TcpListener",
            "UnixListener",
            "UdpSocket",
            "UnixDatagram",
            "ServerConfig",
            "Endpoint::server",
        ],
        &["agent/src/status"],
        "the agent listens",
    );
}

#[test]
fn only_the_store_and_the_spool_know_the_engine() {
    assert_absent(
        &[&AGENT[..], &HUB, &["protocol/src", "tui/src"]].concat(),
        &["redb::"],
        &["hub/store/", "agent/src/spool"],
        "redb is used outside its seam",
    );
}

#[test]
fn only_one_file_of_the_link_and_the_ingest_know_quic() {
    assert_absent(
        &[&AGENT[..], &HUB, &["protocol/src", "tui/src"]].concat(),
        &["quinn::"],
        &["agent/src/link/quic.rs", "hub/src/ingest"],
        "quinn is used outside its seam",
    );
}

#[test]
fn a_core_has_no_clock_and_no_io() {
    assert_absent(
        &CORES,
        &[
            "Instant::now",
            "SystemTime::now",
            "Timestamp::now",
            "Zoned::now",
            "tokio::",
            "std::fs",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "ToSocketAddrs",
            "fs::read",
            "File::open",
            "thread::sleep",
        ],
        &[],
        "a core looks at the clock or does I/O",
    );
    for manifest in ["protocol/Cargo.toml", "hub/rules/Cargo.toml"] {
        for name in dependencies(manifest) {
            assert!(
                ![
                    "tokio", "quinn", "redb", "hyper", "axum", "notify", "sysinfo"
                ]
                .contains(&name.as_str()),
                "{manifest} depends on {name}"
            );
        }
    }
}

#[test]
fn no_cloud_call_of_the_agent_writes() {
    /// What the SDK's clients are called in the agent; an operation is a method of theirs without arguments.
    const CLIENTS: [&str; 6] = ["client", "iam", "ec2", "s3", "sts", "control"];
    const READS: [&str; 4] = ["list_", "get_", "describe_", "head_"];
    /// Has AWS make a report on its side, and changes nothing else.
    const REPORT: &str = "generate_credential_report";
    fn operations(text: &str) -> Vec<String> {
        let word = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
        text.match_indices('.')
            .filter_map(|(at, _)| {
                let before: String = text[..at].chars().rev().take_while(word).collect();
                let before: String = before.chars().rev().collect();
                let name: String = text[at + 1..].chars().take_while(word).collect();
                let called = text[at + 1 + name.len()..].starts_with("()");
                (called && name.contains('_') && CLIENTS.contains(&before.as_str())).then_some(name)
            })
            .collect()
    }
    assert_eq!(
        operations("run(self.s3.delete_bucket().bucket(name))"),
        ["delete_bucket"]
    );
    assert_eq!(
        operations("user.create_date(); client.clone()"),
        Vec::<String>::new()
    );

    // A chain may be broken over lines before each dot.
    let lines: Vec<String> = code(&["agent/aws/src"])
        .into_iter()
        .map(|line| line.text.trim().to_owned())
        .collect();
    let text = lines.join("\n").replace("\n.", ".");
    let found = operations(&text);
    assert!(
        found.len() >= 30,
        "too few calls found, has the clients' naming changed? {found:?}"
    );
    let writes: Vec<_> = found
        .iter()
        .filter(|name| *name != REPORT && !READS.iter().any(|verb| name.starts_with(verb)))
        .collect();
    assert!(writes.is_empty(), "calls that do not only read: {writes:?}");
}

#[test]
fn the_hub_and_the_console_know_no_cloud_credential() {
    assert_absent(
        &[&HUB[..], &["protocol/src", "tui/src"]].concat(),
        &[
            "AWS_SECRET",
            "AWS_ACCESS_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "AZURE_CLIENT_SECRET",
        ],
        &[],
        "a cloud credential is named",
    );
    for manifest in [
        "hub/Cargo.toml",
        "hub/store/Cargo.toml",
        "hub/rules/Cargo.toml",
        "tui/Cargo.toml",
        "protocol/Cargo.toml",
    ] {
        for name in dependencies(manifest) {
            let cloud = ["aws", "gcp", "azure"]
                .iter()
                .any(|cloud| name.starts_with(cloud));
            assert!(!cloud && name != "collect", "{manifest} depends on {name}");
        }
    }
}

#[test]
fn the_hub_opens_no_connection() {
    assert_absent(
        &HUB,
        &[
            "TcpStream::connect",
            "client::legacy",
            "Endpoint::client",
            "UdpSocket::connect",
            "reqwest",
        ],
        &[],
        "the hub connects to something",
    );
}

#[test]
fn the_console_talks_to_the_api_only() {
    for name in dependencies("tui/Cargo.toml") {
        assert!(
            !["hub", "store", "rules", "agent", "redb", "quinn"].contains(&name.as_str()),
            "tui depends on {name}"
        );
    }
    for manifest in ["agent/Cargo.toml", "hub/Cargo.toml"] {
        for name in dependencies(manifest) {
            assert!(
                !["hub", "agent", "tui"].contains(&name.as_str()),
                "{manifest} depends on {name}"
            );
        }
    }
}

#[test]
fn there_is_one_tls_stack() {
    let lock = fs::read_to_string(checkout().join("Cargo.lock")).unwrap();
    for name in [
        "openssl-sys",
        "native-tls",
        "aws-lc-sys",
        "aws-lc-rs",
        "reqwest",
    ] {
        assert!(
            !lock.contains(&format!("name = \"{name}\"")),
            "{name} is in the tree"
        );
    }
    assert!(lock.contains("name = \"ring\""));
}

#[test]
fn no_secret_is_read_from_the_command_line() {
    let words = [
        "long = \"password\"",
        "long = \"token\"",
        "long = \"secret\"",
        "long = \"master-key\"",
    ];
    assert_absent(
        &["agent/src", "hub/src", "tui/src"],
        &words,
        &[],
        "a flag takes a secret, which `ps` shows",
    );
}

#[test]
fn a_search_finds_code_and_skips_comments_and_tests() {
    let text = "//! quinn::Endpoint\nuse quinn::Endpoint; // quinn::A\n#[cfg(test)]\nmod tests { use quinn::B; }\n";
    let lines: Vec<_> = stripped(text).collect();
    assert_eq!(lines, [(2, "use quinn::Endpoint;")]);
    assert!(dependencies("protocol/Cargo.toml").contains(&"serde".to_owned()));
}
