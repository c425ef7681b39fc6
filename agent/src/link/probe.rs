//! One look at one way to a hub, for `doctor`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol::frame::{Decoder, Lane};
use protocol::session::CloseCode;
use protocol::wire::v1::{self, Hello, Message};
use tokio::sync::mpsc;

use super::{Config, Heard, LinkError, Order, Transport, dial};

/// One round trip and the hub's look into its list.
const VERDICT: Duration = Duration::from_millis(500);

/// Time over which the way is watched where that is asked for.
const WATCHED: Duration = Duration::from_millis(1500);

/// Time for the hub's greeting.
const WELCOME: Duration = Duration::from_secs(5);

/// Whether the hub is greeted. A greeting takes the place of the session of a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    Silent,
    Spoken,
}

/// What a hub answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// How long the handshake took.
    pub(crate) took: Duration,
    /// How far this host's clock is ahead of the hub's, where the hub was greeted.
    pub(crate) clock_skew_ms: Option<i64>,
    /// What was seen of the way, over QUIC.
    pub(crate) path: Option<Path>,
}

/// What was seen of the way to a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) round_trip: Duration,
    /// Packets sent to the hub.
    pub(crate) sent: u64,
    /// How many of them are known not to have arrived.
    pub(crate) lost: u64,
}

/// Dials a hub over one transport, and hangs up.
///
/// # Errors
///
/// See [`LinkError`]. A certificate that the hub does not accept shows only after the handshake,
/// so a moment is waited for that.
pub(crate) async fn probe(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
    config: &Config,
    transport: Transport,
    greeting: Greeting,
) -> Result<Answer, LinkError> {
    let began = Instant::now();
    let connection = dial(address, tls, config, Order::Only(transport)).await?;
    let took = began.elapsed();
    let watched_until = Instant::now() + WATCHED;
    let (mut line, mut heard) = connection.open();
    let patience = match greeting {
        Greeting::Silent => VERDICT,
        Greeting::Spoken => {
            let hello = Hello {
                versions: (v1::SCHEMA, v1::SCHEMA),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                // Of no spool: the hub knows nothing under it.
                epoch: crate::seal::random(),
                process: u64::from_le_bytes(crate::seal::random()),
                witness: None,
                wall_ms: Timestamp::now().as_millisecond(),
            };
            line.send(Lane::Control, Message::Hello(hello).encode());
            WELCOME
        }
    };
    let clock_skew_ms = match tokio::time::timeout(patience, welcome(&mut heard)).await {
        Ok(Ok(wall_ms)) => wall_ms.map(|theirs| Timestamp::now().as_millisecond() - theirs),
        Ok(Err(error)) => return Err(error),
        Err(_) => None,
    };
    if config.ping_every.is_some() && transport == Transport::Quic {
        tokio::time::sleep_until(watched_until.into()).await;
    }
    let path = line.path();
    line.leave(CloseCode::Done, "looked at by doctor").await;
    Ok(Answer {
        took,
        clock_skew_ms,
        path,
    })
}

/// Waits for the hub's greeting and returns its clock.
async fn welcome(heard: &mut mpsc::Receiver<Heard>) -> Result<Option<i64>, LinkError> {
    let mut decoder = Decoder::new(Lane::Control);
    while let Some(heard) = heard.recv().await {
        match heard {
            Heard::Ended(error) => return Err(error),
            Heard::Bytes(Lane::Control, bytes) => decoder.push(&bytes),
            Heard::Bytes(..) => {}
        }
        if let Ok(Some(frame)) = decoder.pop()
            && let Ok(Some(Message::Welcome(welcome))) = Message::decode(&frame)
        {
            return Ok(Some(welcome.wall_ms));
        }
    }
    Ok(None)
}
