//! Takes a reply: lets go what the hub has, forgets what it asks for, and keeps the certificate that
//! it brings.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use protocol::bundle::{Issued, Reply, SealedReply};
use protocol::enroll::HUB_NAME;
use protocol::frame::Lane;
use protocol::limits;
use protocol::wire::v1::Witness;
use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Serialize;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ledger::Ledger;
use super::{CarryError, close, hold, open, written};
use crate::config::Config;
use crate::enroll::Pending;
use crate::exit::{Exit, Failure};
use crate::identity::{Identity, IdentityError};
use crate::layout::Layout;
use crate::link::tls;
use crate::show::{self, Format};
use crate::spool::{Engine, Released, Spool, SpoolError};

/// What a reply came to.
#[derive(Debug, Serialize)]
struct Taken {
    /// The last bundle that the hub has.
    bundle: u64,
    /// Bundles before it that never came to the hub.
    missing: Vec<u64>,
    /// Bytes that the spool let go.
    released_bytes: u64,
    /// Scopes that the next sync sends whole; all for an empty name.
    resync: Vec<String>,
    /// Whether the spool begins a new epoch: the hub and it had parted.
    new_epoch: bool,
    /// Until when the certificate is good that the reply brought; none where it brought none, or one
    /// that this agent has.
    certificate: Option<Timestamp>,
}

fn read(path: &Path) -> Result<SealedReply, CarryError> {
    let failed = |source| CarryError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(limits::BUNDLE_LETTER_BYTES).unwrap_or(u64::MAX) + 4096;
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    SealedReply::decode(&bytes).map_err(|source| CarryError::Refused {
        path: path.to_owned(),
        source,
    })
}

/// Checks that a reply's certificates are the hub's, and returns the key of the leaf.
///
/// The instant that counts is that of its making: the key signed nothing else.
fn hub_key(reply: &SealedReply, roots: &[CertificateDer<'static>]) -> Result<Vec<u8>, CarryError> {
    let broken = || CarryError::Hub(CertificateError::BadEncoding.into());
    let chain: Vec<CertificateDer<'_>> = reply
        .chain()
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let (leaf, above) = chain.split_first().ok_or_else(broken)?;
    let made_at = u64::try_from(reply.made_at_ms()).map_err(|_| broken())?;
    let at = UnixTime::since_unix_epoch(Duration::from_millis(made_at));
    let name = ServerName::try_from(HUB_NAME).map_err(|_| broken())?;
    tls::hub_verifier(roots)
        .and_then(|verifier| verifier.verify_server_cert(leaf, above, &name, &[], at))
        .map_err(CarryError::Hub)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| broken())?;
    Ok(parsed.public_key().subject_public_key.data.to_vec())
}

/// Takes a reply.
///
/// # Errors
///
/// When it is not the hub's reply to this agent; nothing has changed then.
pub(super) async fn import(path: &Path, config: &Config, format: Format) -> Result<Exit, Failure> {
    let layout = Layout::new(&config.state_dir);
    let _held = hold(&layout, config).await?;
    Identity::recover(&layout)?;
    let sealed = read(path)?;
    if !sealed.is_sealed() {
        return finish_enrolment(&layout, path, &sealed);
    }
    let mut identity = Identity::load(&layout)?;
    let (org, agent) = sealed.addressee();
    if (org, agent) != (identity.org, identity.agent) {
        let (found, own) = (agent.to_string(), identity.agent.to_string());
        return Err(CarryError::Addressee { found, own }.into());
    }
    let public_key = hub_key(&sealed, &identity.roots)?;
    let mut ledger = Ledger::load(&layout, identity.agent)?;
    let reply = sealed.open(&public_key, Some(&ledger.reply_key()));
    let reply = reply.map_err(|source| CarryError::Refused {
        path: path.to_owned(),
        source,
    })?;
    let opened = open(&layout, &identity, config)?;
    let is_newer = sealed.made_at_ms() >= ledger.answered_ms;
    let applied = apply(&opened.spool, &reply, &ledger, is_newer).await;
    close(opened.spool, opened.thread);
    let (released_bytes, new_epoch) = applied.map_err(CarryError::from)?;
    let mut certificate = None;
    if is_newer {
        if let Some(issued) = reply.issued {
            let renewed = renew(&layout, &mut identity, issued);
            certificate = renewed.map_err(CarryError::Certificate)?;
        }
        ledger.answered_ms = sealed.made_at_ms();
        // The hub knows of more than this ledger: it is an older copy, and goes on behind the hub.
        if reply.last.0 >= ledger.number && reply.last.0 > 0 {
            (ledger.number, ledger.previous) = reply.last;
        }
        ledger.store(&layout)?;
    }
    let taken = Taken {
        bundle: reply.last.0,
        missing: reply.missing,
        released_bytes,
        resync: reply.resync,
        new_epoch,
        certificate,
    };
    written(show::object(&taken, format))?;
    Ok(Exit::Ok)
}

