//! `source …`: adds, lists, tests, explains and removes sources.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::{PolicyFormat, SourceVerb};
use crate::collect::wazuh::Wazuh;
use crate::config::Config;
use crate::connect::{Connected, Connector};
use crate::dump;
use crate::exit::{Exit, Failure};
use crate::input::Input;
use crate::layout::Layout;
use crate::rights;
use crate::show::{self, Format};
use crate::sources::{Kind, Reads, Source, Sources, SourcesError, Wanted, read_secret};
use crate::vault::Vault;

/// Runs one verb.
///
/// # Errors
///
/// What went wrong, with its exit code and what to do.
pub(crate) async fn run(
    verb: SourceVerb,
    config: &Config,
    format: Format,
    on_stdin: bool,
) -> Result<Exit, Failure> {
    let layout = Layout::new(&config.state_dir);
    match verb {
        SourceVerb::Add(add) => {
            let file = add.secret_file.as_deref();
            let secret = file.map(|path| Input::of_flag(path, on_stdin));
            self::add(&layout, config, add.kind, &add.name, &add.settings, secret)
        }
        SourceVerb::List => list(&layout, format),
        SourceVerb::Test(source) => test(&layout, config, &source.name, format).await,
        SourceVerb::Policy(source) => policy(&layout, &source.name, source.format),
        SourceVerb::Data(source) => data(&layout, &source.name, format),
        SourceVerb::Remove(source) => remove(&layout, config, &source.name),
        SourceVerb::Rotate(source) => {
            let secret = Input::of_flag(&source.secret_file, on_stdin);
            rotate(&layout, config, &source.name, &secret)
        }
    }
}

fn printed(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => {
            other.map_err(|error| Failure::of(Exit::No, "cannot write to standard output", error))
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "a hint beside a command's result")]
fn hint(line: &str) {
    eprintln!("{line}");
}

fn add(
    layout: &Layout,
    config: &Config,
    kind: Wanted,
    name: &str,
    settings: &[String],
    secret: Option<Input>,
) -> Result<Exit, Failure> {
    let _lock = layout.lock_sources()?;
    let mut sources = Sources::load(layout)?;
    let source = sources.add(kind, name, settings, Timestamp::now())?;
    let (id, kind) = (source.id, source.kind);
    if let Some(input) = secret {
        let secret = read_secret(kind, &input.read()?).map_err(|source| SourcesError::Secret {
            name: name.to_owned(),
            source,
        })?;
        Vault::open(layout, &config.vault)?.put(id, &secret)?;
        sources.mark_sealed(id);
    }
    sources.store(layout)?;
    say(&id.to_string());
    hint(&format!(
        "{name} is added; try it with `zero-x-agent source test {name}`"
    ));
    if let Some(drop_in) = missing_drop_in(kind) {
        hint(&drop_in);
    }
    Ok(Exit::Ok)
}

/// Returns what to do when the installed unit keeps a source of `kind` from reading, if it does.
pub(crate) fn missing_drop_in(kind: Kind) -> Option<String> {
    let file = match kind {
        Kind::Host => "host.conf",
        Kind::Wazuh => "wazuh.conf",
        Kind::Aws | Kind::Gcp | Kind::Azure => return None,
    };
    let units = [
        "/usr/lib/systemd/system/zero-x-agent.service",
        "/lib/systemd/system/zero-x-agent.service",
    ];
    if !units.iter().any(|path| std::path::Path::new(path).exists()) {
        return None;
    }
    let folder = std::path::Path::new("/etc/systemd/system/zero-x-agent.service.d");
    (!folder.join(file).exists()).then(|| {
        format!(
            "the service may not read what a {} source needs: copy \
             /usr/share/doc/zero-x-agent/zero-x-agent.service.d/{file} to {}, then \
             `systemctl daemon-reload` and restart it",
            kind.name(),
            folder.display()
        )
    })
}

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    name: &'a str,
    kind: Kind,
    added_at: Timestamp,
    credentials: &'static str,
    settings: Vec<String>,
}

fn list(layout: &Layout, format: Format) -> Result<Exit, Failure> {
    let sources = Sources::load(layout)?;
    let rows: Vec<Row<'_>> = sources
        .iter()
        .map(|source| {
            let settings = source.settings.iter();
            Row {
                id: source.id.to_string(),
                name: &source.name,
                kind: source.kind,
                added_at: source.added_at,
                credentials: credentials(source),
                settings: settings
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect(),
            }
        })
        .collect();
    let columns = ["id", "name", "kind", "credentials", "settings"];
    printed(show::list(&rows, &columns, format))?;
    Ok(Exit::Ok)
}

fn credentials(source: &Source) -> &'static str {
    match (source.sealed_secret, source.kind) {
        (true, _) => "sealed",
        (false, Kind::Host | Kind::Wazuh) => "none",
        (false, _) => "ambient",
    }
}

