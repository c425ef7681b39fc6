//! What each command does: ask the hub, print the answer.

use std::io::{IsTerminal as _, Read, Write};

use http::Method;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{
    self, AgentAct, DataClass, HoldCreate, HoldLift, OrgCreate, RetentionRan, RetentionRun,
    RetentionSet, ScopeConfirm, TokenCreate, TokenCreated, UserCreate, WhoAmI,
};
use serde_json::Value;

use super::kinds::{self, Kind};
use super::{
    AgentActing, AgentVerb, CheckVerb, Command, EventVerb, Global, HoldVerb, ListVerb, Listing,
    OrgVerb, PastVerb, RetentionVerb, ScopeVerb, Stop, TokenVerb, UserVerb, Verb, output,
};
use crate::client::{Client, Endpoint, segment, with_query};
use crate::exit::{Exit, Failure};

/// Longest password that is read, in bytes.
const PASSWORD_BYTES: u64 = 4096;

/// Largest body of `api --data`, in bytes: what the hub takes.
const DATA_BYTES: u64 = 64 << 10;

/// Runs one command.
pub(super) async fn run(command: Command, global: &Global) -> Result<Exit, Stop> {
    match command {
        Command::Login {
            url,
            ca_pin,
            email,
            password_stdin,
        } => {
            let client = Client::anonymous(Endpoint::parse(&url, ca_pin.as_deref())?);
            let password = read_password(password_stdin, "Password: ", None)?;
            client.login(&email, password).await?;
            let who: WhoAmI = client.get("/api/v1/whoami").await?;
            let names: Vec<&str> = who.orgs.iter().map(|org| org.name.as_str()).collect();
            let names = if names.is_empty() {
                "no organisation".to_owned()
            } else {
                names.join(", ")
            };
            let line = format!(
                "signed in to {} as {} ({names})\n",
                client.address(),
                who.email
            );
            std::io::stderr().write_all(crate::text::plain_lines(&line).as_bytes())?;
            Ok(Exit::Done)
        }
        Command::Logout => {
            Client::signed_in()?.logout().await?;
            Ok(Exit::Done)
        }
        Command::Whoami => {
            let who: Value = Client::signed_in()?.get("/api/v1/whoami").await?;
            print_object(global, &who)
        }
        Command::Org(OrgVerb::List(listing)) => list(global, kinds::ORG, listing, &[]).await,
        Command::Org(OrgVerb::Create { name }) => {
            let made: Value = Client::signed_in()?
                .post("/api/v1/orgs", &OrgCreate { name })
                .await?;
            print_object(global, &made)
        }
        Command::User(UserVerb::List(listing)) => list(global, kinds::USER, listing, &[]).await,
        Command::User(UserVerb::Create {
            email,
            role,
            password_stdin,
        }) => {
            let Some(role) = api::Role::from_word(&role) else {
                return Err(Failure::new(Exit::Usage, format!("there is no role {role}")).into());
            };
            let request = UserCreate {
                email,
                role,
                password: read_password(
                    password_stdin,
                    "Their first password: ",
                    Some("Once more: "),
                )?,
            };
            let path = in_org(global, "/api/v1/users");
            let made: Value = Client::signed_in()?.post(&path, &request).await?;
            print_object(global, &made)
        }
        Command::Agent(AgentVerb::List(listing)) => list(global, kinds::AGENT, listing, &[]).await,
        Command::Agent(AgentVerb::Show { id }) => show(global, kinds::AGENT, &id).await,
        Command::Agent(AgentVerb::Suspend(acting)) => act(global, "suspend", acting).await,
        Command::Agent(AgentVerb::Resume(acting)) => act(global, "resume", acting).await,
        Command::Agent(AgentVerb::Revoke(acting)) => act(global, "revoke", acting).await,
        Command::Agent(AgentVerb::Token(TokenVerb::Create { ttl, uses, name })) => {
            let ttl_seconds = read_span(&ttl)?;
            let request = TokenCreate {
                ttl_seconds: Some(ttl_seconds),
                uses: Some(uses),
                name,
            };
            let path = in_org(global, "/api/v1/agent-tokens");
            let made: TokenCreated = Client::signed_in()?.post(&path, &request).await?;
            writeln!(std::io::stdout(), "{}", made.token)?;
            Ok(Exit::Done)
        }
        Command::Source(verb) => noun(global, kinds::SOURCE, verb).await,
        Command::Resource(verb) => {
            past(global, kinds::RESOURCE, kinds::RESOURCE_CHANGE, verb).await
        }
        Command::Finding(verb) => past(global, kinds::FINDING, kinds::FINDING_CHANGE, verb).await,
        Command::Check(CheckVerb::List(listing)) => list(global, kinds::CHECK, listing, &[]).await,
        Command::Check(CheckVerb::Show { id }) => show(global, kinds::CHECK, &id).await,
        Command::Check(CheckVerb::Results {
            check,
            resource,
            listing,
        }) => {
            let mut more = Vec::new();
            more.extend(check.map(|check| ("check", check)));
            more.extend(resource.map(|resource| ("resource", resource)));
            list(global, kinds::RESULT, listing, &more).await
        }
        Command::Event(EventVerb::List(listing)) => list(global, kinds::EVENT, listing, &[]).await,
        Command::Event(EventVerb::Show { id }) => show(global, kinds::EVENT, &id).await,
        Command::Event(EventVerb::Search {
            query,
            since,
            limit,
        }) => {
            let since = since
                .map(|since| format!(" time>={since}"))
                .unwrap_or_default();
            let listing = Listing {
                filter: format!("{query}{since}"),
                limit,
                ..Listing::default()
            };
            list(global, kinds::EVENT, listing, &[]).await
        }
        Command::Audit(ListVerb::List(listing)) => list(global, kinds::AUDIT, listing, &[]).await,
        Command::Quarantine(ListVerb::List(listing)) => {
            list(global, kinds::QUARANTINE, listing, &[]).await
        }
        Command::Loss(ListVerb::List(listing)) => list(global, kinds::LOSS, listing, &[]).await,
        Command::Scope(ScopeVerb::List(listing)) => list(global, kinds::SCOPE, listing, &[]).await,
        Command::Scope(ScopeVerb::Confirm { scope, retiring }) => {
            let path = in_org(global, "/api/v1/scopes/confirm");
            let request = ScopeConfirm { scope, retiring };
            let done: serde_json::Value = Client::signed_in()?.post(&path, &request).await?;
            print_object(global, &done)
        }
        Command::Retention(RetentionVerb::List(listing)) => {
            list(global, kinds::RETENTION, listing, &[]).await
        }
        Command::Retention(RetentionVerb::Set { class, days }) => {
            let request = RetentionSet {
                class: read_class(&class)?,
                days,
            };
            let path = in_org(global, "/api/v1/retention");
            let now: Value = Client::signed_in()?.put(&path, &request).await?;
            print_object(global, &now)
        }
        Command::Retention(RetentionVerb::Run { dry_run }) => {
            let path = in_org(global, "/api/v1/retention/run");
            let request = RetentionRun { dry_run };
            let ran: RetentionRan = Client::signed_in()?.post(&path, &request).await?;
            let rows: Vec<Value> = ran.items.iter().map(|row| serde_json::json!(row)).collect();
            let kind = kinds::PURGED;
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            output::rows(&mut out, global.form(), &rows, kind.columns, kind.fields)?;
            out.flush()?;
            Ok(Exit::Done)
        }
        Command::Hold(HoldVerb::List(listing)) => list(global, kinds::HOLD, listing, &[]).await,
        Command::Hold(HoldVerb::Set { class, reason }) => {
            let class = class.as_deref().map(read_class).transpose()?;
            let path = in_org(global, "/api/v1/holds");
            let request = HoldCreate { class, reason };
            let set: Value = Client::signed_in()?.post(&path, &request).await?;
            print_object(global, &set)
        }
        Command::Hold(HoldVerb::Lift { id, reason }) => {
            let path = format!("/api/v1/holds/{}/lift", segment(&id));
            let path = in_org(global, &path);
            let lifted: Value = Client::signed_in()?
                .post(&path, &HoldLift { reason })
                .await?;
            print_object(global, &lifted)
        }
        Command::Api {
            method,
            path,
            data,
            include,
        } => call(&method, &path, data.as_deref(), include).await,
    }
}

