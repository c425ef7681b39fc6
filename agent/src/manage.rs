//! `source …`: adds, lists, tests, explains and removes sources.

use std::collections::{BTreeMap, BTreeSet};

use ::collect::Probe;
use jiff::Timestamp;
use serde::Serialize;

use crate::checks;
use crate::cli::{PolicyFormat, SourceVerb};
use crate::collect::wazuh::Wazuh;
use crate::config::Config;
use crate::connect::{Connected, Connector};
use crate::dump;
use crate::exit::{Exit, Failure};
use crate::input::Input;
use crate::layout::Layout;
use crate::rights::{self, Dark};
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
    let narrowed = narrowed(source);
    let names_regions = matches!(
        source.parsed().map(|settings| settings.reads),
        Ok(Reads::Aws { regions, .. }) if !regions.is_empty()
    );
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
    if let Some(narrowed) = narrowed {
        hint(narrowed);
    }
    if names_regions {
        hint(&format!(
            "whether AWS has the regions is not known yet: `zero-x-agent source test {name}` tries \
             the first, a sync all of them"
        ));
    }
    Ok(Exit::Ok)
}

/// Returns what a source's settings keep from being known, where they do.
fn narrowed(source: &Source) -> Option<&'static str> {
    // Settings that cannot be used are told of by whatever uses them.
    match source.parsed().ok()?.reads {
        Reads::Azure {
            resource_groups, ..
        } if !resource_groups.is_empty() => Some(
            "resource_groups= is set: only these groups are read, so that each subscription as a \
             whole stays UNKNOWN and nothing in it is told as gone",
        ),
        Reads::Azure { .. }
        | Reads::Aws { .. }
        | Reads::Gcp { .. }
        | Reads::Host
        | Reads::Wazuh { .. } => None,
    }
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
    let source = sources.find(name)?;
    let rows = rights::data(source.kind);
    let columns = ["type", "field", "class", "call", "meaning"];
    printed(show::list(&rows, &columns, format))?;
    if let Some(narrowed) = narrowed(source) {
        hint(narrowed);
    }
    Ok(Exit::Ok)
}

/// A row of the table for people, which says below what the other forms say in each row.
#[derive(Serialize)]
struct Brief<'a> {
    call: &'a str,
    permission: &'a str,
    answer: &'a str,
    blinds: String,
}

impl<'a> Brief<'a> {
    fn new(tried: &'a Tried) -> Self {
        let blinds = match (tried.failed(), tried.blinds) {
            (false, _) => String::new(),
            (true, 0) => "no check".to_owned(),
            (true, 1) => "1 check".to_owned(),
            (true, many) => format!("{many} checks"),
        };
        Self {
            call: &tried.call,
            permission: &tried.permission,
            answer: &tried.answer,
            blinds,
        }
    }
}

/// Checks that a table names for each call at most; the other forms name all.
const NAMED: usize = 3;

/// How a probe's answer begins when there was nothing to try a call on.
const UNTRIED: &str = "untried";

#[derive(Serialize)]
struct Tried {
    call: String,
    permission: String,
    /// `ok`, or the provider's code.
    answer: String,
    /// Types and fields that stay unknown without it.
    dark: Vec<String>,
    /// How many checks may have to say UNKNOWN without it.
    blinds: usize,
    /// Their ids.
    checks: BTreeSet<&'static str>,
}

impl Tried {
    fn new(probe: Probe, blinded: &BTreeMap<(String, String), Dark>) -> Self {
        let Probe {
            call,
            permission,
            refused,
        } = probe;
        let key = (call, permission);
        let is_dark = refused
            .as_deref()
            .is_some_and(|code| !code.starts_with(UNTRIED));
        let dark = blinded.get(&key).filter(|_| is_dark);
        let Dark { fields, checks } = dark.cloned().unwrap_or_default();
        let (call, permission) = key;
        Self {
            call,
            permission,
            answer: refused.unwrap_or_else(|| "ok".to_owned()),
            dark: fields,
            blinds: checks.len(),
            checks,
        }
    }

    /// Whether the call was tried and did not answer.
    fn failed(&self) -> bool {
        self.answer != "ok" && !self.is_untried()
    }

    fn is_untried(&self) -> bool {
        self.answer.starts_with(UNTRIED)
    }

