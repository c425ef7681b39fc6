//! Enrolment of an agent that cannot reach the hub: its request comes as a file, and the next
//! reply carries what was issued.

use std::io::Read as _;
use std::io::Seek as _;

use jiff::Timestamp;
use protocol::bundle::{BundleError, CarriedRequest};
use protocol::enroll::Reply;
use protocol::ids::AgentId;
use protocol::limits;
use store::rows::audit::AuditAct;
use store::rows::carried::Carried;
use store::rows::finding::Actor;

use super::{ImportError, Importer, Report, Volume};
use crate::enroll::{self, Desk};

impl Volume {
    /// Reads a small file whole.
    fn letter(&mut self) -> Result<Vec<u8>, ImportError> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(limits::BUNDLE_LETTER_BYTES).unwrap_or(u64::MAX) + 4096;
        self.file.rewind().map_err(|error| self.io(error))?;
        let read = (&self.file).take(limit).read_to_end(&mut bytes);
        read.map_err(|error| self.io(error))?;
        Ok(bytes)
    }
}

impl Importer {
    /// Enrols an agent by its request. The same request once more changes nothing.
    pub(super) async fn enrol(
        &self,
        mut file: Volume,
        now: Timestamp,
    ) -> Result<Report, ImportError> {
        let bytes = file.letter()?;
        let decoded = CarriedRequest::decode(&bytes);
        let (request, message, signature) = decoded.map_err(|source| file.broken(source))?;
        if self.authority.has_retired(request.pin) {
            let name = file.name.clone();
            return Err(ImportError::RetiredPin { name });
        }
        if !self.authority.pins().contains(&request.pin) {
            return Err(file.broken(BundleError::OtherHub));
        }
        let hash = *blake3::hash(&bytes).as_bytes();
        if let Some(known) = self.enrolled(&request, hash).await? {
            return Ok(report("repeat", known));
        }
        let desk = Desk {
            appliance: &self.appliance,
            authority: &self.authority,
            live: &self.live,
            bundle_key: self.secret.public(),
        };
        let reply = enroll::enroll_carried(desk, &request, &message, &signature, now).await;
        let (agent, chain) = match reply {
            Reply::Issued { agent, chain, .. } => (agent, chain),
            Reply::Refused { code, reason } => {
                return Err(ImportError::Enrolment { code, reason });
            }
        };
        let row = self.appliance.agent(agent).await?;
        let org = row.map(|row| row.org).ok_or(ImportError::Broken)?;
        let store = self
            .store
            .maintenance(org)
            .await
            .map_err(ImportError::Open)?;
        let store = store.ok_or(ImportError::Broken)?;
        let mut write = store.write();
        write.put_carried(Carried {
            issued: chain,
            request: Some(hash),
            is_unanswered: true,
            taken_at: now,
            ..Carried::none(agent)
        });
        write.audit(AuditAct {
            at: now,
            actor: Actor::Local,
            action: "bundle.enrol".to_owned(),
            object: agent.to_string(),
            detail: "by a request that was carried over".to_owned(),
        });
        write.commit().await?;
        Ok(report("enrolled", (org, agent)))
    }

    /// Returns whom this very request enrolled before.
    async fn enrolled(
        &self,
        request: &CarriedRequest,
        hash: [u8; 32],
    ) -> Result<Option<(protocol::ids::OrgId, AgentId)>, ImportError> {
        let Some(token) = self.appliance.token(request.token).await? else {
            return Ok(None);
        };
        let store = self.store.maintenance(token.org).await;
        let Some(store) = store.map_err(ImportError::Open)? else {
            return Ok(None);
        };
        let all = store.read(|reader| reader.all_carried()).await?;
        let found = all.iter().find(|carried| carried.request == Some(hash));
        Ok(found.map(|carried| (token.org, carried.agent)))
    }
}

fn report(outcome: &str, (org, agent): (protocol::ids::OrgId, AgentId)) -> Report {
    Report {
        outcome: outcome.to_owned(),
        org,
        agent,
        bundle: 0,
        volumes: 1,
        made_at: None,
        batches: 0,
        items: 0,
        repeats: 0,
        missing: Vec::new(),
        given_up: Vec::new(),
        notes: vec![
            "carry the reply back: `zero-x-hub bundle reply FILE`, then `zero-x-agent bundle \
             import FILE`"
                .to_owned(),
        ],
    }
}
