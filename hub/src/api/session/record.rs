//! Sessions in the audit log of every organisation that their user has a role in.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use jiff::Timestamp;
use protocol::ids::{OrgId, SessionId};
use store::rows::access::User;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use tracing::warn;

use super::State;

/// Organisations whose log is written to at once.
const AT_ONCE: usize = 16;

/// Records that a session began.
pub(super) async fn begun(state: &Arc<State>, user: &User, session: SessionId, address: IpAddr) {
    let act = act(Actor::User(user.id), "session.begin", session.to_string());
    let detail = format!("from {address}");
    tell(state, user, AuditAct { detail, ..act }).await;
}

/// Records that a session was ended: by its user, or by the hub for a reason.
pub(super) async fn ended(
    state: &Arc<State>,
    user: &User,
    session: SessionId,
    by: Actor,
    reason: &str,
) {
    let act = act(by, "session.end", session.to_string());
    let detail = reason.to_owned();
    tell(state, user, AuditAct { detail, ..act }).await;
}

/// Records that a sign-in as a user was refused, at most once a minute for each. It is done aside:
/// an answer that waited for it would tell which addresses are known.
pub(super) fn refused(state: &Arc<State>, email: String, reason: &'static str, address: IpAddr) {
    let state = Arc::clone(state);
    tokio::spawn(async move {
        let user = match state.appliance.user_by_email(email.trim()).await {
            Ok(Some(user)) => user,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "a refused sign-in could not be recorded");
                return;
            }
        };
        let Some(unheard) = state.throttle.report(user.id, Instant::now()) else {
            return;
        };
        let act = act(Actor::Hub, "session.refuse", user.id.to_string());
        let mut detail = format!("{reason}, from {address}");
        if unheard > 0 {
            detail.push_str(&format!("; {unheard} more since the entry before"));
        }
        tell(&state, &user, AuditAct { detail, ..act }).await;
    });
}

fn act(actor: Actor, action: &str, object: String) -> AuditAct {
    AuditAct {
        at: Timestamp::now(),
        actor,
        action: action.to_owned(),
        object,
        detail: String::new(),
    }
}

/// Writes an act into the logs. One that cannot be written is reported and does not keep anybody
/// out: one organisation's damaged file must not close the others.
async fn tell(state: &Arc<State>, user: &User, act: AuditAct) {
    let orgs: Vec<OrgId> = user.roles.keys().copied().collect();
    let (state, user) = (Arc::clone(state), user.id);
    // A task of its own: whoever hangs up does not cut the record short.
    let told = tokio::spawn(async move {
        let each = futures::stream::iter(orgs);
        each.for_each_concurrent(AT_ONCE, async |org| {
            let admitted = match state.appliance.admit_user(user, org).await {
                Ok(admitted) => admitted,
                Err(error) => {
                    warn!(%org, %error, action = act.action, "an act could not be recorded");
                    return;
                }
            };
            let mut write = admitted.store.write();
            write.audit(act.clone());
            if let Err(error) = write.commit().await {
                warn!(%org, %error, action = act.action, "an act could not be recorded");
            }
        })
        .await;
    });
    if let Err(error) = told.await {
        warn!(%error, "an act could not be recorded");
    }
}
