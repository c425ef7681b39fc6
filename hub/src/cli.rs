//! The command line: what can be asked, and which command answers.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Flags};
use crate::failure::{Exit, Failure};
use crate::serve;

mod authority;
mod backup;
mod bundle;
pub(crate) mod checks;
mod compact;
mod doctor;
mod init;
mod key;
mod local;
mod org;
pub(crate) mod output;
mod recovery;
mod rekey;
mod restore;
mod settings;
pub(crate) mod verify;

use output::{Asked as _, Format};

/// The hub of Zero-X: keeps every organisation's facts apart, judges them, answers the console
#[derive(Debug, Parser)]
#[command(name = "zero-x-hub", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    /// What the program is asked to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that stand before or after the verb
#[derive(Debug, Args)]
struct Global {
    /// Settings file (default: /etc/zero-x-hub/hub.toml, and hub.d/*.toml beside it)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the store and the admin socket
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with the master key; it must lie outside the data folder
    #[arg(long, global = true, value_name = "FILE")]
    master_key_file: Option<PathBuf>,
    /// Form of the answer (default: table on a terminal, json otherwise)
    #[arg(short, long, global = true, value_name = "FORM")]
    output: Option<Format>,
}

impl Global {
    /// Returns the settings that stand on the command line.
    fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            master_key_file: self.master_key_file.clone(),
            agent_listen: None,
            api_listen: None,
            metrics_listen: None,
        }
    }
}

/// What the program is asked to do
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make the store, the certificate authority, the first organisation and its admin
    Init(Init),
    /// Run the hub
    Serve(Serve),
    /// Say how the hub is doing
    Status,
    /// Look for what keeps the hub from working, and say how to mend it
    Doctor {
        /// What to look at; everything that keeps the hub from working when absent
        #[command(subcommand)]
        what: Option<Doctor>,
    },
    /// Show or check the settings
    Config {
        /// What `config` does
        #[command(subcommand)]
        what: Setting,
    },
    /// Check the settings; or run and list the rules
    Check {
        /// What `check` does; without a verb it checks the settings
        #[command(subcommand)]
        what: Option<Check>,
    },
    /// Write everything that the hub stores to a new file, sealed under the master key
    ///
    /// While the hub runs it goes on; nobody's writes wait. Without a running hub the store is
    /// opened.
    Backup {
        /// Where to write it; no file is replaced
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The public half of a recovery key that can open it too (`key recovery generate`)
        #[arg(long, value_name = "x25519:KEY")]
        recovery_recipient: Option<store::RecoveryRecipient>,
    },
    /// Make a store from a backup, in a data folder that has none
    Restore(Restore),
    /// Read the whole store and follow every audit chain; or read a backup to its end
    Verify {
        /// Read this backup instead: every chunk and every row of it
        #[arg(long, value_name = "FILE")]
        backup: Option<PathBuf>,
    },
    /// Write an organisation's file together, so that what is free in it goes back to the system
    ///
    /// Its agents and readers wait meanwhile; nothing is lost. The hub does it by itself where more
    /// than half of a file of 64 MiB or more is free after a day's retention.
    Compact {
        /// Which organisation, by id (default: each, one after the other)
        #[arg(value_name = "ORG")]
        org: Option<protocol::ids::OrgId>,
    },
    /// Take what agents without a way to this hub have had carried over, and write replies
    #[command(subcommand)]
    Bundle(Bundle),
    /// Delete an organisation for good
    #[command(subcommand)]
    Org(Org),
    /// Show the keys that the data is sealed under, replace them, or make one that recovers them
    #[command(subcommand)]
    Key(Key),
    /// After the hub's host was stolen: replace every key that was on it
    ///
    /// On the new host, after `restore` and before `serve`. New: the master key, every data key, the
    /// keys of the API and of QUIC. Void: every API session and enrolment token. The certificate
    /// authority is replaced: the new one signs, and agents renew once they connect. What is left to
    /// do is printed.
    Rekey {
        /// Write the new master key to this new file, and leave the key file as it is
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
    },
    /// Show the certificate authority, or replace it stage by stage
    #[command(subcommand)]
    Ca(Ca),
}

/// Flags of `restore`
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The secret half of the recovery key: the master key is then written to a new file
    #[arg(long, value_name = "FILE")]
    recovery_key_file: Option<PathBuf>,
    /// Restore it although its rows have faults, which are named
    #[arg(long)]
    with_faults: bool,
}