fn read_class(word: &str) -> Result<DataClass, Failure> {
    DataClass::from_word(word)
        .ok_or_else(|| Failure::new(Exit::Usage, format!("there is no class of data {word}")))
}

async fn noun(global: &Global, kind: Kind, verb: Verb) -> Result<Exit, Stop> {
    match verb {
        Verb::List(listing) => list(global, kind, listing, &[]).await,
        Verb::Show { id } => show(global, kind, &id).await,
    }
}

async fn past(global: &Global, kind: Kind, changes: Kind, verb: PastVerb) -> Result<Exit, Stop> {
    let now = Timestamp::now();
    match verb {
        PastVerb::List { as_of, listing } => {
            let as_of = as_of.map(|text| read_instant(&text, now)).transpose()?;
            let as_of: Vec<_> = as_of
                .map(|at| ("as_of", at.to_string()))
                .into_iter()
                .collect();
            list(global, kind, listing, &as_of).await
        }
        PastVerb::Show { id } => show(global, kind, &id).await,
        PastVerb::Changes { from, to, listing } => {
            let mut between = vec![("from", read_instant(&from, now)?.to_string())];
            let to = to.map(|text| read_instant(&text, now)).transpose()?;
            // Every page, and every organisation, is asked about the same two.
            between.push(("to", to.unwrap_or(now).to_string()));
            list(global, changes, listing, &between).await
        }
    }
}