/// Takes the certificate that a reply brings, and the roots that the hub has; says until when it is
/// good, unless this agent has it already.
fn renew(
    layout: &Layout,
    identity: &mut Identity,
    issued: Issued,
) -> Result<Option<Timestamp>, IdentityError> {
    let chain = issued.chain.into_iter().map(CertificateDer::from);
    let chain: Vec<CertificateDer<'static>> = chain.collect();
    if chain.first() == identity.chain.first() {
        return Ok(None);
    }
    // First, so that a crash between the two leaves an agent that trusts its hub.
    let roots = issued.roots.into_iter().map(CertificateDer::from);
    identity.trust(layout, roots.collect())?;
    identity.renew(layout, chain)?;
    Ok(Some(identity.valid.1))
}

/// Ends an enrolment whose request was carried.
fn finish_enrolment(layout: &Layout, path: &Path, sealed: &SealedReply) -> Result<Exit, Failure> {
    let pending = Pending::load(layout)?.ok_or(CarryError::NotAsked)?;
    let root = pending.root(sealed.chain());
    let root = root.ok_or_else(|| CarryError::Hub(CertificateError::UnknownIssuer.into()))?;
    let public_key = hub_key(sealed, std::slice::from_ref(&root))?;
    let reply = sealed.open(&public_key, None);
    let reply = reply.map_err(|source| CarryError::Refused {
        path: path.to_owned(),
        source,
    })?;
    let granted = reply.issued.ok_or(CarryError::NotAsked)?;
    let enrolled = pending.finish(layout, sealed.addressee(), granted)?;
    crate::say(&format!(
        "enrolled as {} of {}",
        enrolled.agent, enrolled.org
    ));
    crate::hint(&format!(
        "the certificate is good until {}",
        enrolled.not_after
    ));
    crate::hint("next: zero-x-agent source add aws --name NAME");
    crate::hint("then: zero-x-agent bundle export --sync FILE");
    Ok(Exit::Ok)
}

/// Does what a reply says; returns the bytes that were let go and whether a new epoch began.
async fn apply(
    spool: &Spool,
    reply: &Reply,
    ledger: &Ledger,
    is_newer: bool,
) -> Result<(u64, bool), SpoolError> {
    let (before, epoch) = (spool.waiting().bytes, spool.epoch());
    let mut has_parted = false;
    for lane in Lane::DATA {
        let is_it = |mark: &&protocol::wire::v1::HighWater| {
            mark.lane == lane.number() && mark.epoch == epoch
        };
        let stored = reply
            .high_water
            .iter()
            .find(is_it)
            .map_or(0, |mark| mark.seq);
        if stored > 0 && spool.release(lane, stored).await? == Released::Ahead {
            warn!(
                ?lane,
                "the hub holds more than this spool ever sent: it is an older copy"
            );
            has_parted = true;
        }
        // A hub that was set back lacks what it acknowledged once; the look lets that wait again.
        // What was let go without a reply may be on its way.
        if is_newer && ledger.released == 0 {
            spool.fetch(lane, stored).await?;
        }
    }
    let released = before.saturating_sub(spool.waiting().bytes);
    let hub_epoch = reply.hub_epoch;
    let seen = spool.call(|engine| engine.witness()).await?;
    let is_other = seen.is_none_or(|seen| seen.hub_epoch != hub_epoch);
    if is_newer && is_other {
        if seen.is_some() {
            info!("the hub's store is another than before; everything is sent again");
            let forget = |engine: &mut Engine| engine.forget_scope("");
            spool.call(forget).await??;
        }
        let witness = Witness {
            hub_epoch,
            commit: 0,
            audit_head: [0; 32],
        };
        spool.call(move |engine| engine.remember(witness)).await??;
    }
    for scope in reply.resync.clone() {
        spool
            .call(move |engine| engine.forget_scope(&scope))
            .await??;
    }
    if has_parted {
        spool.roll_epoch().await?;
    }
    Ok((released, has_parted))
}
