//! The way to the hub: each address over UDP and over TCP, and what it means when one of them does
//! not answer.

use std::time::Duration;

use super::{Findings, Verdict};
use crate::config::Config;
use crate::identity::Identity;
use crate::link::{Answer, Greeting, LinkError, Path, Transport, probe, tls};
use crate::status;

/// Difference of the clocks from which it is worth a warning: what happened first is told by them.
const SKEW_NEAR_MS: u64 = 30_000;

/// How long one look takes at most.
const LOOK: Duration = Duration::from_secs(5);

/// How often the way is tried while it is looked at.
const PING_EVERY: Duration = Duration::from_millis(20);

/// Packets that must be lost, and of how many one, before a way is said to lose packets.
const LOST: (u64, u64) = (3, 20);

/// Round trip that is worth telling.
const SLOW: Duration = Duration::from_millis(300);

/// Looks at the running session, if there is one, and at every way to the hub.
pub(super) async fn look(
    config: &Config,
    identity: &Identity,
    daemon: Option<&status::Status>,
    findings: &mut Findings,
) {
    let mut skew_ms = None;
    if let Some(status) = daemon {
        session(&status.link, findings);
        skew_ms = status.link.clock_skew_ms;
    }
    let tls = match tls::for_session(identity) {
        Ok(tls) => tls,
        Err(error) => {
            return findings.add("hub", Verdict::Fail, error.to_string(), "enrol again");
        }
    };
    // A greeting would push the daemon's session out.
    let greeting = match daemon {
        Some(_) => Greeting::Silent,
        None => Greeting::Spoken,
    };
    let mut way = config.transport.clone();
    way.connect_timeout = way.connect_timeout.min(LOOK);
    way.ping_every = Some(PING_EVERY);
    for address in config.hub.addresses_or(&identity.hubs) {
        let quic = Transport::Quic;
        let quic = probe(&address, tls.clone(), &way, quic, Greeting::Silent);
        let tcp = probe(&address, tls.clone(), &way, Transport::Tcp, greeting);
        let (quic, tcp) = tokio::join!(quic, tcp);
        // Where only UDP is open, nothing else tells the hub's time.
        let quic = match (&quic, &tcp) {
            (Ok(_), Err(_)) if greeting == Greeting::Spoken => {
                probe(&address, tls.clone(), &way, Transport::Quic, greeting).await
            }
            (Ok(_) | Err(_), Ok(_) | Err(_)) => quic,
        };
        let told = [&quic, &tcp].map(|answer| answer.as_ref().ok());
        skew_ms = skew_ms.or_else(|| told.iter().flatten().find_map(|told| told.clock_skew_ms));
        way_to(&address, quic, tcp, findings);
    }
    if let Some(skew_ms) = skew_ms {
        clock(skew_ms, findings);
    }
}

fn session(link: &status::Link, findings: &mut Findings) {
    let over = link.transport.as_ref().map(|word| format!(" over {word}"));
    let over = over.unwrap_or_default();
    let detail = format!("{} {}{over} since {}", link.hub, link.state, link.since);
    match &link.error {
        None => findings.ok("session", detail),
        Some(error) => {
            let detail = format!("{detail}: {error}");
            findings.add(
                "session",
                Verdict::Fail,
                detail,
                "see the lines about the hub",
            );
        }
    }
}

fn clock(skew_ms: i64, findings: &mut Findings) {
    const CHECK: &str = "clock and hub";
    let seconds = skew_ms.unsigned_abs() / 1000;
    if skew_ms.unsigned_abs() < SKEW_NEAR_MS {
        return findings.ok(CHECK, format!("{seconds} s apart"));
    }
    let side = if skew_ms > 0 { "ahead of" } else { "behind" };
    findings.add(
        CHECK,
        Verdict::Warn,
        format!("this host's clock is {seconds} s {side} the hub's"),
        "set whichever is wrong, for example with chrony or systemd-timesyncd",
    );
}

