//! Bundles against a real store and authority, in a folder of their own.

use std::collections::BTreeMap;
use std::io::Write as _;

use ed25519_dalek::Signer as _;
use protocol::batch::{BatchBuilder, BatchError, Place, Signer};
use protocol::bundle::{CarriedRequest, Digest, HubKey, ReplyKey, SealedReply, VolumeWriter};
use protocol::enroll::Pin;
use protocol::event::EventRecord;
use protocol::frame::Lane;
use protocol::ids::{SourceId, TokenId};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use store::rows::AgentState;
use store::rows::access::{EnrolToken, Enrolment};
use store::rows::event::EventQuery;
use store::{MasterKey, OrgStore, StoreConfig};

use super::reply::ReplyError;
use super::*;
use crate::ca::Step;
use crate::failure::chain as clauses;
use crate::identity;

const EPOCH: [u8; 16] = [9; 16];

struct Hub {
    store: Store,
    identity: Identity,
    importer: Importer,
    org: OrgId,
    _folder: tempfile::TempDir,
}

async fn hub() -> Hub {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let master = MasterKey::create(&folder.path().join("master.key"), &data_dir).unwrap();
    let store = Store::create(StoreConfig::new(&data_dir), master).unwrap();
    let appliance = store.appliance();
    let now = Timestamp::now();
    let org = appliance.create_org("acme", now).await.unwrap().id;
    identity::establish(&appliance, &[], now).await.unwrap();
    let identity = Identity::load(&appliance).await.unwrap();
    let importer = Importer::new(&store, &identity, Arc::new(Live::default()));
    Hub {
        store,
        identity,
        importer,
        org,
        _folder: folder,
    }
}

struct Agent {
    id: AgentId,
    org: OrgId,
    certificates: Vec<Vec<u8>>,
    key: EcdsaKeyPair,
    /// What it asks for certificates with.
    csr: Vec<u8>,
    /// Where its chain stands.
    number: u64,
    previous: Digest,
    epoch: Epoch,
}

impl Signer for Agent {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
        let signature = self.key.sign(&SystemRandom::new(), message).unwrap();
        Ok(signature.as_ref().try_into().unwrap())
    }
}

impl Hub {
    async fn org_store(&self) -> OrgStore {
        self.store.maintenance(self.org).await.unwrap().unwrap()
    }

    fn open_token(&self, now: Timestamp) -> EnrolToken {
        EnrolToken {
            id: TokenId::from_bytes(uuid::Uuid::new_v4().into_bytes()),
            org: self.org,
            public_key: [0; 32],
            expires_at: now + SignedDuration::from_hours(1),
            uses_left: 1,
            bound_name: None,
            bound_accounts: None,
            labels: BTreeMap::new(),
            made_by: None,
            made_at: now,
        }
    }

    /// Puts an agent on the positive list, as an enrolment does.
    async fn agent(&self) -> Agent {
        let now = Timestamp::now();
        let id = AgentId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        let token = self.open_token(now);
        let token_id = token.id;
        self.org_store().await.put_token(token).await.unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let leaf = self
            .identity
            .authority
            .issue_agent_leaf(request.der(), self.org, id, now)
            .unwrap();
        let enrolment = Enrolment {
            agent: id,
            name: "web-1".into(),
            certificate: leaf.certificate.clone(),
        };
        let appliance = self.store.appliance();
        appliance
            .redeem_token(token_id, enrolment, now)
            .await
            .unwrap();
        let (alg, rng) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        Agent {
            id,
            org: self.org,
            certificates: leaf.chain.iter().map(|der| der.to_vec()).collect(),
            csr: request.der().to_vec(),
            key: EcdsaKeyPair::from_pkcs8(alg, &key.serialize_der(), &rng).unwrap(),
            number: 0,
            previous: [0; 32],
            epoch: EPOCH,
        }
    }

    fn key(&self) -> HubKey {
        self.identity.bundle_key.public()
    }

    async fn import(&self, files: &[Vec<u8>], accept_gap: bool) -> Result<Report, ImportError> {
        let asked = Asked {
            accept_gap,
            only_verify: false,
        };
        self.importer
            .import(volumes(files), asked, Timestamp::now())
            .await
    }

