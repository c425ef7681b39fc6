//! `ca`: shows the certificate authority and replaces it. The running hub does it, else this
//! program on its store.

use jiff::Timestamp;
use serde_json::Value;
use store::Store;

use super::local::told;
use super::output::{self, Format};
use super::{Ca, Rotate};
use crate::admin::{self, Question};
use crate::ca::{Authority, Step};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::rotation::{self, CaStatus, agents_in_words};
use crate::{identity, opening};

/// Columns of `ca list`.
const COLUMNS: &[&str] = &["what", "role", "pin", "agents", "not_before", "not_after"];

/// Runs one verb.
///
/// # Errors
/// When it could not do what was asked.
pub(super) async fn run(config: &Config, what: Ca, format: Format) -> Result<Exit, Failure> {
    match what {
        Ca::List => list(config, format).await,
        Ca::Status => print(&status(config).await?, format),
        Ca::Rotate(Rotate::Begin) => rotate(config, Step::Begin, None, format).await,
        Ca::Rotate(Rotate::Issue) => rotate(config, Step::Issue, None, format).await,
        Ca::Rotate(Rotate::Retire { force }) => rotate(config, Step::Retire, force, format).await,
    }
}

async fn list(config: &Config, format: Format) -> Result<Exit, Failure> {
    let status = status(config).await?;
    let rows: Vec<Value> = status
        .certificates
        .iter()
        .map(|listed| serde_json::to_value(listed).expect("a certificate always serialises"))
        .collect();
    output::print_list(format, COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

async fn status(config: &Config) -> Result<CaStatus, Failure> {
    if let Some(answer) = admin::ask(&config.data_dir, &Question::Authority).await? {
        return told(answer);
    }
    let store = open(config).await?;
    let status = offline(&store).await;
    store.close().await;
    status
}

async fn offline(store: &Store) -> Result<CaStatus, Failure> {
    let material = identity::material(&store.appliance()).await?;
    Ok(rotation::status(store, &Authority::load(&material)?).await?)
}

async fn rotate(
    config: &Config,
    step: Step,
    force: Option<u64>,
    format: Format,
) -> Result<Exit, Failure> {
    let question = Question::Rotate { step, force };
    let status: CaStatus = match admin::ask(&config.data_dir, &question).await? {
        Some(answer) => told(answer)?,
        None => {
            let store = open(config).await?;
            let taken = rotation::step_offline(&store, step, force, Timestamp::now()).await;
            store.close().await;
            taken?
        }
    };
    output::note(match step {
        Step::Begin => {
            "the new root is trusted beside the old one. Back the hub up, and go on with \
             `zero-x-hub ca rotate issue`: agents that are away meanwhile still find back"
        }
        Step::Issue => {
            "the new root signs; agents renew their certificates within a minute once they are \
             connected. Back the hub up; once `zero-x-hub ca status` counts nobody as behind, end \
             with `zero-x-hub ca rotate retire`"
        }
        Step::Retire => {
            "the old root is trusted no more and its keys are gone. Back the hub up; consoles that \
             pinned it log in again with the new pin (`zero-x login --ca-pin`)"
        }
    });
    print(&status, format)
}

async fn open(config: &Config) -> Result<Store, Failure> {
    let opened = config.clone();
    tokio::task::spawn_blocking(move || opening::open(&opened))
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot open the store").caused_by(&error))?
}

fn print(status: &CaStatus, format: Format) -> Result<Exit, Failure> {
    let object = serde_json::to_value(status).expect("a status always serialises");
    let all = agents_in_words(status.agents);
    let mut lines = vec![
        ("stage", status.stage.clone()),
        (
            "next step",
            format!("zero-x-hub ca rotate {}", status.next_step),
        ),
        ("CA pin", status.ca_pin.clone()),
        (
            "behind",
            format!(
                "{} of {all} would be shut out by `retire`",
                status.agents_behind
            ),
        ),
        (
            "shut out",
            format!("{} of {all} must enrol again", status.agents_shut_out),
        ),
    ];
    lines.extend(status.concerned.iter().map(|agent| {
        let ends = agent.not_after.map(|at| format!(", until {at}"));
        let line = format!(
            "{} ({}) of {}{}",
            agent.name,
            agent.id,
            agent.org,
            ends.unwrap_or_default()
        );
        ("agent", line)
    }));
    lines.extend(status.certificates.iter().map(|listed| {
        let certificate = &listed.certificate;
        let line = format!(
            "{} {}, until {} ({})",
            certificate.what, certificate.pin, certificate.not_after, certificate.role
        );
        ("certificate", line)
    }));
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}
