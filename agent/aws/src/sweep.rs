//! One sync in progress: its clients, what it has counted, and the scopes it has open.

use std::collections::BTreeSet;
use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use collect::draft::{NOT_CALLED, incomplete};
use collect::{CollectError, Detector, Draft, Fact, Fault, Output};
use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use protocol::declare::{Declarations, ResourceType};
use protocol::urn::Scope;
use tokio::sync::OnceCell;

use crate::clients::Clients;
use crate::fault::{code_of, fault};
use crate::iam::credential_report::Report;
use crate::regions::Regions;

/// Why a scope could not be swept to its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// A list could not be read whole.
    List(Fault),
    /// The agent is stopping.
    Stopped(CollectError),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::List(fault)
    }
}

impl From<CollectError> for Broken {
    fn from(error: CollectError) -> Self {
        Self::Stopped(error)
    }
}

/// One sync of one account.
pub(crate) struct Run<'s> {
    pub(crate) account: String,
    pub(crate) partition: String,
    pub(crate) clients: Clients,
    pub(crate) regions: Result<Regions, Fault>,
    pub(crate) detector: Arc<Detector>,
    pub(crate) report: OnceCell<Report>,
    pub(crate) started_at: Timestamp,
    out: &'s Output,
    documents: AtomicU64,
    scopes_ended: AtomicU64,
    faults: Mutex<BTreeSet<(String, String)>>,
}

impl<'s> Run<'s> {
    /// Begins a sync.
    pub(crate) fn new(
        (account, partition): (String, String),
        clients: Clients,
        detector: Arc<Detector>,
        out: &'s Output,
    ) -> Self {
        Self {
            account,
            partition,
            clients,
            regions: Ok(Regions::default()),
            detector,
            report: OnceCell::new(),
            started_at: Timestamp::now(),
            out,
            documents: AtomicU64::new(0),
            scopes_ended: AtomicU64::new(0),
            faults: Mutex::new(BTreeSet::new()),
        }
    }

    /// Makes a call. A failure is noted in the sync's summary and returned as a fault.
    pub(crate) async fn call<T, E>(
        &self,
        call: &str,
        sent: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Fault>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        sent.await.map_err(|error| self.note(fault(call, &error)))
    }

    /// Makes a call that answers one of the `absent` codes where there is nothing to read.
    pub(crate) async fn call_or_absent<T, E>(
        &self,
        call: &str,
        absent: &[&str],
        sent: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<Option<T>, Fault>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match sent.await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if absent.contains(&code_of(&error).as_str()) => Ok(None),
            Err(error) => Err(self.note(fault(call, &error))),
        }
    }

    /// Notes a fault for the summary, each once.
    pub(crate) fn note(&self, fault: Fault) -> Fault {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert((fault.call.clone(), fault.code.clone()));
        fault
    }

    /// Opens a scope.
    pub(crate) async fn begin(
        &self,
        type_name: &str,
        region: &str,
    ) -> Result<Sweep<'_>, CollectError> {
        let declared = Declarations::builtin().get(type_name);
        let declared = declared.expect("every type that is swept is declared: a test holds it");
        let scope = Scope::of_type(type_name, &self.account, region);
        let began = Fact::Began {
            scope: scope.clone(),
        };
        self.out.send(began).await?;
        Ok(Sweep {
            run: self,
            declared,
            scope,
            nameless: AtomicBool::new(false),
        })
    }

    /// Returns what has been counted: documents, ended scopes, faults.
    pub(crate) fn counted(&self) -> (u64, u64, Vec<Fault>) {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = faults
            .iter()
            .map(|(call, code)| Fault {
                call: call.clone(),
                code: code.clone(),
            })
            .collect();
        (
            self.documents.load(Ordering::Relaxed),
            self.scopes_ended.load(Ordering::Relaxed),
            faults,
        )
    }

    /// Returns the ARN of a resource of this account.
    pub(crate) fn arn(&self, service: &str, region: &str, resource: &str) -> String {
        let (partition, account) = (&self.partition, &self.account);
        format!("arn:{partition}:{service}:{region}:{account}:{resource}")
    }
}

/// One open scope.
pub(crate) struct Sweep<'r> {
    pub(crate) run: &'r Run<'r>,
    declared: &'static ResourceType,
    pub(crate) scope: Scope,
    nameless: AtomicBool,
}

impl Sweep<'_> {
    /// Starts a document of this scope.
    pub(crate) fn draft(&self, id: &str, native_id: &str) -> Draft {
        Draft::new(self.declared, &self.scope, id, native_id)
    }

    /// Returns the fault of a type that nothing collects.
    pub(crate) fn not_collected(&self) -> Fault {
        Fault {
            call: self.declared.call.clone(),
            code: NOT_CALLED.to_owned(),
        }
    }

    /// Returns the region of the scope.
    pub(crate) fn region(&self) -> &str {
        &self.scope.region
    }

    /// Sends a finished document; waits while the spool is full. A resource without an id cannot
    /// be named, so it spoils the scope instead.
    pub(crate) async fn send(&self, draft: Draft) -> Result<(), CollectError> {
        if draft.urn().id.is_empty() {
            self.nameless.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let document = Box::new(draft.finish(Timestamp::now()));
        for fault in incomplete(&document) {
            self.run.note(fault);
        }
        self.run.out.send(Fact::Document(document)).await?;
        self.run.documents.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the scope: ended if and only if its list was read whole.
    pub(crate) async fn close(self, listed: Result<(), Broken>) -> Result<(), CollectError> {
        let named = || match self.nameless.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Broken::List(self.run.note(Fault {
                call: self.declared.call.clone(),
                code: "resource without id".to_owned(),
            }))),
        };
        match listed.and_then(|()| named()) {
            Ok(()) => {
                self.run.out.send(Fact::Ended { scope: self.scope }).await?;
                self.run.scopes_ended.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(Broken::List(fault)) => {
                let failed = Fact::Failed {
                    scope: self.scope,
                    gap: fault.into(),
                };
                self.run.out.send(failed).await
            }
            Err(Broken::Stopped(error)) => Err(error),
        }
    }
}

/// Runs `work` on each item, `at_once` at a time, and stops at the first error.
pub(crate) async fn each<T, E, W>(
    items: impl IntoIterator<Item = T>,
    at_once: usize,
    work: impl Fn(T) -> W,
) -> Result<(), E>
where
    W: Future<Output = Result<(), E>>,
{
    let mut waiting = items.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < at_once.max(1) {
            match waiting.next() {
                Some(item) => running.push(work(item)),
                None => break,
            }
        }
        match running.next().await {
            Some(done) => done?,
            None => return Ok(()),
        }
    }
}