    /// Returns why a bundle is refused: words, exit code and what to do.
    async fn refused(&self, files: &[Vec<u8>]) -> (String, Exit, Option<String>) {
        let error = self.import(files, false).await.unwrap_err();
        (clauses(&error).join(": "), error.exit(), error.fix())
    }

    /// Returns the actions of all stored events, sorted.
    async fn events(&self) -> Vec<String> {
        let query = EventQuery {
            limit: 1000,
            ..EventQuery::default()
        };
        let found = self.org_store().await.search_events(query).await.unwrap();
        let mut actions: Vec<String> = found.events.into_iter().map(|e| e.record.action).collect();
        actions.sort();
        actions
    }
}

fn volumes(files: &[Vec<u8>]) -> Vec<Volume> {
    let volume = |(number, bytes): (usize, &Vec<u8>)| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Volume::new(format!("file {}", number + 1), file)
    };
    files.iter().enumerate().map(volume).collect()
}

impl Agent {
    /// A frame of one event each, from `first_seq` on.
    fn frames(&self, first_seq: u64, count: u64) -> Vec<Vec<u8>> {
        let frame = |seq: u64| {
            let mut builder = BatchBuilder::default();
            let record = EventRecord {
                time_ms: Timestamp::now().as_millisecond(),
                action: format!("act-{seq:03}"),
                raw: "raw".into(),
                ..EventRecord::default()
            };
            builder.push(&record).unwrap();
            let place = Place {
                lane: Lane::Events,
                epoch: self.epoch,
                first_seq: seq,
                source: SourceId::from_bytes([3; 16]),
                made_at_ms: 0,
            };
            builder.seal(&place, self).unwrap().1
        };
        (first_seq..first_seq + count).map(frame).collect()
    }

    fn header(&self) -> Header {
        Header {
            org: self.org,
            agent: self.id,
            epoch: self.epoch,
            number: self.number,
            volume: 1,
            volumes: 1,
            made_at_ms: Timestamp::now().as_millisecond(),
            released: 0,
            previous: self.previous,
            certificates: self.certificates.clone(),
        }
    }

    /// Writes the next bundle: so many frames a volume.
    fn bundle(&mut self, hub: &HubKey, parts: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
        self.bundle_with(hub, parts, |_| {})
    }

    fn bundle_with(
        &mut self,
        hub: &HubKey,
        parts: &[Vec<Vec<u8>>],
        change: impl Fn(&mut Header),
    ) -> Vec<Vec<u8>> {
        self.number += 1;
        let mut files = Vec::new();
        for (volume, frames) in (1u32..).zip(parts) {
            let mut header = Header {
                volume,
                volumes: u32::try_from(parts.len()).unwrap(),
                made_at_ms: 1_700_000_000_000,
                ..self.header()
            };
            change(&mut header);
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).unwrap();
            let mut out = Vec::new();
            let mut writer = VolumeWriter::begin(&header, hub, &seed, &mut out).unwrap();
            if volume == 1 {
                let notice = Notice {
                    agent_version: "1.2.3".into(),
                    spool_bytes: 77,
                    oldest_ms: 0,
                    reply_key: [5; 32],
                };
                writer.notice(&notice, &mut out).unwrap();
                writer.renewal(&self.csr, &mut out).unwrap();
            }
            for frame in frames {
                writer.frame(frame, &mut out).unwrap();
            }
            self.previous = writer.finish(self, &mut out).unwrap();
            files.push(out);
        }
        files
    }
}

fn actions(seqs: std::ops::RangeInclusive<u64>) -> Vec<String> {
    seqs.map(|seq| format!("act-{seq:03}")).collect()
}

