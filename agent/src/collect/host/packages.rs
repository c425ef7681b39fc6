//! The installed packages, from the databases of dpkg and rpm.
//!
//! dpkg's database is text and read here; rpm's is read by rpm itself, whose formats differ from
//! release to release. Neither is changed or locked.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// The only rpm that is run: one that a search path finds could be anybody's.
pub(super) const RPM: &str = "/usr/bin/rpm";

/// Largest output of rpm, in bytes; ten thousand packages fill about a megabyte.
const RPM_BYTES: usize = 32 << 20;

/// How long rpm may take; a cold database of thousands of packages takes some seconds.
const RPM_TIME: Duration = Duration::from_secs(60);

/// What rpm prints of each package. Source: rpm-queryformat(7).
const QUERY: &str =
    "%{NAME}\\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SOURCERPM}\\n";

/// Returns the packages in the text of `/var/lib/dpkg/status` whose files are on this machine,
/// or `None` when the text is no such database.
///
/// Source: dpkg(1), "Package states"; Debian Policy 5.6.1 for a `Source` with its own version.
pub(super) fn dpkg(status: &str) -> Option<Vec<Value>> {
    let mut packages = Vec::new();
    let mut stanzas = 0;
    for stanza in status.split("\n\n").filter(|text| !text.trim().is_empty()) {
        stanzas += 1;
        let field = |name: &str| {
            let mut lines = stanza.lines();
            lines.find_map(|line| {
                let value = line.strip_prefix(name)?.strip_prefix(':')?.trim();
                Some(value).filter(|value| !value.is_empty())
            })
        };
        let name = field("Package")?;
        let state = field("Status")?.split_whitespace().nth(2)?;
        if matches!(state, "not-installed" | "config-files") {
            continue;
        }
        let version = field("Version")?;
        let source = field("Source").unwrap_or(name);
        let (source, source_version) = match source.split_once(" (") {
            Some((source, version)) => (source, Some(version.trim_end_matches(')'))),
            None => (source, None),
        };
        packages.push(json!({
            "name": name,
            "version": version,
            "arch": field("Architecture"),
            "source": source,
            "source_version": source_version.filter(|own| *own != version),
        }));
    }
    (stanzas > 0).then(|| sorted(packages))
}

/// Asks rpm for all installed packages.
///
/// # Errors
///
/// A code: `no package database`, `rpm failed`, `empty package database`, `truncated`,
/// `timeout` or `unreadable`.
pub(super) async fn rpm() -> Result<Vec<Value>, String> {
    let mut command = Command::new(RPM);
    command
        .args(["-qa", "--queryformat", QUERY])
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("no package database".to_owned());
        }
        Err(_) => return Err("rpm failed".to_owned()),
    };
    let Some(out) = child.stdout.take() else {
        return Err("rpm failed".to_owned());
    };
    let reading = async {
        let limit = u64::try_from(RPM_BYTES).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let read = out.take(limit + 1).read_to_end(&mut bytes).await;
        if read.is_err() {
            return Err("rpm failed");
        }
        if bytes.len() > RPM_BYTES {
            return Err("truncated");
        }
        match child.wait().await {
            Ok(status) if status.success() => Ok(bytes),
            Ok(_) | Err(_) => Err("rpm failed"),
        }
    };
    // Cancelled, the child is killed with its handle.
    let bytes = match tokio::time::timeout(RPM_TIME, reading).await {
        Ok(read) => read?,
        Err(_) => return Err("timeout".to_owned()),
    };
    let text = String::from_utf8_lossy(&bytes);
    match rpm_list(&text) {
        None => Err("unreadable".to_owned()),
        Some(packages) if packages.is_empty() => Err("empty package database".to_owned()),
        Some(packages) => Ok(packages),
    }
}