/// What `org` does
#[derive(Debug, Subcommand)]
pub(crate) enum Org {
    /// Destroy an organisation's keys and delete everything of it; nothing brings it back
    ///
    /// Its sessions end; its agents, tokens and memberships go; the master key is replaced, so that
    /// older copies of its keys open nothing; its file is deleted. Beside the master key a ledger
    /// keeps its id, so that restoring an older backup leaves it out.
    Purge {
        /// Its id or its name
        #[arg(value_name = "ORG")]
        org: String,
        /// Its name once more
        #[arg(long, value_name = "NAME")]
        confirm: String,
    },
}

/// What `key` does
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Replace the master key, or with --org or --appliance a data key
    ///
    /// The master key: every keyring is wrapped anew in one commit, the key file is replaced, and
    /// the old key is overwritten and removed. A data key: new rows are sealed under another at
    /// once, the others in the background, and then the old one goes. Neither stops the hub.
    Rotate(KeyRotate),
    /// Say under which keys the data is sealed, and how far a rotation has come
    Status,
    /// The key that opens backups when the master key is lost
    #[command(subcommand)]
    Recovery(Recovery),
}

/// What `key recovery` does
#[derive(Debug, Subcommand)]
pub(crate) enum Recovery {
    /// Make a recovery key and print its public half, for `recovery_recipient`
    Generate {
        /// Where to write the secret half; keep it offline
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Flags of `key rotate`
#[derive(Debug, Args)]
pub(crate) struct KeyRotate {
    /// Replace the data key of this organisation: its id or its name
    #[arg(long, value_name = "ORG", conflicts_with_all = ["appliance", "new_key_file"])]
    org: Option<String>,
    /// Replace the data key of the hub's own rows
    #[arg(long, conflicts_with = "new_key_file")]
    appliance: bool,
    /// Write the new master key to this new file, and leave the key file as it is: where the hub
    /// reads a copy, as from a service manager's credential
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
}

/// What `ca` does
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Ca {
    /// List its certificates, and how many agents live by each root
    List,
    /// Say how far a rotation has come, and whom the next step would shut out
    Status,
    /// Take the next step of a rotation
    ///
    /// begin: a new root, trusted beside the old one. issue: the new one signs, and agents renew.
    /// retire: the old one is trusted no more. Each step is durable by itself; between two of them
    /// the hub can run for as long as it takes.
    #[command(subcommand)]
    Rotate(Rotate),
}

/// The steps of `ca rotate`
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Rotate {
    /// Make a new root and have agents trust it beside the old one
    Begin,
    /// Sign with the new one, and ask agents to renew their certificates
    Issue,
    /// Trust the old one no more; refused while agents still hold certificates of it
    Retire {
        /// Shut out so many agents: the number that `ca status` counts as behind
        #[arg(long, value_name = "NUMBER")]
        force: Option<u64>,
    },
}

/// Flags of `init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Name of the first organisation
    #[arg(long, value_name = "NAME")]
    org: String,
    /// E-mail address of its admin, who also runs the hub
    #[arg(long, value_name = "EMAIL")]
    admin_email: String,
    /// Read the admin's password from standard input; a terminal is asked for it in any case
    #[arg(long)]
    admin_password_stdin: bool,
    /// A name or address by which agents and consoles reach this hub; may be repeated
    #[arg(long = "public-host", value_name = "HOST")]
    public_hosts: Vec<String>,
}

/// Flags of `serve`
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where agents connect, UDP (default: 0.0.0.0:7443)
    #[arg(long, value_name = "ADDRESS:PORT")]
    agent_listen: Option<String>,
    /// Where the console and API clients connect, TCP (default: 0.0.0.0:8443)
    #[arg(long, value_name = "ADDRESS:PORT")]
    api_listen: Option<String>,
    /// Where Prometheus asks for metrics, TCP, on this machine alone; usual is 127.0.0.1:9464 (default: nowhere)
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<String>,
}

/// What `doctor` looks at
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Doctor {
    /// List every destination that the hub may open a connection to
    Egress,
}

/// What `config` does
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Setting {
    /// Print every setting with its value and where it came from
    Show,
    /// Check the settings, the certificate files and the checks folder
    Check,
}

