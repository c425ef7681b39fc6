//! Events, as many as asked for in one day and a few in the next: written as a hub writes them,
//! searched, opened after a kill, and the first day dropped.

use std::io::Write as _;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use protocol::batch::BatchBuilder;
use protocol::ids::{AgentId, SourceId};
use store::rows::event::{EventBlock, EventPage, EventQuery, IndexBuilder};
use store::rows::finding::Actor;
use store::rows::retention::DataClass;
use store::{OrgStore, SignedHeader, Stream};

use crate::figure::{Figure, float, memory_mib, ms, percentile};
use crate::place::Place;
use crate::trail::{Made, Trail};

/// Who writes at once.
const WRITERS: u64 = 2;

/// The second day has a hundredth of the first one's events.
const SECOND_DAY: u64 = 100;

/// What a search shows at most.
const PAGE_EVENTS: usize = 100;

/// How often each question is asked.
const ROUNDS: usize = 3;

fn first_day() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().expect("a time")
}

fn second_day() -> Timestamp {
    first_day() + SignedDuration::from_hours(24)
}

/// Returns when an event of the first day came.
fn time_of(n: u64, events: u64) -> Timestamp {
    let share = float(n) / float(events.max(1));
    first_day() + SignedDuration::from_secs_f64(86_399.0 * share)
}

/// Writes one writer's blocks.
struct Writing {
    org: OrgStore,
    stream: Stream,
    source: SourceId,
    stored: u64,
}

impl Writing {
    fn new(org: OrgStore, writer: u64) -> Self {
        let number = u8::try_from(writer).unwrap_or(0) + 1;
        let stream = Stream {
            agent: AgentId::from_bytes([number; 16]),
            lane: 1,
            epoch: [number; 16],
        };
        Self {
            org,
            stream,
            source: SourceId::from_bytes([number; 16]),
            stored: 0,
        }
    }

    /// Stores a batch as an agent makes it: as many events as fill it. Returns their raw bytes.
    async fn store(
        &mut self,
        events: &mut (impl Iterator<Item = Made> + Send),
        at: Timestamp,
    ) -> Option<u64> {
        let (mut builder, mut index, mut raw) =
            (BatchBuilder::default(), IndexBuilder::default(), 0);
        while !builder.is_full() {
            let Some(made) = events.next() else { break };
            builder.push(&made.record).expect("an event of usual size");
            index.add(&made.record.view());
            raw += u64::try_from(made.record.raw.len()).unwrap_or(0);
        }
        if builder.is_empty() {
            return None;
        }
        let count = u64::try_from(builder.len()).unwrap_or(0);
        let (payload, payload_bytes) = builder.compress().expect("it compresses");
        let first_seq = self.stored + 1;
        let block = EventBlock {
            agent: self.stream.agent,
            source: self.source,
            received_at: at,
            epoch: self.stream.epoch,
            first_seq,
            payload,
            payload_bytes,
        };
        // The sizes of a header and an ECDSA signature over P-256.
        let proof = SignedHeader {
            received_at: at,
            header: vec![0; 96],
            signature: vec![0; 64],
        };
        let mut write = self.org.write();
        let last_seq = self.stored + count;
        write.advance_high_water(self.stream, first_seq, last_seq, proof);
        write.put_events(block, &index.done());
        write.commit().await.expect("it commits");
        self.stored = last_seq;
        Some(raw)
    }
}

/// Writes the events.
pub(crate) async fn write(place: &Place, events: u64) -> Vec<Figure> {
    let (store, org) = place.create().await;
    let trail = Trail::find();
    let began = Instant::now();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (mut writing, trail) = (Writing::new(org.clone(), writer), trail.clone());
        writers.push(tokio::spawn(async move {
            let mut raw = 0;
            let mut next = writer;
            loop {
                let at = time_of(next, events);
                let own = std::iter::from_fn(|| {
                    let n = next;
                    next += WRITERS;
                    (n < events).then(|| trail.event(n, time_of(n, events).as_millisecond()))
                });
                match writing.store(&mut own.fuse(), at).await {
                    Some(bytes) => raw += bytes,
                    None => break,
                }
            }
            raw
        }));
    }
    let mut raw = 0;
    for writer in writers {
        raw += writer.await.expect("it stores");
    }
    let took = began.elapsed();
    let usage = org.usage().await.expect("it counts").expect("it can");
    // Not in the sums: they would be of two days.
    let mut writing = Writing::new(org.clone(), WRITERS);
    let later = (events..events + events / SECOND_DAY).map(|n| {
        let at = second_day() + SignedDuration::from_secs(3600);
        trail.event(n, at.as_millisecond())
    });
    let mut later = later.fuse();
    while writing
        .store(&mut later, second_day() + SignedDuration::from_secs(3600))
        .await
        .is_some()
    {}
    store.close().await;
    let each = |bytes: u64| float(bytes) / float(events.max(1));
    let kind = if trail.is_real {
        "varied real"
    } else {
        "our own"
    };
    vec![
        Figure::told(
            format!("{events} {kind} events written, one commit each block"),
            float(events) / took.as_secs_f64(),
            "/s",
        ),
        Figure::told("raw text of an event", each(raw), "B"),
        Figure::told(
            "live bytes of an event: rows, and pages that hold them",
            each(usage.live_bytes),
            "B",
        )
        .at_most(220.0),
        Figure::told("  with free pages: the file", each(usage.file_bytes), "B"),
    ]
}

/// A question, and what a search must find at least.
struct Question {
    what: &'static str,
    query: EventQuery,
}

