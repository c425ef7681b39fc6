//! Exports from a real spool, read back with the hub's key.

use protocol::batch::BatchBuilder;
use protocol::bundle::{HubSecret, Record};
use protocol::ids::{AgentId, OrgId, SourceId};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use zeroize::Zeroizing;

use super::*;
use crate::identity::Issued;
use crate::spool::{self, Commit};

fn secret() -> HubSecret {
    HubSecret::derive(&[4; 32])
}

/// An enrolled agent in a folder of its own, with an open spool.
struct Bench {
    folder: tempfile::TempDir,
    layout: Layout,
    identity: Identity,
    spool: Spool,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(&folder.path().join("state"));
    layout.prepare().unwrap();
    let (org, agent) = (OrgId::derived(&[b"o"]), AgentId::derived(&[b"a"]));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let uri = format!("spiffe://hub.example/org/{org}/agent/{agent}");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
    let leaf = params.self_signed(&key).unwrap().der().clone();
    let issued = Issued {
        chain: std::slice::from_ref(&leaf),
        roots: std::slice::from_ref(&leaf),
        key: &Zeroizing::new(key.serialize_der()),
        hubs: vec![],
        bundle_key: secret().public(),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    Identity::store(&layout, &issued).unwrap();
    let identity = Identity::load(&layout).unwrap();
    let config = spool::Config {
        max_bytes: 64 << 20,
        keep_free_bytes: 0,
        keep_acknowledged: Duration::ZERO,
    };
    let signer = Box::new(identity.signer().unwrap());
    let opened = Spool::open(&layout.spool(), config, identity.spool_key(), signer).unwrap();
    Bench {
        folder,
        layout,
        identity,
        spool: opened.spool,
    }
}

impl Bench {
    async fn commit(&self, item: &str) {
        let mut builder = BatchBuilder::default();
        builder.push(&item.to_owned()).unwrap();
        let commit = Commit {
            batches: vec![(Lane::Events, builder)],
            effects: vec![],
        };
        let source = SourceId::from_bytes([3; 16]);
        self.spool.commit(source, commit).await.unwrap();
    }

    async fn export(&self, name: &str, diode: bool, since: Since) -> Result<Report, CarryError> {
        let args = BundleExport {
            file: self.folder.path().join(name),
            volume_size: limits::BUNDLE_VOLUME_MIN_BYTES,
            sync: false,
            diode,
            since,
        };
        let key = secret().public();
        let epoch = self.spool.epoch();
        write_out(
            &args,
            &self.layout,
            &self.identity,
            &key,
            &self.spool,
            epoch,
        )
        .await
    }

    /// Returns number, number that is let go, digest before, and how many frames it holds.
    fn read(&self, name: &str) -> (u64, u64, [u8; 32], usize, [u8; 32]) {
        let bytes = std::fs::read(self.folder.path().join(name)).unwrap();
        let secret = secret();
        let mut reader = VolumeReader::new(Some(&secret));
        reader.push(&bytes);
        let (mut header, mut frames, mut digest) = (None, 0, [0; 32]);
        while let Some(piece) = reader.pop().unwrap() {
            match piece {
                Piece::Header(found) => {
                    reader.expect_signer(self.identity.public_key().unwrap());
                    header = Some(found);
                }
                Piece::Records(records) => {
                    let is_frame = |record: &&Record| matches!(record, Record::Frame(_));
                    frames += records.iter().filter(is_frame).count();
                }
                Piece::End(found) => digest = found,
            }
        }
        reader.finish().unwrap();
        let header = header.unwrap();
        (
            header.number,
            header.released,
            header.previous,
            frames,
            digest,
        )
    }
}

#[tokio::test]
async fn what_was_exported_is_exported_again_until_it_is_let_go() {
    let bench = bench();
    bench.commit("one").await;
    bench.commit("two").await;
    let report = bench.export("a", false, Since::Acknowledged).await.unwrap();
    assert_eq!(
        (report.bundle, report.batches, report.released),
        (1, 2, false)
    );
    let (number, released, previous, frames, digest) = bench.read("a");
    assert_eq!((number, released, previous, frames), (1, 0, [0; 32], 2));

    bench.commit("three").await;
    bench.export("b", false, Since::Acknowledged).await.unwrap();
    let (number, _, previous, frames, second) = bench.read("b");
    assert_eq!((number, previous, frames), (2, digest, 3));
    bench.commit("four").await;
    bench.export("c", false, Since::Exported).await.unwrap();
    let (_, _, previous, frames, third) = bench.read("c");
    assert_eq!((previous, frames), (second, 1));

    bench.export("d", true, Since::Acknowledged).await.unwrap();
    let (number, released, previous, frames, _) = bench.read("d");
    assert_eq!((number, released, previous, frames), (4, 4, third, 4));
    bench.export("e", true, Since::Acknowledged).await.unwrap();
    assert_eq!(bench.read("e").3, 0);
}

#[tokio::test]
async fn a_failed_export_leaves_no_file_and_takes_no_batch() {
    let bench = bench();
    bench.commit("one").await;
    let refused = bench.export("missing/a", true, Since::Acknowledged).await;
    assert!(matches!(refused, Err(CarryError::Write { .. })));
    bench.export("a", false, Since::Acknowledged).await.unwrap();
    let refused = bench.export("a", true, Since::Acknowledged).await;
    assert!(matches!(refused, Err(CarryError::Exists { .. })));
    // Both took a number, and neither is a link of the chain.
    bench.export("b", false, Since::Acknowledged).await.unwrap();
    let (number, _, previous, frames, _) = bench.read("b");
    assert_eq!((number, previous, frames), (4, bench.read("a").4, 1));
    let files = std::fs::read_dir(bench.folder.path()).unwrap();
    let parts = files.filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".part")
    });
    assert_eq!(parts.count(), 0);
}

#[tokio::test]
async fn a_ledger_belongs_to_one_identity_and_only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = bench();
    bench.commit("one").await;
    bench.export("a", false, Since::Acknowledged).await.unwrap();
    let path = bench.layout.bundles().join("ledger.json");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let ours = Ledger::load(&bench.layout, bench.identity.agent).unwrap();
    assert_eq!(
        (ours.number, ours.mark(bench.spool.epoch(), Lane::Events)),
        (1, 1)
    );
    assert_eq!(ours.mark([7; 16], Lane::Events), 0);
    let theirs = Ledger::load(&bench.layout, AgentId::derived(&[b"b"])).unwrap();
    assert_eq!((theirs.number, theirs.previous), (0, [0; 32]));
    assert_ne!(theirs.reply_key(), ours.reply_key());
    std::fs::write(&path, b"{}").unwrap();
    let damaged = Ledger::load(&bench.layout, bench.identity.agent);
    assert!(matches!(damaged, Err(CarryError::Ledger { .. })));
}