/// What `check` does
#[derive(Debug, Subcommand)]
pub(crate) enum Check {
    /// Run the inline tests of checks: the built-in ones, or those of files and folders
    Test {
        /// Check files, or folders that are searched for *.yaml
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// List the checks in force
    List,
}

/// What `bundle` does
#[derive(Debug, Subcommand)]
pub(crate) enum Bundle {
    /// Take a bundle, or an enrolment request, that was carried over
    ///
    /// FILE.2, FILE.3, … beside FILE are its further volumes. Every chunk, signature and batch is
    /// checked before anything is stored. A bundle that was taken before changes nothing.
    Import(BundleImport),
    /// Check a bundle as `import` does, say what it would do, and store nothing
    Verify(BundleImport),
    /// Write the reply that is carried back: what was taken, what to send again, a certificate
    ///
    /// One-way diodes need none: `zero-x-agent bundle export --diode`.
    Reply {
        /// Where to write it
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// For which agent (default: the one whose bundle was imported last and has no reply yet)
        #[arg(long, value_name = "AGENT")]
        agent: Option<protocol::ids::AgentId>,
    },
}

/// Flags of `bundle import` and `bundle verify`
#[derive(Debug, Args)]
pub(crate) struct BundleImport {
    /// The bundle's first file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Give up what is missing before this bundle, and keep a record of how much that is
    #[arg(long)]
    accept_gap: bool,
}

/// Runs one command.
///
/// # Errors
/// When it could not do what was asked.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    let mut flags = cli.global.flags();
    let format = cli.global.output.or_default();
    match cli.verb {
        Verb::Init(args) => init::run(&Config::load(&flags)?, &args, format).await,
        Verb::Serve(args) => {
            flags.agent_listen = args.agent_listen;
            flags.api_listen = args.api_listen;
            flags.metrics_listen = args.metrics_listen;
            serve::run(Config::load(&flags)?).await
        }
        Verb::Status => local::status(&Config::load(&flags)?, format).await,
        Verb::Doctor { what: None } => doctor::run(&flags, format).await,
        Verb::Doctor {
            what: Some(Doctor::Egress),
        } => doctor::egress(&Config::load(&flags)?, format),
        Verb::Config {
            what: Setting::Show,
        } => settings::show(&Config::load(&flags)?, format),
        Verb::Config {
            what: Setting::Check,
        }
        | Verb::Check { what: None } => settings::check(&Config::load(&flags)?),
        Verb::Check {
            what: Some(Check::Test { paths }),
        } => checks::test(&paths, format),
        Verb::Check {
            what: Some(Check::List),
        } => checks::list(&Config::load(&flags)?, format).await,
        Verb::Bundle(what) => bundle::run(&Config::load(&flags)?, what, format).await,
        Verb::Org(what) => org::run(&Config::load(&flags)?, what, format).await,
        Verb::Key(Key::Recovery(Recovery::Generate { file })) => recovery::generate(&file, format),
        Verb::Key(Key::Rotate(args)) => key::rotate(&Config::load(&flags)?, args, format).await,
        Verb::Key(Key::Status) => key::status(&Config::load(&flags)?, format).await,
        Verb::Rekey { new_key_file } => {
            rekey::run(&Config::load(&flags)?, new_key_file, format).await
        }
        Verb::Ca(what) => authority::run(&Config::load(&flags)?, what, format).await,
        Verb::Backup {
            file,
            recovery_recipient,
        } => backup::run(&Config::load(&flags)?, &file, recovery_recipient, format).await,
        Verb::Restore(args) => restore::run(&Config::load(&flags)?, &args, format).await,
        Verb::Verify { backup: Some(file) } => {
            backup::verify(&Config::load(&flags)?, &file, format).await
        }
        Verb::Verify { backup: None } => verify::run(&Config::load(&flags)?, format).await,
        Verb::Compact { org } => compact::run(&Config::load(&flags)?, org, format).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_verb() {
        for args in [
            ["zero-x-hub", "--data-dir", "/d", "status"],
            ["zero-x-hub", "status", "--data-dir", "/d"],
        ] {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.global.flags().data_dir, Some(PathBuf::from("/d")));
        }
        let cli = Cli::try_parse_from(["zero-x-hub", "check", "list", "-o", "csv"]).unwrap();
        assert_eq!(cli.global.output, Some(Format::Csv));
    }

    #[test]
    fn a_flag_that_does_not_exist_is_refused_with_the_nearest_one() {
        let error = Cli::try_parse_from(["zero-x-hub", "status", "--data-dri", "/d"]).unwrap_err();
        assert!(error.to_string().contains("'--data-dir'"), "{error}");
    }

    #[test]
    fn init_takes_no_password_from_its_arguments() {
        let args = [
            "zero-x-hub",
            "init",
            "--org",
            "Acme",
            "--admin-email",
            "a@example.com",
        ];
        assert!(Cli::try_parse_from(args).is_ok(), "a terminal is asked");
        let with = |more: &[&'static str]| {
            Cli::try_parse_from(args.iter().copied().chain(more.iter().copied()))
        };
        assert!(with(&["--admin-password-stdin"]).is_ok());
        assert!(with(&["--admin-password", "hunter2"]).is_err());
        assert!(with(&["--admin-password-stdin=hunter2"]).is_err());
    }
}