#[tokio::test]
async fn a_bundle_of_several_volumes_is_stored_once_whatever_the_order_of_its_files() {
    let hub = hub().await;
    let mut agent = hub.agent().await;
    let parts = [agent.frames(1, 3), agent.frames(4, 2), agent.frames(6, 1)];
    let mut files = agent.bundle(&hub.key(), &parts);
    files.reverse();
    let report = hub.import(&files, false).await.unwrap();
    assert_eq!((report.outcome.as_str(), report.bundle), ("taken", 1));
    assert_eq!((report.batches, report.items, report.repeats), (6, 6, 0));
    assert_eq!(hub.events().await, actions(1..=6));
    let view = hub
        .org_store()
        .await
        .agent(agent.id)
        .await
        .unwrap()
        .unwrap();
    let status = view.status.unwrap();
    assert_eq!(
        (status.transport.as_str(), status.spool_bytes),
        ("bundle", 77)
    );

    let again = hub.import(&files, false).await.unwrap();
    assert_eq!((again.outcome.as_str(), again.batches), ("repeat", 0));
    assert_eq!(hub.events().await, actions(1..=6));
    hub.store.close().await;
}

#[tokio::test]
async fn a_bundle_that_is_only_verified_stores_nothing() {
    let hub = hub().await;
    let mut agent = hub.agent().await;
    let parts = [agent.frames(1, 3)];
    let files = agent.bundle(&hub.key(), &parts);
    let asked = Asked {
        accept_gap: false,
        only_verify: true,
    };
    let report = hub
        .importer
        .import(volumes(&files), asked, Timestamp::now());
    let report = report.await.unwrap();
    assert_eq!((report.outcome.as_str(), report.batches), ("verified", 3));
    assert!(hub.events().await.is_empty());
    assert!(
        hub.org_store()
            .await
            .carried(agent.id)
            .await
            .unwrap()
            .is_none()
    );
    hub.store.close().await;
}

#[tokio::test]
async fn damaged_cut_foreign_and_mixed_up_files_are_named_and_store_nothing() {
    let (hub, other) = (hub().await, hub().await);
    let mut agent = hub.agent().await;
    let parts = [agent.frames(1, 2), agent.frames(3, 2)];
    let files = agent.bundle(&hub.key(), &parts);

    // Every place of the second file, in steps: nothing of the first is stored either.
    for at in (0..files[1].len()).step_by(97) {
        let mut changed = files.clone();
        changed[1][at] ^= 4;
        assert!(
            hub.import(&changed, false).await.is_err(),
            "changed at {at}"
        );
        let mut cut = files.clone();
        cut[1].truncate(at);
        let (told, exit, _) = hub.refused(&cut).await;
        assert!(
            told.contains("file 2 is not taken: the file is cut off"),
            "{told}"
        );
        assert_eq!(exit, Exit::Data);
    }
    let (told, _, fix) = hub.refused(&files[..1]).await;
    assert_eq!(told, "volume 2 of 2 of bundle 1 is missing");
    assert!(fix.unwrap().contains("FILE.2"));
    let (told, ..) = hub.refused(&files[1..]).await;
    assert_eq!(told, "volume 1 of 2 of bundle 1 is missing");
    let doubled = [&files[..], &files[..1]].concat();
    let (told, ..) = hub.refused(&doubled).await;
    assert!(
        told.contains("is not a volume of the same bundle"),
        "{told}"
    );
    let next_parts = [agent.frames(5, 1), agent.frames(6, 1)];
    let next = agent.bundle(&hub.key(), &next_parts);
    let (told, ..) = hub.refused(&[files[0].clone(), next[1].clone()]).await;
    assert!(
        told.contains("is not a volume of the same bundle"),
        "{told}"
    );
    let (told, exit, _) = hub
        .refused(&[b"hello, world. this is no bundle".to_vec()])
        .await;
    assert!(told.contains("does not begin with ZXBUNDLE"), "{told}");
    assert_eq!(exit, Exit::Data);

    // To this hub, by an agent of another one; and by ours, to the other's key.
    let mut stranger = other.agent().await;
    let parts = [stranger.frames(1, 1)];
    let files = stranger.bundle(&hub.key(), &parts);
    let (told, exit, _) = hub.refused(&files).await;
    assert!(told.contains("another hub's trust domain"), "{told}");
    assert_eq!(exit, Exit::Forbidden);
    let parts = [agent.frames(1, 1)];
    let files = agent.bundle(&other.key(), &parts);
    let (told, _, fix) = hub.refused(&files).await;
    assert!(told.contains("sealed to another hub's key"), "{told}");
    assert!(fix.unwrap().contains("where the agent is enrolled"));

    assert!(hub.events().await.is_empty());
    assert!(
        hub.org_store()
            .await
            .carried(agent.id)
            .await
            .unwrap()
            .is_none()
    );
    let entries = hub.org_store().await.audit(1, 100).await.unwrap();
    assert!(
        !entries
            .iter()
            .any(|entry| entry.action.starts_with("bundle"))
    );
    hub.store.close().await;
    other.store.close().await;
}