fn in_org(global: &Global, path: &str) -> String {
    match &global.org {
        Some(org) => with_query(path, &[("org", org.clone())]),
        None => path.to_owned(),
    }
}

async fn list(
    global: &Global,
    kind: Kind,
    listing: Listing,
    more: &[(&str, String)],
) -> Result<Exit, Stop> {
    let client = Client::signed_in()?;
    let mut query = more.to_vec();
    if !listing.filter.trim().is_empty() {
        query.push(("filter", listing.filter.clone()));
    }
    query.extend(listing.sort.clone().map(|sort| ("sort", sort)));
    let most = listing
        .limit
        .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut rows = Vec::new();
    if global.all_orgs {
        let who: WhoAmI = client.get("/api/v1/whoami").await?;
        for org in who.orgs {
            let mut query = query.clone();
            query.push(("org", org.id.to_string()));
            for mut row in client.rows(kind.path, &query, most).await? {
                if let Value::Object(fields) = &mut row {
                    fields.insert("org".to_owned(), Value::String(org.name.clone()));
                }
                rows.push(row);
            }
        }
        rows.truncate(most.unwrap_or(usize::MAX));
    } else {
        query.extend(global.org.clone().map(|org| ("org", org)));
        let kept = client.rows_kept(kind.path, &query, most).await?;
        rows = kept.0;
        if let Some(at) = kept.1 {
            let words = "note: what is older than this is forgotten, and not shown";
            writeln!(std::io::stderr(), "{words}: {at} (`zero-x retention list`)")?;
        }
    }
    let mut columns = kind.columns.to_vec();
    let mut fields = kind.fields.to_vec();
    if global.all_orgs {
        fields.insert(0, "org");
        columns.insert(
            0,
            kinds::Column {
                title: "ORG",
                pointer: "/org",
                width: 20,
            },
        );
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    output::rows(&mut out, global.form(), &rows, &columns, &fields)?;
    out.flush()?;
    Ok(if listing.exit_code && !rows.is_empty() {
        Exit::No
    } else {
        Exit::Done
    })
}

async fn show(global: &Global, kind: Kind, id: &str) -> Result<Exit, Stop> {
    let path = in_org(global, &format!("{}/{}", kind.path, segment(id)));
    let object: Value = Client::signed_in()?.get(&path).await?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    output::object(&mut out, global.form(), &object, |field| {
        kind.shown_name(field)
    })?;
    out.flush()?;
    Ok(Exit::Done)
}

async fn act(global: &Global, verb: &str, acting: AgentActing) -> Result<Exit, Stop> {
    let path = format!("{}/{}/{verb}", kinds::AGENT.path, segment(&acting.id));
    let request = AgentAct {
        reason: acting.reason,
    };
    let agent: Value = Client::signed_in()?
        .post(&in_org(global, &path), &request)
        .await?;
    print_object(global, &agent)
}

fn print_object(global: &Global, object: &Value) -> Result<Exit, Stop> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    output::object(&mut out, global.form(), object, |field| field)?;
    out.flush()?;
    Ok(Exit::Done)
}