/// Says in one line how a hub is reached.
fn way_to(
    address: &str,
    quic: Result<Answer, LinkError>,
    tcp: Result<Answer, LinkError>,
    findings: &mut Findings,
) {
    const CHECK: &str = "hub";
    let port = address.rsplit_once(':').map_or("7443", |(_, port)| port);
    let seen = quic.as_ref().ok().and_then(|quic| quic.path);
    let lost = seen.and_then(lost);
    match (quic, tcp) {
        (Ok(quic), Ok(tcp)) => {
            let slow = seen.map_or_else(String::new, slow);
            let detail = format!(
                "{address} answers over UDP within {} ms and over TCP within {} ms{slow}",
                millis(quic.took),
                millis(tcp.took)
            );
            match lost {
                None => findings.ok(CHECK, detail),
                Some(lost) => {
                    let detail = format!("{detail}, but {lost}");
                    findings.add(CHECK, Verdict::Warn, detail, LOSS_FIX);
                }
            }
        }
        (Ok(_), Err(error)) | (Err(error), Ok(_)) if error.is_refusal() => {
            findings.add(CHECK, Verdict::Fail, error.to_string(), error.fix());
        }
        (Err(error), Ok(tcp)) => findings.add(
            CHECK,
            Verdict::Warn,
            format!(
                "UDP is blocked, the session runs over TCP: {address} answers there within {} ms; \
                 over UDP: {error}",
                millis(tcp.took)
            ),
            format!("open {port}/udp on the way to the hub; QUIC copes better with loss"),
        ),
        (Ok(quic), Err(error)) if lost.is_some() => findings.add(
            CHECK,
            Verdict::Warn,
            format!(
                "{address} answers over UDP within {} ms, but {}; over TCP: {error}",
                millis(quic.took),
                lost.unwrap_or_default()
            ),
            LOSS_FIX,
        ),
        (Ok(quic), Err(error)) => findings.add(
            CHECK,
            Verdict::Warn,
            format!(
                "{address} answers over UDP within {} ms, but not over TCP, which is the way when \
                 UDP is blocked: {error}",
                millis(quic.took)
            ),
            if matches!(error, LinkError::Proxy { .. }) {
                error.fix().to_owned()
            } else {
                format!("open {port}/tcp on the way to the hub, too")
            },
        ),
        (Err(quic), Err(tcp)) => {
            let error = LinkError::telling(quic, tcp);
            findings.add(CHECK, Verdict::Fail, error.to_string(), error.fix());
        }
    }
}

/// What to do about a way that loses packets.
const LOSS_FIX: &str = "look for a faulty or overloaded link between this host and the hub; the \
                        session goes on over QUIC, and would hardly over TCP";

/// Says how much a way loses, if it does.
fn lost(path: Path) -> Option<String> {
    let Path { sent, lost, .. } = path;
    let (least, one_in) = LOST;
    (lost >= least && lost.saturating_mul(one_in) >= sent).then(|| {
        let percent = lost.saturating_mul(100) / sent.max(1);
        format!("the way there loses packets: {lost} of {sent} did not arrive ({percent} %)")
    })
}