#[tokio::test]
async fn a_forged_header_a_forged_batch_and_a_revoked_agent_are_refused() {
    let hub = hub().await;
    let (mut agent, mut other) = (hub.agent().await, hub.agent().await);
    // The certificate of one, the key of the other: certificates are no secret.
    other.certificates.clone_from(&agent.certificates);
    (other.id, other.epoch) = (agent.id, agent.epoch);
    let parts = [other.frames(1, 1)];
    let (told, ..) = hub.refused(&other.bundle(&hub.key(), &parts)).await;
    assert!(told.contains("the signature does not match"), "{told}");
    // A batch of another agent, carried by a good one.
    let (told, exit, _) = hub.refused(&agent.bundle(&hub.key(), &parts)).await;
    assert!(told.contains("not signed by this agent's key"), "{told}");
    assert_eq!(exit, Exit::Data);
    let elsewhere = OrgId::from_bytes([8; 16]);
    let parts = [agent.frames(1, 1)];
    let files = agent.bundle_with(&hub.key(), &parts, |header| header.org = elsewhere);
    let (told, ..) = hub.refused(&files).await;
    assert_eq!(told, "the header names another agent than the certificate");
    let files = agent.bundle(&hub.key(), &[vec![b"no frame".to_vec()]]);
    let (told, ..) = hub.refused(&files).await;
    assert!(told.contains("something that is no frame"), "{told}");

    let files = agent.bundle(&hub.key(), &parts);
    let appliance = hub.store.appliance();
    for (state, words) in [
        (AgentState::Suspended, "is suspended"),
        (AgentState::Revoked, "is revoked"),
    ] {
        appliance.set_agent_state(agent.id, state).await.unwrap();
        let (told, exit, _) = hub.refused(&files).await;
        assert!(told.contains(words), "{told}");
        assert_eq!(exit, Exit::Forbidden);
    }
    let later = Timestamp::now() + SignedDuration::from_hours(24 * 396);
    let asked = Asked {
        accept_gap: false,
        only_verify: false,
    };
    let late = hub.importer.import(volumes(&files), asked, later).await;
    assert!(matches!(late, Err(ImportError::Certificate(_))));
    assert!(hub.events().await.is_empty());
    hub.store.close().await;
}

#[tokio::test]
async fn a_lost_bundle_that_the_next_one_repeats_is_named_and_comes_late_without_effect() {
    let hub = hub().await;
    let mut agent = hub.agent().await;
    let parts = [agent.frames(1, 2)];
    hub.import(&agent.bundle(&hub.key(), &parts), false)
        .await
        .unwrap();
    let parts = [agent.frames(3, 1)];
    let lost = agent.bundle(&hub.key(), &parts);
    let parts = [agent.frames(1, 5)];
    let report = hub
        .import(&agent.bundle(&hub.key(), &parts), false)
        .await
        .unwrap();
    assert_eq!((report.batches, report.repeats), (3, 2));
    assert_eq!(report.missing, [2]);
    assert!(
        report.notes[0].contains("never came: 2"),
        "{:?}",
        report.notes
    );
    let late = hub.import(&lost, false).await.unwrap();
    assert_eq!(
        (late.outcome.as_str(), late.batches, late.repeats),
        ("taken", 0, 1)
    );
    assert!(late.missing.is_empty());
    assert_eq!(hub.events().await, actions(1..=5));
    hub.store.close().await;
}