/// Reads what [`QUERY`] prints; `None` when a line has another form.
fn rpm_list(text: &str) -> Option<Vec<Value>> {
    let mut packages = Vec::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, version, arch, source] = columns.as_slice() else {
            return None;
        };
        // Keys of signers are kept in the same database and are no packages.
        if *name == "gpg-pubkey" {
            continue;
        }
        let known = |text: &str| Some(text.to_owned()).filter(|text| text != "(none)");
        let (source, source_version) = split_source(source).unzip();
        let own = version
            .split_once(':')
            .map_or(*version, |(_, version)| version);
        packages.push(json!({
            "name": name,
            "version": version,
            "arch": known(arch),
            "source": source,
            "source_version": source_version.filter(|source| *source != own),
        }));
    }
    Some(sorted(packages))
}

/// Splits `bash-5.1.8-6.el9.src.rpm` into name and version.
fn split_source(file: &str) -> Option<(&str, &str)> {
    let stem = file
        .strip_suffix(".src.rpm")
        .or_else(|| file.strip_suffix(".nosrc.rpm"))?;
    let release = stem.rfind('-')?;
    let version = stem.get(..release)?.rfind('-')?;
    Some((stem.get(..version)?, stem.get(version + 1..)?))
}

/// Brings packages into the order of their names, so that an unchanged set hashes alike.
fn sorted(mut packages: Vec<Value>) -> Vec<Value> {
    let text = |package: &Value, key: &str| {
        let value = package.get(key).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    packages.sort_by_cached_key(|package| {
        let key = |key| text(package, key);
        (key("name"), key("arch"), key("version"))
    });
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_packages_are_not_listed_and_sources_carry_their_own_version() {
        let status = "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\n\
                      Source: zlib\nVersion: 1:1.2.13\nDescription: compression\n Version: 9\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: broken\nStatus: install ok half-configured\nVersion: 2-1\n\n\
                      Package: libc-bin\nStatus: install ok installed\nArchitecture: amd64\n\
                      Source: glibc (2.36-9)\nVersion: 2.36-9+b1\n";
        let want = json!([
            {"name": "broken", "version": "2-1", "arch": null, "source": "broken",
             "source_version": null},
            {"name": "libc-bin", "version": "2.36-9+b1", "arch": "amd64", "source": "glibc",
             "source_version": "2.36-9"},
            {"name": "zlib1g", "version": "1:1.2.13", "arch": "amd64", "source": "zlib",
             "source_version": null},
        ]);
        assert_eq!(dpkg(status).map(Value::Array), Some(want));
        assert_eq!(dpkg(""), None);
        assert_eq!(dpkg("Package: x\nVersion: 1\n"), None);
    }

    #[test]
    fn rpm_packages_have_their_epoch_and_their_source() {
        let text = "openssl-libs\t1:3.0.7-27.el9\tx86_64\topenssl-3.0.7-27.el9.src.rpm\n\
                    bash\t5.1.8-6.el9\tx86_64\tbash-5.1.8-6.el9.src.rpm\n\
                    gpg-pubkey\t8483c65d-5ccc5b19\t(none)\t(none)\n\
                    kernel-core\t5.14.0-1.el9\tx86_64\tkernel-5.14.0-2.el9.src.rpm\n\
                    local\t1-1\t(none)\t(none)\n";
        let want = json!([
            {"name": "bash", "version": "5.1.8-6.el9", "arch": "x86_64", "source": "bash",
             "source_version": null},
            {"name": "kernel-core", "version": "5.14.0-1.el9", "arch": "x86_64",
             "source": "kernel", "source_version": "5.14.0-2.el9"},
            {"name": "local", "version": "1-1", "arch": null, "source": null,
             "source_version": null},
            {"name": "openssl-libs", "version": "1:3.0.7-27.el9", "arch": "x86_64",
             "source": "openssl", "source_version": null},
        ]);
        assert_eq!(rpm_list(text).map(Value::Array), Some(want));
        assert_eq!(rpm_list("error: cannot open Packages\n"), None);
    }
}
