//! Many enrolled agents connected at once, each with an identity of its own: what they take of the hub's memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use line::client::Client;
use line::hub::Hub;
use line::programs::Programs;
use line::usage::memory_mib;
use tests::raw::{self, Peer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Handshakes that this side has under way.
const AT_ONCE: usize = 48;

/// How often an agent that was turned away tries again.
const ATTEMPTS: u32 = 20;

pub(crate) fn run(programs: &Programs, agents: u32) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::init(&programs.hub, &folder.path().join("hub"), "crowd")?;
    hub.serve()?;
    let client = Client::login(&programs.client, &folder.path().join("client"), &hub)?;
    let uses = agents.to_string();
    let token = client.text(&[
        "agent",
        "token",
        "create",
        "--org",
        &hub.org_id,
        "--uses",
        &uses,
    ])?;
    let pid = hub.pid().context("the hub is gone")?;
    let memory = || memory_mib(pid, "VmRSS:").context("the hub is gone");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let endpoint = raw::endpoint()?;
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        let begun = Instant::now();
        let mut enrolling = JoinSet::new();
        for number in 0..agents {
            let (endpoint, token) = (endpoint.clone(), token.clone());
            let gate = Arc::clone(&gate);
            enrolling.spawn(async move {
                let _permit = gate.acquire_owned().await?;
                let name = format!("agent {number}");
                let mut attempt = 0;
                loop {
                    match Peer::enroll(&endpoint, &token, &name).await {
                        Err(_) if attempt < ATTEMPTS => attempt += 1,
                        enrolled => return enrolled,
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        let mut peers = Vec::new();
        while let Some(enrolled) = enrolling.join_next().await {
            peers.push(Arc::new(enrolled??));
        }
        println!(
            "agents enrolled                 {} in {:.1} s",
            peers.len(),
            begun.elapsed().as_secs_f64()
        );
        let before = memory()?;
        let begun = Instant::now();
        let mut connecting = JoinSet::new();
        for peer in peers {
            let (endpoint, gate) = (endpoint.clone(), Arc::clone(&gate));
            connecting.spawn(async move {
                let _permit = gate.acquire_owned().await?;
                let mut attempt = 0;
                loop {
                    match peer.talk(&endpoint).await {
                        Err(_) if attempt < ATTEMPTS => attempt += 1,
                        talk => return talk,
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        let mut talks = Vec::new();
        while let Some(talk) = connecting.join_next().await {
            talks.push(talk??);
        }
        let took = begun.elapsed().as_secs_f64();
        let open = talks
            .iter()
            .filter(|talk| talk.connection.close_reason().is_none())
            .count();
        let after = memory()?;
        ensure!(open == talks.len(), "{open} of {} are open", talks.len());
        println!("agents connected at once        {open} in {took:.1} s");
        println!("hub, memory                     {after:.1} MiB, {before:.1} before");
        println!(
            "hub, memory of one agent        {:.1} KiB",
            (after - before) * 1024.0 / f64::from(agents)
        );
        anyhow::Ok(())
    })?;
    hub.stop()
}