#[tokio::test]
async fn a_gap_is_refused_with_the_missing_bundle_and_kept_when_it_is_accepted() {
    let hub = hub().await;
    let mut agent = hub.agent().await;
    let bundle = |agent: &mut Agent, from, count| {
        let parts = [agent.frames(from, count)];
        let number = agent.number + 1;
        agent.bundle_with(&hub.key(), &parts, |header| header.released = number)
    };
    let first = bundle(&mut agent, 1, 2);
    let second = bundle(&mut agent, 3, 3);
    let third = bundle(&mut agent, 6, 1);
    let fourth = bundle(&mut agent, 7, 1);
    let fifth = bundle(&mut agent, 8, 1);
    hub.import(&first, false).await.unwrap();
    let (told, exit, fix) = hub.refused(&third).await;
    assert_eq!(
        told,
        "bundle 2 never came, and bundle 3 goes on behind it; items 3 to 5 of lane 1 are missing"
    );
    assert_eq!(exit, Exit::Failed);
    assert!(fix.unwrap().contains("--accept-gap"));
    let (told, ..) = hub.refused(&fifth).await;
    assert!(told.starts_with("the bundles 2 to 4 never came"), "{told}");
    // Found after all: everything is there.
    hub.import(&second, false).await.unwrap();
    hub.import(&third, false).await.unwrap();
    assert_eq!(hub.events().await, actions(1..=6));

    let report = hub.import(&fifth, true).await.unwrap();
    let want = Hole {
        lane: 1,
        first_seq: 7,
        last_seq: 7,
    };
    assert_eq!(report.given_up, [want]);
    let org = hub.org_store().await;
    let losses = org.read(|reader| reader.losses(10)).await.unwrap();
    assert_eq!(losses.len(), 1);
    assert_eq!((losses[0].first_seq, losses[0].records()), (7, 1));
    let late = hub.import(&fourth, false).await.unwrap();
    assert_eq!((late.batches, late.repeats), (0, 1));
    assert!(
        late.notes[0].contains("had been given up"),
        "{:?}",
        late.notes
    );
    let entries = org.audit(1, 100).await.unwrap();
    let gap = entries
        .iter()
        .find(|entry| entry.detail.contains("gap accepted"));
    assert!(gap.unwrap().detail.contains("items 7 to 7 of lane 1"));
    hub.store.close().await;
}

#[tokio::test]
async fn another_bundle_with_a_taken_number_is_a_copied_agent() {
    let hub = hub().await;
    let mut agent = hub.agent().await;
    let parts = [agent.frames(1, 1)];
    let one = agent.bundle(&hub.key(), &parts);
    (agent.number, agent.previous) = (0, [0; 32]);
    let parts = [agent.frames(1, 2)];
    let other = agent.bundle(&hub.key(), &parts);
    hub.import(&one, false).await.unwrap();
    let (told, _, fix) = hub.refused(&other).await;
    assert!(told.starts_with("another bundle 1 of the agent"), "{told}");
    assert!(fix.unwrap().contains("copied or restored"));
    assert_eq!(hub.events().await, actions(1..=1));
    hub.store.close().await;
}

#[tokio::test]
async fn a_reply_tells_the_agent_alone_what_was_taken() {
    let hub = hub().await;
    let mut agent = hub.agent().await;
    let now = Timestamp::now();
    let nobody = hub.importer.reply(&hub.store, None, now).await.unwrap_err();
    assert!(matches!(nobody, ReplyError::Nobody));
    let parts = [agent.frames(1, 4)];
    hub.import(&agent.bundle(&hub.key(), &parts), false)
        .await
        .unwrap();
    let written = hub.importer.reply(&hub.store, None, now).await.unwrap();
    assert_eq!((written.agent, written.bundle), (agent.id, 1));
    let file = data_encoding::BASE64
        .decode(written.file.as_bytes())
        .unwrap();
    let reply = SealedReply::decode(&file).unwrap();
    assert_eq!(reply.addressee(), (hub.org, agent.id));
    let chain = reply.chain();
    assert_eq!(
        chain.last().unwrap(),
        &hub.identity.authority.roots()[0].to_vec()
    );
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let public_key = leaf.public_key().subject_public_key.data.to_vec();
    assert!(reply.open(&public_key, Some(&ReplyKey([6; 32]))).is_err());
    let read = reply.open(&public_key, Some(&ReplyKey([5; 32]))).unwrap();
    assert_eq!(read.last, (1, agent.previous));
    assert_eq!((read.hub_epoch, read.issued), (hub.identity.epoch, None));
    let marks: Vec<(u8, u64)> = read.high_water.iter().map(|m| (m.lane, m.seq)).collect();
    assert_eq!(marks, [(1, 4)]);
    // It was answered; once more only by name.
    let nobody = hub.importer.reply(&hub.store, None, now).await.unwrap_err();
    assert!(matches!(nobody, ReplyError::Nobody));
    let again = hub.importer.reply(&hub.store, Some(agent.id), now).await;
    assert_eq!(again.unwrap().bundle, 1);
    let appliance = hub.store.appliance();
    appliance
        .set_agent_state(agent.id, AgentState::Revoked)
        .await
        .unwrap();
    let revoked = hub.importer.reply(&hub.store, Some(agent.id), now).await;
    assert!(matches!(revoked, Err(ReplyError::Revoked { .. })));
    hub.store.close().await;
}

