//! The command line: one table of nouns, the same verbs for each.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use protocol::api;

use crate::console::{self, Theme};
use crate::exit::{Exit, Failure};

mod kinds;
mod output;
mod verbs;

/// Console and scripting client of a Zero-X hub. Without a command it opens the console.
#[derive(Debug, Parser)]
#[command(
    name = "zero-x",
    version,
    about,
    long_about,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// When the console uses colour; by itself unless NO_COLOR is set.
    #[arg(long, value_enum, default_value_t = Colour::Auto, hide_default_value = true)]
    color: Colour,
    /// The console draws with nothing but ASCII.
    #[arg(long)]
    ascii: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Colour {
    /// Unless `NO_COLOR` is set.
    Auto,
    /// In any case.
    Always,
    /// In no case.
    Never,
}

/// Flags that stand before or after the verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Form of the answer; table on a terminal, json otherwise.
    #[arg(short, long, global = true, value_enum)]
    output: Option<Form>,
    /// Organisation, by id or name; your oldest when absent.
    #[arg(long, global = true, env = "ZERO_X_ORG")]
    org: Option<String>,
    /// One question for every organisation that you have a role in.
    #[arg(long, global = true, conflicts_with = "org")]
    all_orgs: bool,
}

/// Forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Columns for people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
}

