//! The host that the agent runs on: system, addresses, accounts, listening sockets and packages.
//!
//! Two scopes of one document each, `host.machine` and `host.package-set`. Everything is read from
//! files and kernel tables that any user may read; a sandbox can hide some of them
//! (`ProcSubset=pid` hides `/proc/meminfo`), and what is hidden is a gap, not a zero.

mod net;
mod packages;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use collect::{CollectError, Draft, Fact, Fault, Inventory, Output, Probe, Summary};
use jiff::Timestamp;
use protocol::declare::{Declarations, ResourceType};
use protocol::document::Document;
use protocol::urn::Scope;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

const MACHINE: &str = "host.machine";
const PACKAGE_SET: &str = "host.package-set";

/// Largest file that is read, in bytes: dpkg's database of a machine with everything installed
/// stays far below.
const FILE_BYTES: u64 = 64 << 20;

/// Reads the host below a root folder.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: Arc<PathBuf>,
}

/// What one call answered: its fields, or why it did not.
type Answer = (&'static str, Result<Value, Fault>);

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            root: Arc::new(PathBuf::from("/")),
        }
    }

    /// Reads a text file below the root.
    ///
    /// Bytes that are no UTF-8 are replaced: a name in `/etc/passwd` may be in any encoding.
    fn read(&self, path: &str) -> io::Result<String> {
        use std::io::Read;
        let file = std::fs::File::open(self.root.join(path.trim_start_matches('/')))?;
        let mut bytes = Vec::new();
        let length = file.take(FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if u64::try_from(length).unwrap_or(u64::MAX) > FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "truncated"));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads one of the kernel's network tables. Where only processes are visible below `/proc`,
    /// the tables of our own process still are.
    fn read_net(&self, table: &str) -> io::Result<String> {
        self.read(&format!("/proc/self/net/{table}"))
            .or_else(|_| self.read(&format!("/proc/net/{table}")))
    }

    /// As [`Host::read_net`], for a table that is absent where IPv6 is off.
    fn read_net6(&self, table: &str) -> io::Result<String> {
        match self.read_net(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    /// Reads everything of `host.machine`, a part for each declared call.
    fn machine(&self, name: &str) -> Vec<Answer> {
        let uname = match sysinfo::System::kernel_version() {
            Ok(kernel) if !kernel.is_empty() => Ok(json!({
                "hostname": name,
                "kernel": kernel,
                "architecture": sysinfo::System::cpu_arch(),
            })),
            Ok(_) | Err(_) => Err(unreadable("host:uname")),
        };
        let parsed = |call: &'static str, path: &str, read: fn(&str) -> Option<Value>| {
            let text = self.read(path).map_err(|error| fault(call, &error));
            let value = text.and_then(|text| read(&text).ok_or_else(|| unreadable(call)));
            (call, value)
        };
        vec![
            ("host:uname", uname),
            self.os(),
            parsed("host:/proc/stat", "/proc/stat", boot_time),
            parsed("host:/proc/meminfo", "/proc/meminfo", memory),
            parsed("host:/proc/cpuinfo", "/proc/cpuinfo", cpus),
            parsed("host:/etc/passwd", "/etc/passwd", users),
            self.addresses(),
            self.listening(),
        ]
    }

    /// Reads the distribution. A machine without the file has none that would be known.
    fn os(&self) -> Answer {
        let call = "host:/etc/os-release";
        let read = self
            .read("/etc/os-release")
            .or_else(|_| self.read("/usr/lib/os-release"));
        let answer = match read {
            Ok(text) => Ok(json!({"os": os_release(&text)})),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(json!({})),
            Err(error) => Err(fault(call, &error)),
        };
        (call, answer)
    }

    fn addresses(&self) -> Answer {
        let call = "host:/proc/net";
        let read = || {
            let mut found = net::ipv4(&self.read_net("fib_trie")?, &self.read_net("route")?);
            found.extend(net::ipv6(&self.read_net6("if_inet6")?));
            Ok(json!({"addresses": net::addresses(&found)}))
        };
        (call, read().map_err(|error| fault(call, &error)))
    }

    fn listening(&self) -> Answer {
        let call = "host:/proc/net/tcp";
        let read = || {
            Ok([
                ("tcp", self.read_net("tcp")?),
                ("tcp", self.read_net6("tcp6")?),
                ("udp", self.read_net("udp")?),
                ("udp", self.read_net6("udp6")?),
            ])
        };
        let tables = read().map_err(|error| fault(call, &error));
        let answer = tables.and_then(|tables| {
            let sockets = net::listening(&tables).ok_or_else(|| unreadable(call))?;
            Ok(json!({"listening": sockets}))
        });
        (call, answer)
    }

    /// Reads the packages with the manager that this machine has; dpkg's where it has both.
    async fn packages(&self) -> Result<Value, Fault> {
        let call = "host:packages";
        let (manager, packages) = match self.read("/var/lib/dpkg/status") {
            Ok(status) if !status.trim().is_empty() => {
                let packages = packages::dpkg(&status).ok_or_else(|| unreadable(call))?;
                if packages.is_empty() {
                    return Err(code(call, "empty package database"));
                }
                ("dpkg", packages)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fault(call, &error));
            }
            // rpm cannot be told to read below another root than its own.
            Ok(_) | Err(_) if self.root.as_path() != Path::new("/") => {
                return Err(code(call, "no package database"));
            }
            Ok(_) | Err(_) => {
                let packages = packages::rpm().await;
                ("rpm", packages.map_err(|error| code(call, &error))?)
            }
        };
        Ok(json!({"manager": manager, "packages": packages}))
    }

    /// Returns both documents; the packages may have failed.
    async fn documents(&self, name: &str) -> (Document, Result<Document, Fault>) {
        let mut machine = draft(MACHINE, name);
        for (call, answer) in self.machine(name) {
            machine.outcome(call, answer);
        }
        let packages = self.packages().await.map(|packages| {
            let mut set = draft(PACKAGE_SET, name);
            set.answered("host:packages", packages);
            set.link("on_machine", "global", name);
            set.finish(Timestamp::now())
        });
        (machine.finish(Timestamp::now()), packages)
    }
}