#[tokio::test]
async fn an_agent_that_carries_its_files_goes_through_every_stage_of_a_rotation() {
    let hub = hub().await;
    let (mut agent, now) = (hub.agent().await, Timestamp::now());
    let old = hub.identity.authority.pin();
    let request = |token: &EnrolToken, seed: u8, pin: Pin| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default().serialize_request(&key);
        let request = CarriedRequest {
            token: token.id,
            pin,
            csr: csr.unwrap().der().to_vec(),
            name: "far-1".into(),
            agent_version: "1.2.3".into(),
        };
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let signed = request.encode(|message| key.sign(message).to_bytes());
        signed.unwrap()
    };
    let token = async |seed: u8| {
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let token = EnrolToken {
            id: TokenId::from_bytes([seed; 16]),
            public_key: key.verifying_key().to_bytes(),
            ..hub.open_token(now)
        };
        hub.org_store()
            .await
            .put_token(token.clone())
            .await
            .unwrap();
        token
    };
    let tokens = [token(21).await, token(22).await, token(23).await];
    let step = async |step| {
        let appliance = hub.store.appliance();
        let mut material = identity::material(&appliance).await.unwrap();
        material.advance(step, 0, now).unwrap();
        identity::put_material(&appliance, &material).await.unwrap();
        hub.identity.authority.replace(&material).unwrap();
    };
    let mut take = async |seq| {
        let parts = [agent.frames(seq, 1)];
        let bundle = agent.bundle(&hub.key(), &parts);
        hub.import(&bundle, false).await
    };
    // A request of the old pin is taken as long as that root is trusted; the reply names both.
    let enrolled = async |token, seed| {
        let report = hub.import(&[request(token, seed, old)], false).await?;
        let written = hub
            .importer
            .reply(&hub.store, Some(report.agent), now)
            .await;
        let file = data_encoding::BASE64.decode(written.unwrap().file.as_bytes());
        let reply = SealedReply::decode(&file.unwrap()).unwrap();
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_, leaf) = X509Certificate::from_der(&reply.chain()[0]).unwrap();
        let key = leaf.public_key().subject_public_key.data.to_vec();
        let issued = reply.open(&key, None).unwrap().issued.unwrap();
        let roots = issued
            .roots
            .iter()
            .map(|der| Pin::of_certificate(der).unwrap());
        // Who pins the old root finds it in the chain.
        let mut shown = reply.chain().iter();
        assert!(shown.any(|der| Pin::of_certificate(der).unwrap() == old));
        Ok::<Vec<Pin>, ImportError>(roots.collect())
    };
    for (number, word) in (1..).zip([Step::Begin, Step::Issue]) {
        step(word).await;
        take(number).await.unwrap();
        let [token, ..] = &tokens[usize::try_from(number).unwrap() - 1..] else {
            panic!("a token for each stage")
        };
        let seed = u8::try_from(20 + number).unwrap();
        let told = enrolled(token, seed).await.unwrap();
        assert_eq!(told, hub.identity.authority.pins());
        assert_eq!(told.len(), 2);
    }
    step(Step::Retire).await;
    let error = take(3).await.unwrap_err();
    let told = clauses(&error).join(": ");
    assert!(told.contains("has replaced and retired"), "{told}");
    assert!(error.fix().unwrap().contains("enroll --replace"));
    let error = enrolled(&tokens[2], 23).await.unwrap_err();
    assert!(matches!(error, ImportError::RetiredPin { .. }), "{error}");
    let strange = [request(&tokens[2], 23, Pin([9; 32]))];
    let (told, ..) = hub.refused(&strange).await;
    assert!(told.contains("another hub"), "{told}");
    hub.store.close().await;
}