    /// Returns what a table says below its rows: the first of the checks, each on a line.
    fn explained(&self) -> String {
        let permission = show::neutral(&self.permission);
        let of_call = match self.permission == self.call {
            true => String::new(),
            false => format!(" for {}", show::neutral(&self.call)),
        };
        let missing = match is_refusal(&self.answer) {
            true => format!("{permission} is missing{of_call}"),
            false => format!("{} does not answer", show::neutral(&self.call)),
        };
        let mut text = match self.blinds {
            0 => format!("{missing}; no check reads what it tells\n"),
            1 => format!("{missing}; 1 check will say UNKNOWN where it depends on that:\n"),
            many => {
                format!("{missing}; {many} checks will say UNKNOWN where they depend on that:\n")
            }
        };
        for id in self.checks.iter().take(NAMED) {
            text.push_str(&format!("  {id}\n"));
        }
        if self.blinds > NAMED {
            text.push_str(&format!("  and {} more\n", self.blinds - NAMED));
        }
        text
    }
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
        .map(|probe| Tried::new(probe, &blinded))
        .collect();
    let failed: Vec<&Tried> = rows.iter().filter(|row| row.failed()).collect();
    if format == Format::Table {
        let columns = ["call", "permission", "answer", "blinds"];
        let brief: Vec<Brief<'_>> = rows.iter().map(Brief::new).collect();
        printed(show::list(&brief, &columns, format))?;
        for row in &failed {
            say(&format!("\n{}", row.explained().trim_end()));
        }
    } else {
        let columns = ["call", "permission", "answer", "blinds", "checks", "dark"];
        printed(show::list(&rows, &columns, format))?;
    }
    hint(&summary(source.kind, &rows));
    if let Some(narrowed) = narrowed(source) {
        hint(narrowed);
    }
    if failed.is_empty() {
        return Ok(Exit::Ok);
    }
    if failed.iter().any(|row| is_refusal(&row.answer)) {
        hint(&format!(
            "some are refused: `zero-x-agent source policy {name}` prints the rights that it needs"
        ));
    }
    Ok(Exit::No)
}

/// Returns in a sentence what works and what stays in the dark.
fn summary(kind: Kind, rows: &[Tried]) -> String {
    let failed: Vec<&Tried> = rows.iter().filter(|row| row.failed()).collect();
    let untried = rows.iter().filter(|row| row.is_untried()).count();
    let mut text = match failed.len() {
        0 => format!("{} of {} calls answer", rows.len() - untried, rows.len()),
        some => {
            let blind: BTreeSet<&str> =
                failed.iter().flat_map(|row| &row.checks).copied().collect();
            let all = checks::of_provider(kind.name()).count();
            format!(
                "{some} of {} calls do not answer: {} of the {all} {} checks of this version will \
                 say UNKNOWN where they depend on them",
                rows.len(),
                blind.len(),
                kind.name(),
            )
        }
    };
    if untried > 0 {
        text.push_str(&format!("; {untried} had nothing to be tried on"));
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(call: &str, refused: Option<&str>) -> Tried {
        let probe = Probe {
            call: call.to_owned(),
            permission: call.to_owned(),
            refused: refused.map(str::to_owned),
        };
        Tried::new(probe, &rights::blinded(Kind::Aws))
    }

    #[test]
    fn a_source_of_some_resource_groups_is_said_to_leave_the_rest_unknown() {
        let mut sources = Sources::default();
        let mut said = |name: &str, settings: &[String]| {
            let wanted = Kind::Azure.into();
            let source = sources.add(wanted, name, settings, Timestamp::UNIX_EPOCH);
            narrowed(source.unwrap())
        };
        let text = said("some", &["resource_groups=a,b".to_owned()]).unwrap();
        assert!(text.contains("stays UNKNOWN"), "{text}");
        for settings in [vec![], vec!["resource_groups=all".to_owned()]] {
            assert_eq!(said(&format!("all{}", settings.len()), &settings), None);
        }
    }

    #[test]
    fn a_refused_call_names_some_of_its_checks_and_how_many_more_there_are() {
        let row = tried("ec2:DescribeSecurityGroups", Some("UnauthorizedOperation"));
        assert!(row.blinds > NAMED && row.blinds == row.checks.len());
        let text = row.explained();
        let start = format!(
            "ec2:DescribeSecurityGroups is missing; {} checks will say UNKNOWN",
            row.blinds
        );
        assert!(text.starts_with(&start), "{text}");
        assert_eq!(text.lines().count(), 1 + NAMED + 1);
        let end = format!("  and {} more\n", row.blinds - NAMED);
        assert!(text.ends_with(&end), "{text}");
    }

    #[test]
    fn a_call_that_answers_or_could_not_be_tried_blinds_nothing() {
        let call = "s3:GetBucketPolicy";
        for answer in [None, Some("untried: no bucket")] {
            let row = tried(call, answer);
            assert!(!row.failed() && row.blinds == 0 && row.dark.is_empty());
        }
        let rows = [tried(call, None), tried(call, Some("untried: no bucket"))];
        let text = summary(Kind::Aws, &rows);
        assert_eq!(text, "1 of 2 calls answer; 1 had nothing to be tried on");
    }

    #[test]
    fn checks_that_several_calls_blind_count_once() {
        let call = "s3:GetBucketPolicy";
        let rows = [
            tried(call, Some("AccessDenied")),
            tried(call, Some("AccessDenied")),
        ];
        let all = checks::of_provider("aws").count();
        let start = format!(
            "2 of 2 calls do not answer: {} of the {all} aws checks",
            rows[0].blinds
        );
        let text = summary(Kind::Aws, &rows);
        assert!(text.starts_with(&start), "{text}");
    }

    #[test]
    fn a_call_whose_facts_no_check_reads_is_said_to_blind_none() {
        let text = tried("s3:GetBucketTagging", Some("AccessDenied")).explained();
        assert!(text.ends_with("; no check reads what it tells\n"), "{text}");
    }
}
