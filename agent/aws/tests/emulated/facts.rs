//! A sync, and everything that it sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use aws::{Aws, Settings, StaticCredentials};
use collect::{CollectError, Detector, Fact, Inventory as _, Output, Summary};
use protocol::declare::Declarations;
use protocol::document::{Document, Gap};
use tokio_util::sync::CancellationToken;

/// What one sync sent.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) documents: BTreeMap<String, Document>,
    pub(crate) began: BTreeSet<String>,
    pub(crate) ended: BTreeSet<String>,
    pub(crate) failed: BTreeMap<String, Gap>,
    pub(crate) summary: Summary,
}

pub(crate) fn settings(endpoint: &str, regions: &[&str]) -> Settings {
    let regions: Vec<String> = regions.iter().map(|region| (*region).to_owned()).collect();
    Settings {
        regions: Some(regions).filter(|regions| !regions.is_empty()),
        endpoint: Some(endpoint.to_owned()),
        static_credentials: Some(StaticCredentials {
            access_key_id: "testing".to_owned(),
            secret_access_key: "testing".into(),
            session_token: None,
        }),
        ..Settings::default()
    }
}

pub(crate) async fn connect(endpoint: &str, regions: &[&str]) -> Result<Aws, CollectError> {
    // Its expressions take long to compile.
    static DETECTOR: LazyLock<Arc<Detector>> = LazyLock::new(|| Arc::new(Detector::new([7; 32])));
    Aws::connect(settings(endpoint, regions), Arc::clone(&DETECTOR)).await
}

/// Runs one sync and checks what holds for any: scopes open and close once, documents lie within
/// open scopes, and what is missing from a document is explained in it.
pub(crate) async fn sync(endpoint: &str, regions: &[&str]) -> Facts {
    let aws = connect(endpoint, regions).await.unwrap();
    let (out, mut receiver) = Output::channel(64);
    let stop = CancellationToken::new();
    let working = async {
        let summary = aws.sync(&out, &stop).await;
        drop(out);
        summary
    };
    let receiving = async {
        let mut facts = Facts::default();
        while let Some(fact) = receiver.recv().await {
            facts.take(fact);
        }
        facts
    };
    let (summary, mut facts) = tokio::join!(working, receiving);
    facts.summary = summary.unwrap();
    let closed = facts.ended.iter().chain(facts.failed.keys());
    let closed: BTreeSet<String> = closed.cloned().collect();
    assert_eq!(facts.began, closed, "every scope is closed");
    assert_eq!(facts.summary.documents, facts.documents.len() as u64);
    assert_eq!(facts.summary.scopes_ended, facts.ended.len() as u64);
    facts
}

impl Facts {
    fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Began { scope } => assert!(self.began.insert(scope.to_string())),
            Fact::Document(document) => {
                let scope = document.urn.scope.to_string();
                let open = self.began.contains(&scope) && !self.is_closed(&scope);
                assert!(open, "{scope}");
                check_complete(&document);
                let urn = document.urn.to_string();
                let twice = self.documents.insert(urn.clone(), *document);
                assert!(twice.is_none(), "{urn} came twice");
            }
            Fact::Ended { scope } => {
                let scope = scope.to_string();
                assert!(!self.is_closed(&scope) && self.ended.insert(scope));
            }
            Fact::Failed { scope, gap } => {
                let scope = scope.to_string();
                assert!(!self.is_closed(&scope));
                self.failed.insert(scope, gap);
            }
            Fact::Events { .. } => panic!("an inventory has no events"),
        }
    }

    fn is_closed(&self, scope: &str) -> bool {
        self.ended.contains(scope) || self.failed.contains_key(scope)
    }

    /// Returns the documents of a type.
    pub(crate) fn of_type<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f Document> {
        let all = self.documents.values();
        all.filter(move |document| document.type_name == name)
    }
}

/// Each declared field is in the document or in its gaps, and never in both.
fn check_complete(document: &Document) {
    let declared = Declarations::builtin().get(&document.type_name).unwrap();
    let config = document.config.as_object().unwrap();
    for name in declared.fields.keys() {
        let gap = document.gaps.contains_key(&format!("config.{name}"));
        assert_ne!(config.contains_key(name), gap, "{} {name}", document.urn);
    }
    let gap = document.gaps.contains_key("tags");
    assert_ne!(document.tags.is_some(), gap, "{}", document.urn);
}