impl Hub {
    /// Carries a bundle of one event to the hub at an instant, and returns what the reply brings.
    async fn carried_at(&self, agent: &mut Agent, seq: u64, at: Timestamp) -> Brought {
        let parts = [agent.frames(seq, 1)];
        let files = agent.bundle(&self.key(), &parts);
        let asked = Asked {
            accept_gap: false,
            only_verify: false,
        };
        let taken = self.importer.import(volumes(&files), asked, at).await;
        assert_eq!(taken.unwrap().outcome, "taken");
        self.reply_at(agent, at).await
    }

    async fn reply_at(&self, agent: &Agent, at: Timestamp) -> Brought {
        let written = self.importer.reply(&self.store, Some(agent.id), at).await;
        let written = written.unwrap();
        let file = data_encoding::BASE64
            .decode(written.file.as_bytes())
            .unwrap();
        let reply = SealedReply::decode(&file).unwrap();
        let leaf = CertificateDer::from(reply.chain()[0].clone());
        let key = read_key(&leaf);
        let issued = reply.open(&key, Some(&ReplyKey([5; 32]))).unwrap().issued;
        assert_eq!(issued.is_some(), written.certificate.is_some());
        if let Some(issued) = &issued {
            let roots = self.identity.authority.roots();
            let roots: Vec<Vec<u8>> = roots.iter().map(|der| der.to_vec()).collect();
            assert_eq!(issued.roots, roots);
        }
        Brought {
            chain: issued.map(|issued| issued.chain),
            notes: written.notes,
        }
    }

    /// How many certificates of an agent are in force.
    async fn in_force(&self, agent: &Agent) -> usize {
        let row = self.store.appliance().agent(agent.id).await.unwrap();
        row.unwrap().certificates.len()
    }
}

/// What a reply brought beside its marks.
struct Brought {
    chain: Option<Vec<Vec<u8>>>,
    notes: Vec<String>,
}

fn read_key(leaf: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    leaf.public_key().subject_public_key.data.to_vec()
}

const DAY: SignedDuration = SignedDuration::from_hours(24);

#[tokio::test]
async fn a_certificate_past_half_of_its_life_is_renewed_by_the_next_reply_and_the_same_by_all() {
    let hub = hub().await;
    let mut agent = hub.agent().await;
    let begun = Timestamp::now();
    let at = |days: i32| begun + DAY * days;
    assert_eq!(hub.carried_at(&mut agent, 1, at(14)).await.chain, None);
    let fresh = hub.carried_at(&mut agent, 2, at(16)).await.chain.unwrap();
    assert_ne!(fresh[0], agent.certificates[0]);
    assert_eq!(read_key(&fresh[0]), read_key(&agent.certificates[0]));
    assert_eq!(hub.in_force(&agent).await, 2);
    // Both replies may get lost, and either may arrive.
    assert_eq!(
        hub.reply_at(&agent, at(17)).await.chain,
        Some(fresh.clone())
    );
    let again = hub.carried_at(&mut agent, 3, at(18)).await;
    assert_eq!(again.chain, Some(fresh.clone()));

    let old = std::mem::replace(&mut agent.certificates, fresh.clone());
    assert_eq!(hub.carried_at(&mut agent, 4, at(19)).await.chain, None);
    assert_eq!(hub.in_force(&agent).await, 1);
    let fresh = std::mem::replace(&mut agent.certificates, old);
    let parts = [agent.frames(5, 1)];
    let files = agent.bundle(&hub.key(), &parts);
    let (told, ..) = hub.refused(&files).await;
    assert!(told.contains("not the agent's current one"), "{told}");
    // One that did not arrive before half of its own life was over is made anew.
    agent.certificates = fresh;
    let second = hub.carried_at(&mut agent, 5, at(32)).await.chain.unwrap();
    let third = hub.carried_at(&mut agent, 6, at(48)).await.chain.unwrap();
    assert_ne!(second, third);
    let entries = hub.org_store().await.audit(1, 100).await.unwrap();
    let renewed = entries.iter().filter(|entry| entry.action == "agent.renew");
    assert_eq!(renewed.count(), 3);
    hub.store.close().await;
}