fn remove(layout: &Layout, config: &Config, name: &str) -> Result<Exit, Failure> {
    let _lock = layout.lock_sources()?;
    let mut sources = Sources::load(layout)?;
    let removed = sources.remove(name)?;
    // First out of the list: a crash in between leaves a sealed file that nothing uses, rather
    // than a source without its secret.
    sources.store(layout)?;
    if removed.sealed_secret {
        Vault::open(layout, &config.vault)?.remove(removed.id)?;
    }
    hint(&format!(
        "{} ({}) is removed; what it told stays at the hub",
        removed.name, removed.id
    ));
    Ok(Exit::Ok)
}

fn rotate(layout: &Layout, config: &Config, name: &str, input: &Input) -> Result<Exit, Failure> {
    let _lock = layout.lock_sources()?;
    let mut sources = Sources::load(layout)?;
    let source = sources.find(name)?.clone();
    let given = input.read()?;
    let secret = read_secret(source.kind, &given).map_err(|error| SourcesError::Secret {
        name: source.name.clone(),
        source: error,
    })?;
    Vault::open(layout, &config.vault)?.put(source.id, &secret)?;
    sources.mark_sealed(source.id);
    sources.store(layout)?;
    hint(&format!(
        "{} has a new secret; the next sync uses it",
        source.name
    ));
    Ok(Exit::Ok)
}

fn policy(layout: &Layout, name: &str, format: PolicyFormat) -> Result<Exit, Failure> {
    let sources = Sources::load(layout)?;
    let kind = sources.find(name)?.kind;
    match rights::policy(kind, format) {
        Ok(text) => {
            use std::io::Write;
            printed(std::io::stdout().write_all(text.as_bytes()))?;
            Ok(Exit::Ok)
        }
        Err(reason) => Err(Failure::new(Exit::Usage, reason)),
    }
}

fn data(layout: &Layout, name: &str, format: Format) -> Result<Exit, Failure> {
    let sources = Sources::load(layout)?;
    let kind = sources.find(name)?.kind;
    let rows = rights::data(kind);
    let columns = ["type", "field", "class", "call", "meaning"];
    printed(show::list(&rows, &columns, format))?;
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Tried {
    call: String,
    permission: String,
    /// `ok`, or the provider's code.
    answer: String,
    /// Types and fields that stay unknown without it.
    dark: Vec<String>,
}

async fn test(
    layout: &Layout,
    config: &Config,
    name: &str,
    format: Format,
) -> Result<Exit, Failure> {
    let sources = Sources::load(layout)?;
    let source = sources.find(name)?;
    let connector = Connector::new(layout.clone(), config.vault.clone());
    let connected = connector
        .connect(source)
        .await
        .map_err(|error| dump::failure(source, error))?;
    let Connected::Inventory(inventory) = connected else {
        return test_tail(source);
    };
    let probes = inventory
        .probe()
        .await
        .map_err(|error| dump::failure(source, error.into()))?;
    let blinded = rights::blinded(source.kind);
    let rows: Vec<Tried> = probes
        .into_iter()
        .map(|probe| {
            let dark = match &probe.refused {
                Some(_) => blinded.get(&probe.call).cloned().unwrap_or_default(),
                None => Vec::new(),
            };
            Tried {
                call: probe.call,
                permission: probe.permission,
                answer: probe.refused.unwrap_or_else(|| "ok".to_owned()),
                dark,
            }
        })
        .collect();
    let columns = ["call", "permission", "answer", "dark"];
    printed(show::list(&rows, &columns, format))?;
    let failed: Vec<&Tried> = rows.iter().filter(|row| row.answer != "ok").collect();
    if failed.is_empty() {
        return Ok(Exit::Ok);
    }
    hint(&format!(
        "{} of {} calls do not answer: checks on the fields above will say UNKNOWN",
        failed.len(),
        rows.len()
    ));
    if failed.iter().any(|row| is_refusal(&row.answer)) {
        hint(&format!(
            "some are refused: `zero-x-agent source policy {name}` prints the rights that it needs"
        ));
    }
    Ok(Exit::No)
}

/// Whether a code says that a right is missing, in the words of any provider.
fn is_refusal(code: &str) -> bool {
    let code = code.to_lowercase();
    ["denied", "unauthorized", "forbidden", "authorizationfailed"]
        .iter()
        .any(|word| code.contains(word))
}

/// Says what to do about a manager's file that cannot be opened.
pub(crate) fn unreadable_alerts(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        return "is a Wazuh manager installed here? It makes the file with its first alert; \
                path= names another place"
            .to_owned();
    }
    if error.kind() == std::io::ErrorKind::InvalidInput {
        return "remove the source and add it with path= of the manager's alerts.json".to_owned();
    }
    let fix = missing_drop_in(Kind::Wazuh);
    fix.unwrap_or_else(|| "the user zero-x-agent should be in the group wazuh".to_owned())
}

/// A tail has one thing to try: whether its file can be read.
fn test_tail(source: &Source) -> Result<Exit, Failure> {
    let Reads::Wazuh { path } = source.parsed()?.reads else {
        return Ok(Exit::Ok);
    };
    match Wazuh::try_open(&path) {
        Ok(()) => {
            say(&format!("{} can be read", path.display()));
            Ok(Exit::Ok)
        }
        Err(error) => {
            let fix = unreadable_alerts(&error);
            let clause = format!("{} cannot be read", path.display());
            Err(Failure::of(Exit::No, clause, error).fix(fix))
        }
    }
}