impl Global {
    /// Returns the form that was asked for, or the one that fits stdout.
    pub(crate) fn form(&self) -> Form {
        let fitting = || {
            if std::io::stdout().is_terminal() {
                Form::Table
            } else {
                Form::Json
            }
        };
        self.output.unwrap_or_else(fitting)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sign in; the session is kept in the XDG state directory.
    Login {
        /// The hub, https://host:port.
        url: String,
        /// Pin of the hub's CA as `zero-x-hub init` prints it; the system's roots when absent.
        #[arg(long, value_name = "sha256:…")]
        ca_pin: Option<String>,
        /// Your e-mail address.
        #[arg(long)]
        email: String,
        /// Read the password from stdin; a terminal is asked for it in any case.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Sign out.
    Logout,
    /// Say who is signed in.
    Whoami,
    /// Organisations.
    #[command(subcommand)]
    Org(OrgVerb),
    /// Users of an organisation.
    #[command(subcommand)]
    User(UserVerb),
    /// Agents, and the tokens that enrol them.
    #[command(subcommand)]
    Agent(AgentVerb),
    /// Sources that agents read.
    #[command(subcommand)]
    Source(Verb),
    /// Resources.
    #[command(subcommand)]
    Resource(PastVerb),
    /// Findings.
    #[command(subcommand)]
    Finding(PastVerb),
    /// Checks and their verdicts.
    #[command(subcommand)]
    Check(CheckVerb),
    /// Events.
    #[command(subcommand)]
    Event(EventVerb),
    /// The audit log.
    #[command(subcommand)]
    Audit(ListVerb),
    /// Records that could not be read, with the reason.
    #[command(subcommand)]
    Quarantine(ListVerb),
    /// Records that agents lost, with the reason.
    #[command(subcommand)]
    Loss(ListVerb),
    /// Scopes (account, region, type) and how their sweeps stand.
    #[command(subcommand)]
    Scope(ScopeVerb),
    /// How long each class of data is kept.
    #[command(subcommand)]
    Retention(RetentionVerb),
    /// Legal holds: nothing of what they cover is forgotten while they stand.
    #[command(subcommand)]
    Hold(HoldVerb),
    /// Call any path of the API with the session.
    Api {
        /// GET, POST, …
        method: String,
        /// Path, for example /api/v1/findings?limit=1.
        path: String,
        /// Body: text, @file, or @- for stdin.
        #[arg(long)]
        data: Option<String>,
        /// Print the status line first.
        #[arg(short = 'i', long)]
        include: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ScopeVerb {
    /// List them.
    List(Listing),
    /// Confirm that what seems gone of a held scope is gone.
    Confirm {
        /// The scope, as the list shows it.
        scope: String,
        /// How many resources seem gone, as the list shows it.
        #[arg(long, value_name = "NUMBER")]
        retiring: u64,
    },
}

#[derive(Debug, Subcommand)]
enum RetentionVerb {
    /// List the classes of data and how many full days each is kept.
    List(Listing),
    /// Set how many full days a class of data is kept.
    Set {
        /// The class.
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(protocol::api::DATA_CLASSES))]
        class: String,
        /// Full days.
        days: u32,
    },
    /// Forget now what is older, without waiting for the hub's own round.
    Run {
        /// Say what would go, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
enum HoldVerb {
    /// List those that stand.
    List(Listing),
    /// Set one on the whole organisation, or on one class of data.
    Set {
        /// The class; everything when absent.
        #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(protocol::api::DATA_CLASSES))]
        class: Option<String>,
        /// Why, for everybody who meets it and for the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Lift one.
    Lift {
        /// Its id.
        id: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: String,
    },
}

/// What a list takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Listing {
    /// Terms such as 'severity>=high status=open name~web !muted "public bucket"'.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    /// A field, with - in front for descending.
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
    /// Most rows; all when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Exit with 1 when there is a row.
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List them.
    List(Listing),
    /// Show one, by id.
    Show {
        /// Its id; for a resource also its URN.
        id: String,
    },
}

/// What can be asked about the past too. An instant is written as in RFC 3339, or as a span such as
/// 12h or 7d before now.
#[derive(Debug, Subcommand)]
enum PastVerb {
    /// List them, as they are or were.
    List {
        /// As they were at this instant: 2026-01-31T12:00:00Z, or 7d for a week ago.
        #[arg(long, value_name = "INSTANT")]
        as_of: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one, by id.
    Show {
        /// Its id; for a resource also its URN.
        id: String,
    },
    /// List what became of them between two instants.
    Changes {
        /// The first instant: 2026-01-31T12:00:00Z, or a span before now.
        #[arg(long, value_name = "INSTANT", default_value = "7d")]
        from: String,
        /// The second; now when absent.
        #[arg(long, value_name = "INSTANT")]
        to: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
}

#[derive(Debug, Subcommand)]
enum ListVerb {
    /// List them.
    List(Listing),
}

#[derive(Debug, Subcommand)]
enum OrgVerb {
    /// List the organisations that you have a role in.
    List(Listing),
    /// Make one; takes a hub administrator.
    Create {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum UserVerb {
    /// List them.
    List(Listing),
    /// Make one with a role in the organisation of --org.
    Create {
        /// E-mail address.
        email: String,
        /// Role in the organisation.
        #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(protocol::api::ROLES))]
        role: String,
        /// Read the first password from stdin; a terminal is asked for it in any case.
        #[arg(long)]
        password_stdin: bool,
    },
}

#[derive(Debug, Subcommand)]
enum AgentVerb {
    /// List them.
    List(Listing),
    /// Show one.
    Show {
        /// Its id.
        id: String,
    },
    /// Send one away until it is resumed; its data stays.
    Suspend(AgentActing),
    /// Let a suspended or quarantined one speak again.
    Resume(AgentActing),
    /// Refuse one for good: its session ends at once; its data stays.
    Revoke(AgentActing),
    /// Enrolment tokens.
    #[command(subcommand)]
    Token(TokenVerb),
}

/// What an act on an agent takes.
#[derive(Debug, Args)]
struct AgentActing {
    /// The agent's id.
    id: String,
    /// Why, for the audit log.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make one; its text alone goes to stdout, this once.
    Create {
        /// Life, for example 30m, 1h, 2d.
        #[arg(long, default_value = "1h")]
        ttl: String,
        /// How many agents it may enrol.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// The only agent name that it is good for.
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum CheckVerb {
    /// List the checks in force.
    List(Listing),
    /// Show one.
    Show {
        /// Its id.
        id: String,
    },
    /// Every verdict, the passes too.
    Results {
        /// Only this check.
        #[arg(long)]
        check: Option<String>,
        /// Only this resource, by URN.
        #[arg(long)]
        resource: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
}

#[derive(Debug, Subcommand)]
enum EventVerb {
    /// List events, newest first.
    List(Listing),
    /// Show one.
    Show {
        /// Its id.
        id: String,
    },
    /// Search by whole words and fields; field~part finds parts of words.
    Search {
        /// Terms such as 'root severity>=high src_ip=192.0.2.1 "failed password"'.
        query: String,
        /// Only events younger than this, for example 1h, or since an instant.
        #[arg(long)]
        since: Option<String>,
        /// Most rows; all when absent.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
    },
}

/// Returns the command line, with the fields that a filter knows in the help of lists.
fn command() -> clap::Command {
    let lists = [
        ("finding", "list", api::FINDING_FIELDS),
        ("resource", "list", api::RESOURCE_FIELDS),
        ("agent", "list", api::AGENT_FIELDS),
        ("source", "list", api::SOURCE_FIELDS),
        ("finding", "changes", api::FINDING_CHANGE_FIELDS),
        ("resource", "changes", api::RESOURCE_CHANGE_FIELDS),
        ("event", "list", api::EVENT_FIELDS),
        ("event", "search", api::EVENT_FIELDS),
        ("check", "results", api::RESULT_FIELDS),
    ];
    lists
        .into_iter()
        .fold(Cli::command(), |command, (noun, verb, fields)| {
            let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
            let help = format!("Fields of a filter: {}", names.join(", "));
            command.mut_subcommand(noun, |noun| {
                noun.mut_subcommand(verb, |list| list.after_help(help))
            })
        })
}

/// Runs a command line and returns the exit code.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut command = command();
    let parsed = command
        .try_get_matches_from_mut(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| error.format(&mut command));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; everything else is a usage error.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            return finish(error.print().map_err(Printed::from), exit);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return Failure::because(Exit::No, "cannot start", &error)
                .report()
                .into();
        }
    };
    match cli.command {
        None => {
            let opened = console_theme(&cli)
                .and_then(|theme| runtime.block_on(console::run(cli.global.org, theme)));
            let code = opened.unwrap_or_else(|failure| failure.report().into());
            // A question to a hub that does not answer must not keep the shell waiting.
            runtime.shutdown_background();
            code
        }
        Some(command) => match runtime.block_on(verbs::run(command, &cli.global)) {
            Ok(exit) => exit.into(),
            Err(Stop::Printed(error)) => finish(Err(error), Exit::Done),
            Err(Stop::Failed(failure)) => failure.report().into(),
        },
    }
}

/// Returns how the console is to look, if it can be opened at all.
fn console_theme(cli: &Cli) -> Result<Theme, Failure> {
    let refused = |words: &str, fix: &str| Failure::new(Exit::Usage, words).fix(fix);
    if cli.global.output.is_some() || cli.global.all_orgs {
        return Err(refused(
            "the console takes neither --output nor --all-orgs",
            "name what to list, for example `zero-x finding list -o json`; `zero-x --help` has more",
        ));
    }
    let variable = |name: &str| std::env::var(name).ok();
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !is_terminal || variable("TERM").is_some_and(|term| term == "dumb") {
        return Err(refused(
            "the console needs a terminal that can place its cursor, and this is none",
            "use a command, for example `zero-x finding list`; `zero-x --help` has more",
        ));
    }
    let theme = Theme::from_environment(variable);
    let theme = match cli.color {
        Colour::Auto => theme,
        Colour::Always => theme.with_colour(true),
        Colour::Never => theme.with_colour(false),
    };
    Ok(if cli.ascii { theme.with_ascii() } else { theme })
}

/// Stdout could not be written.
#[derive(Debug)]
pub(crate) struct Printed(std::io::Error);

impl From<std::io::Error> for Printed {
    fn from(error: std::io::Error) -> Self {
        Self(error)
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Stdout could not be written.
    Printed(Printed),
    /// The command failed.
    Failed(Failure),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Printed(Printed(error))
    }
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn finish(printed: Result<(), Printed>, exit: Exit) -> ExitCode {
    match printed {
        Ok(()) => exit.into(),
        // The reader has seen enough: `zero-x finding list | head` is no error.
        Err(Printed(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done.into(),
        Err(Printed(error)) => Failure::because(Exit::No, "cannot write", &error)
            .report()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_of_a_list_names_the_fields_of_its_filter() {
        command().debug_assert();
        let asked = ["zero-x", "resource", "list", "--help"];
        let help = command().try_get_matches_from(asked).unwrap_err();
        let help = help.to_string();
        for field in api::RESOURCE_FIELDS {
            assert!(help.contains(field.name), "{help}");
        }
    }
}