#[tokio::test]
async fn a_certificate_of_a_root_that_is_being_replaced_is_renewed_before_its_time() {
    let hub = hub().await;
    let (mut agent, now) = (hub.agent().await, Timestamp::now());
    let appliance = hub.store.appliance();
    for (seq, step) in (1..).zip([Step::Begin, Step::Issue]) {
        let mut material = identity::material(&appliance).await.unwrap();
        material.advance(step, 0, now).unwrap();
        identity::put_material(&appliance, &material).await.unwrap();
        hub.identity.authority.replace(&material).unwrap();
        let chain = hub.carried_at(&mut agent, seq, now).await.chain;
        assert_eq!(chain.is_some(), step == Step::Issue);
        agent.certificates = chain.unwrap_or(agent.certificates);
    }
    assert_eq!(hub.carried_at(&mut agent, 3, now).await.chain, None);
    hub.store.close().await;
}

#[tokio::test]
async fn a_suspended_agent_and_a_request_for_another_key_get_a_reply_without_a_certificate() {
    let hub = hub().await;
    let (mut agent, other) = (hub.agent().await, hub.agent().await);
    let at = Timestamp::now() + DAY * 16;
    agent.csr.clone_from(&other.csr);
    let brought = hub.carried_at(&mut agent, 1, at).await;
    assert_eq!(brought.chain, None);
    assert!(
        brought.notes[0].contains("another key"),
        "{:?}",
        brought.notes
    );
    let mut suspended = hub.agent().await;
    let parts = [suspended.frames(1, 1)];
    let files = suspended.bundle(&hub.key(), &parts);
    hub.import(&files, false).await.unwrap();
    let appliance = hub.store.appliance();
    appliance
        .set_agent_state(suspended.id, AgentState::Suspended)
        .await
        .unwrap();
    let brought = hub.reply_at(&suspended, at).await;
    assert_eq!(brought.chain, None);
    assert!(
        brought.notes[0].contains("may not renew"),
        "{:?}",
        brought.notes
    );
    assert_eq!(hub.in_force(&suspended).await, 1);
    hub.store.close().await;
}

#[tokio::test]
async fn a_hub_set_back_takes_the_certificate_from_before_and_gives_a_new_one() {
    let hub = hub().await;
    let (mut agent, other) = (hub.agent().await, hub.agent().await);
    let known = agent.certificates.clone();
    // Issued after the backup that the hub was restored from: on no list.
    let authority = &hub.identity.authority;
    let now = Timestamp::now();
    let lost = authority
        .issue_agent_leaf(&agent.csr, hub.org, agent.id, now)
        .unwrap();
    agent.certificates = lost.chain.iter().map(|der| der.to_vec()).collect();
    let parts = [agent.frames(1, 1)];
    let (told, ..) = hub.refused(&agent.bundle(&hub.key(), &parts)).await;
    assert!(told.contains("not the agent's current one"), "{told}");
    // Another agent's certificate vouches for nothing.
    agent.certificates.push(other.certificates[0].clone());
    let (told, ..) = hub.refused(&agent.bundle(&hub.key(), &parts)).await;
    assert!(told.contains("not the agent's current one"), "{told}");
    agent.certificates.pop();
    agent.certificates.push(known[0].clone());
    (agent.number, agent.previous) = (0, [0; 32]);
    let fresh = hub.carried_at(&mut agent, 1, now).await.chain.unwrap();
    assert_eq!(read_key(&fresh[0]), read_key(&known[0]));
    agent.certificates = fresh;
    assert_eq!(hub.carried_at(&mut agent, 2, now).await.chain, None);
    assert_eq!(hub.events().await, actions(1..=2));
    hub.store.close().await;
}

#[test]
fn numbers_are_listed_as_runs() {
    assert_eq!(numbers(&[]), "");
    assert_eq!(numbers(&[2]), "2");
    assert_eq!(numbers(&[2, 3, 5, 7, 8, 9]), "2, 3, 5, 7 to 9");
}