/// Says how long a way is, if that is worth telling.
fn slow(path: Path) -> String {
    if path.round_trip < SLOW {
        return String::new();
    }
    format!("; a round trip takes {} ms", millis(path.round_trip))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(reason: &str) -> LinkError {
        LinkError::Unreachable {
            address: "hub:443".to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn proxy(status: Option<u16>) -> LinkError {
        LinkError::Proxy {
            proxy: "proxy:3128".to_owned(),
            status,
            reason: "answers \"HTTP/1.1 …\"".to_owned(),
        }
    }

    const UP: Answer = Answer {
        took: Duration::from_millis(7),
        clock_skew_ms: None,
        path: None,
    };

    fn over(lost: u64, round_trip: Duration) -> Answer {
        let sent = 60;
        let path = Path {
            round_trip,
            sent,
            lost,
        };
        Answer {
            path: Some(path),
            ..UP
        }
    }

    #[track_caller]
    fn check(
        quic: Result<Answer, LinkError>,
        tcp: Result<Answer, LinkError>,
        want: (Verdict, &str, &str),
    ) {
        let mut findings = Findings::default();
        way_to("hub:443", quic, tcp, &mut findings);
        let [told] = findings.0.as_slice() else {
            panic!("one line")
        };
        assert_eq!(told.verdict, want.0, "{told:?}");
        assert!(told.detail.contains(want.1), "{told:?}");
        assert!(told.fix.contains(want.2), "{told:?}");
    }

    #[test]
    fn each_state_of_the_network_has_a_line_with_what_why_and_what_to_do() {
        use Verdict::{Fail, Ok as Good, Warn};
        let no = || unreachable("no answer");
        let resolve = || LinkError::Resolve {
            address: "hub:443".to_owned(),
            reason: "Name or service not known".to_owned(),
        };
        let stranger = || LinkError::WrongHub {
            address: "hub:443".to_owned(),
            issuer: Some("CN=Gateway".to_owned()),
        };
        check(Ok(UP), Ok(UP), (Good, "within 7 ms", ""));
        let (near, far) = (Duration::from_millis(9), Duration::from_millis(412));
        check(Ok(over(2, near)), Ok(UP), (Good, "TCP within 7 ms", ""));
        check(Ok(over(0, far)), Ok(UP), (Good, "takes 412 ms", ""));
        let lossy = "loses packets: 18 of 60 did not arrive (30 %)";
        check(Ok(over(18, near)), Ok(UP), (Warn, lossy, "faulty"));
        check(Ok(over(18, near)), Err(no()), (Warn, lossy, "faulty"));
        let unrouted = || LinkError::NoRoute {
            address: "hub:443".to_owned(),
            reason: "Network is unreachable".to_owned(),
        };
        check(
            Err(unrouted()),
            Err(unrouted()),
            (Fail, "no route to hub:443", "ip -brief link"),
        );
        let suspended = || LinkError::Closed {
            address: "hub:443".to_owned(),
            code: Some(protocol::session::CloseCode::Suspended),
            reason: "this agent is suspended".to_owned(),
        };
        check(
            Err(suspended()),
            Err(suspended()),
            (
                Fail,
                "for the time being: this agent is suspended",
                "resume",
            ),
        );
        check(Err(no()), Ok(UP), (Warn, "UDP is blocked", "open 443/udp"));
        check(
            Ok(UP),
            Err(no()),
            (Warn, "but not over TCP", "open 443/tcp"),
        );
        let both = "no answer over UDP, no answer over TCP";
        check(Err(no()), Err(no()), (Fail, both, "hub runs"));
        check(
            Err(resolve()),
            Err(resolve()),
            (Fail, "not known", "name service"),
        );
        check(
            Err(no()),
            Err(proxy(Some(407))),
            (Fail, "proxy:3128", "user:password"),
        );
        check(
            Err(no()),
            Err(proxy(Some(403))),
            (Fail, "proxy:3128", "allow CONNECT"),
        );
        check(
            Ok(UP),
            Err(proxy(None)),
            (Warn, "proxy:3128", "check hub.proxy"),
        );
        check(
            Err(no()),
            Err(stranger()),
            (Fail, "CN=Gateway", "exempt the hub"),
        );
        check(
            Ok(UP),
            Err(stranger()),
            (Fail, "CN=Gateway", "exempt the hub"),
        );
        let replaced = || LinkError::WrongHub {
            address: "hub:443".to_owned(),
            issuer: Some("CN=Zero-X intermediate zx-0123".to_owned()),
        };
        check(
            Err(replaced()),
            Err(replaced()),
            (Fail, "zx-0123", "was replaced while the agent was away"),
        );
    }

    #[test]
    fn clocks_that_differ_are_told_with_the_direction() {
        let line = |skew_ms| {
            let mut findings = Findings::default();
            clock(skew_ms, &mut findings);
            (findings.0[0].verdict, findings.0[0].detail.clone())
        };
        assert_eq!(line(-29_999), (Verdict::Ok, "29 s apart".to_owned()));
        let behind = "this host's clock is 90 s behind the hub's";
        assert_eq!(line(-90_500), (Verdict::Warn, behind.to_owned()));
        assert!(line(3_600_000).1.contains("3600 s ahead of"));
    }
}