fn draft(type_name: &str, name: &str) -> Draft {
    let scope = Scope::of_type(type_name, name, "global");
    let mut draft = Draft::new(declared(type_name), &scope, name, name);
    // A host has no tags.
    draft.tags(std::collections::BTreeMap::new());
    draft
}

/// Says in a word why a file could not be read. A table of the kernel that is not there is hidden
/// by a sandbox; each kernel has them all.
fn fault(call: &str, error: &io::Error) -> Fault {
    let words = [
        (io::ErrorKind::NotFound, "hidden"),
        (io::ErrorKind::PermissionDenied, "denied"),
        (io::ErrorKind::FileTooLarge, "truncated"),
    ];
    let word = words.iter().find(|(kind, _)| *kind == error.kind());
    code(call, word.map_or("unreadable", |(_, word)| word))
}

fn unreadable(call: &str) -> Fault {
    code(call, "unreadable")
}

fn code(call: &str, word: &str) -> Fault {
    Fault {
        call: call.to_owned(),
        code: word.to_owned(),
    }
}

fn declared(name: &str) -> &'static ResourceType {
    let declared = Declarations::builtin().get(name);
    declared.expect("protocol/types/host declares both types")
}

/// Returns the name that stands for this host's account in URNs.
fn host_name() -> Result<String, CollectError> {
    let name = sysinfo::System::host_name().unwrap_or_default();
    if name.is_empty() || name == "(none)" {
        return Err(CollectError::Setting {
            key: "host name".to_owned(),
            reason: "the machine has no host name; set one with hostnamectl".to_owned(),
        });
    }
    Ok(name)
}

/// Returns the declared assignments of `os-release`, unquoted as a shell would.
/// Source: os-release(5).
fn os_release(text: &str) -> Value {
    let mut fields = Map::new();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once('=') else {
            continue;
        };
        if !matches!(key, "ID" | "VERSION_ID" | "PRETTY_NAME") {
            continue;
        }
        let quoted = ['"', '\''].iter().find_map(|quote| {
            let inner = value.strip_prefix(*quote)?.strip_suffix(*quote)?;
            Some((*quote, inner))
        });
        let value = match quoted {
            Some(('"', inner)) => unescaped(inner),
            Some((_, inner)) => inner.to_owned(),
            None => value.to_owned(),
        };
        fields.insert(key.to_owned(), Value::String(value));
    }
    Value::Object(fields)
}

/// Removes the backslashes that a shell would within double quotes.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => chars.next().unwrap_or('\\'),
            other => other,
        });
    }
    plain
}

/// Returns when the kernel started. Source: proc_stat(5), `btime`.
fn boot_time(text: &str) -> Option<Value> {
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    let at = Timestamp::from_second(seconds.trim().parse().ok()?).ok()?;
    (at > Timestamp::UNIX_EPOCH).then(|| json!({"boot_time": at.to_string()}))
}

