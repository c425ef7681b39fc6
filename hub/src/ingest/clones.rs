//! What becomes of an identity with which two machines take turns.

use std::error::Error;

use jiff::Timestamp;
use protocol::ids::AgentId;
use store::OrgStore;
use store::rows::AgentState;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;

use super::Hub;

impl Hub {
    /// Shuts an agent out until an operator decides, and records that; does nothing more to one
    /// that is shut out already.
    pub(super) async fn quarantine(
        &self,
        store: &OrgStore,
        agent: AgentId,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let row = self.appliance.agent(agent).await?;
        if row.is_none_or(|row| row.state != AgentState::Active) {
            return Ok(());
        }
        self.appliance
            .set_agent_state(agent, AgentState::Quarantined)
            .await?;
        let mut write = store.write();
        write.audit(AuditAct {
            at: Timestamp::now(),
            actor: Actor::Hub,
            action: "agent.quarantine".to_owned(),
            object: agent.to_string(),
            detail: "cloned identity: two machines took turns with it".to_owned(),
        });
        write.commit().await?;
        Ok(())
    }
}