async fn call(method: &str, path: &str, data: Option<&str>, include: bool) -> Result<Exit, Stop> {
    let method: Method = method
        .to_uppercase()
        .parse()
        .map_err(|_| Failure::new(Exit::Usage, format!("{method} is not an HTTP method")))?;
    if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
        let words = format!("{path} is not a path; write for example /api/v1/findings");
        return Err(Failure::new(Exit::Usage, words).into());
    }
    let body = match data {
        None => None,
        Some("@-") => Some(read_bounded(std::io::stdin().lock(), "stdin")?),
        Some(text) => match text.strip_prefix('@') {
            Some(file) => {
                let opened = std::fs::File::open(file);
                let cannot =
                    |error| Failure::because(Exit::Usage, format!("cannot read {file}"), &error);
                Some(read_bounded(opened.map_err(cannot)?, file)?)
            }
            None => Some(text.as_bytes().to_vec()),
        },
    };
    let answer = Client::signed_in()?
        .request(method, path, body.map(bytes::Bytes::from))
        .await?;
    let mut out = std::io::stdout().lock();
    if include {
        let reason = answer.status.canonical_reason().unwrap_or_default();
        writeln!(out, "HTTP/1.1 {} {reason}", answer.status.as_u16())?;
    }
    out.write_all(&answer.body)?;
    if !answer.body.is_empty() && !answer.body.ends_with(b"\n") {
        writeln!(out)?;
    }
    out.flush()?;
    Ok(match answer.status.as_u16() {
        0..=399 => Exit::Done,
        401 | 403 => Exit::Forbidden,
        _ => Exit::No,
    })
}

fn read_bounded(mut input: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = input.by_ref().take(DATA_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::because(Exit::Usage, format!("cannot read {name}"), &error))?;
    if bytes.len() as u64 > DATA_BYTES {
        let words = format!("{name} is larger than the {DATA_BYTES} bytes that the hub takes");
        return Err(Failure::new(Exit::Usage, words));
    }
    Ok(bytes)
}

/// Asks a terminal for a password, which it does not show; reads it from stdin elsewhere, up to the
/// first line break. A password that is being chosen is asked for twice.
fn read_password(on_stdin: bool, prompt: &str, again: Option<&str>) -> Result<String, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::because(Exit::Usage, "cannot read the password", &error);
    let none = |what: &str| {
        Failure::new(Exit::Usage, what.to_owned())
            .fix("pipe it in: printf %s \"$PASSWORD\" | zero-x … --password-stdin")
    };
    if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password(prompt).map_err(unreadable)?;
        if let Some(again) = again
            && rpassword::prompt_password(again).map_err(unreadable)? != password
        {
            return Err(Failure::new(Exit::Usage, "the two passwords differ"));
        }
        if password.is_empty() {
            return Err(Failure::new(Exit::Usage, "no password was given"));
        }
        return Ok(password);
    }
    if !on_stdin {
        return Err(none("there is no terminal to ask for the password"));
    }
    let mut text = String::new();
    let read = std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES)
        .read_to_string(&mut text);
    read.map_err(unreadable)?;
    let password = text.lines().next().unwrap_or_default().to_owned();
    if password.is_empty() {
        return Err(none("stdin holds no password"));
    }
    Ok(password)
}

/// Reads an instant (RFC 3339), or a span before now.
fn read_instant(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = read_span(text)
        .ok()
        .and_then(|seconds| i64::try_from(seconds).ok());
    let at = ago.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    at.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("{text:?} is no instant; write 2026-01-31T12:00:00Z, or 7d for a week ago"),
        )
    })
}

/// Reads a span such as `90s`, `30m`, `1h`, `2d`, in seconds.
fn read_span(text: &str) -> Result<u64, Failure> {
    let bad = || {
        Failure::new(
            Exit::Usage,
            format!("{text:?} is not a span; write 30m, 1h or 2d"),
        )
    };
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (digits, unit) = text.split_at(at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(seconds))
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_one_or_a_span_before_now() {
        let now: Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        let read = |text| read_instant(text, now).ok().map(|at| at.to_string());
        assert_eq!(read("1d").as_deref(), Some("2026-01-31T00:00:00Z"));
        let written = "2026-01-31T13:00:00+01:00";
        assert_eq!(read(written).as_deref(), Some("2026-01-31T12:00:00Z"));
        for none in ["", "yesterday", "7", "2026-01-31", "99999999999d"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_span_needs_its_unit() {
        assert_eq!(read_span("1h").ok(), Some(3600));
        assert_eq!(read_span("2d").ok(), Some(172_800));
        assert!(read_span("60").is_err());
        assert!(read_span("1 h").is_err());
        assert!(read_span("99999999999999999999d").is_err());
    }
}