/// Returns the physical memory. Source: proc_meminfo(5), `MemTotal` in units of 1024 bytes.
fn memory(text: &str) -> Option<Value> {
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: i64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let bytes = kilobytes.checked_mul(1024).filter(|bytes| *bytes > 0)?;
    Some(json!({"memory_bytes": bytes}))
}

/// Returns the number of logical processors; a table that shows none was not read.
fn cpus(text: &str) -> Option<Value> {
    let count = text
        .lines()
        .filter(|line| {
            let mut words = line.split([':', ' ', '\t']);
            words.next() == Some("processor")
        })
        .count();
    (count > 0).then(|| json!({"cpus": count}))
}

/// Returns the local accounts, or `None` when a line is none. Source: passwd(5); lines that begin
/// with `+` or `-` refer to another directory and name no account here.
fn users(text: &str) -> Option<Value> {
    let mut users = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with(['#', '+', '-']) {
            continue;
        }
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, _, shell] = fields.as_slice() else {
            return None;
        };
        let (uid, gid): (u32, u32) = (uid.parse().ok()?, gid.parse().ok()?);
        let shell = Some(*shell).filter(|shell| !shell.is_empty());
        users.push(json!({"name": name, "uid": uid, "gid": gid, "shell": shell}));
    }
    Some(json!({"users": users}))
}

#[async_trait]
impl Inventory for Host {
    fn types(&self) -> Vec<String> {
        vec![MACHINE.to_owned(), PACKAGE_SET.to_owned()]
    }

    async fn sync(&self, out: &Output, stop: &CancellationToken) -> Result<Summary, CollectError> {
        let started = Instant::now();
        let name = host_name()?;
        let (machine, packages) = (
            Scope::of_type(MACHINE, &name, "global"),
            Scope::of_type(PACKAGE_SET, &name, "global"),
        );
        for scope in [&machine, &packages] {
            let scope = scope.clone();
            out.send(Fact::Began { scope }).await?;
        }
        let Some((document, set)) = stop.run_until_cancelled(self.documents(&name)).await else {
            return Ok(Summary::default());
        };
        let mut summary = Summary::default();
        let gaps = document.gaps.values();
        let faults = gaps.map(|gap| code(&gap.call, &gap.error));
        let mut faults: Vec<Fault> = faults.collect();
        out.send(Fact::Document(Box::new(document))).await?;
        out.send(Fact::Ended { scope: machine }).await?;
        summary.documents += 1;
        summary.scopes_ended += 1;
        match set {
            Ok(set) => {
                out.send(Fact::Document(Box::new(set))).await?;
                out.send(Fact::Ended { scope: packages }).await?;
                summary.documents += 1;
                summary.scopes_ended += 1;
            }
            Err(fault) => {
                faults.push(fault.clone());
                let gap = fault.into();
                let scope = packages;
                out.send(Fact::Failed { scope, gap }).await?;
            }
        }
        faults.sort_by(|a, b| (&a.call, &a.code).cmp(&(&b.call, &b.code)));
        faults.dedup();
        summary.faults = faults;
        let calls = [MACHINE, PACKAGE_SET].map(|name| declared(name).calls().len());
        summary.calls = u64::try_from(calls.iter().sum::<usize>()).unwrap_or(u64::MAX);
        summary.took = started.elapsed();
        Ok(summary)
    }

