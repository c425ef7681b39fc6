//! The command line, declared once; man page and completions are made from it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use protocol::limits;

use crate::show::Format;
use crate::sources::Wanted;

/// Reads clouds, hosts and security tools with credentials that stay on this host, and streams
/// compact facts to its hub.
#[derive(Debug, Parser)]
#[command(
    name = "zero-x-agent",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 no, 64 usage, 65 unreadable or newer data, 69 hub unreachable, \
                  77 forbidden, 78 bad configuration."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that stand before or after the verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Configuration file; `agent.d/*.toml` beside it is read too.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where identity, sources, vault and spool lie.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Form of what is listed or shown: a table on a terminal, JSON otherwise. `collect` writes
    /// JSON lines.
    #[arg(short, long, global = true, value_enum, value_name = "FORM")]
    pub(crate) output: Option<Format>,
    /// How much is logged: error, warn, info, debug or trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// The file that the command reads was already opened as standard input (set when the program
    /// starts itself again as the service user).
    #[arg(long, global = true, hide = true)]
    pub(crate) input_on_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Makes this agent's key and has the hub sign its certificate.
    Enroll(Enroll),
    /// Adds, tests, explains and removes sources.
    #[command(subcommand)]
    Source(SourceVerb),
    /// Runs the daemon.
    Run(Run),
    /// Carries batches to a hub that cannot be reached, and its replies back, in files.
    #[command(subcommand)]
    Bundle(BundleVerb),
    /// Syncs one source to standard output, without a hub: one resource document a line.
    Collect(Collect),
    /// Shows what the running daemon is doing.
    Status,
    /// Checks identity, clock, spool, sources and the way to the hub.
    Doctor,
    /// Shows or checks the configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Checks the configuration and the sources' settings.
    Check,
    /// Removes this agent's identity and spool; its sources stay.
    Leave,
}

#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// File that holds the token; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Address of the hub, where it is not the one in the token.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) hub: Option<String>,
    /// Where the hub cannot be reached: writes a request to this file, to be carried there (`zero-x-hub
    /// bundle import FILE`, then `bundle reply FILE`); `zero-x-agent bundle import FILE` with the
    /// reply ends the enrolment.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
    /// Replaces the identity that this agent already has; batches not yet sent are set aside.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SourceVerb {
    /// Adds a source: `source add aws --name prod role_arn=… regions=eu-central-1,eu-west-1`.
    Add(SourceAdd),
    /// Lists the sources.
    List,
    /// Tries every call of a source once and says which fields stay dark without it.
    Test(SourceName),
    /// Prints the least privilege that a source needs, ready to paste.
    Policy(SourcePolicy),
    /// Prints exactly which fields leave this host, and which are only examined here.
    Data(SourceName),
    /// Removes a source and its secret.
    Remove(SourceName),
    /// Replaces the secret of a source.
    Rotate(SourceRotate),
}

#[derive(Debug, Args)]
pub(crate) struct SourceAdd {
    /// What kind of source it is.
    pub(crate) kind: Wanted,
    /// A name of your choosing.
    #[arg(long)]
    pub(crate) name: String,
    /// File that holds the secret, where the ambient credentials are not to be used; `-` for
    /// standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Settings, `key=value`.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SourceName {
    /// Name or id of the source.
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct SourcePolicy {
    /// Name or id of the source.
    pub(crate) name: String,
    /// The form to print.
    #[arg(long, value_enum, default_value_t = PolicyFormat::Json)]
    pub(crate) format: PolicyFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyFormat {
    /// The provider's own document.
    Json,
    /// Terraform.
    Terraform,
    /// AWS CloudFormation.
    Cloudformation,
    /// Azure Bicep.
    Bicep,
}

#[derive(Debug, Args)]
pub(crate) struct SourceRotate {
    /// Name or id of the source.
    pub(crate) name: String,
    /// File that holds the new secret; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Syncs every source once, waits for the hub's acknowledgement and exits.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Collect {
    /// Name or id of the source.
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BundleVerb {
    /// Writes what waits for the hub to FILE, sealed to the hub's key.
    ///
    /// Carry it to the hub (`zero-x-hub bundle import FILE`) and its reply back (`zero-x-hub bundle
    /// reply FILE` there, `zero-x-agent bundle import FILE` here). Until then the batches stay here,
    /// and the next export holds them too. A running daemon stands still meanwhile; one that has a
    /// link to its hub sends by itself, and nothing is exported.
    Export(BundleExport),
    /// Takes a reply: lets go what the hub has, and sends again what it asks for.
    Import {
        /// The file that `zero-x-hub bundle reply` wrote.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Checks that an exported bundle is whole and signed, for example after copying it.
    Verify {
        /// Its first file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BundleExport {
    /// The file to write; further volumes are FILE.2, FILE.3, …
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Largest volume, in bytes; K, M and G stand for powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = volume_bytes)]
    pub(crate) volume_size: u64,
    /// Syncs every source once before, so that no daemon has to run on this host.
    #[arg(long)]
    pub(crate) sync: bool,
    /// For one-way diodes: no reply will come, so what was written is let go. The hub still names
    /// what never came.
    #[arg(long)]
    pub(crate) diode: bool,
    /// From where on: what no reply has acknowledged, or only what no bundle has held yet.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Since::Acknowledged)]
    pub(crate) since: Since,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Since {
    /// Everything that no reply has acknowledged.
    Acknowledged,
    /// Only what no bundle has held yet.
    Exported,
}

/// Reads the size of a volume.
fn volume_bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 1 << 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 1 << 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1), 1 << 30),
        Some(_) | None => (Some(text), 1),
    };
    let number: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    let bytes = number.and_then(|number| number.checked_mul(factor));
    let range = limits::BUNDLE_VOLUME_MIN_BYTES..=limits::BUNDLE_VOLUME_MAX_BYTES;
    bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        "a volume has 4M to 4095M: what a memory stick's file system takes".to_owned()
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Prints every value and where it came from.
    Show,
    /// Checks the configuration and the sources' settings.
    Check,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_verb() {
        for args in [
            ["zero-x-agent", "--state-dir", "/a", "-o", "json", "status"],
            ["zero-x-agent", "status", "--state-dir", "/a", "-o", "json"],
        ] {
            let global = Cli::try_parse_from(args).unwrap().global;
            assert_eq!(global.state_dir, Some("/a".into()));
            assert_eq!(global.output, Some(Format::Json));
        }
    }

    #[test]
    fn unknown_flags_and_values_are_refused_with_the_nearest_known_one() {
        let told = |args: &[&str]| Cli::try_parse_from(args).unwrap_err().to_string();
        assert!(told(&["zero-x-agent", "run", "--onse"]).contains("'--once'"));
        assert!(told(&["zero-x-agent", "sorce", "list"]).contains("'source'"));
        assert!(told(&["zero-x-agent", "source", "add", "awz", "--name", "n"]).contains("'aws'"));
    }

    #[test]
    fn a_volume_fits_a_memory_stick_and_the_largest_chunk() {
        assert_eq!(volume_bytes("256M"), Ok(256 << 20));
        assert_eq!(volume_bytes("4194304"), Ok(4 << 20));
        assert_eq!(volume_bytes("3g"), Ok(3 << 30));
        for bad in ["", "M", "1M", "4G", "-5", "9999999999999G", "5T"] {
            assert!(volume_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_is_no_way_to_give_a_token_as_an_argument() {
        assert!(Cli::try_parse_from(["zero-x-agent", "enroll", "--token", "x"]).is_err());
        assert!(Cli::try_parse_from(["zero-x-agent", "enroll", "x"]).is_err());
    }
}