fn questions(events: u64) -> Vec<Question> {
    let trail = Trail::find();
    let made = |n: u64| trail.event(n, time_of(n, events).as_millisecond());
    let of = |what, text: &[&str]| Question {
        what,
        query: EventQuery {
            text: text.iter().map(|term| (*term).to_owned()).collect(),
            limit: PAGE_EVENTS,
            ..EventQuery::default()
        },
    };
    let (early, middle) = (made(events / 50), made(events / 2));
    let mut hour = of("a person in one hour", &["person-017"]);
    hour.query.since = Some(first_day() + SignedDuration::from_hours(5));
    hour.query.until = Some(first_day() + SignedDuration::from_hours(6));
    let mut actor = of("all of an actor", &[]);
    actor.query.actor = Some(middle.record.actor.clone());
    let mut address = of("a source address", &[]);
    address.query.src_ip = Some(middle.record.src_ip.clone());
    let mut severe = of("nothing so severe", &[]);
    severe.query.severity_at_least = Some(4);
    vec![
        of(
            "one event by its id, early in the day",
            &[&early.record.native_id],
        ),
        of("one event by its id, at noon", &[&middle.record.native_id]),
        of("an access key", &[&middle.key]),
        of("a call that is frequent", &[&middle.record.action]),
        of(
            "a person and a call",
            &["person-017", &middle.record.action],
        ),
        of("two words that stand together", &["amazonaws.com"]),
        of("a word that is nowhere", &["nowheretobefound"]),
        of("words that never meet", &["person-017", "nowheretobefound"]),
        hour,
        actor,
        address,
        severe,
    ]
}

/// What a search came to.
pub(crate) struct Searched {
    pub(crate) what: &'static str,
    pub(crate) found: usize,
    pub(crate) opened: u64,
    pub(crate) times: Vec<Duration>,
}

/// Asks until as many are found as are shown, or there are no more.
async fn search(org: &OrgStore, query: &EventQuery) -> (usize, u64) {
    let (mut query, mut found, mut opened) = (query.clone(), 0, 0);
    loop {
        let page: EventPage = org.search_events(query.clone()).await.expect("it searches");
        found += page.events.len();
        opened += page.blocks_opened;
        query.before = page.next;
        if found >= PAGE_EVENTS || query.before.is_none() {
            return (found, opened);
        }
    }
}

pub(crate) async fn read(place: &Place, events: u64) -> (Vec<Figure>, Vec<Searched>) {
    let (store, org) = place.open().await;
    let mut all = Vec::new();
    for Question { what, query } in questions(events) {
        let mut searched = Searched {
            what,
            found: 0,
            opened: 0,
            times: Vec::new(),
        };
        for _ in 0..ROUNDS {
            let began = Instant::now();
            (searched.found, searched.opened) = search(&org, &query).await;
            searched.times.push(began.elapsed());
        }
        all.push(searched);
    }
    let times: Vec<Duration> = all.iter().flat_map(|one| one.times.clone()).collect();
    let mut figures: Vec<Figure> = all
        .iter()
        .map(|one| {
            let what = format!(
                "  {}: {} found, {} blocks opened",
                one.what, one.found, one.opened
            );
            Figure::told(what, ms(percentile(&one.times, 50)), "ms")
        })
        .collect();
    figures.push(
        Figure::told(
            format!("searches over {events} events, p95"),
            ms(percentile(&times, 95)),
            "ms",
        )
        .at_most(1000.0),
    );
    figures.push(Figure::told(
        "memory after them",
        memory_mib("VmRSS"),
        "MiB",
    ));
    store.close().await;
    (figures, all)
}

/// Writes on until it is killed, and says each block once it is durable.
pub(crate) async fn write_on(place: &Place) {
    let (_store, org) = place.open().await;
    let trail = Trail::find();
    let mut writing = Writing::new(org, WRITERS + 1);
    let mut events = (0..).map(|n| trail.event(n, second_day().as_millisecond()));
    while writing.store(&mut events, second_day()).await.is_some() {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "stored {}", writing.stored).and_then(|()| out.flush());
    }
}

/// Opens a store and one organisation in it, and reads.
pub(crate) async fn open(place: &Place) -> Figure {
    let began = Instant::now();
    let (store, org) = place.open().await;
    org.read(|reader| reader.commit()).await.expect("it reads");
    let took = began.elapsed();
    let bytes = store.bytes_of(Some(org.org())).expect("it has a file");
    store.close().await;
    let what = format!(
        "opened after kill -9, a file of {:.0} MiB",
        float(bytes) / 1_048_576.0
    );
    Figure::told(what, ms(took), "ms").at_most(100.0)
}

/// Drops the first day; returns how many events are left of it, as far as a page shows.
pub(crate) async fn drop_day(place: &Place, events: u64) -> (Figure, usize) {
    let (store, org) = place.open().await;
    let unasked: &(dyn Fn(&[u8]) -> Vec<u8> + Sync) = &|_| Vec::new();
    let now = second_day() + SignedDuration::from_hours(24);
    let began = Instant::now();
    let gone = org.forget(DataClass::Events, second_day(), now, Actor::Hub, unasked);
    gone.await.expect("it forgets");
    let took = began.elapsed();
    let query = EventQuery {
        until: Some(second_day()),
        limit: PAGE_EVENTS,
        ..EventQuery::default()
    };
    let (left, _) = search(&org, &query).await;
    store.close().await;
    let what = format!("a day of {events} events dropped");
    (Figure::told(what, ms(took), "ms").at_most(1000.0), left)
}
