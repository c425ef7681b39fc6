//! An enrolled agent that means harm: each of its ways is refused with a reason, the hub stays within its memory, and
//! another organisation's records are stored about as soon as without it.
//!
//! `ZERO_X_HOSTILE_ROUNDS=3000 cargo test -p tests --test e2e hostile -- --nocapture` is the long form; it prints its
//! figures.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use protocol::declare::Declarations;
use protocol::document::SetHash;
use protocol::event::EventRecord;
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::wire::v1::{Message, ReportItem, SourceReport, SweepItem};
use protocol::{Document, Scope};
use quinn::Endpoint;
use serde_json::{Map, Value};
use tests::Line;
use tests::raw::{self, Peer, Talk, farewell, peak_memory_mib};

/// Batches of the honest agent with and without the others.
const ROUNDS: usize = 150;

/// The most that the hub may take, in MiB.
const MEMORY_MIB: u64 = 512;

/// How much later a batch may be stored beside the others, at its 99th percentile. Twice is the goal on an idle
/// machine; a loaded one, and attackers that take half of the same two cores for themselves, need more room.
const WORST_RATIO: f64 = 12.0;

/// Below this a wait is the machine's and not the hub's.
const NO_WAIT: Duration = Duration::from_millis(25);

fn rounds() -> usize {
    let asked = std::env::var("ZERO_X_HOSTILE_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

fn events(count: usize, bytes: usize) -> Vec<EventRecord> {
    (0..count)
        .map(|number| EventRecord {
            action: "login".to_owned(),
            raw: format!("{number:08}{}", "x".repeat(bytes)),
            ..EventRecord::default()
        })
        .collect()
}

/// The times from a batch's sending to its acknowledgement, sorted.
async fn waits(talk: &mut Talk, rounds: usize) -> Result<Vec<Duration>> {
    let batch = events(200, 300);
    let mut waits = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        talk.send(Lane::Events, &batch).await?;
        waits.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waits.sort_unstable();
    Ok(waits)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// What these attackers have to be told.
const OVERSIZE: &[&str] = &["exceeds the limit", "connects too often"];
const JUMPS: &[&str] = &["refused with the sequence that fits"];
const RESETS: &[&str] = &["keeps opening streams"];

/// How long an attacker that was not told what it has to be goes on.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// What an attacker was told, each thing once.
type Told = BTreeSet<String>;

/// Attacks until an instant, over and over, however it is sent away; and on, for a while, until it was told what it
/// has to be. On a loaded machine the attackers hardly get a turn.
async fn again<A: AsyncFn(Instant) -> Result<()>>(
    until: Instant,
    wanted: &[&str],
    attack: A,
) -> Told {
    let mut told = Told::new();
    loop {
        let is_told = |words: &&str| told.iter().any(|reason| reason.contains(*words));
        let now = Instant::now();
        let end = if now < until {
            until
        } else if now < until + AFTERWARDS && !wanted.iter().all(is_told) {
            now + Duration::from_secs(5)
        } else {
            return told;
        };
        if let Err(error) = attack(end).await {
            told.insert(error.to_string());
        }
    }
}

/// Waits for what the hub says when it hangs up, as an error.
async fn sent_away(talk: &Talk, until: Instant) -> Result<()> {
    tokio::select! {
        error = talk.connection.closed() => anyhow::bail!("{}", farewell(&error).reason),
        () = tokio::time::sleep_until(until.into()) => Ok(()),
    }
}

/// Events that are zeros for as long as a payload may be: two megabytes each, some hundred bytes on the wire.
async fn zeros(peer: &Peer, endpoint: &Endpoint, until: Instant) -> Result<()> {
    let mut talk = peer.talk(endpoint).await?;
    let batch: Vec<EventRecord> = (0..8)
        .map(|_| EventRecord {
            raw: "0".repeat(250_000),
            ..EventRecord::default()
        })
        .collect();
    while Instant::now() < until {
        let mut last = 0;
        for _ in 0..16 {
            let (frame, seq) = talk.next_batch(Lane::Events, &batch)?;
            talk.write(Lane::Events, &frame).await?;
            last = seq;
        }
        talk.acknowledged(Lane::Events, last).await?;
    }
    Ok(())
}

/// Ever new scopes, resources and sources.
async fn names(peer: &Peer, endpoint: &Endpoint, until: Instant) -> Result<()> {
    let mut talk = peer.talk(endpoint).await?;
    for round in 0_u64.. {
        if Instant::now() >= until {
            break;
        }
        talk.source = SourceId::derived(&[b"flood", &round.to_be_bytes()]);
        let report = ReportItem::Source(SourceReport {
            name: format!("source {round}"),
            kind: "aws".to_owned(),
            started_ms: 0,
            finished_ms: 0,
            calls: 0,
            documents: 0,
            faults: vec![],
            error: String::new(),
        });
        talk.send(Lane::Results, &[report]).await?;
        let region = format!("region-{round}");
        let scope = Scope::of_type("aws.ec2.vpc", "123456789012", &region);
        let mut items = vec![SweepItem::Begin {
            scope: scope.to_string(),
            generation: 1,
        }];
        for number in 0..100 {
            let id = format!("vpc-{round}-{number}");
            items.push(SweepItem::Changed {
                document: serde_json::to_string(&document(&scope, &id)?)?,
            });
        }
        talk.send(Lane::Inventory, &items).await?;
    }
    Ok(())
}

fn document(scope: &Scope, name: &str) -> Result<Document> {
    let declared = Declarations::builtin().get("aws.ec2.vpc");
    let fields = declared.context("the type is declared")?.fields.keys();
    let config: Map<String, Value> = fields.map(|name| (name.clone(), Value::Null)).collect();
    Ok(Document {
        type_name: scope.type_name(),
        provider: scope.provider.clone(),
        account: scope.account.clone(),
        region: scope.region.clone(),
        id: name.to_owned(),
        native_id: name.to_owned(),
        name: name.to_owned(),
        tags: Some(BTreeMap::new()),
        config: Value::Object(config),
        gaps: BTreeMap::new(),
        links: vec![],
        collected_at: serde_json::from_str("\"2026-01-01T00:00:00Z\"")?,
        urn: scope.urn(name),
    })
}

/// A header that announces more than a frame may hold.
async fn oversize(peer: &Peer, endpoint: &Endpoint, until: Instant) -> Result<()> {
    let mut talk = peer.talk(endpoint).await?;
    let mut frame = talk.batch(Lane::Events, 1, &events(1, 1))?;
    frame[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    talk.write(Lane::Events, &frame).await?;
    sent_away(&talk, until).await
}

/// Sequences that fit nowhere.
async fn jumps(peer: &Peer, endpoint: &Endpoint, until: Instant) -> Result<()> {
    let mut talk = peer.talk(endpoint).await?;
    let frame = talk.batch(Lane::Events, 1_000_000, &events(200, 300))?;
    while Instant::now() < until {
        talk.write(Lane::Events, &frame).await?;
        let said = talk.hear().await?;
        ensure!(
            matches!(&said, Message::Refused(refused) if refused.expected_seq == 1),
            "{said:?}"
        );
    }
    anyhow::bail!("refused with the sequence that fits")
}

/// Half a frame on each lane, and then a byte now and then.
async fn half_frames(peer: &Peer, endpoint: &Endpoint, until: Instant) -> Result<()> {
    let mut talk = peer.talk(endpoint).await?;
    for lane in Lane::DATA {
        let frame = talk.batch(lane, 1, &events(1, 1))?;
        talk.write(lane, &frame[..20]).await?;
    }
    while Instant::now() < until {
        for lane in Lane::DATA {
            talk.write(lane, &[0]).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Streams that are opened and reset.
async fn resets(peer: &Peer, endpoint: &Endpoint, until: Instant) -> Result<()> {
    let talk = peer.talk(endpoint).await?;
    while Instant::now() < until {
        match talk.connection.open_bi().await {
            Ok((mut send, _)) => {
                let _ = send.write_all(&[0]).await;
                let _ = send.reset(0_u8.into());
            }
            Err(_) => break,
        }
    }
    sent_away(&talk, until).await
}

/// Lets six agents attack at once, each in its own way, on a thread of their own. It stands for six
/// other machines, so it gets the processor only when nobody else wants it.
fn attack(peers: &[Peer], until: Instant) -> Result<Vec<Told>> {
    let [one, two, three, four, five, six] = peers else {
        anyhow::bail!("six attackers");
    };
    // proc(5): `<process>/task/<thread>`.
    let thread = std::fs::read_link("/proc/thread-self")?;
    let thread = thread.file_name().context("a thread has a number")?;
    let idle = Command::new("chrt")
        .args(["--idle", "--pid", "0"])
        .arg(thread)
        .status()
        .context("chrt is part of util-linux")?;
    ensure!(idle.success(), "the attackers do not stand back");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let at = &raw::endpoint()?;
        let (zeros, names, oversize, jumps, half, resets) = tokio::join!(
            again(until, &[], async |until| zeros(one, at, until).await),
            again(until, &[], async |until| names(two, at, until).await),
            again(until, OVERSIZE, async |until| oversize(three, at, until)
                .await),
            again(until, JUMPS, async |until| jumps(four, at, until).await),
            again(until, &[], async |until| half_frames(five, at, until).await),
            again(until, RESETS, async |until| resets(six, at, until).await),
        );
        Ok(vec![zeros, names, oversize, jumps, half, resets])
    })
}

#[test]
fn hostile_agents_cost_another_organisation_little() -> Result<()> {
    let line = Line::start()?;
    let victim = line.organisation("victim")?;
    let pid = line.hub.pid().context("the hub serves")?;
    let uses = [
        "agent",
        "token",
        "create",
        "--org",
        &line.hub.org_id,
        "--uses",
        "6",
    ];
    let token = line.client.text(&uses)?;
    let honest = tests::token(&victim.client, &victim.id)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let rounds = rounds();
    let (quiet, loud, told) = runtime.block_on(async {
        let endpoint = raw::endpoint()?;
        let honest = Peer::enroll(&endpoint, &honest, "honest").await?;
        let mut peers = Vec::new();
        for number in 0..6 {
            let name = format!("hostile {number}");
            peers.push(Peer::enroll(&endpoint, &token, &name).await?);
        }
        let mut talk = honest.talk(&endpoint).await?;
        let _warm = waits(&mut talk, 10).await?;
        let quiet = waits(&mut talk, rounds).await?;

        let until = Instant::now() + Duration::from_millis(u64::try_from(rounds)? * 40);
        let attacks = std::thread::spawn(move || attack(&peers, until));
        let loud = waits(&mut talk, rounds).await?;
        let told = attacks
            .join()
            .map_err(|_| anyhow::anyhow!("an attack panicked"))??;
        anyhow::Ok((quiet, loud, told))
    })?;
    let memory = peak_memory_mib(pid)?;
    let (before, beside) = (percentile(&quiet, 99), percentile(&loud, 99));
    let ratio = beside.as_secs_f64() / before.max(NO_WAIT).as_secs_f64();
    println!(
        "ingest p50 {:?} alone, {:?} beside; p99 {before:?} alone, {beside:?} beside, ratio {:.2}; hub peak {memory} MiB",
        percentile(&quiet, 50),
        percentile(&loud, 50),
        beside.as_secs_f64() / before.as_secs_f64()
    );
    println!("told: {told:#?}");
    assert!(memory <= MEMORY_MIB, "the hub took {memory} MiB");
    assert!(ratio <= WORST_RATIO, "{ratio:.1} times later");
    let said =
        |attack: usize, words: &str| told[attack].iter().any(|reason| reason.contains(words));
    for (attack, words) in [(2, OVERSIZE), (3, JUMPS), (5, RESETS)] {
        for words in words {
            assert!(said(attack, words), "{words}: {told:?}");
        }
    }
    // Nothing of the honest agent's is lost or slowed by a quota that it did not use.
    let agents = victim.client.rows(&["agent", "list"])?;
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0]["refused"], 0);
    assert_eq!(agents[0]["throttled"], Value::Null);
    Ok(())
}

#[test]
fn names_that_command_a_terminal_reach_no_terminal_and_no_log() -> Result<()> {
    const NAME: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}evil";
    let line = Line::start()?;
    let (token, other) = (line.token()?, line.token()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let endpoint = raw::endpoint()?;
        let refused = Peer::enroll(&endpoint, &other, NAME).await;
        let refused = refused.err().context("an agent cannot have such a name")?;
        assert!(refused.to_string().contains("token_name"), "{refused}");
        let peer = Peer::enroll(&endpoint, &token, "evil").await?;
        let mut talk = peer.talk(&endpoint).await?;
        let report = ReportItem::Source(SourceReport {
            name: NAME.to_owned(),
            kind: NAME.to_owned(),
            started_ms: 0,
            finished_ms: 0,
            calls: 0,
            documents: 0,
            faults: vec![(NAME.to_owned(), NAME.to_owned())],
            error: NAME.to_owned(),
        });
        talk.send(Lane::Results, &[report]).await?;
        let scope = Scope::of_type("aws.ec2.vpc", "123456789012", "eu-west-1");
        let document = document(&scope, NAME)?;
        let mut set = SetHash::default();
        set.add(&document.urn.to_string(), &document.content_hash());
        let items = [
            SweepItem::Begin {
                scope: scope.to_string(),
                generation: 1,
            },
            SweepItem::Changed {
                document: serde_json::to_string(&document)?,
            },
            SweepItem::End {
                scope: scope.to_string(),
                generation: 1,
                set,
                resent: None,
            },
        ];
        talk.send(Lane::Inventory, &items).await?;
        let mut event = events(1, 1);
        event[0].action = NAME.to_owned();
        event[0].raw = NAME.to_owned();
        talk.send(Lane::Events, &event).await?;
        talk.connection.close(0_u8.into(), NAME.as_bytes());
        anyhow::Ok(())
    })?;
    for list in ["agent", "source", "resource"] {
        let rows = line.client.rows(&[list, "list"])?;
        assert!(!rows.is_empty(), "no {list}");
        for form in ["table", "csv"] {
            let text = line.client.text(&[list, "list", "-o", form])?;
            assert!(text.contains("evil"), "{form} of {list}: {text}");
            assert!(
                !text.contains(['\u{1b}', '\u{7}', '\u{202e}']),
                "{form} of {list}: {text:?}"
            );
        }
    }
    let log = std::fs::read_to_string(line.hub.log())?;
    assert!(!log.contains(['\u{1b}', '\u{7}']), "{log:?}");
    Ok(())
}