    async fn probe(&self) -> Result<Vec<Probe>, CollectError> {
        let name = host_name()?;
        let mut probes = Vec::new();
        for (call, answer) in self.machine(&name) {
            probes.push((call, answer.err()));
        }
        probes.push(("host:packages", self.packages().await.err()));
        let probes = probes.into_iter().map(|(call, fault)| Probe {
            call: call.to_owned(),
            permission: "none".to_owned(),
            refused: fault.map(|fault| fault.code),
        });
        Ok(probes.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::document::Gap;

    /// A host with nothing on it.
    fn fake() -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(folder.path().to_owned());
        (folder, Host { root })
    }

    fn put(host: &Host, path: &str, text: &str) {
        let path = host.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn what_is_hidden_is_a_gap_and_what_is_absent_is_null() {
        let (_folder, host) = fake();
        put(
            &host,
            "/etc/passwd",
            "root:x:0:0:Root:/root:/bin/sh\n+::::::\nw:x:33:33::/:\n",
        );
        put(&host, "/proc/meminfo", "MemTotal:       0 kB\n");
        put(&host, "/proc/net/tcp", "head\n");
        let (machine, packages) = host.documents("h").await;
        let config = &machine.config;
        assert_eq!(config["os"], Value::Null);
        assert_eq!(
            config["users"],
            json!([
                {"name": "root", "uid": 0, "gid": 0, "shell": "/bin/sh"},
                {"name": "w", "uid": 33, "gid": 33, "shell": null},
            ])
        );
        let gap = |field: &str| machine.gaps.get(field).cloned();
        let hidden = |call: &str| {
            let gap: Gap = code(call, "hidden").into();
            Some(gap)
        };
        assert_eq!(gap("config.boot_time"), hidden("host:/proc/stat"));
        assert_eq!(gap("config.cpus"), hidden("host:/proc/cpuinfo"));
        assert_eq!(gap("config.addresses"), hidden("host:/proc/net"));
        // tcp without udp is half a list.
        assert_eq!(gap("config.listening"), hidden("host:/proc/net/tcp"));
        let zero: Gap = unreadable("host:/proc/meminfo").into();
        assert_eq!(gap("config.memory_bytes"), Some(zero));
        assert_eq!(machine.gaps.len(), 5);
        for missing in [
            "boot_time",
            "cpus",
            "addresses",
            "listening",
            "memory_bytes",
        ] {
            assert!(config.get(missing).is_none(), "{missing}");
        }
        assert_eq!(packages, Err(code("host:packages", "no package database")));
    }

    #[tokio::test]
    async fn files_of_the_kernel_are_read_where_they_are_visible() {
        let (_folder, host) = fake();
        put(&host, "/proc/stat", "cpu 1 2\nbtime 1700000000\n");
        put(
            &host,
            "/proc/meminfo",
            "MemTotal:        2048 kB\nMemFree: 1 kB\n",
        );
        put(
            &host,
            "/proc/cpuinfo",
            "processor\t: 0\nmodel: x\n\nprocessor\t: 1\n",
        );
        put(
            &host,
            "/etc/os-release",
            "NAME=x\nID=debian\nVERSION_ID=\"12\"\n",
        );
        // Only what belongs to the process itself is visible.
        for table in ["tcp", "udp", "fib_trie", "route"] {
            put(&host, &format!("/proc/self/net/{table}"), "head\n");
        }
        let (machine, _) = host.documents("h").await;
        let config = &machine.config;
        assert_eq!(config["boot_time"], "2023-11-14T22:13:20Z");
        assert_eq!(
            (&config["memory_bytes"], &config["cpus"]),
            (&json!(2 << 20), &json!(2))
        );
        let os = json!({"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": null});
        assert_eq!(config["os"], os);
        assert_eq!(
            (&config["listening"], &config["addresses"]),
            (&json!([]), &json!([]))
        );
        assert_eq!(machine.gaps.keys().collect::<Vec<_>>(), ["config.users"]);
    }

    #[tokio::test]
    async fn a_list_of_packages_that_cannot_be_read_fails_and_is_not_empty() {
        let (_folder, host) = fake();
        let mut told = Vec::new();
        for status in [
            "nonsense\n",
            "Package: a\nStatus: deinstall ok config-files\n",
        ] {
            put(&host, "/var/lib/dpkg/status", status);
            told.push(host.packages().await.unwrap_err().code);
        }
        assert_eq!(told, ["unreadable", "empty package database"]);
        put(
            &host,
            "/var/lib/dpkg/status",
            "Package: a\nStatus: install ok installed\nVersion: 1\n",
        );
        let (_, packages) = host.documents("h").await;
        let packages = packages.unwrap();
        assert_eq!(packages.config["manager"], "dpkg");
        assert_eq!(packages.config["packages"][0]["name"], "a");
        let machine = "host/h/global/machine/h".parse().unwrap();
        assert_eq!(packages.links[0].urn, machine);
    }

    #[tokio::test]
    async fn this_machine_is_read_without_a_misfit() {
        let name = host_name().unwrap();
        let (machine, packages) = Host::new().documents(&name).await;
        let shapes = |document: &Document| {
            let mut gaps = document.gaps.values();
            gaps.any(|gap| gap.error.contains("shape"))
        };
        assert!(!shapes(&machine), "{:?}", machine.gaps);
        for field in ["hostname", "kernel", "architecture"] {
            assert!(machine.config[field].is_string(), "{field}");
        }
        assert!(!machine.config["users"].as_array().unwrap().is_empty());
        if let Ok(packages) = packages {
            assert!(!shapes(&packages), "{:?}", packages.gaps);
            assert!(!packages.config["packages"].as_array().unwrap().is_empty());
        }
    }
}
